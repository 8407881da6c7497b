"""The decoder pine: greedy, sampling, beams; batches; segments as users write them; errors."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch

from trueup.decoding.pine import Pine
from trueup.decoding.protocol import Request
from trueup.decoding.segments import Segments, segment_ids
from trueup.errors import UserError
from trueup.models import LanguageModel
from trueup.models.pine_state import SegmentIds
from trueup.models.sampling import Sampling

DOCS = ("One: red.\n", "Two: blue and green.\n", "Three.\n")
PROMPT = Segments(prefix="Facts:\n", docs=DOCS, suffix="Answer:")
GREEDY = Request(sampling=Sampling(temperature=0, max_new_tokens=12))
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def permuted(prompt: Segments) -> list[Segments]:
    return [
        Segments(prefix=prompt.prefix, docs=docs, suffix=prompt.suffix)
        for docs in itertools.permutations(prompt.docs)
    ]


def one_document(*texts: str) -> list[Segments]:
    return [Segments(docs=[text], suffix=" so") for text in texts]


def generated(lm: LanguageModel, prompt: Segments, **settings: object) -> list[list[int]]:
    """What transformers' own `generate` writes."""
    ids = segment_ids(lm.encoder, prompt, place="")
    flat = [*ids.prefix, *itertools.chain(*ids.docs), *ids.suffix]
    out = lm.model.generate(
        torch.tensor([flat]),
        attention_mask=torch.ones(1, len(flat), dtype=torch.long),
        do_sample=False,
        pad_token_id=0,
        **settings,
    )
    return [[token for token in row if token != 0] for row in out[:, len(flat) :].tolist()]


def test_greedy_on_one_document_is_transformers_own(tiny_llama: LanguageModel):
    prompts = one_document("The nurse", "An engineer said that he", "x")
    ours = Pine().decode(tiny_llama, prompts, GREEDY)
    for prompt, (only,) in zip(prompts, ours, strict=True):
        assert list(only.token_ids) == generated(tiny_llama, prompt, max_new_tokens=12)[0]


@pytest.mark.parametrize("width", [2, 4])
def test_beams_on_one_document_are_transformers_own(tiny_llama: LanguageModel, width: int):
    prompts = one_document("The nurse", "An engineer said that he")
    request = Request(sampling=Sampling(n=2, max_new_tokens=8))
    ours = Pine(beams=width).decode(tiny_llama, prompts, request)
    for prompt, beams in zip(prompts, ours, strict=True):
        theirs = generated(
            tiny_llama,
            prompt,
            max_new_tokens=8,
            num_beams=width,
            num_return_sequences=2,
            early_stopping="never",
        )
        assert [list(beam.token_ids) for beam in beams] == theirs
        assert beams[0].score == pytest.approx(np.mean(beams[0].logps))
        assert beams[0].score >= beams[1].score


@pytest.mark.parametrize("beams", [1, 3])
def test_permuted_documents_give_the_same_bits(tiny_llama: LanguageModel, beams: int):
    request = Request(sampling=Sampling(n=2, max_new_tokens=10, temperature=1.5 - beams / 2))
    told = [Pine(beams=beams).decode(tiny_llama, [each], request) for each in permuted(PROMPT)]
    assert all(each == told[0] for each in told)


def test_positions_from_the_input_depend_on_the_order(tiny_llama: LanguageModel):
    told = {
        Pine(order="input").decode(tiny_llama, [each], GREEDY)[0][0].text
        for each in permuted(PROMPT)
    }
    assert len(told) > 1


def test_reverse_is_another_answer(tiny_llama: LanguageModel):
    forward, reverse = (
        Pine(order=order).decode(tiny_llama, [PROMPT], GREEDY)[0][0].logps
        for order in ("importance", "reverse")
    )
    assert forward[0] != pytest.approx(reverse[0], abs=1e-3)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_batch_equals_one_by_one(tiny_llama: LanguageModel, beams: int):
    prompts = [PROMPT, Segments(docs=["a", "bb"], suffix="?"), *one_document("The nurse")]
    decoder, request = Pine(beams=beams), Request(sampling=Sampling(n=2, max_new_tokens=6, seed=3))
    together = decoder.decode(tiny_llama, prompts, request)
    for prompt, several in zip(prompts, together, strict=True):
        alone = decoder.decode(tiny_llama, [prompt], request)[0]
        assert [each.token_ids for each in alone] == [each.token_ids for each in several]


def test_first_tokens_follow_the_invariant_distribution(tiny_llama: LanguageModel):
    """Chi-square of 2,000 first tokens against the state's own log-probabilities; seed fixed."""
    request = Request(sampling=Sampling(n=2000, max_new_tokens=1, seed=1))
    drawn = Pine().decode(tiny_llama, [PROMPT], request)[0]
    observed = np.bincount([each.token_ids[0] for each in drawn], minlength=260)
    logps = {each.token_ids[0]: each.logps[0] for each in drawn}
    common = [token for token in logps if np.exp(logps[token]) * 2000 >= 5]
    expected = 2000 * np.exp([logps[token] for token in common])
    counts = np.append(observed[common], 2000 - observed[common].sum())
    expected = np.append(expected, 2000 - expected.sum())
    assert scipy.stats.chisquare(counts, expected).pvalue > 0.01


def test_no_token_is_read_twice(tiny_llama: LanguageModel):
    prompts = [PROMPT, Segments(docs=["a", "bb"], suffix="?")]
    sizes = [len(segment_ids(tiny_llama.encoder, each, place="")) for each in prompts]
    for beams in (1, 3):
        tiny_llama.work.reset()
        request = Request(sampling=Sampling(n=3, max_new_tokens=5))
        found = Pine(beams=beams).decode(tiny_llama, prompts, request)
        assert all(each.reason == "length" for several in found for each in several)
        assert tiny_llama.work.trunk_tokens == sum(sizes) + 2 * 3 * 4
        # the first step needs a head row per prompt, the other four one per row
        assert tiny_llama.work.head_rows == 2 + 2 * 3 * 4


def test_a_question_more_costs_its_own_tokens(tiny_llama: LanguageModel):
    questions = [Segments(prefix="Facts:\n", docs=DOCS, suffix=end) for end in ("A?", "Why?")]
    swapped = Segments(prefix="Facts:\n", docs=DOCS[::-1], suffix="Who?")
    tiny_llama.work.reset()
    Pine().decode(tiny_llama, [*questions, swapped], Request(sampling=Sampling(max_new_tokens=1)))
    context = 1 + len("Facts:\n") + len("".join(DOCS))  # bytes are tokens; one opens the text
    assert tiny_llama.work.trunk_tokens == context + len("A?") + len("Why?") + len("Who?")


@pytest.mark.parametrize(
    "prompt",
    [
        {"prefix": "Facts:\n", "docs": list(DOCS), "suffix": "Answer:", "id": 7},
        "Facts:\n" + "\n ".join(f"<doc>{doc}</doc>" for doc in DOCS) + "Answer:",
    ],
    ids=["row", "marks"],
)
def test_rows_and_marked_texts_are_the_same_prompt(tiny_llama: LanguageModel, prompt: object):
    expected = segment_ids(tiny_llama.encoder, PROMPT, place="")
    assert segment_ids(tiny_llama.encoder, prompt, place="") == expected


def test_messages_go_through_the_chat_template(
    tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tiny_llama.tokenizer, "chat_template", TEMPLATE)
    tokens = tiny_llama.encoder.tokens(["<user>Say: ", "<system>", "a", " which?<assistant>"])
    expected = SegmentIds(tuple(tokens[0]), (tuple(tokens[2]),) * 2, tuple(tokens[3]))
    marked = [{"role": "user", "content": "Say: <doc>a</doc><doc>a</doc> which?"}]
    assert segment_ids(tiny_llama.encoder, marked, place="") == expected
    turns = [{"role": "user", "content": "Say: "}]
    whole = Segments(prefix=turns, docs=["a", "a"], suffix=" which?")
    assert segment_ids(tiny_llama.encoder, whole, place="") == expected


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("no marks", "prompt 1: no document stands between <doc> and </doc>"),
        ("<doc>a</doc> and <doc>b</doc>?", "got 'and' after document 1"),
        ("<doc>a<doc>b</doc>?", "must stand in pairs, got 'a<doc>b'"),
        ("<doc>a</doc>", "prompt 1: nothing follows the documents"),
        ("<doc></doc>?", "prompt 1: document 1 has no tokens, got ''"),
        ({"docs": [], "suffix": "?"}, "prompt 1: docs must be a list of one text at least"),
        ({"docs": "text", "suffix": "?"}, "docs must be a list of one text at least, got 'text'"),
        ({"docs": ["a", ""], "suffix": "?"}, "document 2 of docs must be some text, got ''"),
        ({"docs": ["a"], "suffix": ""}, "suffix must say what follows the documents"),
        ({"prefix": "a"}, "'docs' is missing; pine reads prefix, docs and suffix, got 'prefix'"),
        (
            {"docs": ["a" * 300], "suffix": "?"},
            "but the model reads 256; shorten one of them by 58",
        ),
    ],
)
def test_wrong_prompts_say_what_is_wrong(tiny_llama: LanguageModel, prompt: object, message: str):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        Pine().decode(tiny_llama, [prompt], GREEDY)


def test_wrong_settings_are_refused(tiny_llama: LanguageModel):
    with pytest.raises(UserError, match="order must be one of importance, reverse, input"):
        Pine(order="best")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="beams must be at least 1, got 0"):
        Pine(beams=0)
    with pytest.raises(UserError, match="n must be at most beams, got n=3 and beams=2"):
        Pine(beams=2).decode(tiny_llama, [PROMPT], Request(sampling=Sampling(n=3)))
    with pytest.raises(UserError, match="beams know no stop strings"):
        Pine(beams=2).decode(tiny_llama, [PROMPT], Request(sampling=Sampling(stop=("x",))))


def test_a_short_window_is_told(tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiny_llama.model.config, "sliding_window", 20, raising=False)
    with pytest.raises(UserError, match="but its layers look back by 20; shorten"):
        Pine().decode(tiny_llama, [PROMPT], GREEDY)
