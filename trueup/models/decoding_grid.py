"""The settings of decoding that a user can choose, varied one at a time, and replies at all."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trueup.errors import UserError, check_at_least, check_between, check_positive
from trueup.models.language_model import LanguageModel
from trueup.models.sampling import Sampling
from trueup.models.writer import Text, Writer

STEPS = tuple(round(0.05 * step, 2) for step in range(1, 21))  # 0.05 to 1
FAMILIES = ("temperature", "top_k", "top_p")
GREEDY = "greedy"


@dataclass(frozen=True, kw_only=True)
class DecodingGrid:
    """Settings of which each varies one number and leaves the others without effect, and greedy.

    temperature=T  softmax(z / T);  top_k=K  the K likeliest tokens;  top_p=P  the likeliest tokens
    before which less than P stands; without effect are temperature 1, top-k 0 and top-p 1
    Fields: greedy adds the likeliest token; the three default_* are what is served when nobody
            chooses, and stand beside the grid.
    Raises: UserError where a number leaves its range or stands twice, or the grid is empty.
    Source: Huang et al. 2023, arXiv 2310.06987: 20 temperatures, 9 top-k, 20 top-p, and greedy;
            the default is temperature 0.1 at top-p 0.9.
    """

    temperatures: tuple[float, ...] = STEPS
    top_ks: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    top_ps: tuple[float, ...] = STEPS
    greedy: bool = True
    default_temperature: float = 0.1
    default_top_k: int = 0
    default_top_p: float = 0.9

    def __post_init__(self) -> None:
        for temperature in self.temperatures:
            check_positive(temperatures=temperature)
        for top_k in self.top_ks:
            check_at_least(1, top_ks=top_k)
        for top_p in self.top_ps:
            check_positive(top_ps=top_p)
            check_between(0, 1, top_ps=top_p)
        check_at_least(0, default_temperature=self.default_temperature)
        check_at_least(0, default_top_k=self.default_top_k)
        check_between(0, 1, default_top_p=self.default_top_p)
        for name in ("temperatures", "top_ks", "top_ps"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UserError(f"{name} must differ from one another, got {values}")
        if not (self.greedy or self.temperatures or self.top_ks or self.top_ps):
            raise UserError("the grid is empty; give temperatures, top_ks, top_ps or greedy")

    @property
    def names(self) -> list[str]:
        """The settings by name, greedy last."""
        return list(self._varied())

    def settings(
        self, *, samples: int = 1, max_new_tokens: int = 100, seed: int = 0
    ) -> list[Sampling]:
        """How to sample at each of `names`; each has random numbers of its own."""
        base = Sampling(n=samples, max_new_tokens=max_new_tokens)
        return [
            replace(base, **numbers, seed=_seed(seed, name))
            for name, numbers in self._varied().items()
        ]

    def default(self, *, samples: int = 1, max_new_tokens: int = 100, seed: int = 0) -> Sampling:
        """How to sample when nobody chooses."""
        return Sampling(
            n=samples,
            max_new_tokens=max_new_tokens,
            temperature=self.default_temperature,
            top_k=self.default_top_k,
            top_p=self.default_top_p,
            seed=_seed(seed, "default"),
        )

    def _varied(self) -> dict[str, dict[str, Any]]:
        """What each setting changes."""
        found: dict[str, dict[str, Any]] = {}
        for family, values in zip(
            FAMILIES, (self.temperatures, self.top_ks, self.top_ps), strict=True
        ):
            found |= {f"{family}={value:g}": {family: value} for value in values}
        return found | ({GREEDY: {"temperature": 0.0}} if self.greedy else {})


def grid_samples(
    writer: Writer, prompts: Sequence[object], grid: Sequence[Sampling]
) -> list[list[list[Text]]]:
    """Completions of every prompt at every setting, [P][C][n].

    A language model reads each prompt once for all settings; any other writer is asked setting by
    setting.
    Raises: UserError where the writer has no such setting (an endpoint no top-k).
    """
    if isinstance(writer, LanguageModel):
        return [
            [[*several] for several in of_prompt]
            for of_prompt in writer.sample_grid(prompts, grid)  # type: ignore[arg-type]
        ]
    columns = [_at(writer, prompts, one) for one in grid]
    return [[[*column[place]] for column in columns] for place in range(len(prompts))]


def _at(writer: Writer, prompts: Sequence[object], one: Sampling) -> Sequence[Sequence[Text]]:
    """Completions at one setting; top-k is only spoken of where it cuts something off."""
    top_k = {"top_k": one.top_k} if one.top_k else {}
    return writer.sample(
        prompts,
        n=one.n,
        max_new_tokens=one.max_new_tokens,
        temperature=one.temperature,
        top_p=one.top_p,
        stop=one.stop,
        seed=one.seed,
        **top_k,
    )


def _seed(seed: int, name: str) -> int:
    """A seed for one setting, small enough for any server."""
    return zlib.crc32(f"{seed}:{name}".encode()) >> 1
