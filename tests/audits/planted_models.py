"""Models whose probabilities are known: planted tables, and small random ones on word tokens."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from trueup.models import Group, LanguageModel
from trueup.models.encoding import Encoder
from trueup.models.masked_language_model import MaskedLanguageModel, MaskedRow
from trueup.models.work import Work

SPECIALS = ["<pad>", "<s>", "</s>", "<mask>", "<unk>"]


def word_tokenizer(
    texts: Iterable[str], *, is_masked: bool = False, lowercase: bool = False
) -> transformers.PreTrainedTokenizerFast:
    """One token per word or mark of the texts; `<s>` in front, and `</s>` behind if masked."""
    split = pre_tokenizers.BertPreTokenizer()
    fold = str.lower if lowercase else str
    words = {word for text in texts for word, _ in split.pre_tokenize_str(fold(text))}
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *sorted(words)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = split
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    single = "<s> $A </s>" if is_masked else "<s> $A"
    ends = [("<s>", 1), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        unk_token="<unk>",
        model_max_length=512,
    )


def random_llama(texts: Iterable[str], *, seed: int = 0) -> LanguageModel:
    """A tiny random Llama with a token per word of the texts."""
    tokenizer = word_tokenizer(texts)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
    return LanguageModel(model, tokenizer, name="random-llama")


def random_bert(texts: Iterable[str], *, seed: int = 0) -> MaskedLanguageModel:
    """A tiny random BERT with a token per word of the texts."""
    tokenizer = word_tokenizer(texts, is_masked=True)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForMaskedLM.from_config(config)
    return MaskedLanguageModel(model, tokenizer, name="random-bert")


class PlantedModel(LanguageModel):
    """A causal model given by a function: the words so far -> probability of each next word.

    Words that the function does not name share what is left of 1.
    """

    def __init__(
        self, words: Sequence[str], following: Callable[[list[str]], dict[str, float]]
    ) -> None:
        self.tokenizer = word_tokenizer(words)
        self.encoder = Encoder(self.tokenizer)
        self.following = following
        self.name = "planted"
        self.work = Work()
        self.max_length_given = 512

    def __repr__(self) -> str:
        return "PlantedModel"

    @property
    def max_length(self) -> int:
        return self.max_length_given

    def score_groups(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        return [[self._logps(group.prompt, ids) for ids in group.completions] for group in groups]

    def _logps(self, prompt: list[int], ids: list[int]) -> np.ndarray:
        words = self.tokenizer.convert_ids_to_tokens([*prompt, *ids])
        return np.log(
            [self._probability(words[:end], words[end]) for end in range(len(prompt), len(words))]
        )

    def _probability(self, before: list[str], word: str) -> float:
        named = self.following([token for token in before if token not in SPECIALS])
        others = len(self.tokenizer) - len(named)
        return named[word] if word in named else (1 - sum(named.values())) / others


class PlantedMaskedModel(MaskedLanguageModel):
    """A masked model given by logits: token ids after masking -> [T, V]."""

    def __init__(
        self, tokenizer: transformers.PreTrainedTokenizerFast, logits: Callable[..., np.ndarray]
    ) -> None:
        self.tokenizer = tokenizer
        self.logits = logits
        self.name = "planted-masked"
        self.work = Work()
        self.mask_id = tokenizer.mask_token_id
        self.rows: list[MaskedRow] = []

    def __repr__(self) -> str:
        return "PlantedMaskedModel"

    @property
    def max_length(self) -> int:
        return 512

    def masked_logps(self, rows: Sequence[MaskedRow]) -> list[np.ndarray]:
        self.rows += rows
        return masked_logps_of(self.logits)(rows)


def masked_logps_of(
    logits: Callable[[Sequence[int]], np.ndarray],
) -> Callable[[Sequence[MaskedRow]], list[np.ndarray]]:
    """The function from rows to log-probabilities that these logits make."""

    def masked_logps(rows: Sequence[MaskedRow]) -> list[np.ndarray]:
        result = []
        for ids, places, targets in rows:
            table = logits(ids)
            logps = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
            result.append(logps[list(places), list(targets)])
        return result

    return masked_logps


def toy_logits(ids: Sequence[int]) -> np.ndarray:
    """The closed-form masked model of the survey's sheet (33, section 8.1): 12 words, [T, 12]."""
    centre = np.array(ids)
    left, right = np.array([0, *ids[:-1]]), np.array([*ids[1:], 0])
    t = np.arange(len(ids))[:, None]
    v = np.arange(12)[None, :]
    return (
        np.sin(1.1 * v + 0.7 * t)
        + 0.8 * np.cos(0.9 * v + 1.3 * left[:, None] - 0.4 * right[:, None])
        + 0.5 * np.cos(v + 0.6 * centre[:, None])
    )
