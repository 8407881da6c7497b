"""A small Llama-architecture model of a planted world, kept in the user's cache."""

import importlib.metadata
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from trueup.api.progress import Progress
from trueup.errors import UserError
from trueup.files import cache_folder, content_hash
from trueup.models import LanguageModel, load
from trueup.objectives.sft import SFT
from trueup.training import TrainingConfig, train
from trueup.worlds.occupations import OccupationWorld

CONTEXT = 32  # tokens; the grammar's longest sentence has 17
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": CONTEXT,
}
TRAINING = TrainingConfig(
    epochs=3, batch_size=64, learning_rate=3e-3, warmup=0.03, save_every=0, shuffle=True
)


def world_model(world: OccupationWorld, progress: Progress) -> LanguageModel:
    """The model trained on the world's corpus; trained now, or read from the cache.

    The cache's key holds the corpus, the sizes, the training settings and the versions, so a
    change of any of them trains anew.
    """
    corpus = world.corpus()
    folder = cache_folder() / "worlds" / _key(world, corpus)
    if not (folder / "model.safetensors").is_file():
        with tempfile.TemporaryDirectory() as scratch:
            made = _trained(world, corpus, Path(scratch) / "run", progress)
            made.save(Path(scratch) / "model")
            _keep(Path(scratch) / "model", folder)
    try:
        return load(folder, device="cpu")
    except UserError:
        shutil.rmtree(folder)
        raise


def _key(world: OccupationWorld, corpus: list[str]) -> str:
    """The content hash of all that makes the model."""
    versions = [importlib.metadata.version(name) for name in ("trueup", "torch", "transformers")]
    settings = json.dumps(
        [world.seed, SIZES, asdict(TRAINING), versions], sort_keys=True, default=str
    )
    return content_hash(settings, "\n".join(corpus))[:24]


def _trained(
    world: OccupationWorld, corpus: list[str], out: Path, progress: Progress
) -> LanguageModel:
    """Train from scratch on the corpus by supervised learning."""
    tokenizer = _tokenizer(world)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, **SIZES
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(world.seed)
        model = transformers.LlamaForCausalLM(config)
    rows = [{"prompt": "", "completion": text} for text in corpus]
    result = train(
        LanguageModel(model, tokenizer, name="world"),
        SFT(),
        rows,
        config=TRAINING,
        out=out,
        progress=lambda told: progress(told.step, told.steps, "training the world's model"),
    )
    return result.model


def _tokenizer(world: OccupationWorld) -> transformers.PreTrainedTokenizerFast:
    """One token per word of the grammar."""
    words = ["<pad>", "<s>", "</s>", *world.vocabulary()]
    backend = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=CONTEXT,
    )


def _keep(made: Path, folder: Path) -> None:
    """Move the model into the cache in one step, unless another process was quicker."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    shutil.copytree(made, beside, dirs_exist_ok=True)
    try:
        beside.rename(folder)
    except OSError:
        shutil.rmtree(beside)
