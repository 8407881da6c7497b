"""A language model that is a table: the next token depends on the last one, through a real cache.

Token i of the vocabulary is written as its own word, so rewards on text see the tokens. The cache
holds the tokens themselves, and every pass checks that they are those of its rows.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

from trueup.models import LanguageModel


class TableTrunk(torch.nn.Module):
    """Last hidden states are one-hot last tokens, read back from the cache."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.anchor = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        use_cache: bool = True,
    ) -> Any:
        new = input_ids[:, None, :, None].double()
        held, _ = past_key_values.update(new, new, 0)
        assert held.shape[0] == input_ids.shape[0]
        real = held.shape[2] if attention_mask is None else attention_mask.sum(1)
        assert bool((position_ids[:, -1] + 1 == real).all())
        last = held[:, 0, -input_ids.shape[1] :, 0].long()
        hidden = torch.nn.functional.one_hot(last, self.size).double()
        return SimpleNamespace(last_hidden_state=hidden)


class TableHead(torch.nn.Module):
    """Log-probabilities by row, minus infinity where the table has 0."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(torch.tensor(table).log())

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.rows[hidden.argmax(-1)]


class TableModel(torch.nn.Module):
    """`table` [V, V]: row i is the distribution after token i."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.base_model = TableTrunk(len(table))
        self.head = TableHead(table)
        self.config = SimpleNamespace(max_position_embeddings=64)

    def get_output_embeddings(self) -> TableHead:
        return self.head


def table_lm(
    table: Sequence[Sequence[float]], *, start: str, eos: str | None, name: str = "table"
) -> LanguageModel:
    """The table behind a tokenizer whose words are the row numbers; a prompt is some words."""
    words = [str(number) for number in range(len(table))]
    backend = tokenizers.Tokenizer(
        models.WordLevel(vocab={word: number for number, word in enumerate(words)}, unk_token=start)
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Sequence([decoders.Fuse()])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, model_max_length=64
    )
    return LanguageModel(TableModel(np.asarray(table, dtype=float)), tokenizer, name=name)
