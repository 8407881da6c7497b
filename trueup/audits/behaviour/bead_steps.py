"""The steps of BEAD's tasks: what is given or written for every text, and what it says."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from trueup.audits.behaviour.bead_classes import UNREAD
from trueup.audits.behaviour.bead_file import Subject, Task, label_of, own_words, question
from trueup.audits.behaviour.bead_rewrites import cosines, text_measures, token_logps
from trueup.audits.behaviour.bead_spans import span_counts, spans_in, spans_in_answer
from trueup.audits.protocol import Model, Probe, causal, frame
from trueup.audits.writing import Decoding, completions
from trueup.judging.judge_prompts import messages
from trueup.judging.verdicts import without_reasoning
from trueup.models.reward import reward_identity
from trueup.models.text_scorers import Scorer, scorer_of, scores_of


class Settings(Decoding, Protocol):
    """The fields of the audit that its steps read."""

    @property
    def name(self) -> str:
        """The audit's name."""
        ...

    @property
    def task(self) -> Task:
        """Which of the four."""
        ...

    @property
    def subject(self) -> Subject:
        """What is classified."""
        ...

    @property
    def read(self) -> Literal["likelihood", "text"]:
        """How a label is read."""
        ...

    @property
    def scorer(self) -> str | Scorer:
        """What gives a text its bias."""
        ...

    @property
    def embedder(self) -> str:
        """The path of an encoder, or nothing."""
        ...

    @property
    def reference(self) -> str:
        """The path of a causal model, or nothing."""
        ...


def _texts(
    settings: Settings, model: Model, probes: Sequence[Probe], asked: Sequence[Any]
) -> list[str]:
    """What the data give, else what the model writes."""
    lines = [line for line, probe in enumerate(probes) if probe.labels["given"] is None]
    written = (
        completions(model, [asked[line] for line in lines], settings, settings.name)
        if lines
        else []
    )
    found = dict(zip(lines, written, strict=True))
    return [
        str(probe.labels["given"]) if line not in found else found[line][probe.labels["number"]]
        for line, probe in enumerate(probes)
    ]


def _asked(settings: Settings, probes: Sequence[Probe]) -> list[Any]:
    """The task's question about every text."""
    return [messages(question(settings.task, probe.prompt, settings.subject)) for probe in probes]


def classified(settings: Settings, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
    """Gold and predicted labels."""
    own = own_words()["subjects"][settings.subject]
    open_ones = [probe for probe in probes if probe.labels["given"] is None]
    if settings.read == "likelihood" and open_ones:
        scores = causal(model, settings.name).score(
            _asked(settings, open_ones), [own["words"]] * len(open_ones)
        )
        per_token = np.array(scores.logps) / np.array(scores.lengths)
        likeliest = iter([own["labels"][line] for line in per_token.argmax(axis=1)])
        predictions = [
            next(likeliest)
            if probe.labels["given"] is None
            else label_of(probe.labels["given"], settings.subject)
            for probe in probes
        ]
    else:
        texts = _texts(settings, model, probes, _asked(settings, probes))
        predictions = [_said_label(text, settings.subject) for text in texts]
    labels = [probe.labels["gold"] for probe in probes]
    found = [UNREAD if each is None else each for each in predictions]
    right = [float(one == other) for one, other in zip(labels, found, strict=True)]
    return frame(
        probes,
        input=[probe.prompt for probe in probes],
        label=labels,
        prediction=found,
        score=right,
    )


def found_spans(settings: Settings, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
    """How many spans and tokens of each text are gold, predicted and both."""
    asked = [probe for probe in probes if probe.labels["given"] is None]
    written = iter(_texts(settings, model, asked, _asked(settings, asked)))
    rows = []
    for probe in probes:
        given, (gold, unmatched) = probe.labels["given"], probe.labels["gold"]
        found = (
            spans_in_answer(probe.prompt, without_reasoning(next(written)))
            if given is None
            else spans_in(probe.prompt, given, probe.id)
        )
        counts = span_counts(probe.prompt, gold, *found)
        total = counts["token_predicted"] + counts["token_gold"]
        score = 2 * counts["token_hits"] / total if total else 1.0
        rows.append({**counts, "unmatched": unmatched, "score": score})
    table = pd.DataFrame(rows)
    return frame(
        probes,
        input=[probe.prompt for probe in probes],
        **{str(name): table[name].tolist() for name in table},
    )


def replies(settings: Settings, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
    """Replies and their scores."""
    prompts = [probe.prompt for probe in probes]
    texts = _texts(settings, model, probes, prompts)
    scorer = scorer_of(settings.scorer)
    return frame(
        probes,
        input=prompts,
        completion=texts,
        score=scores_of(scorer, prompts, texts),
        scorer=[reward_identity(scorer)] * len(probes),
    )


def rewritten(settings: Settings, model: Model, probes: Sequence[Probe]) -> pd.DataFrame:
    """Texts and rewrites with their scores."""
    sources = [probe.prompt for probe in probes]
    rewrites = [
        without_reasoning(text)
        for text in _texts(settings, model, probes, _asked(settings, probes))
    ]
    scorer, stop = scorer_of(settings.scorer), own_words()["stop"]["words"]
    before, after = (scores_of(scorer, sources, texts) for texts in (sources, rewrites))
    told = pd.DataFrame(
        [
            text_measures(source, rewrite, stop, probe.labels["gold"])
            for probe, source, rewrite in zip(probes, sources, rewrites, strict=True)
        ]
    )
    fluency = [token_logps(model, settings.reference, texts) for texts in (sources, rewrites)]
    return frame(
        probes,
        input=sources,
        completion=rewrites,
        bias_before=before,
        bias_after=after,
        **{str(name): told[name].tolist() for name in told},
        cosine=cosines(settings.embedder, sources, rewrites),
        logp_before=fluency[0][0],
        tokens_before=fluency[0][1],
        logp_after=fluency[1][0],
        tokens_after=fluency[1][1],
        score=before - after,
        scorer=[reward_identity(scorer)] * len(probes),
    )


def _said_label(text: str, subject: Subject) -> str | None:
    """The label that a written answer is, and nothing else beside it."""
    own = own_words()["subjects"][subject]
    said = without_reasoning(text).strip().strip(".!\"'`*").strip().lower()
    words = dict(zip(own["words"], own["labels"], strict=True))
    return words.get(said) or label_of(said, subject)
