"""Models by path or hub id: whatever a person names becomes a model object."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trueup.errors import UserError

if TYPE_CHECKING:
    from trueup.audits.protocol import Model
    from trueup.models import LanguageModel


def opened(
    model: "str | Path | Model",
    *,
    dtype: str = "auto",
    device: str = "auto",
    heads: Mapping[str, float] | None = None,
) -> "Model":
    """The model itself, or what lies at the path or id: masked where its architecture is."""
    if not isinstance(model, (str, Path)):
        _check_no_heads(heads)
        return model
    if not heads and is_masked(model):
        from trueup.models.masked_language_model import load_masked

        return load_masked(model, dtype=dtype, device=device)
    return opened_causal(model, dtype=dtype, device=device, heads=heads)


def opened_causal(
    model: "str | Path | LanguageModel",
    *,
    dtype: str = "auto",
    device: str = "auto",
    heads: Mapping[str, float] | None = None,
) -> "LanguageModel":
    """The model itself, or the causal one that lies at the path or id, its heads mixed as said.

    Raises: UserError where heads are given and the model is loaded already, or has no such head.
    """
    if not isinstance(model, (str, Path)):
        _check_no_heads(heads)
        return model
    from trueup.models import load

    return load(model, dtype=dtype, device=device, heads=heads or None)


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


def _check_no_heads(heads: Mapping[str, float] | None) -> None:
    """Raise UserError where heads are to be mixed in a model that is loaded already."""
    if heads:
        raise UserError("heads are mixed while a model is loaded; give its folder, not the object")
