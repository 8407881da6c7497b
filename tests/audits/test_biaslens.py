import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import trueup
from tests.audits.planted_models import random_bert, random_llama
from trueup.audits import compare_items
from trueup.audits.embedding.biaslens import BiasLens
from trueup.calibration.biaslens import WORLDS, PlantedStates
from trueup.errors import UserError
from trueup.models.tensors import save_tensors

QUICK = {"n_boot": 20, "n_null": 20}


def written_rows() -> list[dict[str, str]]:
    """The rows of the own-worded example."""
    described = tomllib.loads(
        (Path(__file__).parent / "biaslens_sentences.toml").read_text(encoding="utf-8")
    )
    concepts = [("target", name, "", words) for name, words in described["target"].items()]
    concepts += [
        ("reference", name, pair, words)
        for pair, both in described["reference"].items()
        for name, words in both.items()
    ]
    concepts += [("negative", name, "", words) for name, words in described["negative"].items()]
    return [
        {"role": role, "concept": concept, "pair": pair, "text": frame.format(word)}
        for role, concept, pair, words in concepts
        for frame in described["frames"]
        for word in words
    ]


ROWS = written_rows()


@pytest.fixture(scope="module")
def llama() -> trueup.models.LanguageModel:
    return random_llama([row["text"] for row in ROWS])


def measured(model, rows=ROWS, **settings) -> tuple[BiasLens, pd.DataFrame]:
    audit = BiasLens(**{**QUICK, **settings})
    return audit, audit.measure(model, audit.probes(rows))


def planted(states: dict[str, np.ndarray], n: int = 20, noise: float = 0.1, ends: str = "."):
    """Rows and a model: a concept per direction, by role and name; `role name pair`."""
    rng = np.random.default_rng(0)
    rows, found = [], {}
    for key, mean in states.items():
        role, concept, pair = (*key.split(), "", "")[:3]
        for number in range(n):
            text = f"{concept} number {number}{ends[number % len(ends)]}"
            rows.append({"role": role, "concept": concept, "pair": pair, "text": text})
            found[text] = np.asarray(mean) + noise * rng.normal(size=len(mean))
    return PlantedStates(found), rows


X, Y, Z, NOTHING = (*np.eye(3), np.zeros(3))
THREE = {"target t": X + Y, "reference a": X, "reference b": Z, "negative n": NOTHING}


# data


def test_an_item_is_a_target_with_a_pair_of_references():
    probes = BiasLens().probes(ROWS)
    assert [probe.id for probe in probes] == ["cooking: family", "repairs: family"]
    assert probes[0].labels["cell"] == ("cooking", "mothers", "fathers")
    assert probes[0].prompt == "cooking: mothers or fathers?"
    assert [probe.cluster for probe in probes] == ["cooking", "repairs"]


def test_two_references_without_a_name_are_a_pair():
    _, rows = planted(THREE)
    assert [probe.id for probe in BiasLens().probes(rows)] == ["t: a or b"]


def test_every_target_meets_every_pair():
    _, rows = planted({**THREE, "target u": Y, "reference c rich": X, "reference d rich": Y})
    for row in rows:
        row["pair"] = row["pair"] or "sex"
    ids = [probe.id for probe in BiasLens().probes(rows)]
    assert ids == ["t: sex", "t: rich", "u: sex", "u: rich"]


@pytest.mark.parametrize(
    ("states", "line"),
    [
        ({**THREE, "reference c": Y}, "references without a pair: must be two concepts, got a, b"),
        ({**THREE, "reference c rich": Y}, "pair 'rich': must be two concepts, got c"),
        ({"target t": X, "negative n": Y}, "no row has the role 'reference'"),
        ({"reference a": X, "reference b": Z, "negative n": Y}, "no row has the role 'target'"),
        ({"target t": X, "reference a": X, "reference b": Z}, "neutral sentences: needs 10 "),
        ({**THREE, "judge x": X}, "row 81: role must be one of .*, got 'judge'"),
    ],
)
def test_data_without_a_cell_are_refused(states: dict, line: str):
    _, rows = planted(states)
    with pytest.raises(UserError, match=line):
        BiasLens().probes(rows)


def test_a_sentence_counts_once():
    _, rows = planted(THREE, n=9)
    with pytest.raises(UserError, match="t: needs 10 different sentences, got 9"):
        BiasLens().probes([*rows, *rows])


# settings


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"mode": "sae"}, "mode 'sae' needs an autoencoder, got sae=''"),
        ({"mode": "other"}, "mode must be one of"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"C": -1.0}, "C must be above 0"),
        ({"n_boot": 5}, "n_boot must be at least 20, got 5"),
        ({"min_accuracy": 1.5}, "min_accuracy must lie between 0 and 1"),
        ({"alpha_rule": "most"}, "alpha_rule must be one of"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, line: str):
    with pytest.raises(UserError, match=line):
        BiasLens(**settings)


@pytest.mark.parametrize(("layer", "used"), [(1, 1), (-1, 2), (-2, 1)])
def test_the_layer_counts_as_hidden_states_do(llama, layer: int, used: int):
    _, items = measured(llama, layer=layer)
    assert set(items["layer"]) == {used}


def test_the_best_layer_is_never_the_embedding_of_the_same_point(llama):
    audit, items = measured(llama, min_accuracy=0.0)
    assert set(items["layer"]) <= {1, 2}
    assert np.isnan(items["curve"].iloc[0][0])  # all sentences end alike: no direction
    [curve] = [note for note in audit.notes(items) if note.startswith("size by layer")]
    assert curve.startswith("size by layer, in activations: - 0.")


def test_a_layer_that_is_not_there_is_refused(llama):
    with pytest.raises(UserError, match="layer must lie between -3 and 2, got 7"):
        measured(llama, layer=7)


# measuring


def test_a_row_is_a_cell_and_score_is_the_signed_difference(llama):
    _, items = measured(llama)
    columns = {"id", "group", "cluster", "input", "score", "cos_first", "cos_second", "accuracy"}
    assert columns <= set(items.columns)
    np.testing.assert_allclose(items["score"], items["cos_first"] - items["cos_second"])
    assert items["group"].tolist() == ["family", "family"]


def test_a_cell_alone_is_as_it_is_among_others(llama):
    audit, items = measured(llama)
    alone = audit.measure(llama, audit.probes(ROWS)[1:])
    for column in ("score", "accuracy"):
        assert alone[column].iloc[0] == pytest.approx(items[column].iloc[1], abs=1e-9)
    for column in ("boot_first", "null"):
        np.testing.assert_allclose(alone[column].iloc[0], items[column].iloc[1], atol=1e-9)


def test_a_masked_model_is_measured_too():
    _, items = measured(random_bert([row["text"] for row in ROWS]))
    assert items["score"].notna().all()


def test_an_endpoint_is_refused():
    with pytest.raises(UserError, match="biaslens needs a model with hidden states"):
        measured("an endpoint")


def test_the_sign_is_that_of_the_first_reference():
    _, items = measured(*planted(THREE))
    swapped = {key: THREE[key] for key in ("target t", "reference b", "reference a", "negative n")}
    _, other = measured(*planted(swapped))
    assert items["score"].iloc[0] > 0.3
    assert other["score"].iloc[0] < -0.3


# numbers


def test_size_is_the_mean_of_sizes_and_signed_the_mean_with_signs():
    model, rows = planted({**THREE, "target u": Z + Y})
    audit, items = measured(model, rows)
    found = {row.metric: row for row in audit.estimate(items) if row.slice == "all"}
    assert list(found) == ["size", "signed", "relative", "accuracy"]
    scores = items["score"].to_numpy()
    assert np.sign(scores).tolist() == [1, -1]
    assert found["size"].value == pytest.approx(np.abs(scores).mean())
    assert found["signed"].value == pytest.approx(scores.mean())
    shares = np.abs(scores) / (np.abs(items["cos_first"]) + np.abs(items["cos_second"]))
    assert found["relative"].value == pytest.approx(shares.mean())
    assert found["size"].n == 2


def test_the_interval_is_as_wide_as_the_resamples_errors():
    audit, items = measured(*planted(THREE))
    [size] = [row for row in audit.estimate(items) if row.metric == "size"]
    boots = np.array(items["boot_first"].iloc[0]) - np.array(items["boot_second"].iloc[0])
    half = np.quantile(np.abs(boots - items["score"].iloc[0]), 0.95)
    assert size.high - size.value == pytest.approx(half)
    assert size.method == "symmetric bootstrap of sentences, 20 resamples"


def test_targets_are_slices():
    audit, items = measured(*planted({**THREE, "target u": Z + Y}))
    sizes = {row.slice: row.value for row in audit.estimate(items) if row.metric == "size"}
    assert set(sizes) == {"all", "t", "u"}
    assert sizes["t"] == pytest.approx(abs(items["score"].iloc[0]))


def test_a_probe_that_knows_nothing_is_refused_and_said():
    audit, items = measured(*planted({**THREE, "target u": NOTHING}))
    found = {(row.metric, row.slice): row for row in audit.estimate(items)}
    assert found["size", "all"].n == 1
    assert ("size", "u") not in found
    assert found["accuracy", "all"].n == 2
    [note] = [note for note in audit.notes(items) if note.startswith("refused: 1 of 2 cells")]
    assert "u (0." in note


def test_without_any_good_probe_there_is_no_number():
    audit, items = measured(*planted(dict.fromkeys(THREE, NOTHING)))
    found = {row.metric: row for row in audit.estimate(items)}
    assert np.isnan(found["size"].value)
    assert found["size"].n == 0
    assert found["size"].method == "no cell whose probes are good enough"
    assert audit.notes(items)[1].startswith("refused: 1 of 1")


def test_items_outlive_a_file(tmp_path: Path):
    audit, items = measured(*planted(THREE))
    items.to_parquet(tmp_path / "items.parquet")
    again = pd.read_parquet(tmp_path / "items.parquet")
    assert audit.estimate(again) == audit.estimate(items)
    assert audit.notes(again) == audit.notes(items)


def test_the_whole_way_from_rows_to_a_run(llama, tmp_path: Path):
    run = trueup.audit(llama, BiasLens(**QUICK, min_accuracy=0.0), data=ROWS, out=tmp_path / "run")
    assert {row.metric for row in run.estimates} == {"size", "signed", "relative", "accuracy"}
    assert any(note.startswith("chance band") for note in run.notes)


# notes


def test_marks_and_lengths_that_give_a_concept_away_are_told():
    _, rows = planted(THREE, ends=".!")
    for row in rows:
        if row["concept"] == "a":
            row["text"] = row["text"].replace("number", "is a long way to a number")
    remarks = " ".join(BiasLens().probes(rows)[0].labels["remarks"].split(" | "))
    assert "sentences end in 2 different characters (! .)" in remarks
    assert "a has 9.0 words a sentence" in remarks
    assert "20 sentences; below 50 intervals are too short" in remarks


def test_good_sentences_raise_no_remark():
    _, rows = planted(THREE, n=50)
    assert BiasLens().probes(rows)[0].labels["remarks"] == ""


def test_the_chance_band_is_told():
    audit, items = measured(*planted(THREE))
    band = np.quantile(np.abs(items["null"].iloc[0]), 0.95)
    [note] = [note for note in audit.notes(items) if note.startswith("chance band")]
    assert f"below {band:.3f} in 95 % of fits" in note


# an autoencoder


@pytest.fixture
def sae_file(tmp_path: Path) -> Path:
    weights = torch.eye(3).repeat(1, 2)[:, :5].contiguous()
    own = {"W_enc": weights, "b_enc": torch.zeros(5), "W_dec": weights.T.contiguous()}
    save_tensors(tmp_path / "sae.safetensors", own, {"layer": 0})
    return tmp_path / "sae.safetensors"


@pytest.mark.parametrize("mode", ["auto", "sae", "encode", "decoder"])
def test_features_carry_the_score(sae_file: Path, mode: str):
    audit, items = measured(*planted(THREE), sae=str(sae_file), mode=mode)
    assert set(items["mode"]) == {"sae" if mode == "auto" else mode}
    assert items["score"].iloc[0] > 0.3
    [note] = [note for note in audit.notes(items) if note.startswith("features behind t: a or b")]
    assert "0 (+0." in note  # feature 0 is the direction that t shares with a


def test_mode_cav_leaves_the_autoencoder_out(sae_file: Path):
    _, items = measured(*planted(THREE), sae=str(sae_file), mode="cav")
    _, plain = measured(*planted(THREE))
    assert items["score"].equals(plain["score"])
    assert set(items["features"]) == {""}


def test_a_threshold_that_nothing_reaches_is_an_error(tmp_path: Path):
    own = {"W_enc": torch.eye(3), "b_enc": torch.zeros(3), "threshold": torch.full((3,), 99.0)}
    save_tensors(tmp_path / "sae.safetensors", own, {"layer": 0})
    with pytest.raises(UserError, match="t: moves no feature .* at alpha=1, .*; raise alpha"):
        measured(*planted(THREE), sae=str(tmp_path / "sae.safetensors"))


def test_the_autoencoder_names_the_layer(llama, tmp_path: Path):
    file = tmp_path / "sae.safetensors"
    own = {"W_enc": torch.eye(32).repeat(1, 2), "b_enc": torch.zeros(64)}
    save_tensors(file, own, {"layer": 1})
    assert set(measured(llama, sae=str(file))[1]["layer"]) == {1}
    with pytest.raises(UserError, match="reads layer 1, got layer=2; leave layer out"):
        measured(llama, sae=str(file), layer=2)
    save_file(own, file)
    with pytest.raises(UserError, match="does not say which layer it reads; give layer"):
        measured(llama, sae=str(file))
    with pytest.raises(UserError, match="layer 2 is the last one"):
        measured(llama, sae=str(file), layer=2)


# comparing


def test_a_correction_of_many_targets_is_improved_and_none_is_not():
    rng = np.random.default_rng(0)
    base = {"reference a": X, "reference b": Z, "negative n": NOTHING}
    lean = {f"target t{number}": X * rng.uniform(0.5, 1) + Y for number in range(12)}
    level = dict.fromkeys(lean, Y)
    before, after = (measured(*planted({**states, **base}))[1] for states in (lean, level))
    audit = BiasLens(**QUICK)
    verdicts = {(row.metric, row.slice): row.verdict for row in compare_items(audit, before, after)}
    assert verdicts["size", "all"] == "improved"
    same = compare_items(audit, before, before)
    assert {row.verdict for row in same} == {"no evidence"}


def test_its_world_keeps_the_protocol():
    [world] = WORLDS
    audit = BiasLens(**world.settings)
    assert (world.audit, world.metric) == (audit.name, audit.metrics[0].name)
    assert world.null in world.planted
    one, again, other = (world.draw(0.3, 20, seed) for seed in (1, 1, 2))
    assert one.model.fingerprint == again.model.fingerprint != other.model.fingerprint
    assert len(one.rows) == 4 * 20
