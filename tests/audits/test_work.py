"""Counted work of every audit: each token once per past, each scored position once."""

from collections.abc import Sequence

import pytest

from tests.audits.bbq_rows import design
from tests.audits.planted_models import random_bert, random_llama
from tests.audits.test_winogender import ROWS as SCHEMAS
from trueup.audits import BBQ, Association, Audit, CrowsPairs, Perplexity, Winogender
from trueup.models import Group, LanguageModel
from trueup.models.prefix_tree import families

PAIRS = [
    {"sent_more": "the old man forgot it", "sent_less": "the young man forgot it all"},
    {"sent_more": "she cannot drive", "sent_less": "he cannot drive"},
]
CONTEXTS = [
    {"context": "the nurse said that", "a": " he| him", "b": " she"},
    {"context": "a pilot knew that", "a": " he", "b": " she"},
]
PASSAGES = [{"text": "the road is long"}, {"text": "it rains"}]


def minimum(groups: Sequence[Group]) -> tuple[int, int]:
    """Trunk tokens and head rows that no exact scorer can go below with these rows.

    In one row a token with the same past need not be read twice, nor a next token predicted twice;
    which groups share a row is `families`' to say, so that an opening token alone joins none.
    """
    read, predicted = set(), set()
    for row, family in enumerate(families(groups)):
        for group in (groups[index] for index in family):
            for completion in group.completions:
                tokens = (*group.prompt, *completion[:-1])
                pasts = {(row, *tokens[: end + 1]) for end in range(len(tokens))}
                read |= pasts
                predicted |= {past for past in pasts if len(past) > len(group.prompt)}
    return len(read), len(predicted)


def whole_words(model: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    return model.encoder.tokens(texts)


def with_common_beginning(model: LanguageModel, texts: Sequence[str]) -> Group:
    tokens = whole_words(model, texts)
    common = 0
    while len({tuple(ids[: common + 1]) for ids in tokens}) == 1:
        common += 1
    return Group([1, *tokens[0][:common]], [ids[common:] for ids in tokens])


def expected_groups(model: LanguageModel, audit: Audit, rows: list[dict]) -> list[Group]:
    probes = audit.probes(rows)
    if isinstance(audit, (Association, BBQ)):
        return [model.encode(probe.prompt, probe.texts) for probe in probes]
    if isinstance(audit, Perplexity):
        return [Group([1], whole_words(model, probe.texts)) for probe in probes]
    return [
        Group([1], tokens)  # sums and means: pairs of two lengths are scored from the first word on
        if isinstance(audit, CrowsPairs) and len({len(ids) for ids in tokens}) > 1
        else with_common_beginning(model, probe.texts)
        for probe, tokens in ((probe, whole_words(model, probe.texts)) for probe in probes)
    ]


CASES = [
    (Association(), CONTEXTS),
    (BBQ(), design(2)),
    (CrowsPairs(), PAIRS),
    (Winogender(), SCHEMAS),
    (Perplexity(), PASSAGES),
]


@pytest.mark.parametrize(("audit", "rows"), CASES, ids=[audit.name for audit, _ in CASES])
def test_a_causal_audit_does_the_least_work(audit: Audit, rows: list[dict]):
    probes = audit.probes(rows)
    model = random_llama([text for probe in probes for text in (probe.prompt, *probe.texts)])
    expected = minimum(expected_groups(model, audit, rows))
    audit.measure(model, probes)
    assert (model.work.trunk_tokens, model.work.head_rows) == expected


def test_unconditional_answers_are_scored_once_each():
    audit = BBQ(score="unconditional")
    probes = audit.probes(design(2))
    model = random_llama([text for probe in probes for text in (probe.prompt, *probe.texts)])
    prompts, _ = minimum([model.encode(probe.prompt, probe.texts) for probe in probes])
    blank, _ = minimum([model.encode("A:", probes[0].texts)])
    audit.measure(model, probes)
    assert model.work.trunk_tokens == prompts + blank


def test_masked_pairs_are_a_row_per_shared_token():
    audit = CrowsPairs()
    model = random_bert([text for row in PAIRS for text in row.values()])
    audit.measure(model, audit.probes(PAIRS))
    # shared words: 4 of 5 and 4 of 6; 2 of 3 twice; rows are two special tokens longer
    assert model.work.head_rows == 4 + 4 + 2 + 2
    assert model.work.trunk_tokens == 4 * 7 + 4 * 8 + 2 * 5 + 2 * 5


def test_masked_pronouns_of_equal_sentences_share_a_row():
    audit = Winogender()
    model = random_bert([row["sentence"] for row in SCHEMAS])
    audit.measure(model, audit.probes(SCHEMAS))
    # 4 jobs, both referents with the same sentence, three pronouns: one row of 9 words, <s>, </s>
    assert (model.work.trunk_tokens, model.work.head_rows) == (4 * 12, 4)
