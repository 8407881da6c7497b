"""How a sentence-transformers folder makes one vector of a text, read from its own files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trueup.errors import UserError

_MODES = {
    "cls": "cls", "mean": "mean", "lasttoken": "last",
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}  # fmt: skip


@dataclass(frozen=True)
class OwnPooling:
    """The pooling with which a sentence encoder was trained.

    Fields: mode over all tokens, special ones included, as in sentence-transformers; is_normalised
            scales the result to length 1, which no cosine sees.
    """

    mode: Literal["cls", "mean", "last"]
    is_normalised: bool = False

    def __str__(self) -> str:
        return f"{self.mode}{', normalised' if self.is_normalised else ''}"

    def pooled(self, states: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """One vector [D] of the states [T, D]."""
        rows = {"cls": states[:1], "mean": states, "last": states[-1:]}[self.mode]
        vector: NDArray[np.float64] = rows.mean(axis=0, dtype=np.float64)
        return vector / np.linalg.norm(vector) if self.is_normalised else vector


def transformer_folder(path_or_id: str | Path) -> str | Path:
    """Where the transformer lies: the folder itself, or a part of it as older ones have."""
    first = next(iter(_modules(path_or_id)), None)
    return path_or_id if not first or not first["path"] else Path(path_or_id) / first["path"]


def own_pooling(path_or_id: str | Path) -> OwnPooling | None:
    """The folder's own pooling; None where it is no sentence-transformers folder.

    Raises: UserError where it holds a module, or pools in a way, that is not known here.
    """
    modules = _modules(path_or_id)
    if not modules:
        return None
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(
            f"{Path(path_or_id) / 'modules.json'}: must list Transformer, Pooling and perhaps "
            f"Normalize, got {', '.join(kinds)}"
        )
    file = Path(path_or_id) / modules[1]["path"] / "config.json"
    config = _json(file)
    named = [config["pooling_mode"]] if "pooling_mode" in config else []
    chosen = named or [key for key, value in config.items() if key.startswith("pooling_mode_")
                       and value is True]  # fmt: skip
    modes = [_MODES.get(str(mode)) for mode in chosen]
    if len(modes) != 1 or modes[0] is None:
        raise UserError(f"{file}: must pool by cls, mean or last token, got {', '.join(chosen)}")
    return OwnPooling(modes[0], is_normalised="Normalize" in kinds)  # type: ignore[arg-type]  # one of the three


def is_sentence_encoder(path_or_id: str | Path) -> bool:
    """Whether a sentence-transformers folder lies there."""
    return bool(_modules(path_or_id))


def _modules(path_or_id: str | Path) -> list[dict[str, str]]:
    """What modules.json lists; nothing where there is none."""
    file = Path(path_or_id) / "modules.json"
    modules: list[dict[str, str]] = _json(file) if file.is_file() else []
    return modules


def _json(file: Path) -> Any:
    """The file's content, or one clear line."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error})") from error
