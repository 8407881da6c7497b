"""The rows of online training: prompts as tokens, and the completion that a row brings along."""

from dataclasses import dataclass
from functools import cached_property

from trueup.data import Table, read
from trueup.errors import UserError
from trueup.files import content_hash
from trueup.models import Group, LanguageModel
from trueup.objectives.protocol import Data
from trueup.training.config import TrainingConfig
from trueup.training.data import Rows, limit_of
from trueup.training.examples import fit

FIXED: dict[Data, str] = {"dispreferred": "rejected", "imitated": "completion"}


@dataclass(frozen=True)
class Prompts:
    """All prompts of one table, each leaving room for its samples.

    Fields: groups hold the prompt with the completion that the row brings, or with none; texts are
            the prompts as a reward reads them; cut counts the prompts that were shortened.
    """

    table: Table
    groups: list[Group]
    texts: list[str]
    cut: int = 0

    def __len__(self) -> int:
        return len(self.groups)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all token ids, and of the rows' other columns."""
        tokens = (f"{group.prompt}{group.completions}" for group in self.groups)
        return content_hash(self.table.hash, *tokens)

    def notes(self) -> list[str]:
        """What happened to the rows on their way, for the user."""
        if not self.cut:
            return []
        return [f"{self.cut} of {len(self)} prompts cut from the left to leave room for samples"]


def read_prompts(
    lm: LanguageModel, rows: Rows, source: str, kind: Data, config: TrainingConfig
) -> Prompts:
    """The prompts of the user's rows, validated, tokenised and cut to length.

    Raises: UserError where rows break their contract, or a prompt has no tokens or no room.
    """
    table = read(rows, source)
    limit = limit_of(lm, config)
    if config.max_new_tokens >= limit.tokens:
        raise UserError(
            f"max_new_tokens must be below the model's {limit.tokens} tokens, got "
            f"{config.max_new_tokens}"
        )
    column = "question" if source == "questions" else "prompt"
    prompts = [row[column] for row in table]
    fixed = FIXED.get(kind)
    if fixed is None:
        whole = [Group(lm.encoder.prompt(prompt), []) for prompt in prompts]
    else:
        whole = lm.encoder.groups(prompts, [[row[fixed]] for row in table], add_eos=True)
    groups, cut = [], 0
    room = [0] * config.max_new_tokens
    for index, group in enumerate(whole):
        place = table.place(index)
        if not group.prompt:
            raise UserError(f"{place}: the prompt has no tokens; write something into it")
        fitted = fit(Group(group.prompt, [*group.completions, room]), limit, place)
        cut += fitted.prompt != group.prompt
        groups.append(Group(fitted.prompt, fitted.completions[:-1]))
    return Prompts(table, groups, [lm.encoder.prompt_text(prompt) for prompt in prompts], cut)
