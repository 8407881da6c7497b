"""Models by path or hub id: whatever a person names becomes a model object."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

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
    """The model itself, or what the name means.

    FOLDER or ID   a causal or a masked language model, or an encoder, as its configuration says
    URL#NAME       the chat model of that name behind an endpoint of the OpenAI protocol
    FILE           static word vectors: GloVe's or word2vec's text form, or .npz
    none           no model, for audits of texts and predictions that the data hold
    """
    if not isinstance(model, (str, Path)):
        _check_no_heads(heads)
        return model
    if str(model) == "none":
        from trueup.models.no_model import NoModel

        return NoModel()
    if str(model).startswith(("http://", "https://")):
        return _endpoint(str(model))
    if Path(model).is_file():
        from trueup.models.static_vectors import load_static

        return load_static(model)
    kind = "causal" if heads else kind_of(model)
    if kind == "masked":
        from trueup.models.masked_language_model import load_masked

        return load_masked(model, dtype=dtype, device=device)
    if kind == "encoder":
        from trueup.models.embedder import load_embedder

        return load_embedder(model, dtype=dtype, device=device)
    return opened_causal(model, dtype=dtype, device=device, heads=heads)


def _endpoint(text: str) -> "Model":
    """The model behind URL#NAME."""
    from trueup.models.endpoint import connect

    url, sign, name = text.partition("#")
    if not (sign and name):
        raise UserError(f"{url}: which model is behind it? Give URL#NAME, as {url}#my-model")
    return connect(url, name)


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


def kind_of(path_or_id: str | Path) -> Literal["causal", "masked", "encoder"]:
    """What a checkpoint was saved as; an adapter is causal."""
    import transformers

    from trueup.models.loading import check_source

    if (Path(path_or_id) / "adapter_config.json").is_file():
        return "causal"
    if (Path(path_or_id) / "modules.json").is_file():  # of sentence-transformers
        return "encoder"
    check_source(path_or_id)
    try:
        config: Any = transformers.AutoConfig.from_pretrained(path_or_id)
    except (OSError, ValueError, KeyError):
        return "causal"  # loading says what is wrong, in one place for all kinds
    names = cast("list[str]", config.architectures or [])
    if names and all(name.endswith("ForMaskedLM") for name in names):
        return "masked"
    has_no_head = names and all(name.endswith("Model") for name in names)
    return "encoder" if has_no_head and not any("LMHead" in name for name in names) else "causal"


def _check_no_heads(heads: Mapping[str, float] | None) -> None:
    """Raise UserError where heads are to be mixed in a model that is loaded already."""
    if heads:
        raise UserError("heads are mixed while a model is loaded; give its folder, not the object")
