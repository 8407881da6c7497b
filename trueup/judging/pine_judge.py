"""A pair judge that reads both answers as a set: which one is shown first does not matter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trueup.data.messages import Prompt
from trueup.errors import UserError, check_between
from trueup.judging.judge_prompts import laid_out, messages, texts
from trueup.judging.judges import BETTER
from trueup.judging.verdicts import Verdict
from trueup.models.language_model import LanguageModel
from trueup.models.pine_state import PineState, SegmentIds, find_rotation
from trueup.stats.estimate import Array


@dataclass(frozen=True, kw_only=True)
class PineJudge:
    """A pair judge by the letters' probabilities, with position-invariant attention.

    p = P(A) / (P(A) + P(B)) as the answer's beginning, the two answers' lines as documents
    Fields: model is a causal language model with rotary positions; |p - 1/2| of at most tie_width
            is a tie.
    Edges:  the letter goes with the text and not with the place: A is the text that sorts first.
            What a judge holds against a letter stays. Equal texts are a tie.
    Raises: UserError where the model has no rotary positions, or a question is too long for it.
    Source: Wang et al. 2024, arXiv 2407.01100.
    """

    model: LanguageModel
    criterion: str = BETTER
    tie_width: float = 0.0

    def __post_init__(self) -> None:
        check_between(0, 0.5, tie_width=self.tie_width)

    def probabilities(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]
    ) -> Array:
        """The probability of the first completion, [N]; 1/2 where both are equal."""
        lm = self.model
        rotation = find_rotation(lm.model)
        pairs = list(zip(firsts, seconds, strict=True))
        asked = [
            self._question(prompt, *sorted(pair))
            for prompt, pair in zip(prompts, pairs, strict=True)
        ]
        for place, (ids, *_) in enumerate(asked, start=1):
            if len(ids) > lm.max_length:
                raise UserError(
                    f"prompt {place} with both answers has {len(ids)} tokens, but the judge reads "
                    f"{lm.max_length}; shorten it by {len(ids) - lm.max_length}"
                )
        lm.model.eval()
        per_batch = max(1, lm.token_budget // max((len(ids) for ids, *_ in asked), default=1))
        found: list[float] = []
        for begin in range(0, len(asked), per_batch):
            batch = asked[begin : begin + per_batch]
            state = PineState(
                lm.model,
                [ids for ids, *_ in batch],
                rotation=rotation,
                pad_id=lm.pad_id,
                work=lm.work,
            )
            rows = state.logprobs.double().cpu().numpy()
            found += [
                float(1 / (1 + np.exp(row[b] - row[a])))
                for row, (_, a, b) in zip(rows, batch, strict=True)
            ]
        return np.array(
            [
                0.5 if first == second else p if first < second else 1 - p
                for p, (first, second) in zip(found, pairs, strict=True)
            ],
            dtype=np.float64,
        )

    def __call__(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[Verdict | None]:
        """The likelier answer of each pair."""
        return [self._verdict(p) for p in self.probabilities(prompts, firsts, seconds).tolist()]

    def _verdict(self, p: float) -> Verdict:
        if abs(p - 0.5) <= self.tie_width:
            return "tie"
        return "first" if p > 0.5 else "second"

    def _question(self, prompt: Prompt, first: str, second: str) -> tuple[SegmentIds, int, int]:
        """The question's tokens up to the first one by which the letters differ, and those two."""
        encoder, words = self.model.encoder, texts("ask")
        request = self.criterion + words["letter_only"].format(letters="A or B")
        layout = laid_out(prompt, (first, second), request, head=words["quoted"] + "\n\n")
        question = messages(layout.text)
        rendered = encoder.prompt_text(question)
        shift = rendered.index(layout.text)
        cuts = [shift + place for place in (*layout.starts, layout.close + 1)]  # each line whole
        before, one, two, after = (
            rendered[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)
        )
        starts = encoder.tokens([before])[0]
        if not getattr(encoder.tokenizer, "chat_template", None):
            starts = encoder.prompt(before)
        letters = encoder.tokens([encoder.completion_text(question, letter) for letter in "AB"])
        shared = next(n for n, (a, b) in enumerate(zip(*letters, strict=False)) if a != b)
        parts = encoder.tokens([one, two, after])
        suffix = (*parts[2], *letters[0][:shared])
        ids = SegmentIds(tuple(starts), (tuple(parts[0]), tuple(parts[1])), suffix)
        return ids, letters[0][shared], letters[1][shared]
