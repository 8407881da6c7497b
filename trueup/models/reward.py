"""Rewards: anything that scores completions of prompts, the same thing to every method."""

import functools
import hashlib
import importlib.util
import inspect
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers

from trueup.errors import TrueupError, UserError
from trueup.models.fingerprint import Fingerprint
from trueup.models.loading import check_source, pick_device, read_tokenizer, read_weights

BATCH = 32


class Reward(Protocol):
    """A callable over batches: prompts and completions as text, one number each, [N]."""

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], /) -> Sequence[float]:
        """The reward of every completion under its prompt."""
        ...


def load_reward(source: str, *, device: str = "auto") -> Reward:
    """A reward by what the user calls it.

    NAME             `words`, the number of words of the completion
    lexicon:FILE     how often words of the file (one a line) occur in the completion
    FILE.py:FUNCTION a Python function (prompts, completions) -> list of numbers
    MODEL            a sequence classifier, folder or hub id: its one logit, or the last one's
                     log-odds
    Raises: UserError where it names nothing that can be loaded.
    """
    kind, _, rest = source.partition(":")
    if source == "words":
        return words
    if kind == "lexicon":
        return Lexicon.read(Path(rest))
    if kind.endswith(".py"):
        return _function(Path(kind), rest)
    return ClassifierReward(source, device=device)


def reward_identity(reward: Any) -> str:
    """What tells two judges apart in a run's record: its own `identity`, else name and source."""
    known = getattr(reward, "identity", None)
    if isinstance(known, str):
        return known
    name = getattr(reward, "__qualname__", type(reward).__qualname__)
    try:
        text = inspect.getsource(reward if inspect.isfunction(reward) else type(reward))
    except (OSError, TypeError):
        text = ""
    return f"{name} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def rewards_of(reward: Reward, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The reward of every completion, as `checked` has them.

    Raises: UserError also where the reward itself fails, with the line on which it did.
    """
    name = reward_identity(reward).split()[0]
    try:
        values = reward(prompts, completions)
    except TrueupError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error}"
        raise UserError(
            f"reward {name}: failed at {last.filename}:{last.lineno} ({told})"
        ) from error
    return checked(values, len(completions), name)


def checked(values: Sequence[float], count: int, name: str) -> list[float]:
    """The rewards as numbers, one per completion; NaN stays, for the method to leave out.

    Raises: UserError where the reward gave another number of values, or what is no number.
    """
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise UserError(f"reward {name}: gave {values!r:.60}; it must give numbers") from error
    if len(numbers) != count:
        raise UserError(f"reward {name}: gave {len(numbers)} numbers for {count} completions")
    return numbers


def words(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The number of words of each completion: the simplest reward there is."""
    return [float(len(completion.split())) for completion in completions]


class Lexicon:
    """How often the words of a list occur in a completion, case aside."""

    def __init__(self, lexicon: Sequence[str]) -> None:
        self.words = tuple(word.strip().lower() for word in lexicon if word.strip())
        self.identity = "lexicon " + hashlib.sha256("\n".join(self.words).encode()).hexdigest()[:12]
        self._pattern = re.compile(r"\b(" + "|".join(map(re.escape, self.words)) + r")\b")

    @classmethod
    def read(cls, path: Path) -> "Lexicon":
        """The words of a file, one a line."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as a list of words ({error})") from error
        if not any(line.strip() for line in lines):
            raise UserError(f"{path}: has no words; write one a line")
        return cls(lines)

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Occurrences in each completion."""
        return [float(len(self._pattern.findall(text.lower()))) for text in completions]


class ClassifierReward:
    """A sequence classifier's judgement of prompt and completion together."""

    def __init__(self, source: str, *, device: str = "auto") -> None:
        check_source(source)
        model = read_weights(transformers.AutoModelForSequenceClassification, source, dtype="auto")
        self.model: Any = model.to(pick_device(device)).eval()
        self.tokenizer = read_tokenizer(source)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.config.pad_token_id = self.tokenizer.pad_token_id

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 of weights and tokenizer."""
        return Fingerprint(self.model, self.tokenizer).value()

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """One logit, or log-odds of the last label, for each completion; long ones go first."""
        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        found = [0.0] * len(texts)
        device = next(self.model.parameters()).device
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            inputs = self.tokenizer(
                [texts[index] for index in part],
                return_tensors="pt",
                padding=True,
                truncation=True,
            ).to(device)
            logits = self.model(**inputs).logits.float()
            if logits.shape[1] > 1:
                rest = logits[:, :-1].logsumexp(dim=1)
                logits = (logits[:, -1] - rest)[:, None]
            for index, value in zip(part, logits[:, 0].tolist(), strict=True):
                found[index] = value
        return found


def _function(path: Path, name: str) -> Reward:
    """A function of a Python file that the user named, which runs that file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: failed when it was run ({error})") from error
    found: Callable[..., Any] | None = getattr(module, name or "reward", None)
    if not callable(found):
        raise UserError(f"{path}: has no function {name or 'reward'!r}; give FILE.py:FUNCTION")
    return found
