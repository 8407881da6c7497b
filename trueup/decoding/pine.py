"""Position-invariant inference: answers that do not depend on the order of the documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from trueup.decoding.beam_search import Beam, beam_search
from trueup.decoding.protocol import Decoded, DecoderNeeds, Request
from trueup.decoding.segments import segment_ids
from trueup.errors import UserError, check_at_least, check_choice
from trueup.models import architecture
from trueup.models.language_model import MAX_ROWS, LanguageModel
from trueup.models.pine_grid import ORDERS, Order, Rotation
from trueup.models.pine_state import PineState, SegmentIds, find_rotation
from trueup.models.sampling import Sampling, sample_prompts
from trueup.models.writer import Writer

BREAK = -1  # between the segments of a prompt written as one list of tokens


@dataclass(frozen=True, kw_only=True)
class Pine:
    """Reads the documents of a prompt as a set: each query sees the most important one nearest.

    I(m, D_j) = mean over t in D_j of a(m, t), the softmax a over the documents' tokens, without
                positions; a document's own queries are summed
    key position of D_j for a query = its place right before the suffix - tokens ranked before D_j
    Prompts: `Segments`, rows with prefix, docs and suffix, or texts and messages with documents
             between <doc> and </doc>.
    Fields:  order "importance" is the paper's; "reverse" puts the least important nearest and is
             invariant, too; "input" only lets documents see one another, and is not. beams above 1
             searches so wide, without drawing at random; the sampling's n of them come back.
    Edges:   one document is plain decoding. Permuted documents give the same bits: they are sorted
             by their tokens first, which also breaks ties. Prompts with the same prefix and
             documents share their prefill.
    Cost:    1 forward pass per token, and one more for the suffixes; attention holds scores of all
             pairs of tokens and a copy of each query per document.
    Raises:  UserError where the model has no rotary positions, or a prompt no documents or room.
    Source:  Wang et al. 2024, arXiv 2407.01100. As in the authors' code, the softmax runs over the
             documents' tokens only. Other than there: batches, ties by content instead of by the
             input's order, importances sorted in float32, queries turned instead of keys.
    """

    order: Order = "importance"
    beams: int = 1

    name: ClassVar[str] = "pine"
    reads: ClassVar[str] = "documents"
    role: ClassVar[Literal["search"]] = "search"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(white_box=True)
    arxiv: ClassVar[str] = "2407.01100"

    def __post_init__(self) -> None:
        check_choice(ORDERS, order=self.order)
        check_at_least(1, beams=self.beams)

    def decode(self, lm: Writer, prompts: Sequence[Any], request: Request) -> list[list[Decoded]]:
        """`n` completions of every prompt, in the order of their numbers; beams the best first."""
        assert isinstance(lm, LanguageModel)
        parts = [
            segment_ids(lm.encoder, prompt, place=f"prompt {place}")
            for place, prompt in enumerate(prompts, start=1)
        ]
        return self.decode_ids(lm, parts, request)

    def decode_ids(
        self, lm: LanguageModel, prompts: Sequence[SegmentIds], request: Request
    ) -> list[list[Decoded]]:
        """`decode` on token ids."""
        settings = request.sampling
        self._check_beams(settings)
        rotation = find_rotation(lm.model)
        _check_room(lm, prompts, settings.max_new_tokens)
        # Where the order does not count, documents go by their content: it breaks ties, and sums
        # are the same to the last bit.
        parts = [each if self.order == "input" else each.canonical() for each in prompts]
        lm.model.eval()
        if self.beams > 1:
            return self._beams(lm, rotation, parts, request)
        rows = min(MAX_ROWS, settings.n * _prompts_at_once(lm, parts))
        samples = sample_prompts(
            lambda flat: self.start(lm, [_parted(ids) for ids in flat], rotation),
            [_flat(each) for each in parts],
            lm.tokenizer,
            settings,
            rows=rows,
        )
        return [
            [
                Decoded(
                    text=each.text, token_ids=each.token_ids, logps=each.logps, reason=each.reason
                )
                for each in several
            ]
            for several in samples
        ]

    def start(
        self, lm: LanguageModel, prompts: Sequence[SegmentIds], rotation: Rotation
    ) -> PineState:
        """Stand ready to decode, a row per prompt, documents in the order given."""
        return PineState(
            lm.model,
            prompts,
            rotation=rotation,
            order=self.order,
            pad_id=lm.pad_id,
            work=lm.work,
        )

    def _check_beams(self, settings: Sampling) -> None:
        """Refuse what a beam search cannot give."""
        if self.beams > 1 and settings.stop:
            raise UserError(f"beams know no stop strings, got {settings.stop!r}; leave one out")
        if self.beams > 1 and settings.n > self.beams:
            raise UserError(
                f"n must be at most beams, got n={settings.n} and beams={self.beams}; raise beams"
            )

    def _beams(
        self, lm: LanguageModel, rotation: Rotation, parts: Sequence[SegmentIds], request: Request
    ) -> list[list[Decoded]]:
        """The best beams of every prompt."""
        settings = request.sampling
        per_batch = min(max(1, MAX_ROWS // self.beams), _prompts_at_once(lm, parts))
        order = sorted(range(len(parts)), key=lambda index: len(parts[index]))
        found: dict[int, list[Beam]] = {}
        for begin in range(0, len(order), per_batch):
            batch = order[begin : begin + per_batch]
            beams = beam_search(
                self.start(lm, [parts[index] for index in batch], rotation),
                width=self.beams,
                max_new_tokens=settings.max_new_tokens,
                eos_id=lm.tokenizer.eos_token_id,
            )
            found.update(zip(batch, beams, strict=True))
        return [
            [
                Decoded(
                    text=lm.tokenizer.decode(beam.token_ids, skip_special_tokens=True),
                    token_ids=beam.token_ids,
                    logps=beam.logps,
                    reason=beam.reason,
                    score=beam.score,
                )
                for beam in found[index][: settings.n]
            ]
            for index in range(len(parts))
        ]


def _prompts_at_once(lm: LanguageModel, parts: Sequence[SegmentIds]) -> int:
    """How many prompts are read together: as many as the token budget holds, one at least."""
    return max(1, lm.token_budget // max(map(len, parts), default=1))


def _check_room(lm: LanguageModel, parts: Sequence[SegmentIds], max_new_tokens: int) -> None:
    """Refuse a prompt that leaves no room in the context, or in a layer's sliding window."""
    window = architecture.sliding_window(lm.model)
    limit = min(lm.max_length, window or lm.max_length)
    what = "the model reads" if limit == lm.max_length else "its layers look back by"
    for place, each in enumerate(parts, start=1):
        over = len(each) + max_new_tokens - limit
        if over > 0:
            raise UserError(
                f"prompt {place} has {len(each)} tokens and max_new_tokens is {max_new_tokens}, "
                f"but {what} {limit}; shorten one of them by {over}"
            )


def _flat(ids: SegmentIds) -> list[int]:
    """A prompt as one list of tokens, by which its random numbers are named."""
    segments = (ids.prefix, *ids.docs, ids.suffix)
    return [token for segment in segments for token in (*segment, BREAK)][:-1]


def _parted(flat: Sequence[int]) -> SegmentIds:
    """What `_flat` made, as it was."""
    ends = [place for place, token in enumerate(flat) if token == BREAK]
    starts = [0, *(end + 1 for end in ends)]
    prefix, *docs, suffix = (
        tuple(flat[start:end]) for start, end in zip(starts, [*ends, len(flat)], strict=True)
    )
    return SegmentIds(prefix, tuple(docs), suffix)
