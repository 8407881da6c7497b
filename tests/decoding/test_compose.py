"""Chains of decoders: their order, their settings, what passes through them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch

from trueup.data.messages import Prompt
from trueup.decoding import DECODERS, decoder_class
from trueup.decoding.best_of_n import BestOfN
from trueup.decoding.compose import Chain, compose
from trueup.decoding.deal import DeAL
from trueup.decoding.pine import Pine
from trueup.decoding.plain import PlainSearch
from trueup.decoding.prompt_defense import PromptDefense
from trueup.decoding.protocol import DecoderNeeds, Request
from trueup.decoding.rewards import rewards_by_name
from trueup.decoding.urial import Urial
from trueup.errors import UserError
from trueup.models.language_model import LanguageModel
from trueup.models.loading import load
from trueup.models.reward import words
from trueup.models.sampling import Sampling
from trueup.models.writer import Writer

SAMPLING = Sampling(max_new_tokens=6, seed=3)
PREFIX = "Be brief. "


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A step that puts a mark before every prompt, and before every answer."""

    mark: str = ">"
    name: ClassVar[str] = "marked"
    role: ClassVar[Literal["prompt"]] = "prompt"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds()

    def prepare(self, prompts: Sequence[Prompt], writer: Writer) -> list[Prompt]:
        return [f"{self.mark}{prompt}" for prompt in prompts]

    def finish(self, text: str) -> str:
        return f"{self.mark}{text}"


@dataclass(frozen=True, kw_only=True)
class Louder(Marked):
    """Another one."""

    mark: str = "!"
    name: ClassVar[str] = "louder"


@dataclass(frozen=True, kw_only=True)
class Zeroed:
    """An edit that sets the head to zero, so that all tokens are alike."""

    name: ClassVar[str] = "zeroed"
    role: ClassVar[Literal["edit"]] = "edit"
    needs: ClassVar[DecoderNeeds] = DecoderNeeds(white_box=True)

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[None]:
        head = lm.model.get_output_embeddings().weight
        kept = head.detach().clone()
        with torch.no_grad():
            head.zero_()
            yield
            head.copy_(kept)


@pytest.fixture(scope="module")
def lm64(tiny_model_folder: Path) -> LanguageModel:
    return load(tiny_model_folder, device="cpu", dtype="float64")


class Elsewhere:
    """A model behind a server."""

    def sample(self, prompts: Sequence[Prompt], **settings: object) -> list[list[object]]:
        raise AssertionError


def decoded(chain: Chain, lm: LanguageModel, prompts: Sequence[Prompt], **more: object):
    request = Request(sampling=SAMPLING, **more)
    with chain.applied(lm):
        return chain.decode(chain.writer(lm), prompts, request)


def test_names_are_those_of_the_classes():
    assert {name: cls.name for name, cls in DECODERS.items()} == {name: name for name in DECODERS}
    with pytest.raises(UserError, match="no decoder 'dealt'; did you mean 'deal'"):
        decoder_class("dealt")


def test_sampling_is_the_models_own(lm64: LanguageModel):
    found = decoded(compose("sample"), lm64, ["a", "b"])
    expected = lm64.sample(["a", "b"], max_new_tokens=6, seed=3)
    assert [one[0].text for one in found] == [one[0].text for one in expected]
    assert [one[0].logps for one in found] == [tuple(one[0].logps) for one in expected]


def test_steps_are_taken_from_left_to_right_and_undone_from_right_to_left(lm64: LanguageModel):
    chain = Chain(parts=(Marked(), Louder()))
    assert chain.name == "marked+louder"
    [[one]] = decoded(chain, lm64, ["a"])
    [[plain]] = lm64.sample(["!>a"], max_new_tokens=6, seed=3)
    assert one.text == f">!{plain.text}"


def test_rewards_read_the_prompt_as_it_was_asked(lm64: LanguageModel):
    read: list[str] = []

    def noted(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        read.extend(prompts)
        return words(prompts, completions)

    for search in (BestOfN(candidates=2), DeAL(top_k=2, lookahead=2)):
        decoded(Chain(parts=(Marked(), search)), lm64, ["a", "b"], rewards={"noted": noted})
    assert set(read) == {"a", "b"}


def test_an_edit_is_there_for_the_search_and_gone_behind_it(lm64: LanguageModel):
    before = lm64.sample(["a"], max_new_tokens=6, seed=3)[0][0]
    [[one]] = decoded(Chain(parts=(Zeroed(),)), lm64, ["a"])
    vocabulary = lm64.model.get_output_embeddings().weight.shape[0]
    assert one.logps == pytest.approx([-torch.tensor(vocabulary).log().item()] * 6, abs=1e-6)
    assert lm64.sample(["a"], max_new_tokens=6, seed=3)[0][0] == before


@pytest.mark.parametrize(
    "search", [PlainSearch(), BestOfN(candidates=3), DeAL(top_k=2, lookahead=2)]
)
def test_a_prefix_of_all_prompts_is_read_once(lm64: LanguageModel, search):
    """As without keeping it, token for token, at the prefix's tokens less for all but one."""
    step, prompts = Urial(prefix=PREFIX), ["a", "b", "c"]
    rewards = {"words": words} if search.needs.rewards else {}
    request = Request(sampling=SAMPLING, rewards=rewards)
    chain = Chain(parts=(step, search))
    before = lm64.work.as_dict()["trunk_tokens"]
    whole = chain.decode(lm64, prompts, request)
    middle = lm64.work.as_dict()["trunk_tokens"]
    kept = chain.decode(chain.writer(lm64), prompts, request)
    after = lm64.work.as_dict()["trunk_tokens"]
    assert [[one.text for one in several] for several in kept] == [
        [one.text for one in several] for several in whole
    ]
    size = len(lm64.encoder.prompt(PREFIX))
    assert (middle - before) - (after - middle) == (len(prompts) - 1) * size


def test_settings_find_their_part():
    chain = compose("urial+deal", {"k": "1", "deal.top_k": "3", "lam": "0.5"})
    assert chain.settings()["urial"]["k"] == 1
    assert (chain.search.top_k, chain.search.lam) == (3, 0.5)
    guided = {"guide_align.k": "2", "library": "l", "encoder": "e", "urial.k": "0"}
    chain = compose("guide-align+urial", guided)
    assert [step.k for step in chain.steps] == [2, 0]


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("deal+best-of-n", {}, r"in this order; got deal \(search\), best-of-n \(search\)"),
        ("deal+urial", {}, r"in this order; got deal \(search\), urial \(prompt\)"),
        ("urial+urial", {}, "a decoder stands once in a chain"),
        ("urial+prompt-defense", {}, r"write prompt-defense\+urial"),
        ("guide-align", {}, "guide-align needs library, encoder; give --set library="),
        ("deal", {"lamb": 1}, "deal has no field 'lamb'; known: deal: lam"),
        ("urial+deal", {"urial.lam": 1}, "has no field 'urial.lam'"),
        ("urial+guide-align", {"k": 2, "library": "l", "encoder": "e"}, "say urial.k"),
        ("deal", {"lookahead": "far"}, "deal.lookahead must be a whole number"),
        ("", {}, "no decoder ''"),
    ],
)
def test_wrong_chains(name: str, settings: dict[str, object], said: str):
    with pytest.raises(UserError, match=said):
        compose(name, settings)


def test_files_are_told_by_their_content(tmp_path: Path):
    file = tmp_path / "v.safetensors"
    file.write_text("one")
    chain = compose("activation-steering", {"vector": str(file)})
    before = chain.files()
    assert list(before) == [str(file)]
    file.write_text("two")
    assert chain.files() != before
    assert compose("urial+deal").files() == {}


def test_instances_can_be_changed():
    chain = compose([PromptDefense(), BestOfN(candidates=4)], {"candidates": 8})
    assert (chain.name, chain.search.candidates) == ("prompt-defense+best-of-n", 8)
    assert compose(chain).parts == chain.parts


def test_rewards_are_those_that_the_search_reads():
    with pytest.raises(UserError, match="best-of-n needs a reward, got none"):
        compose("best-of-n").check_rewards({})
    with pytest.raises(UserError, match="sample reads no reward, got words"):
        compose("sample").check_rewards({"words": words})


@pytest.mark.parametrize("parts", [(DeAL(),), (Zeroed(),)])
def test_what_needs_the_model_itself_is_refused_elsewhere(parts):
    chain = Chain(parts=parts)
    with pytest.raises(UserError, match="needs the model itself, got one behind a server"):
        chain.check_model(Elsewhere())


def test_documents_go_through_no_step(lm64: LanguageModel):
    chain = Chain(parts=(Marked(), Pine()))
    assert (chain.reads, compose("sample").reads) == ("documents", "prompts")
    with pytest.raises(UserError, match="mark the documents in the text"):
        decoded(chain, lm64, [{"prefix": "", "docs": ["a", "b"], "suffix": "c"}])
    [[one]] = decoded(chain, lm64, ["<doc>a</doc><doc>b</doc>c"])
    [[same]] = decoded(Chain(parts=(Pine(),)), lm64, ["><doc>b</doc><doc>a</doc>c"])
    assert one.text == f">{same.text}"


def test_rewards_by_name(tmp_path):
    (tmp_path / "good.txt").write_text("good\n")
    found = rewards_by_name([f"tone=lexicon:{tmp_path / 'good.txt'}", "max-words:3", words])
    assert list(found) == ["tone", "max-words:3", "words"]
    assert found["tone"]([""], ["good day"]) == [1.0]
    assert rewards_by_name(None) == {}
    assert list(rewards_by_name("words")) == ["words"]
    with pytest.raises(UserError, match="reward words stands twice"):
        rewards_by_name(["words", "words"])
