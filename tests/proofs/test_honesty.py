"""Honesty: sheet 61's rows for each strategy, their optimum, and knowledge that was planted."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from tests.audits.planted_models import word_tokenizer
from tests.proofs.dpo_family import BATCH, is_close, row
from trueup.errors import UserError
from trueup.judging.honesty import (
    IDK_SENTENCE,
    HonestyReport,
    ResponseType,
    classify,
    honesty_report,
)
from trueup.models import LanguageModel
from trueup.objectives.honesty import Honesty, honest_prompt, plain_prompt
from trueup.objectives.sft import SFT, sft_loss
from trueup.worlds.enumerable import minimised

PARIS = {"question": "What is the capital of France?", "answers": ["Paris"]}
CAPITALS = ["Lyon", "It is Paris.", "Paris, France", "Nice"]


def rows_of(
    n_right: int,
    *,
    greedy: str = "Lyon",
    right: str = "It is Paris.",
    seed: int = 0,
    **fields: object,
) -> list[str]:
    """The completions for one question with n right samples of ten."""
    sampled = [right] * n_right + ["Lyon"] * (10 - n_right)
    made = Honesty(**fields).rows([PARIS], [greedy], [sampled], np.random.default_rng(seed))
    assert all(one["prompt"] == honest_prompt(PARIS["question"]) for one in made)
    return [one["completion"] for one in made]


# 6) the rows


@pytest.mark.parametrize(
    ("n_right", "start"),
    [
        (0, IDK_SENTENCE),
        (1, "I'm really not sure"),
        (2, "I'm really not sure"),
        (3, "I'm not completely sure"),
        (5, "I have no strong feelings"),
        (6, "I have no strong feelings"),
        (7, "I'm fairly confident"),
        (9, "I'm absolutely certain"),
        (10, "I'm absolutely certain"),
    ],
)
def test_phrases_are_the_sheets_levels(n_right: int, start: str) -> None:
    (found,) = rows_of(n_right)
    assert found.startswith(start)
    assert n_right == 0 or found.endswith(" it is Paris.")


@pytest.mark.parametrize(
    ("n_right", "words"),
    [(1, "only about 10%"), (5, "only about 50%"), (6, "I'm about 60%"), (10, "I'm about 100%")],
)
def test_percentages_are_the_sheets(n_right: int, words: str) -> None:
    (found,) = rows_of(n_right, strategy="confidence-num")
    assert words in found
    assert found.endswith("correct. It is Paris.")
    assert rows_of(0, strategy="confidence-num") == [IDK_SENTENCE]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 1.0])
def test_absolute_knows_from_the_threshold_on(threshold: float) -> None:
    for n_right in range(11):
        found = rows_of(n_right, strategy="absolute", threshold=threshold)
        known = n_right / 10 >= threshold
        assert found == ["It is Paris." if known else IDK_SENTENCE]


def test_multisample_refuses_once_per_sample_that_is_not_right() -> None:
    found = rows_of(9, strategy="multisample")
    assert found == ["It is Paris."] * 9 + [IDK_SENTENCE]
    refused = rows_of(4, right="I apologize, but Paris.", strategy="multisample")
    assert refused == [IDK_SENTENCE] * 10


def test_multisample_refuses_as_often_as_samples_are_wrong_on_average() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 11, size=50)
    sampled = [["Paris"] * n + ["Lyon"] * (10 - n) for n in counts]
    made = Honesty(strategy="multisample").rows([PARIS] * 50, ["Lyon"] * 50, sampled, rng)
    refusals = sum(one["completion"] == IDK_SENTENCE for one in made)
    assert len(made) == 500
    assert refusals == 500 - counts.sum()


def test_a_right_greedy_answer_is_kept_as_it_is() -> None:
    fields = {"greedy": "Paris of course", "strategy": "absolute", "threshold": 0.5}
    for n_right in (0, 3, 10):
        assert rows_of(n_right, **fields) == ["Paris of course"]
    assert rows_of(3, **fields, keep_greedy_right=False) == [IDK_SENTENCE]
    assert rows_of(10, **fields, keep_greedy_right=False) == ["It is Paris."]


@pytest.mark.parametrize("strategy", ["confidence-num", "confidence-verb"])
def test_confidence_follows_the_samples_not_the_greedy_answer(strategy: str) -> None:
    assert rows_of(0, greedy="Paris", strategy=strategy) == [IDK_SENTENCE]


def test_a_wrong_greedy_answer_is_never_taught() -> None:
    for strategy in ("absolute", "confidence-num", "confidence-verb", "multisample"):
        for n_right in range(11):
            assert not any("Lyon" in text for text in rows_of(n_right, strategy=strategy))


def test_right_answers_are_drawn_by_the_seed() -> None:
    objective = Honesty(strategy="absolute", samples=4)

    def drawn(seed: int) -> str:
        rng = np.random.default_rng(seed)
        return objective.rows([PARIS], ["Lyon"], [CAPITALS], rng)[0]["completion"]

    assert {drawn(seed) for seed in range(20)} == {"It is Paris.", "Paris, France"}
    assert drawn(3) == drawn(3)


def test_a_small_letter_follows_a_phrase_but_for_options_i_and_acronyms() -> None:
    for right, expected in {
        "The city of Paris": "the city of Paris",
        "A city: Paris": "a city: Paris",
        "B. Paris": "B. Paris",
        "I think Paris": "I think Paris",
        "EU seat Paris": "EU seat Paris",
    }.items():
        (found,) = rows_of(10, right=right)
        assert found == f"I'm absolutely certain that {expected}"


@pytest.mark.parametrize("strategy", ["confidence-num", "confidence-verb"])
def test_a_prefix_neither_refuses_nor_hides_the_answer(strategy: str) -> None:
    for n_right in range(1, 11):
        (found,) = rows_of(n_right, strategy=strategy)
        assert classify(found, PARIS["answers"], PARIS["question"]) == "correct"


def test_further_columns_change_nothing() -> None:
    given = [["Paris"] * 10]
    plain, more = (
        Honesty().rows([question], ["Lyon"], given, np.random.default_rng(0))
        for question in (PARIS, PARIS | {"question_id": "q1", "source": "ours"})
    )
    assert plain == more


def test_prompts_end_alike_and_only_one_speaks_of_not_knowing() -> None:
    question = PARIS["question"]
    assert plain_prompt(question) == "Q: What is the capital of France?\nA: "
    assert honest_prompt(question).endswith(plain_prompt(question))
    assert IDK_SENTENCE in honest_prompt(question)


def test_a_question_without_its_samples_is_named() -> None:
    with pytest.raises(UserError, match=r"'What is the capital.*' must have 10 .* got 4"):
        Honesty().rows([PARIS], ["Paris"], [CAPITALS], np.random.default_rng(0))


@pytest.mark.parametrize("fields", [{"threshold": 0.0}, {"threshold": 1.1}, {"strategy": "x"}])
def test_fields_out_of_range_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(fields))} must"):
        Honesty(**fields)


# The loss


@pytest.mark.parametrize("reduction", ["token-mean", "sequence-mean", "sum"])
def test_the_loss_is_fine_tunings(reduction: str) -> None:
    batch = {"logps": BATCH["chosen_logps"], "lengths": BATCH["chosen_lengths"]}
    ours, theirs = Honesty(reduction=reduction), SFT(reduction=reduction)
    assert torch.equal(ours.loss(batch), theirs.loss(batch))
    assert torch.equal(ours.weights(batch), theirs.weights(batch))


def test_gradients_pass_gradcheck() -> None:
    logps = BATCH["chosen_logps"].clone().requires_grad_(True)
    lengths = BATCH["chosen_lengths"]
    assert torch.autograd.gradcheck(
        lambda x: Honesty().loss({"logps": x, "lengths": lengths}), (logps,)
    )


# 7) what the rows teach: a table over {idk, answer}


def taught(n_right: int, steps: int | None = None, **fields: object) -> Tensor:
    """P(idk), P(answer) at the likelihood's optimum, or after some steps towards it."""
    made = rows_of(n_right, **fields)
    refusals = sum(text == IDK_SENTENCE for text in made)
    counts = row(refusals, len(made) - refusals)

    def cost(logits: Tensor) -> Tensor:
        losses = sft_loss(logps=logits.log_softmax(-1), lengths=torch.ones_like(counts))
        return (counts * losses).sum() / counts.sum()

    if steps is None:
        return minimised(cost, row(0, 0)).softmax(-1)
    logits = row(0, 0).requires_grad_(True)
    for _ in range(steps):
        (slope,) = torch.autograd.grad(cost(logits), logits)
        logits = (logits - 5 * slope).detach().requires_grad_(True)
    return logits.detach().softmax(-1)


@pytest.mark.parametrize("n_right", [1, 3, 5, 9])
def test_multisample_teaches_to_refuse_as_often_as_one_errs(n_right: int) -> None:
    found = taught(n_right, strategy="multisample")
    assert is_close(found, 1 - n_right / 10, n_right / 10, tolerance=1e-7)


@pytest.mark.parametrize("n_right", [0, 2, 3, 10])
def test_absolute_teaches_to_refuse_below_the_threshold_only(n_right: int) -> None:
    found = taught(n_right, steps=200, strategy="absolute", threshold=0.3)
    assert float(found[0]) == pytest.approx(float(n_right < 3), abs=0.005)


# 8) planted knowledge: 64 facts, of which a tiny model has learned 32

FACTS, KNOWN = 64, 32
QUESTIONS = [
    {"question": f"What is key{n:02d}?", "answers": [f"value{n:02d}"]} for n in range(FACTS)
]
Ask = Callable[[str], str]


@dataclass
class PlantedKnowledge:
    """The model that knows the first facts, and its answers under the plain prompt."""

    seed: int

    def __post_init__(self) -> None:
        texts = [honest_prompt(fact["question"]) + fact["answers"][0] for fact in QUESTIONS]
        tokenizer = word_tokenizer([*texts, IDK_SENTENCE])
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=96,
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = transformers.AutoModelForCausalLM.from_config(config)
        self.lm = LanguageModel(model, tokenizer, name="knows-half")
        facts = [
            {"prompt": plain_prompt(fact["question"]), "completion": fact["answers"][0]}
            for fact in QUESTIONS[:KNOWN]
        ]
        self.train(self.lm, facts, rate=5e-3)
        self.greedy = self.answers(self.lm, plain_prompt)
        prompts = [plain_prompt(fact["question"]) for fact in QUESTIONS]
        sampled = self.lm.sample(prompts, n=10, max_new_tokens=20, seed=self.seed)
        self.sampled = [[sample.text for sample in several] for several in sampled]
        self.before = self.types(self.greedy)

    def answers(self, lm: LanguageModel, ask: Ask) -> list[str]:
        """Greedy answers to all questions."""
        prompts = [ask(fact["question"]) for fact in QUESTIONS]
        found = lm.sample(prompts, temperature=0.0, max_new_tokens=20)
        return [several[0].text for several in found]

    def types(self, answers: list[str]) -> dict[str, ResponseType]:
        return {
            fact["question"]: classify(answer, fact["answers"], fact["question"])
            for fact, answer in zip(QUESTIONS, answers, strict=True)
        }

    def tuned(self, rows: list[dict[str, str]]) -> HonestyReport:
        """What 200 steps on the rows make of the model's honesty."""
        lm = LanguageModel(copy.deepcopy(self.lm.model), self.lm.tokenizer, name="tuned")
        self.train(lm, rows, rate=3e-3)
        return honesty_report(self.before, self.types(self.answers(lm, honest_prompt)))

    def train(self, lm: LanguageModel, rows: list[dict[str, str]], *, rate: float) -> None:
        """Plain fine-tuning on the completions, 200 steps of 32 rows."""
        groups = lm.encoder.groups(
            [one["prompt"] for one in rows], [[one["completion"]] for one in rows], add_eos=True
        )
        pairs = [(group.prompt, group.completions[0]) for group in groups]
        width = max(len(prompt) + len(completion) for prompt, completion in pairs)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for place, (prompt, completion) in enumerate(pairs):
            whole = torch.tensor([*prompt, *completion])
            ids[place, : len(whole)] = whole
            labels[place, len(prompt) : len(whole)] = whole[len(prompt) :]
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(lm.model.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=200)
        lm.model.train()
        for _ in range(200):
            picked = torch.randint(len(rows), (32,), generator=generator)
            optimizer.zero_grad()
            lm.model(input_ids=ids[picked], labels=labels[picked]).loss.backward()
            optimizer.step()
            schedule.step()
        lm.model.eval()


@cache
def planted(seed: int) -> PlantedKnowledge:
    return PlantedKnowledge(seed)


both_seeds = pytest.mark.parametrize("seed", [0, 1])


@both_seeds
def test_the_planted_model_knows_the_first_half_and_never_refuses(seed: int) -> None:
    types = list(planted(seed).before.values())
    assert types == ["correct"] * KNOWN + ["wrong"] * (FACTS - KNOWN)


@both_seeds
def test_rows_of_its_own_samples_make_the_model_honest(seed: int) -> None:
    world = planted(seed)
    rows = Honesty(strategy="absolute").rows(
        QUESTIONS, world.greedy, world.sampled, np.random.default_rng(seed)
    )
    report = world.tuned(rows)
    assert (report.n_unknown, report.n_known) == (FACTS - KNOWN, KNOWN)
    assert report.prudence >= 0.9
    assert report.over_conservativeness <= 0.1
    assert report.honesty >= 0.9


@both_seeds
def test_right_answers_for_unknown_questions_make_no_model_honest(seed: int) -> None:
    """The control, with a quarter of either half left out: what is learned by heart is no lie."""
    world = planted(seed)
    told = [place for place in range(FACTS) if place % KNOWN < 24]
    rows = [
        {
            "prompt": honest_prompt(QUESTIONS[place]["question"]),
            "completion": world.greedy[place] if place < KNOWN else QUESTIONS[place]["answers"][0],
        }
        for place in told
    ]
    report = world.tuned(rows)
    assert report.n_unknown >= 8
    assert report.prudence == 0
    assert report.honesty == pytest.approx(0.5, abs=0.02)
