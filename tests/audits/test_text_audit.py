import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.audits.scored_rows import items_of, score_rows, written_scores
from trueup.audits.protocol import Metric, average
from trueup.audits.sources import probes_of, read_data
from trueup.audits.text.bold import read_bold
from trueup.audits.text.regard import Regard
from trueup.audits.text.score_parity import ScoreParity
from trueup.audits.text.text_audit import TextAudit
from trueup.audits.text.toxicity import Toxicity
from trueup.errors import UserError
from trueup.stats import Estimate
from trueup.worlds.scripted_writer import LawScript, ScriptedWriter

PLAIN = ScriptedWriter(script=lambda prompt, rng: f"{prompt} {rng.random():.3f}")
BOLD = {
    "left": {"Page_one": ["One is ", "One was "], "Page_two": ["Two is "]},
    "right": {"Page_three": ["Three is "]},
}


@dataclass(frozen=True, kw_only=True)
class Lengths(TextAudit):
    name: ClassVar[str] = "lengths"

    @property
    def metrics(self):
        def whole(items, rng, labels) -> Estimate:
            return Estimate(value=1.5, low=-3.0, high=9.0, n=len(items), method="own", **labels)

        mean = average("mean", lambda items: items["score"])
        own = Metric(
            name="own", kind="statistic", terms=mean.terms, span=(0.0, 2.0), interval=whole
        )
        last = average("last", lambda items: items["score"], sliced=False)
        return (mean, own, last)

    def score(self, prompts, texts):
        return {"score": [float(len(text)) for text in texts]}


def test_each_sample_is_an_item_of_its_prompt():
    items = items_of(Lengths(samples=3), [{"prompt": "a"}, {"prompt": "b"}], PLAIN)
    assert items["id"].tolist() == ["1/1", "1/2", "1/3", "2/1", "2/2", "2/3"]
    assert items["prompt_id"].tolist() == ["1"] * 3 + ["2"] * 3
    assert items["cluster"].tolist() == ["1"] * 3 + ["2"] * 3
    assert items["completion"].nunique() == 6


def test_given_completions_of_one_prompt_are_one_prompt():
    rows = [{"prompt": "a", "completion": text} for text in ("x", "xx")]
    items = items_of(Lengths(), [*rows, {"prompt": "b", "completion": ""}])
    assert items["prompt_id"].tolist() == ["1", "1", "3"]
    assert items["cluster"].tolist() == ["1", "1", "3"]
    assert items["score"].tolist() == [1, 2, 0]


def test_one_prompt_in_two_groups_is_two_prompts():
    rows = [{"prompt": "a", "group": group, "completion": "x"} for group in ("g", "h")]
    assert items_of(Lengths(), rows)["prompt_id"].tolist() == ["1", "2"]


def test_the_template_is_the_cluster_unless_the_data_name_one():
    rows = [
        {"prompt": "a", "template": "t", "completion": "x"},
        {"prompt": "b", "template": "t", "cluster": "c", "completion": "x"},
    ]
    assert items_of(Lengths(), rows)["cluster"].tolist() == ["t", "c"]


def test_a_model_that_does_not_write_is_not_asked_for_given_completions():
    with pytest.raises(UserError, match="lengths needs a model that writes"):
        items_of(Lengths(), [{"prompt": "a"}])


def test_two_audits_of_the_same_prompts_let_the_writer_write_once():
    rows = [
        {"prompt": f"the {group} {number}", "group": group}
        for group in ("woman", "man")
        for number in range(5)
    ]
    writer = ScriptedWriter(script=LawScript(laws={"": {"good": 0.5, "bad": 0.5}}))
    first = items_of(ScoreParity(samples=2), rows, writer)
    second = items_of(Regard(samples=2), rows, writer)
    assert writer.work.texts == 20
    assert first["completion"].tolist() == second["completion"].tolist()


def test_other_settings_of_the_draw_write_anew():
    rows = [{"prompt": "a"}]
    writer = ScriptedWriter(script=lambda prompt, rng: f"{rng.random()}")
    texts = {items_of(Lengths(seed=seed), rows, writer)["completion"][0] for seed in range(5)}
    assert len(texts) == 5
    assert writer.work.texts == 5


def test_a_text_depends_on_seed_prompt_and_number_alone():
    prompts = ["a", [{"role": "user", "content": "b"}], "c"]
    one = PLAIN.sample(prompts, n=3, seed=7)
    two = [PLAIN.sample([prompt], n=2, seed=7)[0] for prompt in reversed(prompts)]
    assert [texts[:2] for texts in one] == two[::-1]


def test_a_metric_with_its_own_interval_stands_in_order_and_in_its_span():
    items = items_of(Lengths(), score_rows({"g": [1, 2], "h": [3, 4]}))
    rows = [row for row in Lengths().estimate(items) if row.slice == "all"]
    assert [row.metric for row in rows] == ["mean", "own", "last"]
    assert (rows[1].low, rows[1].value, rows[1].high) == (0.0, 1.5, 2.0)
    own = [row.slice for row in Lengths().estimate(items) if row.metric == "own"]
    assert own == ["all", "g", "h"]


def test_bold_files_are_read_as_they_were_published(tmp_path: Path):
    file = tmp_path / "bold.json"
    file.write_text(json.dumps(BOLD))
    audit = Toxicity()
    probes = probes_of(audit, read_data(audit, file))
    assert [probe.labels["prompt"] for probe in probes] == [
        "One is",
        "One was",
        "Two is",
        "Three is",
    ]
    assert [probe.group for probe in probes] == ["left", "left", "left", "right"]
    assert [probe.cluster for probe in probes][:3] == [
        "left/Page_one",
        "left/Page_one",
        "left/Page_two",
    ]


@pytest.mark.parametrize(
    "content", ["[]", "{", "{}", '{"a": {"b": "c"}}', '{"a": ["b"]}', '{"a": {"b": [1]}}']
)
def test_other_json_is_no_bold_file(tmp_path: Path, content: str):
    file = tmp_path / "other.json"
    file.write_text(content)
    assert read_bold(file) is None


@pytest.mark.parametrize(
    ("name", "prompts", "groups"),  # less 3 and 2 prompts without text
    [("gender", 3204, 2), ("political_ideology", 1981, 12), ("religious_ideology", 637, 7)],
)
def test_the_real_bold_files_are_read_whole(
    shared_data: Path, name: str, prompts: int, groups: int
):
    audit = ScoreParity(scorer=lambda p, t: [0.5] * len(t))
    probes = probes_of(audit, read_data(audit, shared_data / f"bold_{name}_prompts.json"))
    assert len(probes) == prompts
    assert len({probe.group for probe in probes}) == groups
    assert all(probe.labels["prompt"].strip() for probe in probes)


def test_empty_prompts_are_refused_with_their_place():
    with pytest.raises(UserError, match="row 2: 'prompt' is empty"):
        Lengths().probes([{"prompt": "a"}, {"prompt": ""}])


def test_who_scored_is_told_and_what_vader_is():
    rows = [{"prompt": "a", "completion": "fine"}]
    told = Toxicity().notes(items_of(Toxicity(), rows))
    assert told[0] == "1 texts of 1 prompts"
    assert told[1].startswith("scored by VADER ")
    assert told[2].startswith("VADER is a lexicon of sentiment, not a classifier of toxicity")
    mine = Toxicity(scorer=written_scores)
    told = mine.notes(items_of(mine, [{"prompt": "a", "completion": "nan"}]))
    assert told[1].startswith("scored by written_scores ")
    assert told[2] == "1 of 1 texts have no score and do not count"


def test_a_scorer_that_cannot_be_loaded_fails_before_anything_is_written():
    with pytest.raises(UserError, match="names no label"):
        Toxicity(scorer="nothing").probes([{"prompt": "a"}])


def test_scores_of_the_slices_do_not_move_each_other():
    audit = ScoreParity(scorer=written_scores)
    rows = score_rows(
        {"a": np.linspace(0, 1, 40).round(3), "b": np.linspace(0.2, 0.7, 40).round(3)}
    )
    items = items_of(audit, rows)
    assert audit.estimate(items) == audit.estimate(items.copy())
