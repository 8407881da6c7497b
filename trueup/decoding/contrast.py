"""Contrast: what a model says, less what a second branch says, limited to plausible tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from trueup.data.messages import Prompt
from trueup.decoding.pools import decoded
from trueup.decoding.protocol import Decoded, DecoderNeeds, Request
from trueup.decoding.search_jobs import _check_room
from trueup.decoding.second_model import second_model
from trueup.decoding.segments import segment_ids
from trueup.errors import UserError, check_at_least, check_between, check_choice, check_positive
from trueup.models.decoding_state import DecodingState
from trueup.models.language_model import MAX_ROWS, LanguageModel
from trueup.models.paired_state import PairedState
from trueup.models.sampling import sample_prompts
from trueup.models.writer import Writer

Without = Literal["nothing", "prompt", "system", "context"]
Form = Literal["guidance", "difference"]

HOLE = "{prompt}"  # where a negative prompt takes in the prompt itself
LEAST = -1e4  # nats, for a token that the second branch rules out: enough to decide, and finite


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two branches read the same completion; tokens are drawn by what tells them apart.

    guidance:   score = (1 + alpha) * l - alpha * l2        = l2 + s * (l - l2),  s = 1 + alpha
    difference: score = l - alpha * l2
    score = -inf where l < log(beta) + max l
    l and l2 are log-probabilities of the next token in the first and the second branch. The second
    is the same model under another prompt, another model (`amateur`), or both. Temperature, top_k
    and top_p come after the contrast.

        debiasing decoding (VDD)    the defaults
        classifier-free guidance    beta 0, alpha = s - 1
        contrastive decoding        amateur, form "difference"
        context-aware decoding      without "context", beta 0, alpha 0.5

    Units:  nats.
    Fields: alpha 0 is the model itself, -1 the second branch, below 0 a mixture of both; beta 0
            keeps all tokens, 1 is greedy. without is what the second branch's prompt lacks: all of
            it ("prompt"), its system turn, its documents ("context"; marked as `Pine` has them), or
            nothing; by default the prompt, or nothing with an amateur. negative_prompt stands in
            that place; "{prompt}" in it is the prompt's text, or that of its last turn.
            amateur_temperature divides l2 before it is normalised again.
    Edges:  a constant added to l or l2 changes nothing, so logits are log-probabilities here. What
            the first branch rules out stays out. alpha 0 with beta above 0 still cuts tokens off.
            An amateur's head may be wider or narrower by unused tokens; these are never drawn.
    Cost:   2 forward passes per token, in one batch where both branches are one model; every prompt
            is read once, second ones that are alike once for all.
    Raises: UserError where a field leaves its range, the amateur reads other tokens, a prompt has
            not what the second branch should lack, or as `Search.decode` says.
    Source: Zhang et al. 2024, arXiv 2403.05262 (VDD, its text form); Sanchez et al. 2023, arXiv
            2306.17806 (guidance); Li et al. 2022, arXiv 2210.15097 (difference, there with beams);
            Shi et al. 2023, arXiv 2305.14739 (context). What becomes of chat turns is our choice.
    """

    alpha: float = 1.0
    beta: float = 0.1
    form: Form = "guidance"
    amateur: LanguageModel | str | None = None
    amateur_temperature: float = 1.0
    without: Without | None = None
    negative_prompt: str = ""
    name: ClassVar[str] = "contrast"
    role: ClassVar[Literal["search"]] = "search"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(white_box=True, models=("amateur",))
    arxiv: ClassVar[str] = "2403.05262"

    def __post_init__(self) -> None:
        check_at_least(-1, alpha=self.alpha)
        check_between(0, 1, beta=self.beta)
        check_choice(("guidance", "difference"), form=self.form)
        check_positive(amateur_temperature=self.amateur_temperature)
        if self.without is not None:
            check_choice(("nothing", "prompt", "system", "context"), without=self.without)
        if self.lacks == "nothing" and self.amateur is None:
            raise UserError("without must not be nothing where there is no amateur; name one")
        if self.lacks == "nothing" and self.negative_prompt:
            raise UserError(
                f"negative_prompt has no place where the second branch lacks nothing, got "
                f"{self.negative_prompt!r:.40}; set without to prompt, system or context"
            )

    @property
    def lacks(self) -> Without:
        """What the second branch's prompt lacks, the default resolved."""
        return self.without or ("prompt" if self.amateur is None else "nothing")

    @property
    def reads(self) -> str:
        """The contract of its rows: documents where the second branch lacks them."""
        return "documents" if self.lacks == "context" else "prompts"

    def decode(self, lm: Writer, prompts: Sequence[Any], request: Request) -> list[list[Decoded]]:
        """`n` completions of every prompt; log-probabilities are the first branch's own."""
        assert isinstance(lm, LanguageModel)
        other = self.other_model(lm)
        pairs = self.branches(lm, prompts)
        _check_rooms(lm, other, pairs, request.sampling.max_new_tokens)
        second_of = second_prompts(pairs)
        samples = sample_prompts(
            lambda ids: self.start(lm, other, ids, [second_of[tuple(row)] for row in ids]),
            [first for first, _ in pairs],
            lm.tokenizer,
            request.sampling,
            rows=MAX_ROWS // 2,
        )
        return [[decoded(sample) for sample in several] for several in samples]

    def start(
        self,
        lm: LanguageModel,
        other: LanguageModel,
        first: Sequence[Sequence[int]],
        second: Sequence[Sequence[int]],
    ) -> PairedState:
        """Stand ready to decode, a row per pair of prompts; `other` reads the second ones."""
        state = lm.start_ids(first)
        return PairedState(
            state, forked_start(other, second), self.scores, is_one_model=other is lm
        )

    def other_model(self, lm: LanguageModel) -> LanguageModel:
        """The second branch's model."""
        return lm if self.amateur is None else second_model(self.amateur, lm, field="amateur")

    def branches(
        self, lm: LanguageModel, prompts: Sequence[Any]
    ) -> list[tuple[list[int], list[int]]]:
        """The tokens of every prompt in the first and in the second branch."""
        found = []
        for place, prompt in enumerate(prompts, start=1):
            if self.lacks == "context":
                first, second = self._contexts(lm, prompt, f"prompt {place}")
            else:
                first = lm.encoder.prompt(prompt)
                second = lm.encoder.prompt(self._changed(prompt, f"prompt {place}"))
            if not second:
                raise UserError(
                    "an empty prompt has no tokens where the tokenizer has no opening token; "
                    "give negative_prompt"
                )
            found.append((first, second))
        return found

    def scores(self, logps: Tensor, others: Tensor) -> Tensor:
        """What tokens are drawn by, [R, V], from both branches' log-probabilities."""
        return contrast_scores(
            logps,
            others,
            alpha=self.alpha,
            beta=self.beta,
            form=self.form,
            temperature=self.amateur_temperature,
        )

    def _changed(self, prompt: Prompt, place: str) -> Prompt:
        """The second branch's prompt, where it is no matter of documents."""
        if self.lacks == "nothing":
            return prompt
        if self.lacks == "system":
            return self._without_system(prompt, place)
        if isinstance(prompt, str):
            return self.negative_prompt.replace(HOLE, prompt)
        if HOLE in self.negative_prompt:
            *turns, last = prompt
            content = self.negative_prompt.replace(HOLE, last["content"])
            return [*turns, {**last, "content": content}]
        text = self.negative_prompt
        return [{"role": "user", "content": text}] if text else ""

    def _without_system(self, prompt: Prompt, place: str) -> Prompt:
        """The conversation with another system turn, or with none."""
        if isinstance(prompt, str) or prompt[0]["role"] not in ("system", "developer"):
            raise UserError(
                f"{place}: has no system turn to contrast with; begin its messages with one, or "
                "set without to prompt"
            )
        first, *turns = prompt
        text = self.negative_prompt
        return [{**first, "content": text}, *turns] if text else turns

    def _contexts(self, lm: LanguageModel, prompt: Any, place: str) -> tuple[list[int], list[int]]:
        """The prompt with its documents, and with the negative prompt in their place."""
        parts = segment_ids(lm.encoder, prompt, place=place)
        docs = [token for doc in parts.docs for token in doc]
        instead = lm.encoder.tokens([self.negative_prompt])[0]
        before, after = list(parts.prefix), list(parts.suffix)
        return [*before, *docs, *after], [*before, *instead, *after]


def contrast_scores(
    logps: Tensor,
    others: Tensor,
    *,
    alpha: float | Tensor,
    beta: float,
    form: Form = "guidance",
    temperature: float = 1.0,
) -> Tensor:
    """The scores of `Contrast` on plain tensors, [..., V] in, [..., V] out; symbols as there.

    Fields: others may have another V, which counts as far as both have it; alpha may be one per
            row, [..., 1]; temperature is the amateur's.
    Edges:  -inf in others is at most 10^4 nats, so that no score is NaN or infinitely large.
    """
    if temperature != 1:
        others = torch.log_softmax(others / temperature, dim=-1)
    size = logps.shape[-1]
    missing = size - others.shape[-1]
    others = torch.nn.functional.pad(others, (0, max(0, missing)))[..., :size].clamp_min(LEAST)
    out = logps == -torch.inf
    if missing > 0:
        out = out | (torch.arange(size, device=logps.device) >= size - missing)
    if beta > 0:
        most = logps.masked_fill(out, -torch.inf).amax(dim=-1, keepdim=True)
        out = out | (logps < math.log(beta) + most)
    own = 1 + alpha if form == "guidance" else 1.0
    return (own * logps - alpha * others).masked_fill(out, -torch.inf)


def forked_start(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> DecodingState:
    """`lm.start_ids`, where equal prompts are read once and then forked."""
    places: dict[tuple[int, ...], int] = {}
    order = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    state = lm.start_ids([list(prompt) for prompt in places])
    if len(places) < len(order):
        assert state.logprobs is not None  # read before the fork: one head row per prompt
        state.select(order)
    return state


def second_prompts(
    pairs: Sequence[tuple[list[int], list[int]]],
) -> dict[tuple[int, ...], list[int]]:
    """The second branch's tokens by the first one's.

    Raises: UserError where two prompts read alike and should lack different things.
    """
    found: dict[tuple[int, ...], list[int]] = {}
    for place, (first, second) in enumerate(pairs, start=1):
        if found.setdefault(tuple(first), second) != second:
            raise UserError(
                f"prompt {place}: reads as an earlier one and would be contrasted with another "
                "prompt; decode it apart"
            )
    return found


def _check_rooms(
    lm: LanguageModel,
    other: LanguageModel,
    pairs: Sequence[tuple[list[int], list[int]]],
    max_new_tokens: int,
) -> None:
    """Raise UserError where a prompt of either branch leaves too little room."""
    _check_room(lm, [first for first, _ in pairs], max_new_tokens)
    try:
        _check_room(other, [second for _, second in pairs], max_new_tokens)
    except UserError as error:
        raise UserError(f"second branch, {error}") from error
