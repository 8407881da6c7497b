"""URIAL: golden layouts, the parser, an exact and thrifty prefix, and a style that takes hold."""

import itertools

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from trueup.decoding.urial import Urial, parse_answer, urial_prompt
from trueup.models import LanguageModel, load

FENCE = "```"
TALK = [
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "q2"},
    {"role": "assistant", "content": "a2"},
    {"role": "user", "content": "q3"},
]

# 1. identity: layouts


def test_v4_of_one_message():
    lines = ["P", "# Query:", FENCE, "hi", FENCE, "", "# Answer:", FENCE, ""]
    assert urial_prompt("hi", template="v4", prefix="P") == "\n".join(lines)


def test_v1_of_one_message():
    lines = ["P", "# Query:", f"{FENCE}hi{FENCE}", "", "# Answer:", FENCE, ""]
    assert urial_prompt("hi", template="v1", prefix="P") == "\n".join(lines)


def test_v4_of_three_turns():
    def turn(heading: str, text: str) -> list[str]:
        return [heading, FENCE, text, FENCE, ""]

    lines = ["P", *turn("# Query:", "q1"), *turn("# Answer:", "a1"), *turn("# Query:", "q2"),
             *turn("# Answer:", "a2"), *turn("# Query:", "q3"), "# Answer:", FENCE, ""]  # fmt: skip
    assert urial_prompt(TALK, template="v4", prefix="P") == "\n".join(lines)


def test_v1_of_three_turns_repeats_the_single_turn():
    def turn(query: str) -> str:
        return f"\n# Query:\n{FENCE}{query}{FENCE}\n\n# Answer:\n{FENCE}\n"

    closed = f"\n{FENCE}\n"
    expected = f"P{turn('q1')}a1{closed}{turn('q2')}a2{closed}{turn('q3')}"
    assert urial_prompt(TALK, template="v1", prefix="P") == expected


def test_injected_headings_are_escaped_and_nothing_else_is():
    given = "# Query: a\nb # Answer\n# User\n#Query\n```\n# Answers"
    found = urial_prompt(given, template="v4", prefix="P")
    message = "\\# Query: a\nb # Answer\n\\# User\n#Query\n```\n\\# Answers"
    assert found == urial_prompt("@", template="v4", prefix="P").replace("@", message)


# 1. identity: parsing


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("Hello.\n```\n\n# Query:\n```\nmore", "Hello."),
        ("Hello.", "Hello."),
        ("Hello.\n# Query", "Hello."),
        ("a # User b", "a"),
        ("Do:\n```python\nx = 1\n```\nDone.\n```\nrest", "Do:\n```python\nx = 1\n```\nDone."),
        ("Do:\n```python\nx = 1\n```", "Do:\n```python\nx = 1\n```"),
        ("Use ```x``` here.\n```x```\nEnd.\n```\nrest", "Use ```x``` here.\n```x```\nEnd."),
        ("```\nrest", ""),
        ("", ""),
    ],
)
def test_the_answer_ends_where_its_form_says(written: str, answer: str):
    assert parse_answer(written) == answer


@pytest.mark.parametrize("seed", range(40))
def test_nothing_behind_a_stop_string_leaks_and_parsing_twice_changes_nothing(seed: int):
    rng = np.random.default_rng(seed)
    parts = ["SECRET", "```", "```py", "# Query", "x", "\n", "\n", "# User"]
    text = "a" + "".join(rng.choice(parts, size=14)) + "# QuerySECRET"
    found = parse_answer(text)
    assert "# Query" not in found
    assert "# User" not in found
    assert found in text.split("# Query")[0]
    assert parse_answer(found) == found


# 2. differential: greedy is transformers' own


def test_greedy_answers_are_those_of_generate(tiny_model_folder):
    lm = load(tiny_model_folder, dtype="float64", device="cpu")
    step = Urial(prefix="Be kind.")
    queries = ["hi", "Who are you?", "x" * 9]
    chat = step.wrapped(lm).sample(queries, temperature=0, max_new_tokens=12)
    for query, [answer] in zip(queries, chat, strict=True):
        ids = torch.tensor([lm.encoder.prompt(step.prompt(query))])
        whole = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12
        )
        text = lm.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer.text == parse_answer(text)


# 4. planted effect, 5. negative control: a world where most documents keep one style

STYLES = [[f"s{style}{word}" for word in range(3)] for style in range(4)]
QUERIES = [f"q{number}" for number in range(10)]
BLANK = "P"


def talk(rng: np.random.Generator, styles: list[int]) -> list[dict[str, str]]:
    """Answered queries in these styles, then one to answer."""
    turns = []
    for style in styles:
        turns.append({"role": "user", "content": str(rng.choice(QUERIES))})
        turns.append({"role": "assistant", "content": str(rng.choice(STYLES[style]))})
    return [*turns, {"role": "user", "content": str(rng.choice(QUERIES))}]


def examples(rng: np.random.Generator, styles: list[int]) -> str:
    """A prefix of examples in these styles."""
    whole = urial_prompt(talk(rng, [*styles, 0]), prefix=BLANK)
    return whole[: whole.rindex("\n# Query:", 0, whole.rindex("\n# Query:"))]


QUERY, ANSWER, CLOSING = f"\n# Query:\n{FENCE}\n", f"\n# Answer:\n{FENCE}\n", f"\n{FENCE}\n"


def layout_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A token per word and per piece of the layout."""
    pieces = [QUERY, ANSWER, CLOSING]
    words = ["<pad>", BLANK, *pieces, *QUERIES, *itertools.chain(*STYLES)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
    cut = Regex("|".join([*pieces, r"\S+"]))
    backend.pre_tokenizer = pre_tokenizers.Split(cut, "removed", invert=True)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


@pytest.fixture(scope="module")
def planted() -> LanguageModel:
    """A two-layer model of documents, three of four of which keep one style."""
    tokenizer = layout_tokenizer()
    rng = np.random.default_rng(0)
    documents = []
    for number in range(1024):
        styles = rng.integers(len(STYLES), size=4) if number % 4 == 0 else [rng.integers(4)] * 4
        text = urial_prompt(talk(rng, [*map(int, styles)]), prefix=BLANK)
        documents.append(tokenizer(text[: text.rindex(QUERY)])["input_ids"])
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=256, pad_token_id=0, bos_token_id=None,
        eos_token_id=None, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        rows = torch.tensor(documents)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(160):
            batch = rows[torch.arange(64) + 64 * (step % 16)]
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return LanguageModel(model, tokenizer, name="mostly one style per document")


def shares(lm: LanguageModel, prefix: str) -> np.ndarray:
    """The share of answers in each style, [4]."""
    chat = Urial(prefix=prefix).wrapped(lm)
    answers = chat.sample(QUERIES, n=20, max_new_tokens=1, seed=1)
    texts = [answer.text for several in answers for answer in several]
    return np.array([np.mean([text in style for text in texts]) for style in STYLES])


def test_three_examples_of_a_style_raise_its_share(planted: LanguageModel):
    before = shares(planted, BLANK)
    assert before.sum() > 0.9  # the model answers; without examples in any style
    for style in range(len(STYLES)):
        after = shares(planted, examples(np.random.default_rng(style), [style] * 3))
        assert after[style] - before[style] > 0.5


def test_shuffled_styles_raise_no_style(planted: LanguageModel):
    """Three examples of three styles, over all orders: none of the styles gains."""
    rng = np.random.default_rng(0)
    orders = list(itertools.permutations(range(len(STYLES)), 3))
    after = np.mean([shares(planted, examples(rng, [*order])) for order in orders], axis=0)
    assert (after - shares(planted, BLANK)).max() < 0.15


# 4. the prefix is read once, in a batch of unequal queries


def test_trunk_tokens_are_the_minimum(tiny_model_folder):
    lm = load(tiny_model_folder, device="cpu")
    step = Urial(prefix="Be kind to all of them. " * 4)
    chat, queries, steps = step.wrapped(lm), ["hi", "Who are you?", "And they?"], 5
    prefix = len(lm.encoder.prompt(step.words))
    rests = [len(step.prompt(query)) - len(step.words) for query in queries]  # a token is a byte
    lm.model.generation_config.eos_token_id = lm.tokenizer.eos_token = None
    lm.work.reset()
    for request in range(1, 4):
        chat.sample(queries, n=2, max_new_tokens=steps, seed=request)
        decoded = request * 2 * len(queries) * (steps - 1)
        assert lm.work.trunk_tokens == prefix + request * sum(rests) + decoded
