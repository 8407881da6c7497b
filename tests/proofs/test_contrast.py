"""Contrast: the sheets' vectors and identities, limits, its peer in transformers, a planted lean.

Reference vectors are those of sheets 20 and 48; weights are float64 where tokens are compared.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import transformers

from tests.decoding.slow_search import next_logprobs
from tests.decoding.table_model import table_lm
from tests.tiny_models import make_config, make_tiny, make_tokenizer
from trueup.decoding.contrast import Contrast, contrast_scores
from trueup.decoding.protocol import Request
from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.models.sampling import Sampling

INF = math.inf
L = torch.tensor([2, 1.5, 0.5, -1, -3], dtype=torch.float64)
L2 = torch.tensor([2.5, 0.5, 0, -4, -3], dtype=torch.float64)
PROMPTS = ["The nurse said", "A", "He went to the house near", "x y"]
NEGATIVE = "Say it badly: "


def run(contrast: Contrast, lm: LanguageModel, prompts, **sampling):
    sampling = {"max_new_tokens": 7, **sampling}
    return contrast.decode(lm, prompts, Request(sampling=Sampling(**sampling)))


def tokens(contrast: Contrast, lm: LanguageModel, prompts=PROMPTS, **sampling):
    found = run(contrast, lm, prompts, **{"temperature": 0, **sampling})
    return [[list(one.token_ids) for one in several] for several in found]


def sampled(lm: LanguageModel, prompts=PROMPTS, **sampling):
    sampling = {"max_new_tokens": 7, **sampling}
    return [[one.token_ids for one in several] for several in lm.sample(prompts, **sampling)]


@pytest.fixture(scope="module")
def exact(tiny_model_folder) -> LanguageModel:
    return load(tiny_model_folder, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> LanguageModel:
    folder = make_tiny("gpt2", tmp_path_factory.mktemp("amateur") / "gpt2", seed=9)
    return load(folder, device="cpu", dtype="float64")


# 1. The sheets' vectors and identities.


@pytest.mark.parametrize(
    ("alpha", "beta", "scores", "probabilities"),
    [
        (1, 0.1, [1.5, 2.5, 1, -INF, -INF], [0.2312239, 0.62853172, 0.14024438, 0, 0]),
        (0.5, 0.1, [1.75, 2, 0.75, -INF, -INF], [0.37708743, 0.48418985, 0.13872271, 0, 0]),
        (1, 0, [1.5, 2.5, 1, 2, -3], [0.16709435, 0.45420954, 0.10134785, 0.27549201, 0.00185625]),
        (0.5, 0, [1.75, 2, 0.75, 0.5, -3], None),
        (
            0,
            0,
            [2, 1.5, 0.5, -1, -3],
            [0.53017045, 0.32156464, 0.11829702, 0.026395633, 0.0035722604],
        ),
    ],
)
def test_vectors_of_the_sheets(alpha, beta, scores, probabilities):
    found = contrast_scores(L, L2, alpha=alpha, beta=beta)
    assert found.tolist() == pytest.approx(scores, abs=1e-12)
    if probabilities is not None:
        assert found.softmax(-1).tolist() == pytest.approx(probabilities, abs=1e-8)


def test_a_constant_added_to_a_branch_changes_no_probability():
    """So logits and log-probabilities are one thing here."""
    plain = contrast_scores(L, L2, alpha=1.3, beta=0.1).softmax(-1)
    for first, second in ((L + 5, L2), (L, L2 - 7), (L.log_softmax(-1), L2.log_softmax(-1))):
        moved = contrast_scores(first, second, alpha=1.3, beta=0.1).softmax(-1)
        torch.testing.assert_close(moved, plain, atol=1e-12, rtol=0)


def test_a_second_branch_that_says_the_same_leaves_what_is_plausible():
    for alpha, beta in itertools.product((-0.5, 0.5, 3.0), (0.0, 0.1, 0.5)):
        found = contrast_scores(L, L + 2, alpha=alpha, beta=beta).softmax(-1)
        kept = L.softmax(-1) >= beta * L.softmax(-1).max()
        expected = L.softmax(-1) * kept / (L.softmax(-1) * kept).sum()
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_kept_tokens_depend_on_the_first_branch_alone(rng):
    logps = torch.tensor(rng.normal(size=(50, 12))).log_softmax(-1)
    expected = logps.exp() >= 0.2 * logps.exp().amax(-1, keepdim=True)
    for alpha in (-1.0, 0.0, 2.0):
        others = torch.tensor(rng.normal(size=(50, 12)))
        found = contrast_scores(logps, others, alpha=alpha, beta=0.2)
        assert torch.equal(found > -INF, expected)


def test_guidance_is_the_second_branch_and_s_times_the_difference():
    for s in (0.0, 1.0, 2.5):
        expected = L2 + s * (L - L2)
        found = contrast_scores(L, L2, alpha=s - 1, beta=0)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_difference_is_expert_minus_amateur_at_its_temperature():
    amateur = (L2 / 0.5).log_softmax(-1)
    found = contrast_scores(L, L2, alpha=1, beta=0.1, form="difference", temperature=0.5)
    assert found[:3].tolist() == pytest.approx((L - amateur)[:3].tolist(), abs=1e-12)
    assert found[3:].tolist() == [-INF, -INF]


def test_tokens_ruled_out_by_a_branch_give_no_nan():
    first = torch.tensor([0.0, -1, -INF, -INF])
    second = torch.tensor([0.0, -INF, -1, -INF])
    for alpha in (-1.0, 0.0, 1.0, 5.0):
        found = contrast_scores(first, second, alpha=alpha, beta=0).softmax(-1)
        assert not found.isnan().any()
        assert found[2:].tolist() == [0, 0]
    assert contrast_scores(first, second, alpha=1, beta=0).argmax() == 1


def test_an_amateur_of_another_width_counts_as_far_as_both_have_tokens():
    narrow = contrast_scores(L, L2[:3], alpha=1, beta=0)
    assert narrow[:3].tolist() == [1.5, 2.5, 1]
    assert narrow[3:].tolist() == [-INF, -INF]
    wide = torch.cat([L2, torch.tensor([9.0])])
    assert torch.equal(
        contrast_scores(L, wide, alpha=1, beta=0), contrast_scores(L, L2, alpha=1, beta=0)
    )


# 2. Limits of the decoder.


def test_alpha_zero_is_plain_generation_token_for_token(exact):
    plain = Contrast(alpha=0, beta=0, negative_prompt=NEGATIVE)
    assert tokens(plain, exact) == sampled(exact, temperature=0)
    drawn = {"temperature": 0.8, "top_p": 0.9, "n": 3, "seed": 4}
    assert tokens(plain, exact, **drawn) == sampled(exact, **drawn)


def test_log_probabilities_are_the_first_branch_s_own(exact):
    found = run(Contrast(alpha=2, beta=0.1, negative_prompt=NEGATIVE), exact, PROMPTS, n=2)
    ids = [exact.encoder.prompt(prompt) for prompt in PROMPTS]
    for prompt, several in zip(ids, found, strict=True):
        for one in several:
            group = type(exact.encode("a", ["b"]))(prompt, [list(one.token_ids)])
            scored = exact.score_groups([group])[0][0]
            np.testing.assert_allclose(one.logps, scored, atol=2e-6)


def test_scale_zero_is_the_second_branch(exact, other):
    negative = Contrast(alpha=-1, beta=0, negative_prompt=NEGATIVE)
    expected = sampled(exact, [NEGATIVE] * len(PROMPTS), temperature=0)
    assert tokens(negative, exact) == expected
    amateur = Contrast(alpha=-1, beta=0, amateur=other)
    assert tokens(amateur, exact) == sampled(other, temperature=0)


def test_beta_one_is_greedy_whatever_is_drawn(exact):
    found = tokens(Contrast(beta=1, alpha=3), exact, temperature=1.0, n=4)
    greedy = sampled(exact, temperature=0)
    assert found == [several * 4 for several in greedy]


def slow(lm, second_lm, first, second, contrast, count) -> list[int]:
    """Greedy contrast that re-reads both texts for every token."""
    found: list[int] = []
    while len(found) < count and (not found or found[-1] != lm.tokenizer.eos_token_id):
        logps = next_logprobs(lm, first + found).numpy()
        others = next_logprobs(second_lm, second + found).numpy() / contrast.amateur_temperature
        others = scipy.special.log_softmax(others)
        own = 1 + contrast.alpha if contrast.form == "guidance" else 1
        scores = own * logps - contrast.alpha * others
        scores[logps < np.log(max(contrast.beta, 1e-300)) + logps.max()] = -INF
        found.append(int(scores.argmax()))
    return found


@pytest.mark.parametrize(
    "contrast",
    [
        Contrast(),
        Contrast(alpha=1.5, beta=0.02, negative_prompt=NEGATIVE),
        Contrast(alpha=0.7, beta=0, negative_prompt="Badly: {prompt}"),
    ],
    ids=["empty", "negative", "around"],
)
def test_cached_is_uncached_token_for_token(exact, contrast):
    found = tokens(contrast, exact, max_new_tokens=10)
    for prompt, [ids] in zip(PROMPTS, found, strict=True):
        text = contrast.negative_prompt.replace("{prompt}", prompt)
        branches = exact.encoder.prompt(prompt), exact.encoder.prompt(text)
        assert ids == slow(exact, exact, *branches, contrast, 10)


@pytest.mark.parametrize("form", ["guidance", "difference"])
def test_cached_amateur_is_uncached_token_for_token(exact, other, form):
    contrast = Contrast(amateur=other, form=form, beta=0.05, amateur_temperature=0.5)
    found = tokens(contrast, exact, max_new_tokens=10)
    assert found != sampled(exact, temperature=0, max_new_tokens=10)
    for prompt, [ids] in zip(PROMPTS, found, strict=True):
        start = exact.encoder.prompt(prompt)
        assert ids == slow(exact, other, start, start, contrast, 10)


@pytest.mark.parametrize("scale", [0.5, 1.5, 3.0])
def test_guidance_is_that_of_transformers(exact, scale):
    contrast = Contrast(alpha=scale - 1, beta=0, negative_prompt=NEGATIVE)
    negative = torch.tensor([exact.encoder.prompt(NEGATIVE)])
    for prompt, [ids] in zip(PROMPTS, tokens(contrast, exact), strict=True):
        start = torch.tensor([exact.encoder.prompt(prompt)])
        peer = exact.model.generate(
            start,
            guidance_scale=scale,
            negative_prompt_ids=negative,
            do_sample=False,
            max_new_tokens=7,
            pad_token_id=0,
        )
        assert ids == peer[0, start.shape[1] :].tolist()


# 3. What the second branch reads.

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who came?"}]


def second_text(contrast: Contrast, lm: LanguageModel, prompt) -> str:
    ((_, second),) = contrast.branches(lm, [prompt])
    return lm.tokenizer.decode(second, skip_special_tokens=True)


def test_the_second_prompt_by_what_it_lacks(exact):
    cases = [
        (Contrast(), "Who came?", ""),
        (Contrast(negative_prompt="No."), "Who came?", "No."),
        (Contrast(), CHAT, ""),
        (Contrast(negative_prompt="No."), CHAT, "\n\nHuman: No.\n\nAssistant:"),
        (Contrast(without="system"), CHAT, "\n\nHuman: Who came?\n\nAssistant:"),
        (
            Contrast(without="system", negative_prompt="Be cruel."),
            CHAT,
            "\n\nSystem: Be cruel.\n\nHuman: Who came?\n\nAssistant:",
        ),
        (
            Contrast(negative_prompt="Lie! {prompt}"),
            CHAT,
            "\n\nSystem: Be kind.\n\nHuman: Lie! Who came?\n\nAssistant:",
        ),
        (Contrast(without="context"), "Read: <doc>Ann came.</doc> Who came?", "Read:  Who came?"),
        (
            Contrast(without="context", negative_prompt="Nothing."),
            {"prefix": "Read: ", "docs": ["Ann came.", "Bob left."], "suffix": " Who came?"},
            "Read: Nothing. Who came?",
        ),
    ]
    for contrast, prompt, expected in cases:
        assert second_text(contrast, exact, prompt) == expected


def test_the_first_branch_reads_the_documents(exact):
    contrast = Contrast(without="context", beta=0, alpha=0)
    marked = "Read: <doc>Ann came.</doc> <doc>Bob left.</doc> Who came?"
    bare = "Read: Ann came.Bob left. Who came?"
    assert tokens(contrast, exact, [marked]) == sampled(exact, [bare], temperature=0)


# 4. Work, batches, seeds.


def test_each_token_of_each_branch_is_read_once_in_one_pass_per_step(exact):
    """Trunk tokens and head rows are the minimum; equal second prompts are one."""
    passes = []
    hook = exact.model.base_model.register_forward_hook(lambda *_: passes.append(1))
    exact.work.reset()
    contrast = Contrast(negative_prompt=NEGATIVE, beta=0, alpha=0.2)
    found = run(contrast, exact, PROMPTS, n=3, seed=1, max_new_tokens=5)
    hook.remove()
    assert {one.reason for several in found for one in several} == {"length"}
    firsts = sum(len(exact.encoder.prompt(prompt)) for prompt in PROMPTS)
    second = len(exact.encoder.prompt(NEGATIVE))
    rows = 3 * len(PROMPTS)
    assert exact.work.trunk_tokens == firsts + second + 2 * rows * 4
    assert exact.work.head_rows == len(PROMPTS) + 1 + 2 * rows * 4
    assert len(passes) == 2 + 4


def test_an_amateur_reads_what_the_model_reads(exact, other):
    exact.work.reset()
    other.work.reset()
    found = run(Contrast(amateur=other, beta=0, alpha=0.2), exact, PROMPTS, max_new_tokens=5)
    assert {several[0].reason for several in found} == {"length"}
    firsts = sum(len(exact.encoder.prompt(prompt)) for prompt in PROMPTS)
    assert exact.work.trunk_tokens == other.work.trunk_tokens == firsts + 4 * len(PROMPTS)


@pytest.mark.parametrize("has_amateur", [False, True])
def test_same_seed_same_texts_in_any_order_and_batch(exact, other, has_amateur):
    contrast = Contrast(amateur=other if has_amateur else None, beta=0.01)
    drawn = {"n": 2, "seed": 7, "temperature": 1.0, "max_new_tokens": 12}
    together = tokens(contrast, exact, **drawn)
    assert tokens(contrast, exact, PROMPTS[::-1], **drawn) == together[::-1]
    alone = [tokens(contrast, exact, [prompt], **drawn)[0] for prompt in PROMPTS]
    assert alone == together
    assert tokens(contrast, exact, **{**drawn, "seed": 8}) != together


def test_rows_that_end_leave_both_branches(exact):
    """A stop string ends some rows early; the others go on as if alone."""
    contrast = Contrast(beta=0.01)
    drawn = {"n": 4, "seed": 3, "max_new_tokens": 16}
    free = run(contrast, exact, PROMPTS, **drawn)
    stop = free[0][0].text[3:5]
    found = run(contrast, exact, PROMPTS, stop=(stop,), **drawn)
    assert {one.reason for several in found for one in several} >= {"stop", "length"}
    for several, whole in zip(found, free, strict=True):
        assert [one.text for one in several] == [one.text.split(stop)[0] for one in whole]


# 5. Planted effects and their controls.


def test_a_known_prior_is_taken_out_exactly():
    """p = softmax(u + b) less b is softmax(u): 4,000 draws, chi-square p > 0.001; p is refused."""
    u, b = np.array([0.3, 0.9, -0.4, 0.1]), np.array([2.0, -1.0, 0.5, -0.5])
    leaning, prior = scipy.special.softmax(u + b), scipy.special.softmax(b)
    eos = np.full((5, 5), 0.2)

    def model(row: np.ndarray) -> LanguageModel:
        table = eos.copy()
        table[4] = [*row, 0]
        return table_lm(table, start="4", eos=None)

    contrast = Contrast(amateur=model(prior), form="difference", beta=0)
    counts = np.zeros(4)
    for seed in range(2):
        (found,) = run(contrast, model(leaning), ["4"], n=2000, max_new_tokens=1, seed=seed)
        counts += np.bincount([one.token_ids[0] for one in found], minlength=4)
    expected = counts.sum() * scipy.special.softmax(u)
    assert scipy.stats.chisquare(counts, expected).pvalue > 0.001
    assert scipy.stats.chisquare(counts, counts.sum() * leaning).pvalue < 1e-6


JOBS = ("nurse", "guard", "baker", "miner")
SHARES = {"": 0.7, "lean: ": 0.9, "calm: ": 0.7}  # how often "she" follows, by what stands before


@pytest.fixture(scope="module")
def leaning() -> LanguageModel:
    """A small Llama trained on texts whose pronouns lean, more so behind one opening."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(make_config("llama"))
        lm = LanguageModel(model, make_tokenizer(), name="leaning")
        she, he = first_tokens(lm)
        batches = []
        for opening, share in SHARES.items():
            rows = torch.tensor([lm.encoder.prompt(f"{opening}{job} ") for job in JOBS])
            batches.append((rows.repeat(16, 1), share))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        model.train()
        for _ in range(150):
            for rows, share in batches:
                is_she = torch.rand(len(rows)) < share
                ids = torch.cat([rows, torch.where(is_she, she, he)[:, None]], dim=1)
                model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    lm.model.eval()
    return lm


def first_tokens(lm: LanguageModel) -> tuple[int, int]:
    """The tokens that "she" and "he" begin with."""
    return lm.encoder.tokens(["she"])[0][0], lm.encoder.tokens(["he"])[0][0]


def she_share(lm: LanguageModel, contrast: Contrast) -> float:
    """The share of "she" after the bare jobs, 400 draws for each of four."""
    prompts = [f"{job} " for job in JOBS]
    found = run(contrast, lm, prompts, n=400, max_new_tokens=1, seed=5)
    texts = [one.text for several in found for one in several]
    return texts.count("s") / len(texts)


def said(lm: LanguageModel, opening: str) -> np.ndarray:
    """Log-probabilities of the next token after every job, [jobs, V]."""
    return lm.start([f"{opening}{job} " for job in JOBS]).logprobs.numpy()


PLAIN = Contrast(alpha=0, beta=0)


@pytest.mark.parametrize(("alpha", "least", "most"), [(1.0, -1, -0.15), (-0.9, 0.1, 1)])
def test_a_planted_lean_moves_as_the_formula_says(leaning, alpha, least, most):
    """1,600 draws, so that 0.05 is four standard errors; alpha below 0 amplifies the lean."""
    plain = she_share(leaning, PLAIN)
    assert plain == pytest.approx(0.7, abs=0.1)
    found = she_share(leaning, Contrast(alpha=alpha, beta=0, negative_prompt="lean: {prompt}"))
    scores = (1 + alpha) * said(leaning, "") - alpha * said(leaning, "lean: ")
    expected = scipy.special.softmax(scores, axis=1)[:, first_tokens(leaning)[0]].mean()
    assert found == pytest.approx(expected, abs=0.05)
    assert least < found - plain < most


def test_an_opening_without_a_lean_of_its_own_moves_nothing(leaning):
    """The negative control: the same alpha and a prompt as different, but no lean to take out."""
    calm = she_share(leaning, Contrast(alpha=1, beta=0, negative_prompt="calm: {prompt}"))
    assert calm == pytest.approx(she_share(leaning, PLAIN), abs=0.07)


def test_identical_branches_change_no_token(leaning):
    same = Contrast(alpha=1, beta=0, negative_prompt="{prompt}")
    assert she_share(leaning, same) == she_share(leaning, PLAIN)


def test_the_model_as_its_own_amateur_only_loses_implausible_tokens(exact):
    same = Contrast(amateur=exact, alpha=2, beta=0)
    drawn = {"n": 3, "seed": 2, "temperature": 1.0}
    assert tokens(same, exact, **drawn) == sampled(exact, **drawn)
    cut = run(Contrast(amateur=exact, alpha=2, beta=0.2), exact, PROMPTS, n=50, max_new_tokens=1)
    for prompt, several in zip(PROMPTS, cut, strict=True):
        likely = exact.start([prompt]).logprobs[0].exp()
        kept = set((likely >= 0.2 * likely.max()).nonzero()[:, 0].tolist())
        assert {one.token_ids[0] for one in several} <= kept
        assert len(kept) < len(likely)


# 6. Errors.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": -1.5}, "alpha must be at least -1, got -1.5"),
        ({"beta": 2.0}, "beta must lie between 0 and 1, got 2.0"),
        ({"form": "sum"}, "form must be one of guidance, difference, got 'sum'"),
        ({"without": "all"}, "without must be one of nothing, prompt, system, context, got 'all'"),
        ({"without": "nothing"}, "without must not be nothing where there is no amateur"),
        ({"amateur_temperature": 0.0}, "amateur_temperature must be above 0, got 0.0"),
        (
            {"amateur": "x", "negative_prompt": "No."},
            "negative_prompt has no place where the second branch lacks nothing, got 'No.'",
        ),
    ],
)
def test_a_bad_field_is_told(fields, message):
    with pytest.raises(UserError, match=message):
        Contrast(**fields)


def test_bad_prompts_and_models_are_told_in_one_line(exact, tmp_path):
    cases = [
        (Contrast(without="system"), ["a"], "prompt 1: has no system turn to contrast with"),
        (Contrast(without="context"), ["a"], "prompt 1: no document stands between <doc>"),
        (Contrast(negative_prompt="x" * 300), ["a"], "second branch, prompt 1: 52 tokens too long"),
        (Contrast(), ["x" * 300], "prompt 1: 52 tokens too long"),
        (
            Contrast(amateur=table_lm([[0.5, 0.5]] * 2, start="0", eos=None, name="numbers")),
            ["a"],
            "amateur numbers: has another vocabulary than .*; give one with the same tokenizer",
        ),
        (
            Contrast(without="context"),
            ["<doc>ab</doc> c", "<doc>a</doc>b c"],
            "prompt 2: reads as an earlier one and would be contrasted with another",
        ),
    ]
    for contrast, prompts, message in cases:
        with pytest.raises(UserError, match=message) as error:
            run(contrast, exact, prompts)
        assert "\n" not in str(error.value)


def test_an_empty_prompt_needs_an_opening_token():
    lm = table_lm([[0.5, 0.5]] * 2, start="0", eos=None)
    with pytest.raises(UserError, match="an empty prompt has no tokens"):
        run(Contrast(), lm, ["0"])


def test_an_amateur_may_be_named_by_its_folder(exact, tmp_path):
    folder = make_tiny("llama", tmp_path / "amateur", seed=3)
    named = tokens(Contrast(amateur=str(folder), beta=0.05), exact)
    given = load(folder, device="cpu")
    assert named == tokens(Contrast(amateur=given, beta=0.05), exact)
