"""Models by path or hub id: whatever a person names becomes a model object."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from trueup.models import LanguageModel
    from trueup.models.masked_language_model import MaskedLanguageModel


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
    return opened_causal(model, dtype=dtype, device=device)


def opened_causal(
    model: "str | Path | LanguageModel", *, dtype: str = "auto", device: str = "auto"
) -> "LanguageModel":
    """The model itself, or the causal one that lies at the path or id."""
    if not isinstance(model, (str, Path)):
        return model
    from trueup.models import load

    return load(model, dtype=dtype, device=device)


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
