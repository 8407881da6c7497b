"""Rewards in a search: named, weighted, each text scored once, failures told with the prompt."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trueup.data.messages import Prompt
from trueup.decoding.constraints import read_constraint
from trueup.decoding.judge_reward import read_judge
from trueup.errors import UserError
from trueup.models.language_model import LanguageModel
from trueup.models.loading import load
from trueup.models.reward import Reward, load_reward, rewards_of

Weights = Mapping[str, float] | tuple[float, ...] | None
Parts = dict[str, float]
RewardsGiven = str | Reward | Sequence[str | Reward] | Mapping[str, str | Reward] | None


class Rewards:
    """The rewards of a search over its prompts' texts.

    total = sum over names of weight * reward; the weights are the user's, and are not normalised.
    Fields: prompts are what the rewards read as prompts; weights by name, or in the rewards'
            order; None is 1 where there is one reward.
    Raises: UserError where the weights do not fit, or there is no reward.
    """

    def __init__(
        self, rewards: Mapping[str, Reward], weights: Weights, prompts: Sequence[str]
    ) -> None:
        self.rewards = dict(rewards)
        self.weights = weights_of(list(rewards), weights)
        self.prompts = list(prompts)
        self._known: dict[tuple[int, str], Parts] = {}

    def parts(self, places: Sequence[int], texts: Sequence[str]) -> list[Parts]:
        """Every reward of each text under the prompt of that place; a text is scored once."""
        keys = list(zip(places, texts, strict=True))
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        if new:
            values = [self._scored(name, reward, new) for name, reward in self.rewards.items()]
            for key, row in zip(new, zip(*values, strict=True), strict=True):
                self._known[key] = dict(zip(self.rewards, row, strict=True))
        return [self._known[key] for key in keys]

    def total(self, parts: Mapping[str, float]) -> float:
        """The weighted sum."""
        return float(sum(self.weights[name] * value for name, value in parts.items()))

    def totals(self, places: Sequence[int], texts: Sequence[str]) -> list[float]:
        """The weighted sum of each text."""
        return [self.total(parts) for parts in self.parts(places, texts)]

    def _scored(self, name: str, reward: Reward, keys: Sequence[tuple[int, str]]) -> list[float]:
        """One reward of new texts.

        Raises: UserError where it fails or is no finite number, naming the prompt.
        """
        prompts = [self.prompts[place] for place, _ in keys]
        texts = [text for _, text in keys]
        try:
            values = rewards_of(reward, prompts, texts)
        except UserError as error:
            place = _first_failure(reward, prompts, texts)
            where = "" if place is None else f"prompt {keys[place][0] + 1}: "
            raise UserError(f"{where}{error}") from error
        for (place, text), value in zip(keys, values, strict=True):
            if not math.isfinite(value):
                raise UserError(
                    f"prompt {place + 1}: reward {name} must be finite, got {value} for "
                    f"{text!r:.60}; give such texts a low number instead"
                )
        return values


def weights_of(names: Sequence[str], weights: Weights) -> dict[str, float]:
    """The weight of every reward.

    Raises: UserError where there is no reward, or the weights are not one for each.
    """
    if not names:
        raise UserError("this decoder needs a reward, got none; give rewards={NAME: REWARD}")
    if weights is None:
        if len(names) > 1:
            raise UserError(f"weights are needed for several rewards: {', '.join(names)}")
        return {names[0]: 1.0}
    if not isinstance(weights, Mapping):
        weights = dict(zip(names, weights, strict=True)) if len(weights) == len(names) else {}
    if set(weights) != set(names):
        raise UserError(
            f"weights must be one for each of {', '.join(names)}, got {dict(weights) or 'others'}"
        )
    return {name: float(weights[name]) for name in names}


def reward_matrix(
    rewards: Mapping[str, Reward],
    prompts: Sequence[str],
    places: Sequence[int],
    texts: Sequence[str],
    *,
    columns: int,
) -> np.ndarray:
    """The rewards as a matrix [N, columns]: one each, or one reward that gives rows of numbers.

    Raises: UserError where they fail, are not finite, or rows are of another length.
    """
    if len(rewards) == 1 and columns > 1:
        return _rows_of(*next(iter(rewards.items())), prompts, places, texts, columns)
    scored = Rewards(rewards, (1.0,) * columns, prompts).parts(places, texts)
    return np.array([[parts[name] for name in rewards] for parts in scored], dtype=float)


def rewards_by_name(given: RewardsGiven) -> dict[str, Reward]:
    """The rewards that a user gives: one, several, or several by name.

    Fields: a text is what `opened_reward` takes, or NAME=SOURCE; without a name it is its source,
            or the function's own name.
    Raises: UserError where a source cannot be opened, or a name stands twice.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {name: opened_reward(each) for name, each in given.items()}
    several = [given] if isinstance(given, str) or callable(given) else list(given)
    found: dict[str, Reward] = {}
    for each in several:
        name, reward = _named(each)
        if name in found:
            raise UserError(f"reward {name} stands twice; name them, as in first={name}")
        found[name] = reward
    return found


def opened_reward(reward: Reward | str) -> Reward:
    """The reward itself, or what its source says.

    URL#NAME is a chat model that grades; else it is a constraint, or what `load_reward` takes.
    """
    return _loaded_reward(reward) if isinstance(reward, str) else reward


def opened_model(model: LanguageModel | str) -> LanguageModel:
    """The model itself, or the one that lies at the path or id, loaded once."""
    return _loaded_model(model) if isinstance(model, str) else model


def prompt_texts(
    writer: Any, prompts: Sequence[Prompt], asked: Sequence[Prompt] | None = None
) -> list[str]:
    """The prompts as the rewards read them: as the model's encoder has them, else the turns.

    Fields: asked stand for the prompts where a step has changed these.
    """
    prompts = prompts if asked is None else asked
    if hasattr(writer, "encoder"):
        return [writer.encoder.prompt_text(prompt) for prompt in prompts]
    return [
        prompt
        if isinstance(prompt, str)
        else "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
        for prompt in prompts
    ]


def _named(given: str | Reward) -> tuple[str, Reward]:
    """A reward and its name."""
    if not isinstance(given, str):
        return str(getattr(given, "__name__", type(given).__name__)), given
    name, sign, source = given.partition("=")
    if sign and name.isidentifier():
        return name, opened_reward(source)
    return given, opened_reward(given)


@functools.lru_cache(maxsize=8)
def _loaded_reward(source: str) -> Reward:
    return read_judge(source) or read_constraint(source) or load_reward(source)


@functools.lru_cache(maxsize=2)
def _loaded_model(source: str) -> LanguageModel:
    return load(source)


def _first_failure(reward: Reward, prompts: Sequence[str], texts: Sequence[str]) -> int | None:
    """The first text on which the reward fails alone."""
    for place, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        try:
            rewards_of(reward, [prompt], [text])
        except UserError:
            return place
    return None


def _rows_of(
    name: str,
    reward: Any,
    prompts: Sequence[str],
    places: Sequence[int],
    texts: Sequence[str],
    columns: int,
) -> np.ndarray:
    """The rows of a reward with several numbers for each completion, [N, columns]."""
    try:
        rows = np.asarray(reward([prompts[place] for place in places], list(texts)), dtype=float)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise UserError(
            f"prompt {places[0] + 1} or later: reward {name} failed ({told})"
        ) from error
    if rows.shape != (len(places), columns):
        raise UserError(
            f"reward {name} must give {columns} numbers for each of {len(places)} completions, "
            f"got the shape {rows.shape}; give one reward for each number, or rows"
        )
    for place, row in zip(places, rows, strict=True):
        if not np.isfinite(row).all():
            raise UserError(f"prompt {place + 1}: reward {name} must be finite, got {row.tolist()}")
    return rows
