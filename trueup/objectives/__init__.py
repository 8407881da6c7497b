"""Training losses: pure functions on log-probabilities, each with its frozen dataclass."""

import dataclasses
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from trueup.errors import UserError, build, unknown_name
from trueup.objectives.adpa import ADPA
from trueup.objectives.asft import ASFT
from trueup.objectives.bco import BCO
from trueup.objectives.bialign import BiAlign
from trueup.objectives.bvpo import BVPO
from trueup.objectives.ctrl import CTRL
from trueup.objectives.cyclealign import CycleAlign
from trueup.objectives.d2o import D2O
from trueup.objectives.daa_hinge import DAAHinge
from trueup.objectives.dckd import DCKD
from trueup.objectives.dpo import DPO
from trueup.objectives.f_dpg import FDPG
from trueup.objectives.f_dpo import FDPO
from trueup.objectives.generation_aware import GenerationAware
from trueup.objectives.grpo import GRPO
from trueup.objectives.hinge import Hinge
from trueup.objectives.honesty import Honesty
from trueup.objectives.ipo import IPO, IPOSum
from trueup.objectives.kto import KTO
from trueup.objectives.mah_dpo import MAHDPO
from trueup.objectives.orpo import ORPO
from trueup.objectives.poft import PoFT
from trueup.objectives.protocol import Needs, Objective
from trueup.objectives.raft import RAFT
from trueup.objectives.reinforce import Reinforce
from trueup.objectives.rpo import RPO, RPOTRL, RPOBaseline, RPOMean
from trueup.objectives.sft import SFT
from trueup.objectives.simpo import SimPO
from trueup.objectives.slic import SLiC

__all__ = ["OBJECTIVES", "Needs", "Objective", "objective"]

OBJECTIVES: dict[str, type[Objective]] = {
    "adpa": ADPA,
    "asft": ASFT,
    "bco": BCO,
    "bialign": BiAlign,
    "bvpo": BVPO,
    "ctrl": CTRL,
    "cyclealign": CycleAlign,
    "d2o": D2O,
    "daa-hinge": DAAHinge,
    "dckd": DCKD,
    "dpo": DPO,
    "f-dpg": FDPG,
    "f-dpo": FDPO,
    "generation-aware": GenerationAware,
    "grpo": GRPO,
    "hinge": Hinge,
    "honesty": Honesty,
    "ipo": IPO,
    "ipo-sum": IPOSum,
    "kto": KTO,
    "mah-dpo": MAHDPO,
    "orpo": ORPO,
    "poft": PoFT,
    "raft": RAFT,
    "reinforce": Reinforce,
    "rpo": RPO,
    "rpo-baseline": RPOBaseline,
    "rpo-mean": RPOMean,
    "rpo-trl": RPOTRL,
    "sft": SFT,
    "simpo": SimPO,
    "slic": SLiC,
}


def objective(
    name_or_instance: str | Objective, settings: Mapping[str, Any] | None = None
) -> Objective:
    """An objective by its registered name, or an instance with some of its fields changed.

    Names come from `OBJECTIVES` and from other packages' entry points `trueup.objectives`.
    Raises: UserError for an unknown name, with the nearest known one, and for an unknown field.
    """
    changed = dict(settings or {})
    if not isinstance(name_or_instance, str):
        kept = {
            field.name: getattr(name_or_instance, field.name)
            for field in dataclasses.fields(name_or_instance)  # type: ignore[arg-type]
        }
        return build(name_or_instance.name, type(name_or_instance), {**kept, **changed})
    return build(name_or_instance, _class_of(name_or_instance), changed)


def _class_of(name: str) -> type[Objective]:
    """The class registered under a name, here or by another package."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    others = {point.name: point for point in entry_points(group="trueup.objectives")}
    if name not in others:
        raise unknown_name("objective", name, {**OBJECTIVES, **others})
    try:
        loaded: type[Objective] = others[name].load()
    except (ImportError, AttributeError) as failure:
        place = others[name].value
        raise UserError(f"{place}: objective {name!r} cannot be loaded: {failure}") from failure
    return loaded
