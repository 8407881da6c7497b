"""The one search of all guided decoders: propose, look ahead, score, keep; prompts run together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from trueup.data.messages import Prompt
from trueup.decoding.beams import Beam, likeliest, ranked
from trueup.decoding.prefixes import Prefixes
from trueup.decoding.protocol import Decoded, Ending
from trueup.decoding.search_jobs import Job, batches, jobs_of
from trueup.models.language_model import LanguageModel
from trueup.models.sampling import Sampling, _ending, _text

Judge = Callable[[Sequence[Beam]], list[Beam]]
"""Fills value, score, parts and notes of children whose texts hold what the lookahead gave."""

Keep = Callable[[Sequence[Beam], np.random.Generator], list[Beam]]
"""Which children of one search go on, instead of the best by score."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one search does at every step.

    Fields: top_k children are proposed per beam and num_beams kept; lookahead is in tokens, greedy,
            or drawn `rollouts` times where that is more than 1; segment is how many tokens are
            proposed at once, above 1 as whole continuations by beam search; roller looks ahead
            instead of the model that proposes; searches run for every prompt.
    """

    judge: Judge
    top_k: int
    num_beams: int = 1
    lookahead: int = 0
    rollouts: int = 1
    segment: int = 1
    keep: Keep | None = None
    roller: LanguageModel | None = None
    searches: int = 1

    @property
    def rows(self) -> int:
        """Rows that one prompt takes at most."""
        return self.searches * self.num_beams * self.top_k * self.rollouts


def search(
    lm: LanguageModel, prompts: Sequence[Prompt], plan: Plan, sampling: Sampling
) -> list[list[Decoded]]:
    """All prompts through the plan; for each its searches' texts, the best first.

    Every search has its own random numbers, named by (seed, prompt, its number); prompts of like
    length run together, as many as fit.
    Raises: UserError where a prompt is too long, saying by how much, before anything is decoded.
    """
    models = [lm] if plan.roller is None else [lm, plan.roller]
    jobs = jobs_of(models, prompts, sampling, searches=plan.searches)
    found: list[list[Decoded]] = [[] for _ in prompts]
    for batch in batches(jobs, rows=plan.rows):
        running = _Running(lm, batch, plan, sampling)
        for job, results in zip(batch, running.decoded(), strict=True):
            found[job.place] = results
    return found


class _Running:
    """One batch of searches: the rows of their open beams, and the beams that have ended."""

    def __init__(
        self, lm: LanguageModel, jobs: Sequence[Job], plan: Plan, sampling: Sampling
    ) -> None:
        self.tokenizer, self.plan, self.sampling = lm.tokenizer, plan, sampling
        ids = [job.ids for job in jobs]
        self.policy = Prefixes(lm, ids, copies=plan.searches)
        self.roller = self.policy
        if plan.lookahead and plan.roller is not None and plan.roller is not lm:
            self.roller = Prefixes(plan.roller, ids, copies=plan.searches)
        self.streams = [stream for job in jobs for stream in job.streams]
        self.live = [
            Beam(search=number, prompt=jobs[number // plan.searches].place)
            for number in range(len(self.streams))
        ]
        self.ended: list[list[Beam]] = [[] for _ in self.streams]
        self.traces: list[list[dict[str, Any]]] = [[] for _ in self.streams]

    def decoded(self) -> list[list[Decoded]]:
        """Run until every search has ended; the results by prompt."""
        while self.live:
            if self.plan.segment > 1:
                self._take_segment()
            else:
                self._take_token()
        each = self.plan.searches
        starts = range(0, len(self.ended), each)
        return [self._results(self.ended[start : start + each]) for start in starts]

    def _take_token(self) -> None:
        """One token for every beam."""
        children, parents = self._children(self.live)
        open_ones = [place for place, child in enumerate(children) if child.ending is None]
        rows = [parents[place] for place in open_ones]
        tokens = [children[place].token_ids[-1] for place in open_ones]
        aheads = self._aheads([children[place] for place in open_ones], rows, tokens)
        ahead_of = dict(zip(open_ones, aheads, strict=True))
        children = [
            replace(child, texts=self._texts(child, ahead_of.get(place, [[]])))
            for place, child in enumerate(children)
        ]
        kept = self._keep(children)
        if kept:
            places = [open_ones.index(place) for place in kept]
            self.policy.commit(places)
            if self.roller is not self.policy:
                self.roller.commit(places)

    def _take_segment(self) -> None:
        """Several tokens for every beam: its likeliest continuations, found by beam search."""
        beams = [replace(beam, search=row, score=0.0) for row, beam in enumerate(self.live)]
        ended: list[list[Beam]] = [[] for _ in self.live]
        open_ones: list[int] = []
        for step in range(self.plan.segment):
            if step:
                self.policy.commit(open_ones)
            children, parents = self._children(beams)
            self.policy.greedy(parents, [child.token_ids[-1] for child in children], 0)
            scored = [replace(child, score=child.logp) for child in children]
            open_ones = compete(scored, ended, self.plan.top_k)
            beams = [scored[place] for place in open_ones]
            if not beams:
                break
        found = [*beams, *(beam for several in ended for beam in several)]
        order = sorted(range(len(found)), key=lambda place: found[place].search)
        kept = self._keep(
            [
                replace(beam, search=self.live[beam.search].search, texts=self._texts(beam, [[]]))
                for beam in (found[place] for place in order)
            ]
        )
        if kept:
            self.policy.commit([open_ones[order[place]] for place in kept])

    def _children(self, beams: Sequence[Beam]) -> tuple[list[Beam], list[int]]:
        """Every beam with each of its likeliest next tokens, and the row it comes from."""
        logprobs = self.policy.base.logprobs.double()
        tokens = likeliest(logprobs, min(self.plan.top_k, logprobs.shape[1]))
        children, parents = [], []
        for row, (beam, several) in enumerate(zip(beams, tokens, strict=True)):
            for token, logp in zip(several, logprobs[row, several].tolist(), strict=True):
                if logp > -math.inf:
                    children.append(self._grown(beam, token, logp))
                    parents.append(row)
        return children, parents

    def _grown(self, beam: Beam, token: int, logp: float) -> Beam:
        """The beam with one more token."""
        ids = (*beam.token_ids, token)
        ending: Ending | None = _ending(list(ids), self.tokenizer, self.sampling.stop)
        if ending is None and len(ids) == self.sampling.max_new_tokens:
            ending = "length"
        return replace(beam, token_ids=ids, logps=(*beam.logps, logp), ending=ending)

    def _aheads(
        self, children: Sequence[Beam], rows: Sequence[int], tokens: Sequence[int]
    ) -> list[list[list[int]]]:
        """What would follow each open child, once or as often as it is drawn."""
        if not children:
            return []
        horizon = self.sampling.max_new_tokens - len(children[0].token_ids)
        horizon = min(self.plan.lookahead, horizon)
        if self.roller is not self.policy:
            self.policy.greedy(rows, tokens, 0)
        if self.plan.rollouts == 1 or horizon == 0:
            return [[ahead] for ahead in self.roller.greedy(rows, tokens, horizon)]
        draws = [
            self.streams[number].random(
                (len(list(several)), self.plan.rollouts, horizon), dtype=np.float32
            )
            for number, several in groupby(child.search for child in children)
        ]
        return self.roller.sampled(rows, tokens, horizon, np.concatenate(draws))

    def _texts(self, beam: Beam, aheads: Sequence[Sequence[int]]) -> tuple[str, ...]:
        """The whole response with each lookahead behind it, decoded from all its tokens."""
        stop = self.sampling.stop
        return tuple(_text([*beam.token_ids, *ahead], self.tokenizer, stop) for ahead in aheads)

    def _keep(self, children: Sequence[Beam]) -> list[int]:
        """Judge the children; the places of those that go on. Notes the step in the traces."""
        judged = self.plan.judge(children)
        if self.plan.keep is None:
            kept = compete(judged, self.ended, self.plan.num_beams)
        else:
            kept = self._drawn(judged, self.plan.keep)
        ended = {id(beam) for several in self.ended for beam in several}
        listed: dict[int, int] = {}
        for number, several in groupby(enumerate(judged), key=lambda pair: pair[1].search):
            entries: list[dict[str, Any]] = []
            for place, beam in several:
                is_kept = place in kept or id(beam) in ended
                listed[place] = len(entries)
                entries.append(beam.entry(self._texts(beam, [[]])[0], kept=is_kept))
            self.traces[number].append({"step": len(self.traces[number]), "candidates": entries})
        self.live = [replace(judged[place], parent=listed[place]) for place in kept]
        return kept

    def _drawn(self, judged: Sequence[Beam], keep: Keep) -> list[int]:
        """The places that the plan's own choice keeps open; what it ends is noted."""
        place_of = {id(beam): place for place, beam in enumerate(judged)}
        kept = []
        for number, several in groupby(judged, key=lambda beam: beam.search):
            for beam in keep(list(several), self.streams[number]):
                if beam.ending is None:
                    kept.append(place_of[id(beam)])
                else:
                    self.ended[number].append(beam)
        return kept

    def _results(self, ended: Sequence[Sequence[Beam]]) -> list[Decoded]:
        """One prompt's answers: of one search by score, of several by what the rewards say."""
        if len(ended) == 1:
            return [self._result(beam) for beam in ranked(ended[0])]
        beams = [beam for several in ended for beam in several]
        return [self._result(beam) for beam in sorted(beams, key=lambda beam: -beam.value)]

    def _result(self, beam: Beam) -> Decoded:
        """An ended beam as the search's answer."""
        assert beam.ending is not None
        return Decoded(
            text=self._texts(beam, [[]])[0],
            token_ids=beam.token_ids,
            logps=beam.logps,
            reason=beam.ending,
            score=beam.score,
            rewards=dict(beam.parts),
            trace=self.traces[beam.search],
        )


def compete(children: Sequence[Beam], ended: list[list[Beam]], width: int) -> list[int]:
    """The best `width` of each search, ended beams among them with the score that they had.

    The places of the open ones come back; those that have ended are `ended` from now on.
    """
    place_of = {id(beam): place for place, beam in enumerate(children)}
    kept = []
    for number, several in groupby(children, key=lambda beam: beam.search):
        best = ranked([*several, *ended[number]])[:width]
        ended[number] = [beam for beam in best if beam.ending is not None]
        kept += [place_of[id(beam)] for beam in best if beam.ending is None]
    return kept
