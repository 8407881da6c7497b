"""Small double-precision models whose residual stream is steered and read."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers
from torch import Tensor, nn

from tests.tiny_models import make_tokenizer
from trueup.models import LanguageModel
from trueup.models.residual_stream import blocks_of


def wide_llama(seed: int = 0) -> LanguageModel:
    """Sheet 02's tiny Llama: 4 layers, width 16, float64."""
    config = transformers.LlamaConfig(
        vocab_size=260,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config).double()
    return LanguageModel(model, make_tokenizer(), name="wide-llama")


def direction(width: int = 16, seed: int = 1) -> Tensor:
    """A random direction in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(width, generator=generator, dtype=torch.float64)


def ids_of(lm: LanguageModel, *texts: str) -> Tensor:
    """Texts of one length as token ids."""
    return torch.tensor([lm.encoder.prompt(text) for text in texts])


@contextmanager
def inputs_seen(model: nn.Module) -> Iterator[list[Tensor]]:
    """What each block reads, by pre-hooks: the view that no hook order hides."""
    seen: list[Tensor] = []

    def look(block: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"]).clone())

    handles = [
        block.register_forward_pre_hook(look, with_kwargs=True) for block in blocks_of(model)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def inputs_of(model: nn.Module, ids: Tensor) -> list[Tensor]:
    """The inputs of all blocks in one pass."""
    with inputs_seen(model) as seen:
        model(input_ids=ids, use_cache=False)
    return seen


@torch.no_grad()
def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """The logits of one pass."""
    return model(input_ids=ids, use_cache=False).logits
