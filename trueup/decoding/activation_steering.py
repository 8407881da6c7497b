"""Activation steering: a vector added to the residual stream while the model writes."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args
from weakref import WeakKeyDictionary

from trueup.data import Table
from trueup.decoding.protocol import DecoderNeeds
from trueup.decoding.steering_vectors import (
    Candidates,
    Layer,
    Pairs,
    Space,
    SteeringVector,
)
from trueup.errors import UserError, check_at_least, check_choice
from trueup.models import architecture
from trueup.models.integrity import restored, weight_marks
from trueup.models.language_model import LanguageModel
from trueup.models.residual_stream import (
    POSITIONS,
    Add,
    Clamp,
    Positions,
    check_layer,
    edited,
    unedited,
)

Mode = Literal["add", "clamp"]


@dataclass(frozen=True, kw_only=True)
class ActivationSteering:
    """Steer by the mean difference of aligned and contrast answers, behind one block.

    h_l[t] <- h_l[t] + strength * v,   v = mean over pairs of (a_l(aligned) - a_l(contrast))
    a_l is the state behind block l at an answer's last token; l by `search_layers`.
    mode "clamp": h_l[t] <- h_l[t] + (clip(p, low, high) - p) u,   p = h_l[t] . u,   u = v / |v|
    where [low, high] holds 98 % of the clean projections: it changes what leaves them, only.

    Fields: vector is a file of `SteeringVector.save`, or the vector; pairs instead have prompt,
            aligned, contrast (or chosen, rejected), and the vector is learnt when first applied.
            layer, space and candidates are for pairs. strength None is the vector's own, 1 unless
            one was chosen; above 0 is towards aligned, and below 0 away from it. positions
            "generated" leaves prompts alone, and whole texts that are scored. any_model takes a
            vector that was made of other weights.
    Cost:   nothing per token; pairs are read once.
    Edges:  strength 0 changes no bit. Several edits add up; a clamp has the last word behind its
            block. Vectors are learnt without the edits in force.
    Use:    kept prefixes, cached vectors and fingerprints are told apart from the unsteered ones;
            a decoding state that was started before is not.
    Raises: UserError where a field leaves its range, both or neither of vector and pairs are
            given, or the vector is of another model or has no range to clamp to.
    Source: Wang and Shu 2023, arXiv 2311.09433, who steer away from alignment to attack; here it
            is towards it, and the vector is added once (their code adds it twice). "generated",
            the clamp's range over all tokens of the pairs' aligned texts, and the file are ours.
    """

    vector: str | Path | SteeringVector | None = None
    pairs: Pairs | None = None
    layer: Layer = "auto"
    space: Space = "hidden"
    candidates: Candidates = "first-half"
    strength: float | None = None
    positions: Positions = "all"
    mode: Mode = "add"
    any_model: bool = False

    name: ClassVar[str] = "activation-steering"
    role: ClassVar[Literal["edit"]] = "edit"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(white_box=True)
    arxiv: ClassVar[str] = "2311.09433"

    def __post_init__(self) -> None:
        if (self.vector is None) == (self.pairs is None):
            raise UserError(
                "activation-steering needs a vector or pairs, one of them; set vector=FILE"
            )
        if self.vector is not None and self.layer != "auto":
            raise UserError(
                f"a vector has a layer of its own, got layer={self.layer}; leave it out"
            )
        if self.layer != "auto":
            check_at_least(0, layer=self.layer)
        if self.strength is not None and not math.isfinite(self.strength):
            raise UserError(f"strength must be a finite number, got {self.strength}")
        check_choice(get_args(Space), space=self.space)
        check_choice(get_args(Candidates), candidates=self.candidates)
        check_choice(POSITIONS, positions=self.positions)
        check_choice(get_args(Mode), mode=self.mode)
        # What a run's record holds are texts and rows.
        if isinstance(self.vector, Path):
            object.__setattr__(self, "vector", str(self.vector))
        if isinstance(self.pairs, Path | Table):
            told = str(self.pairs) if isinstance(self.pairs, Path) else self.pairs.rows
            object.__setattr__(self, "pairs", told)

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[None]:
        """The model steered inside the block; behind it proven to be as it was.

        Raises: TrueupError where a hook, a module or a weight is not what it was.
        """
        vector = self.vector_for(lm)
        strength = vector.strength if self.strength is None else self.strength
        with ExitStack() as stack:
            stack.enter_context(restored(lm.model))
            if self.mode == "clamp":
                assert vector.low is not None
                assert vector.high is not None
                unit = vector.direction / vector.direction.norm()
                clamp = Clamp(unit, vector.low, vector.high)
                stack.enter_context(edited(lm.model, vector.layer, clamp, self.positions))
            elif strength != 0:
                add = Add(strength * vector.direction)
                stack.enter_context(edited(lm.model, vector.layer, add, self.positions))
            yield

    def vector_for(self, lm: LanguageModel) -> SteeringVector:
        """The vector that is used on this model, read or learnt once."""
        marks = weight_marks(lm.model)
        known, vector = self._known.get(lm.model, (None, None))
        if vector is None or known != marks:
            vector = self._read(lm) if self.pairs is None else self._learn(lm)
            self._known[lm.model] = marks, vector
        return vector

    @cached_property
    def _known(self) -> "WeakKeyDictionary[Any, tuple[Any, SteeringVector]]":
        """The vector of each model, and the weights under which it was read or learnt."""
        return WeakKeyDictionary()

    def _learn(self, lm: LanguageModel) -> SteeringVector:
        """The vector of the pairs."""
        assert self.pairs is not None
        found = SteeringVector.from_pairs(
            lm, self.pairs, layer=self.layer, space=self.space, candidates=self.candidates
        )
        return found.with_range(lm, self.pairs) if self.mode == "clamp" else found

    def _read(self, lm: LanguageModel) -> SteeringVector:
        """The vector that was given, checked against the model."""
        assert self.vector is not None
        given = self.vector
        if isinstance(given, SteeringVector):
            place, vector = "the steering vector", given
        else:
            place, vector = str(given), SteeringVector.load(given)
        check_layer(lm.model, vector.layer)
        width = architecture.causal_model(lm.model).config.get_text_config().hidden_size
        if len(vector.direction) != width:
            raise UserError(
                f"{place}: has {len(vector.direction)} coordinates, but {lm.name} has {width}"
            )
        with unedited(lm.model):
            is_of_another = vector.model_fingerprint != lm.fingerprint
        if is_of_another and not self.any_model:
            raise UserError(
                f"{place}: was made of another model than {lm.name}; make one of its own, or set "
                "any_model=true"
            )
        if self.mode == "clamp" and (vector.low is None or vector.high is None):
            raise UserError(f"{place}: has no clean range to clamp to; make it with `with_range`")
        return vector
