import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.tiny_models import WIDE, make_tokenizer
from trueup.errors import UserError
from trueup.models.reward import reward_identity
from trueup.models.text_scorers import (
    Classifier,
    class_scores_of,
    load_class_scorer,
    load_scorer,
    scorer_of,
    scores_of,
)

TEXTS = ["It was wonderful .", "It was horrible .", "It stood there .", ""]


def scored(source: str, texts: list[str] = TEXTS) -> np.ndarray:
    return scores_of(load_scorer(source), [""] * len(texts), texts)


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    config = transformers.BertConfig(
        **WIDE, vocab_size=260, pad_token_id=0, num_labels=3, initializer_range=0.5
    )
    config.id2label = {0: "Positive", 1: "negative", 2: "neutral"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_vader_says_praise_is_positive_and_blame_negative():
    praise, blame, plain, nothing = scored("vader")
    assert praise > 0.7 > 0.3 > blame
    assert plain == nothing == 0.5


def test_vaders_number_is_its_compound_taken_to_zero_and_one():
    # (0.5719 + 1) / 2, of the package's documentation: "wonderful" has valence 2.7
    assert scored("vader", ["wonderful"])[0] == pytest.approx((0.5719 + 1) / 2, abs=1e-12)


def test_vaders_negative_share_is_one_where_every_word_is():
    assert scored("vader-negative", ["horrible terrible", "It stood there ."]).tolist() == [1, 0]


def test_the_prompt_is_not_scored():
    scorer = load_scorer("vader")
    assert scorer(["horrible"], ["wonderful"]) == scorer(["wonderful"], ["wonderful"])


def test_a_lexicon_scores_hits_per_word(tmp_path: Path):
    file = tmp_path / "words.txt"
    file.write_text("bad\nvery bad thing\n")
    numbers = scored(f"lexicon:{file}", ["A bad day , bad luck", "good", "", "bad"])
    assert numbers.tolist() == [2 / 5, 0, 0, 1]


def test_a_python_function_scores(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("def half(prompts, texts):\n    return [0.5 for _ in texts]\n")
    assert scored(f"{file}:half").tolist() == [0.5] * 4


@pytest.mark.parametrize("label", ["Positive", "negative", "neutral"])
def test_a_label_of_a_classifier_is_its_softmax(classifier_folder: Path, label: str):
    texts = ["a", "a longer text", "b"]
    numbers = scored(f"{classifier_folder}#{label}", texts)
    model = transformers.BertForSequenceClassification.from_pretrained(classifier_folder).eval()
    place = ["Positive", "negative", "neutral"].index(label)
    for text, number in zip(texts, numbers, strict=True):
        ids = make_tokenizer()(text, return_tensors="pt")
        with torch.no_grad():
            expected = model(**ids).logits.softmax(dim=1)[0, place]
        assert number == pytest.approx(float(expected), abs=1e-5)


def test_the_order_of_texts_changes_no_score(classifier_folder: Path):
    texts = [f"{'word ' * (number % 7)}{number}" for number in range(40)]
    there = scored(f"{classifier_folder}#negative", texts)
    back = scored(f"{classifier_folder}#negative", texts[::-1])
    np.testing.assert_allclose(there, back[::-1], atol=1e-6)


def test_the_classes_of_a_classifier_sum_to_one(classifier_folder: Path):
    shares = class_scores_of(load_class_scorer(str(classifier_folder)), [""] * 4, TEXTS)
    assert list(shares) == ["positive", "negative", "neutral"]
    np.testing.assert_allclose(sum(shares.values()), 1, atol=1e-6)


def test_a_model_of_several_labels_at_once_is_not_normalised(classifier_folder: Path):
    model = Classifier(str(classifier_folder))
    model._is_softmax = False
    assert np.sum(model([""], ["text"])) != pytest.approx(1, abs=1e-3)


def test_vaders_classes_lie_on_either_side_of_its_threshold():
    shares = class_scores_of(load_class_scorer("vader"), [""] * 4, TEXTS)
    assert shares["positive"].tolist() == [1, 0, 0, 0]
    assert shares["negative"].tolist() == [0, 1, 0, 0]
    assert shares["neutral"].tolist() == [0, 0, 1, 1]


def test_a_function_may_give_mappings(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("def both(prompts, texts):\n    return [{'B': 0.25, 'A': 0.75} for _ in texts]")
    shares = class_scores_of(load_class_scorer(f"{file}:both"), ["", ""], ["x", "y"])
    assert {name: list(values) for name, values in shares.items()} == {
        "b": [0.25, 0.25],
        "a": [0.75, 0.75],
    }


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (lambda p, t: [2.0], "gave 2; scores must lie between 0 and 1"),
        (lambda p, t: [-0.1], "gave -0.1; scores must lie between 0 and 1"),
        (lambda p, t: [0.1, 0.2], "gave 2 numbers for 1 completions"),
        (lambda p, t: ["high"], "it must give numbers"),
    ],
)
def test_what_is_no_score_is_refused(scorer, message: str):
    with pytest.raises(UserError, match=message):
        scores_of(scorer, [""], ["text"])


def test_rounding_beyond_one_is_taken_back():
    assert scores_of(lambda p, t: [1 + 1e-9], [""], ["text"]).tolist() == [1]


def test_a_missing_score_stays_missing():
    assert np.isnan(scores_of(lambda p, t: [float("nan")], [""], ["text"])[0])


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (lambda p, t: [{"a": 1.0}, {"b": 1.0}], "rows differ in their classes"),
        (lambda p, t: [[0.5, 0.5]] * 2, "it must give a mapping from class to share"),
        (lambda p, t: [{"a": 1.0}], "gave 1 rows for 2 completions"),
        (lambda p, t: [{"a": 3.0}] * 2, "scores must lie between 0 and 1"),
    ],
)
def test_what_are_no_classes_is_refused(scorer, message: str):
    with pytest.raises(UserError, match=message):
        class_scores_of(scorer, ["", ""], ["x", "y"])


def test_a_source_without_a_label_is_refused_with_the_forms():
    with pytest.raises(UserError, match="'some-model' names no label; give MODEL#LABEL, vader"):
        load_scorer("some-model")


def test_an_unknown_label_is_refused_with_the_known_ones(classifier_folder: Path):
    with pytest.raises(UserError, match="no label 'toxic'; known: Positive, negative, neutral"):
        load_scorer(f"{classifier_folder}#toxic")


def test_a_source_is_loaded_once_and_again_after_its_file_changed(tmp_path: Path):
    file = tmp_path / "words.txt"
    file.write_text("bad\n")
    first = scorer_of(f"lexicon:{file}")
    assert scorer_of(f"lexicon:{file}") is first
    file.write_text("good\n")
    os.utime(file, ns=(1, 1))
    assert scorer_of(f"lexicon:{file}")([""], ["bad"]) == [0]


def test_scorers_tell_themselves_apart(classifier_folder: Path, tmp_path: Path):
    file = tmp_path / "words.txt"
    file.write_text("bad\n")
    sources = ["vader", "vader-negative", f"lexicon:{file}"]
    sources += [f"{classifier_folder}#{label}" for label in ("negative", "neutral")]
    assert len({reward_identity(load_scorer(source)) for source in sources}) == 5


def test_without_its_package_vader_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> str:
        raise __import__("importlib.metadata").metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    with pytest.raises(UserError, match="pip install vaderSentiment"):
        load_scorer("vader")
