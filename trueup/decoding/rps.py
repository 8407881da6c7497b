"""RPS: candidates for neighbouring directions of preference, chosen by the direction asked for."""

import json
import logging
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import scipy.stats

from trueup.data.messages import Prompt
from trueup.decoding.alignment_prompt import with_instruction
from trueup.decoding.directions import (
    Sampler,
    angles_to,
    neighbours,
    percent_rating,
    unit_direction,
)
from trueup.decoding.pools import Candidate, best, check_pool, written
from trueup.decoding.protocol import Decoded, DecoderNeeds, Request
from trueup.decoding.rewards import prompt_texts, reward_matrix
from trueup.decoding.search_jobs import random_stream
from trueup.errors import UserError, check_at_least, check_between, check_choice
from trueup.models.reward import Reward
from trueup.models.writer import Text, Writer

Condition = str | Callable[[Prompt, np.ndarray], Prompt]

logger = logging.getLogger("trueup")


@dataclass(frozen=True, kw_only=True)
class RPS:
    """Robust preference selection: a best-of-k over directions near the one asked for.

    v_i within theta_max of target;   y_i ~ pi(. | prompt, v_i)
    y*  = argmax_i target . (r(prompt, y_i) - mean) / std

    For a model whose prompt takes a direction and which serves common ones better than rare ones.
    It is not free: where the model serves the target itself well, neighbours lose against k samples
    for the target (35 % wins in the sheet's world). With include_target the pools show it: where
    the target's own candidate wins more often than its share, a warning is logged.

    Fields: target has one weight per reward, in their order, and is given length 1; one reward may
            give rows of as many numbers. k candidates; theta_max in degrees, 0 is best-of-k for
            the target. sampler as `neighbours` has it. condition makes the prompt for a
            direction: "system_prompt" is the built-in instruction, other text an instruction
            with {rating} in it, else a callable (prompt, direction) -> prompt. mean and std
            standardise the rewards, measured on a calibration set: attributes must share a unit.
    Cost:   k forward passes per token, in one batch, and k prompts; a reward for each candidate.
    Edges:  ties go to the candidate drawn first; k = 1 is that candidate.
    Raises: UserError where a field leaves its range, the rewards are not one per weight, or as
            `Search.decode` says.
    Source: Mao et al. 2025, arXiv 2510.20498; conditioning after DPA, arXiv 2402.18571. The law of
            the angles, no clipping of them, include_target and the warning are our choice.
    """

    target: tuple[float, ...]
    k: int = 5
    theta_max: float = 30.0
    sampler: Sampler = "uniform"
    include_target: bool = False
    condition: Condition = "system_prompt"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    name: ClassVar[str] = "rps"
    role: ClassVar[Literal["search"]] = "search"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(rewards=1)
    arxiv: ClassVar[str] = "2510.20498"

    def __post_init__(self) -> None:
        check_at_least(1, k=self.k)
        check_between(0, 90, theta_max=self.theta_max)
        check_choice(("uniform", "cap", "grid"), sampler=self.sampler)
        size = len(unit_direction(self.target))
        if size < 2:
            raise UserError(f"target must have two weights or more, got {self.target}")
        if self.sampler == "grid" and size != 2:
            raise UserError(f"sampler grid is for two rewards, got {size}; take uniform or cap")
        for field, values in (("mean", self.mean), ("std", self.std)):
            if values and len(values) != size:
                raise UserError(f"{field} must have {size} numbers, got {len(values)}")
        if not all(value > 0 for value in self.std):
            raise UserError(f"std must be above 0, got {self.std}")
        own = self.condition if isinstance(self.condition, str) else "{rating}"
        if own != "system_prompt" and "{rating}" not in own:
            raise UserError(f"condition must hold {{rating}}, got {own!r:.60}")

    def decode(
        self, lm: Writer, prompts: Sequence[Prompt], request: Request
    ) -> list[list[Decoded]]:
        """The best `n` candidates of every prompt for the target."""
        if self.theta_max == 0:
            check_pool(request.sampling, self.k, "k")
        elif request.sampling.n > self.k:
            raise UserError(f"n must be at most k, {self.k}, got {request.sampling.n}")
        target = unit_direction(self.target)
        names = _attributes(request.rewards, len(target))
        near = self._directions(prompts, request.sampling.seed)
        asked = [
            self._conditioned(prompt, direction, names)
            for prompt, several in zip(prompts, near, strict=True)
            for direction in several
        ]
        texts = [several[0] for several in written(lm, asked, request.sampling, n=1)]
        places = [place for place in range(len(prompts)) for _ in range(self.k)]
        matrix = reward_matrix(
            request.rewards,
            prompt_texts(lm, prompts, request.asked),
            places,
            [text.text for text in texts],
            columns=len(target),
        )
        pools = [
            self._pool(
                texts[start : start + self.k],
                directions,
                matrix[start : start + self.k],
                names,
            )
            for start, directions in zip(range(0, len(texts), self.k), near, strict=True)
        ]
        found = [best(pool, request.sampling.n) for pool in pools]
        if self.include_target and self.theta_max > 0:
            warn_without_gap([_first_wins(pool) for pool in pools], self.k)
        return found

    def _directions(self, prompts: Sequence[Prompt], seed: int) -> list[np.ndarray]:
        """The directions of every prompt, [k, m] each: they depend on prompt and seed alone."""
        target = unit_direction(self.target)
        found, seen = [], dict[str, int]()
        for prompt in prompts:
            name = f"{seed}:{json.dumps(prompt)}"
            seen[name] = seen.get(name, -1) + 1
            rng = random_stream(name, seen[name])
            near = neighbours(target, self.k, self.theta_max, self.sampler, rng)
            if self.include_target:
                near[0] = target
            found.append(near)
        return found

    def _conditioned(self, prompt: Prompt, direction: np.ndarray, names: Sequence[str]) -> Prompt:
        """The prompt that asks for one direction."""
        if not isinstance(self.condition, str):
            return self.condition(prompt, direction)
        template = _built_in() if self.condition == "system_prompt" else self.condition
        rating = percent_rating(names, direction)
        return with_instruction(prompt, template.replace("{rating}", rating))

    def _pool(
        self,
        texts: Sequence[Text],
        directions: np.ndarray,
        rewards: np.ndarray,
        names: Sequence[str],
    ) -> list[Candidate]:
        """One prompt's candidates with their scores, and each one's direction."""
        target = unit_direction(self.target)
        mean = np.asarray(self.mean or 0.0)
        std = np.asarray(self.std or 1.0)
        _, scores = rps_select(rewards, target, mean, std)
        angles = angles_to(directions, target)
        return [
            Candidate(
                text=text,
                value=float(score),
                score=float(score),
                parts=dict(zip(names, row.tolist(), strict=True)),
                notes={"direction": direction.tolist(), "degrees": float(angle)},
            )
            for text, score, row, direction, angle in zip(
                texts, scores, rewards, directions, angles, strict=True
            )
        ]


def rps_select(
    rewards: np.ndarray,
    target: np.ndarray,
    mean: np.ndarray | float = 0.0,
    std: np.ndarray | float = 1.0,
) -> tuple[int, np.ndarray]:
    """The best candidate's place and all scores [k], from rewards [k, m] and a unit target [m]."""
    scores: np.ndarray = ((rewards - mean) / std) @ target
    return int(np.argmax(scores)), scores


def warn_without_gap(own_wins: Sequence[bool], k: int) -> bool:
    """Whether the target's own candidate wins more often than 1 in k: then say so in the log.

    One-sided binomial test at 1 %: no more than 1 in 100 healthy runs is warned of.
    """
    wins = sum(own_wins)
    if not own_wins or k < 2:
        return False
    p_value = scipy.stats.binomtest(wins, len(own_wins), 1 / k, alternative="greater").pvalue
    if p_value < 0.01:
        logger.warning(
            "rps: no gap in coverage was seen: the target's own candidate won %d of %d pools, more "
            "than its share of 1 in %d; theta_max=0 would serve this target better",
            wins,
            len(own_wins),
            k,
        )
        return True
    return False


def _attributes(rewards: Mapping[str, Reward], count: int) -> list[str]:
    """The rewards' names; those of one reward with rows of numbers are counted.

    Raises: UserError where they are not one for each number.
    """
    if len(rewards) == 1 and count > 1:
        return [f"{next(iter(rewards))}{number}" for number in range(1, count + 1)]
    if len(rewards) != count:
        named = ", ".join(rewards) or "none"
        raise UserError(f"target has {count} weights and needs a reward for each, got {named}")
    return list(rewards)


def _first_wins(pool: Sequence[Candidate]) -> bool:
    return int(np.argmax([candidate.score for candidate in pool])) == 0


def _built_in() -> str:
    """The instruction that comes with the method."""
    path = Path(__file__).with_suffix(".toml")
    found: str = tomllib.loads(path.read_text(encoding="utf-8"))["system_prompt"]
    return found
