"""Decoders as transformers' logits processors, for those who call `model.generate` themselves.

lm.model.generate(ids, logits_processor=[ContrastProcessor(Contrast(), lm, prompts)])

What a processor cannot do: look ahead, keep several beams by a reward, or end a text; the searches
of this package do. Custom processors run after `generate`'s own penalties and bans, and before its
temperature, top_k and top_p.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from trueup.decoding.args import ARGS
from trueup.decoding.beams import likeliest
from trueup.decoding.contrast import Contrast, forked_start, second_prompts
from trueup.decoding.rewards import Rewards, opened_reward, prompt_texts
from trueup.errors import UserError
from trueup.models.decoding_state import DecodingState
from trueup.models.language_model import LanguageModel
from trueup.models.reward import Reward
from trueup.models.sampling import _text

# Settings of `generate` that change finite scores, and what leaves them alone.
PENALTIES: Mapping[str, float | None] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "sequence_bias": None,
}

Totals = Callable[[Sequence[int], Sequence[str]], Sequence[float]]


class ContrastProcessor(LogitsProcessor):
    """`Contrast` inside `generate`: the second branch runs beside it, with a cache of its own.

    Fields: prompts are those of the batch, in its order, as text or messages; `generate` may take
            each several times (num_return_sequences, num_beams). then are processors that must
            come after the contrast, such as a repetition penalty.
    Edges:  bans (-inf) stay bans. One object serves any number of calls with the same prompts.
            Beam search: the second branch's rows follow the beams.
    Raises: UserError where the model's generation_config has a penalty, which would act on the
            first branch alone; give it in `then`. One that is given to `generate` itself cannot be
            seen from here, and must not be.
    Source: the order of processors is that of transformers 5.23.
    """

    def __init__(
        self,
        contrast: Contrast,
        lm: LanguageModel,
        prompts: Sequence[Any],
        *,
        then: Sequence[LogitsProcessor] = (),
    ) -> None:
        _refuse_penalties(lm)
        self._contrast = contrast
        self._other = contrast.other_model(lm)
        pairs = contrast.branches(lm, prompts)
        second_prompts(pairs)  # rows that read alike may then stand for one another
        self._prompts = [second for _, second in pairs]
        self._then = list(then)
        self._state: DecodingState | None = None
        self._seen: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The contrasted scores, [R, V] in and out."""
        others = self._followed(input_ids).logprobs.to(scores.device)
        found = self._contrast.scores(torch.log_softmax(scores, dim=-1), others)
        for processor in self._then:
            found = processor(input_ids, found)
        return found

    def _followed(self, input_ids: Tensor) -> DecodingState:
        """The second branch after the tokens that `generate` has taken, [R, L]."""
        parents = self._parents(input_ids)
        if self._state is None or parents is None:
            each = _rows_per_prompt(len(input_ids), len(self._prompts))
            repeated = [prompt for prompt in self._prompts for _ in range(each)]
            self._state = forked_start(self._other, repeated)
        else:
            if parents != list(range(len(parents))):
                self._state.select(parents)
            self._state.advance(input_ids[:, -1])
        self._seen = input_ids.clone()
        return self._state

    def _parents(self, input_ids: Tensor) -> list[int] | None:
        """The row that each row goes on from by one token; None where another text begins."""
        if self._seen is None or input_ids.shape != (len(self._seen), self._seen.shape[1] + 1):
            return None
        same = (input_ids[:, None, :-1] == self._seen[None]).all(dim=-1)  # [R, R]
        if not bool(same.any(dim=1).all()):
            return None
        own = torch.arange(len(same), device=same.device)
        found: list[int] = torch.where(same.diagonal(), own, same.int().argmax(dim=1)).tolist()
        return found


class ArgsProcessor(LogitsProcessor):
    """`ARGS` inside `generate`: of the likeliest tokens, by likelihood and reward of their text.

    Greedy `generate` is the greedy search; with do_sample give its temperature, and top_k=0 where
    `ARGS.top_k` is larger than generate's own 50. A constraint as a reward with a large weight is a
    veto: {"clean": "no-regex:(?i)damn"}.

    Fields: rewards by name, each a callable or a source as the command line has it; prompts are
            those of the batch, in its order, as the rewards shall read them.
    Edges:  rows that have ended stay as they are.
    Raises: UserError as `ARGS.decode`.
    """

    def __init__(
        self,
        args: ARGS,
        lm: LanguageModel,
        rewards: Mapping[str, Reward | str],
        prompts: Sequence[Any],
    ) -> None:
        opened = {name: opened_reward(reward) for name, reward in rewards.items()}
        self._rewards = Rewards(opened, args.weights, prompt_texts(lm, prompts))
        self._args = args
        self._tokenizer = lm.tokenizer
        self._start: Tensor | None = None
        self._width = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Log pi + weight * reward of the top_k likeliest tokens, -inf elsewhere; [R, V]."""
        start = self._begun(input_ids)
        each = _rows_per_prompt(len(input_ids), len(self._rewards.prompts))
        completions = [row[start:] for row in input_ids.tolist()]
        end = self._tokenizer.eos_token_id
        rows = [row for row, ids in enumerate(completions) if end is None or end not in ids]
        if not rows:
            return scores
        found = scores.clone()
        found[rows] = args_scores(
            scores[rows],
            [completions[row] for row in rows],
            tokenizer=self._tokenizer,
            top_k=self._args.top_k,
            weights=[self._args.weight] * len(rows),
            totals=lambda places, texts: self._rewards.totals(
                [rows[place] // each for place in places], texts
            ),
        )
        return found

    def _begun(self, input_ids: Tensor) -> int:
        """How many of the tokens are the prompts, which a call of `generate` begins with."""
        width = input_ids.shape[1]
        goes_on = (
            self._start is not None
            and width == self._width + 1
            and len(input_ids) == len(self._start)
            and torch.equal(input_ids[:, : self._start.shape[1]], self._start)
        )
        if self._start is None or not goes_on:
            self._start = input_ids.clone()
        self._width = width
        return self._start.shape[1]


def args_scores(
    scores: Tensor,
    completions: Sequence[Sequence[int]],
    *,
    tokenizer: Any,
    top_k: int,
    weights: Sequence[float],
    totals: Totals,
) -> Tensor:
    """ARGS's score of the `top_k` likeliest next tokens, -inf elsewhere; [R, V] in and out.

    Fields: completions are the rows' tokens so far; weights one per row; totals gives the rewards
            of texts, each of the row with that number.
    """
    logps = torch.log_softmax(scores.double(), dim=-1)
    places: list[int] = []
    tokens: list[int] = []
    for row, several in enumerate(likeliest(logps, min(top_k, logps.shape[1]))):
        places += [row] * len(several)
        tokens += several
    texts = [
        _text([*completions[row], token], tokenizer, ())
        for row, token in zip(places, tokens, strict=True)
    ]
    own = logps[places, tokens]
    factors = logps.new_tensor([weights[row] for row in places])
    values = logps.new_tensor(list(totals(places, texts)))
    found = torch.full_like(scores, -torch.inf)
    found[places, tokens] = (own + factors * values).to(scores.dtype)
    return found


def _rows_per_prompt(rows: int, prompts: int) -> int:
    """How often `generate` has taken every prompt.

    Raises: UserError where the batch is not the prompts.
    """
    if not prompts or rows % prompts:
        raise UserError(
            f"the batch has {rows} rows, which are no multiple of {prompts} prompts; give the "
            "processor the prompts of the batch"
        )
    return rows // prompts


def _refuse_penalties(lm: LanguageModel) -> None:
    """Raise UserError where the model's own settings would change the first branch alone."""
    config = getattr(lm.model, "generation_config", None)
    for name, neutral in PENALTIES.items():
        value = getattr(config, name, None)
        if value not in (None, neutral):
            raise UserError(
                f"generation_config.{name} must be {neutral} before a contrast, got {value}: it "
                "would act on one branch alone; set it so, and give the processor in then"
            )
