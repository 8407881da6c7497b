"""Numbers that cost forward passes, in files beside what they depend on and what they cost."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from trueup.files import content_hash
from trueup.models import Work
from trueup.models.tensors import load_tensors, save_tensors
from trueup.training.scoring import Family, Scoring


def fingerprint(
    layout: str, models: Sequence[str], scoring: Scoring, wanted: Mapping[str, Sequence[Family]]
) -> str:
    """What the numbers depend on: their meaning, the models, types, every token id, our version.

    Fields: layout names the meaning of the stored numbers; models are fingerprints, with whatever
            else the numbers depend on.
    """
    parts = [
        content_hash(
            name,
            *(f"{group.prompt}{group.completions}" for family in families for group in family),
        )
        for name, families in wanted.items()
    ]
    types = f"{scoring.dtype} {scoring.precision}"
    return content_hash(layout, version("trueup"), *models, types, *parts)


def store(path: Path, mark: str, values: Mapping[str, Tensor], work: Work) -> None:
    """Write the numbers with their fingerprint and their cost, atomically."""
    save_tensors(path, values, {"fingerprint": mark, "work": json.dumps(work.as_dict())})


def stored(path: Path, mark: str) -> tuple[dict[str, Tensor], Work] | None:
    """The numbers and their cost, if the file has some of this very fingerprint."""
    if not path.is_file():
        return None
    values, metadata = load_tensors(path)
    if metadata.get("fingerprint") != mark:
        return None
    return values, Work(**json.loads(metadata["work"]))
