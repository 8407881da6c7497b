"""Models by path, hub id or address: whatever a person names becomes a model object."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from trueup.models import LanguageModel
    from trueup.models.masked_language_model import MaskedLanguageModel


def load(
    path_or_id: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    adapter: str | Path | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> "LanguageModel":
    """Load a white-box causal language model with its tokenizer.

    Fields: path_or_id is a transformers folder, a peft folder or a hub id; dtype "auto" keeps the
            checkpoint's; device "auto" takes a GPU where there is one; adapter is a peft folder
            put over the model.
    Raises: UserError where the folder, its weights or its tokenizer cannot be read.
    """
    from trueup import models

    return models.load(
        path_or_id,
        dtype=dtype,
        device=device,
        adapter=adapter,
        trust_remote_code=trust_remote_code,
        revision=revision,
    )


def opened(
    model: "str | Path | LanguageModel | MaskedLanguageModel",
    *,
    dtype: str = "auto",
    device: str = "auto",
) -> "LanguageModel | MaskedLanguageModel":
    """The model itself, or what lies at the path or id: masked where its architecture is."""
    if not isinstance(model, (str, Path)):
        return model
    if is_masked(model):
        from trueup.models.masked_language_model import load_masked

        return load_masked(model, dtype=dtype, device=device)
    return load(model, dtype=dtype, device=device)


def opened_causal(
    model: "str | Path | LanguageModel", *, dtype: str = "auto", device: str = "auto"
) -> "LanguageModel":
    """The model itself, or the causal one that lies at the path or id."""
    if isinstance(model, (str, Path)):
        return load(model, dtype=dtype, device=device)
    return model


def is_masked(path_or_id: str | Path) -> bool:
    """Whether a checkpoint was saved as a masked language model; of an adapter never."""
    import transformers

    from trueup.models.loading import check_source

    if (Path(path_or_id) / "adapter_config.json").is_file():
        return False
    check_source(path_or_id)
    try:
        config: Any = transformers.AutoConfig.from_pretrained(path_or_id)
    except (OSError, ValueError, KeyError):
        return False  # loading says what is wrong, in one place for all kinds
    names = cast("list[str]", config.architectures or [])
    return bool(names) and all(name.endswith("ForMaskedLM") for name in names)
