"""Models from a folder or the hub: safetensors only, remote code only when asked for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

from trueup.errors import UserError, check_choice
from trueup.models.language_model import LanguageModel

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


def load(
    path_or_id: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    adapter: str | Path | None = None,
    heads: Mapping[str, float] | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> LanguageModel:
    """Load a causal language model and its tokenizer.

    Fields: dtype "auto" keeps the checkpoint's; device "auto" takes a GPU where there is one;
            adapter is a peft folder put over the model. A peft folder may also be given as
            `path_or_id`: its base model is then loaded under it. heads mixes the output heads of a
            model trained for several objectives by the named weights, {"honest": 0.7, ...}.
    Raises: UserError where the folder, its weights or its tokenizer cannot be read.
    """
    check_choice(DTYPES, dtype=dtype)
    base, own_adapter = _base_of(path_or_id)
    options = {"trust_remote_code": trust_remote_code, "revision": revision}
    model = read_weights(transformers.AutoModelForCausalLM, base, dtype=dtype, **options)
    tokenizer = read_tokenizer(base if own_adapter is None else own_adapter, **options)
    for folder in (own_adapter, adapter):
        if folder is not None:
            model = _with_adapter(model, folder)
    lm = LanguageModel(model.to(pick_device(device)), tokenizer, name=str(path_or_id))
    if heads is None:
        return lm
    from trueup.models.multi_head import MultiHead, merge_heads

    return merge_heads(lm, MultiHead.load(path_or_id), heads)


def read_weights(auto_class: Any, path_or_id: str | Path, *, dtype: str, **options: Any) -> Any:
    """A transformers model from safetensors, or one clear line."""
    check_source(path_or_id)
    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return auto_class.from_pretrained(path_or_id, dtype=wanted, use_safetensors=True, **options)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"{path_or_id}: cannot be loaded ({_first_line(error)})") from error


def read_tokenizer(path_or_id: str | Path, **options: Any) -> Any:
    """The tokenizer that lies beside the weights, or one clear line."""
    try:
        return transformers.AutoTokenizer.from_pretrained(path_or_id, **options)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"{path_or_id}: no tokenizer found ({_first_line(error)})") from error


def check_source(path_or_id: str | Path) -> None:
    """Raise UserError where a path is meant and no model lies there."""
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{path}: no config.json in this folder; give a transformers model")
        if not any(path.glob("*.safetensors")):
            raise UserError(f"{path}: no *.safetensors in this folder; other weights are not read")
        return
    text = str(path_or_id)
    looks_local = isinstance(path_or_id, Path) or text.startswith((".", "/", "~"))
    if path.is_file() or looks_local or text.count("/") > 1:
        raise UserError(f"{path}: no such model folder")


def pick_device(device: str) -> torch.device:
    """The named device; "auto" is the first GPU, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device!r} is not there; this machine has cpu")
    return chosen


def _base_of(path_or_id: str | Path) -> tuple[str | Path, Path | None]:
    """The model to load and the adapter folder that names it, where the path is an adapter."""
    config = Path(path_or_id) / "adapter_config.json"
    if not config.is_file():
        return path_or_id, None
    try:
        base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{config}: does not name its base model") from error
    return base, Path(path_or_id)


def _with_adapter(model: Any, folder: str | Path) -> Any:
    """The model with a peft adapter over it."""
    import peft

    if not (Path(folder) / "adapter_model.safetensors").is_file():
        raise UserError(f"{folder}: no adapter_model.safetensors in this folder")
    try:
        return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: the adapter does not fit ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    """The first line of an error of another library, shortened."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
