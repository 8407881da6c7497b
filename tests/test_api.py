"""The top-level functions on tiny models, and what they promise beyond the command line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import trueup
from tests.tiny_models import make_tiny
from trueup.api import AuditRun
from trueup.api.aligning import chosen_settings
from trueup.api.generation_job import CHUNK
from trueup.audits import CrowsPairs
from trueup.errors import InterruptedRun, UserError
from trueup.models import LanguageModel
from trueup.objectives import OBJECTIVES
from trueup.training import TrainingConfig

SENTENCES = [
    {
        "id": str(n),
        "sent_more": f"Group {n % 7} is bad at {n}.",
        "sent_less": f"Group {n % 5} is good at {n}.",
        "stereo_antistereo": "stereo",
        "bias_type": "ab"[n % 2],
    }
    for n in range(24)
]
PAIRS = [{"prompt": f"Ask {n}:", "chosen": f" yes {n}", "rejected": " no"} for n in range(12)]
TRAINING = {"batch_size": 4, "learning_rate": 1e-3, "epochs": 2}


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("other") / "llama", seed=1)


def files(folder: Path, *names: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names]


def test_the_loop_of_the_design(tiny_model_folder: Path, tmp_path: Path):
    lm = trueup.load(tiny_model_folder, device="cpu")
    before = trueup.audit(lm, ["crows-pairs"], data=SENTENCES)
    tuned = trueup.align(lm, "rpo", data=PAIRS, out=tmp_path / "aligned", beta=0.1, **TRAINING)
    after = trueup.audit(tuned, ["crows-pairs"], data=SENTENCES)
    change = trueup.compare(before, after)
    assert [row.metric for row in change.rows][:1] == ["share"]
    assert max(map(len, str(change).splitlines())) <= 80
    assert after.model_hash != before.model_hash
    texts = trueup.generate(tuned, ["Ask 1:", "Ask 2:"], max_new_tokens=3).texts
    assert len(texts) == 2


def test_model_may_be_a_path_or_an_object(tiny_llama: LanguageModel, tiny_model_folder: Path):
    runs = [
        trueup.audit(model, "crows-pairs", data=SENTENCES)
        for model in (tiny_llama, tiny_model_folder, str(tiny_model_folder))
    ]
    assert runs[0].estimates == runs[1].estimates == runs[2].estimates


def test_audit_may_be_a_name_or_an_instance(tiny_llama: LanguageModel):
    named = trueup.audit(tiny_llama, "crows-pairs", data=SENTENCES, score="mean", level=0.9)
    made = trueup.audit(tiny_llama, CrowsPairs(score="mean", level=0.9), data=SENTENCES)
    changed = trueup.audit(tiny_llama, CrowsPairs(score="mean"), data=SENTENCES, level=0.9)
    assert named.estimates == made.estimates == changed.estimates


def test_saved_run_is_the_run_written_at_once(tiny_llama: LanguageModel, tmp_path: Path):
    at_once = trueup.audit(tiny_llama, "crows-pairs", data=SENTENCES, out=tmp_path / "a")
    later = trueup.audit(tiny_llama, "crows-pairs", data=SENTENCES).save(tmp_path / "b")
    assert (at_once.folder, later.folder) == (tmp_path / "a", tmp_path / "b")
    names = ("items.parquet", "metrics.json")
    assert files(tmp_path / "a", *names) == files(tmp_path / "b", *names)
    infos = [json.loads((tmp_path / name / "run.json").read_text("utf-8")) for name in "ab"]
    for key in ("verb", "arguments", "model", "data", "seed", "work", "notes", "status"):
        assert infos[0][key] == infos[1][key], key


def test_opened_run_is_the_run(tiny_llama: LanguageModel, tmp_path: Path):
    data = {"crows-pairs": SENTENCES, "perplexity": [{"text": "some text"}, {"text": "more"}]}
    run = trueup.audit(tiny_llama, [*data], data=data, out=tmp_path / "a", level=0.9)
    found = AuditRun.open(tmp_path / "a")
    assert found.estimates == run.estimates
    assert found.audits == run.audits
    assert found.names == ("crows-pairs", "perplexity")
    assert str(found) == str(run)
    assert found.items_of("perplexity").equals(run.items_of("perplexity"))
    assert "tokens" not in found.items_of("crows-pairs")


def test_comparison_of_folders_is_that_of_runs(
    tiny_llama: LanguageModel, other_folder: Path, tmp_path: Path
):
    runs = [
        trueup.audit(model, "crows-pairs", data=SENTENCES, out=tmp_path / name)
        for model, name in ((tiny_llama, "a"), (other_folder, "b"))
    ]
    by_folder = trueup.compare(tmp_path / "a", tmp_path / "b", out=tmp_path / "c")
    assert by_folder.as_dict() == trueup.compare(*runs).as_dict()
    written = json.loads((tmp_path / "c" / "compare.json").read_text("utf-8"))
    assert [row["metric"] for row in written["rows"]] == [row.metric for row in by_folder.rows]


def test_runs_without_a_shared_audit_cannot_be_compared(tiny_llama: LanguageModel):
    first = trueup.audit(tiny_llama, "crows-pairs", data=SENTENCES)
    second = trueup.audit(tiny_llama, "perplexity", data=[{"text": "a text"}, {"text": "b"}])
    with pytest.raises(UserError, match="share no audit, got crows-pairs and perplexity"):
        trueup.compare(first, second)


def test_audit_that_one_run_lacks_is_left_out_and_told(tiny_llama: LanguageModel):
    texts = [{"text": "a text"}, {"text": "b text"}]
    data = {"crows-pairs": SENTENCES, "perplexity": texts}
    both = trueup.audit(tiny_llama, [*data], data=data)
    change = trueup.compare(both, trueup.audit(tiny_llama, "perplexity", data=texts))
    assert {row.audit for row in change.rows} == {"perplexity"}
    assert change.notes == ["crows-pairs was measured in one run only, and is left out"]


def test_probes_of_one_run_only_are_left_out_and_told(tiny_llama: LanguageModel):
    first = trueup.audit(tiny_llama, "crows-pairs", data=SENTENCES)
    second = trueup.audit(tiny_llama, "crows-pairs", data=SENTENCES[:20])
    change = trueup.compare(first, second)
    assert change.rows[0].n_pairs == 20
    assert change.notes == ["crows-pairs: 4 probes stand in one run only, and are left out"]


def test_finished_audit_is_given_back_without_measuring(
    tiny_llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = trueup.audit(tiny_llama, "crows-pairs", data=SENTENCES, out=tmp_path / "a")
    monkeypatch.setattr(CrowsPairs, "measure", None, raising=False)
    again = trueup.audit(tiny_llama, "crows-pairs", data=SENTENCES, out=tmp_path / "a", resume=True)
    assert again.estimates == first.estimates


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": SENTENCES[:-1]}, "data hash differs"),
        ({"level": 0.8}, "argument 'audits' differs"),
        ({"seed": 3}, "seed differs"),
    ],
)
def test_number_of_other_circumstances_is_never_served(
    tiny_llama: LanguageModel, tmp_path: Path, change: dict[str, Any], said: str
):
    asked = {"data": SENTENCES, "out": tmp_path / "a"}
    trueup.audit(tiny_llama, "crows-pairs", **asked)
    with pytest.raises(UserError, match=said):
        trueup.audit(tiny_llama, "crows-pairs", resume=True, **(asked | change))


def test_number_of_another_model_is_never_served(
    tiny_llama: LanguageModel, other_folder: Path, tmp_path: Path
):
    trueup.audit(tiny_llama, "crows-pairs", data=SENTENCES, out=tmp_path / "a")
    with pytest.raises(UserError, match="model hash differs"):
        trueup.audit(other_folder, "crows-pairs", data=SENTENCES, out=tmp_path / "a", resume=True)


@pytest.mark.parametrize(
    ("audits", "settings", "said"),
    [
        ([], {}, "no audit is named; known: association"),
        (["crows-pairs", "crows-pairs"], {}, "audit 'crows-pairs' is named twice"),
        (["crows-pairs"], {"lvel": 1}, "no audit has a field 'lvel'; crows-pairs has .*score"),
        (["crowspairs"], {}, "did you mean 'crows-pairs'"),
    ],
)
def test_wrong_audits(tiny_llama: LanguageModel, audits: Any, settings: Any, said: str):
    with pytest.raises(UserError, match=said):
        trueup.audit(tiny_llama, audits, data=SENTENCES, **settings)


def test_setting_goes_to_each_audit_that_has_it(tiny_llama: LanguageModel):
    data = {"crows-pairs": SENTENCES, "perplexity": [{"text": "one"}, {"text": "two"}]}
    run = trueup.audit(tiny_llama, [*data], data=data, level=0.8, ties="zero")
    assert {estimate.level for estimate in run.estimates} == {0.8}
    assert run.arguments["audits"]["crows-pairs"]["ties"] == "zero"


def test_ids_that_stand_twice_are_refused(tiny_llama: LanguageModel):
    with pytest.raises(UserError, match="have the id '0'"):
        trueup.audit(tiny_llama, "crows-pairs", data=[*SENTENCES, SENTENCES[0]])


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_no_objective_hides_a_setting_of_the_engine(name: str):
    own = {field.name for field in dataclasses.fields(OBJECTIVES[name])}
    assert own.isdisjoint(field.name for field in dataclasses.fields(TrainingConfig))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_settings_are_split_between_objective_and_training(name: str):
    objective, config = chosen_settings(name, {"epochs": "3", "clip": 0}, seed=7)
    assert objective.name == name
    assert (config.epochs, config.clip, config.seed) == (3, 0.0, 7)


def test_base_model_is_not_changed_by_aligning(tiny_llama: LanguageModel, tmp_path: Path):
    before = tiny_llama.fingerprint
    tuned = trueup.align(tiny_llama, "dpo", data=PAIRS, out=tmp_path / "a", **TRAINING)
    assert tiny_llama.fingerprint == before
    assert trueup.load(tmp_path / "a", device="cpu").fingerprint == tuned.fingerprint != before


def test_adapter_is_saved_and_audited_as_one(
    tiny_model_folder: Path, tiny_llama: LanguageModel, tmp_path: Path
):
    out = tmp_path / "adapter"
    tuned = trueup.align(tiny_model_folder, "dpo", data=PAIRS, out=out, lora_r=2, **TRAINING)
    assert (out / "adapter_model.safetensors").is_file()
    run = trueup.audit(out, "crows-pairs", data=SENTENCES)
    assert run.estimates == trueup.audit(tuned, "crows-pairs", data=SENTENCES).estimates
    assert run.model_hash != tiny_llama.fingerprint


def test_stopped_alignment_resumes_to_the_same_weights(tiny_model_folder: Path, tmp_path: Path):
    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("training") and done == 3:
            raise InterruptedRun("stopped by the test")

    def run(name: str, **more: Any) -> None:
        trueup.align(
            tiny_model_folder, "rpo", data=PAIRS, eval_data=PAIRS[:4], out=tmp_path / name,
            save_every=1, **TRAINING, **more,
        )  # fmt: skip

    run("calm")
    with pytest.raises(InterruptedRun):
        run("stopped", progress=stop)
    info = json.loads((tmp_path / "stopped" / "run.json").read_text("utf-8"))
    assert info["status"] == "interrupted"
    run("stopped", resume=True)
    names = ("model.safetensors", "items.parquet", "metrics.json")
    assert files(tmp_path / "stopped", *names) == files(tmp_path / "calm", *names)


def test_samples_do_not_depend_on_chunks(tiny_llama: LanguageModel):
    prompts = [f"{n}" for n in range(CHUNK + 6)]
    many = trueup.generate(tiny_llama, prompts, max_new_tokens=2, seed=4).texts
    few = trueup.generate(tiny_llama, prompts[-8:], max_new_tokens=2, seed=4).texts
    assert many[-8:] == few


def test_prompt_that_stands_twice_gets_other_samples(tiny_llama: LanguageModel):
    prompts = ["same", *map(str, range(CHUNK)), "same"]
    texts = trueup.generate(tiny_llama, prompts, max_new_tokens=6).texts
    assert texts[0] != texts[-1]


def test_stopped_generation_resumes_to_the_same_lines(tiny_llama: LanguageModel, tmp_path: Path):
    def stop(done: int, total: int, what: str) -> None:
        if done == CHUNK:
            raise KeyboardInterrupt

    prompts = [f"{n}" for n in range(CHUNK + 6)]
    asked = {"max_new_tokens": 2, "n": 2}
    trueup.generate(tiny_llama, prompts, out=tmp_path / "calm", **asked)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        trueup.generate(tiny_llama, prompts, out=out, progress=stop, **asked)
    assert not (out / "samples.jsonl").exists()
    trueup.generate(tiny_llama, prompts, out=out, resume=True, **asked)
    names = ("samples.jsonl", "items.parquet")
    assert files(out, *names) == files(tmp_path / "calm", *names)


def test_chat_prompts_come_back_as_messages(tiny_llama: LanguageModel):
    chat = [{"role": "user", "content": "Hello"}]
    result = trueup.generate(tiny_llama, [{"prompt": chat}], max_new_tokens=2)
    assert result.rows[0]["prompt"] == chat


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"n": 0}, "n must be at least 1"),
        ({"decoder": "dealt"}, "no decoder 'dealt'; did you mean 'deal'"),
        ({"max_new_tokens": 400}, "the prompt has"),
    ],
)
def test_wrong_generation(tiny_llama: LanguageModel, settings: Any, said: str):
    with pytest.raises(UserError, match=said):
        trueup.generate(tiny_llama, ["a prompt"], **settings)
