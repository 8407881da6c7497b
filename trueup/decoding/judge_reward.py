"""A chat model that grades completions, as the reward of a search."""

import logging
from collections.abc import Sequence

from trueup.judging.asking import asker
from trueup.judging.judges import TextGrader
from trueup.models.endpoint import Endpoint
from trueup.models.writer_calls import opened_writer

logger = logging.getLogger("trueup")


class JudgeReward:
    """The grade, from 1 to 10, that a judge gives a completion; it is asked greedily.

    Edges: a text without a readable grade counts as the lowest one, and a warning says how many.
    """

    def __init__(self, grader: TextGrader, identity: str) -> None:
        self.grader = grader
        self.identity = identity

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The grade of every completion under its prompt."""
        grades = self.grader(list(prompts), completions)
        unread = sum(grade is None for grade in grades)
        if unread:
            logger.warning(
                "the judge gave %d of %d texts no grade: the lowest is taken", unread, len(grades)
            )
        return [self.grader.low if grade is None else grade for grade in grades]


def read_judge(source: str) -> JudgeReward | None:
    """The judge behind URL#NAME, None where a source is no URL.

    Raises: UserError where the URL names no model.
    """
    if not source.startswith(("http://", "https://")):
        return None
    writer = opened_writer(source)
    assert isinstance(writer, Endpoint)
    return JudgeReward(TextGrader(ask=asker(writer)), f"judge {writer.fingerprint}")
