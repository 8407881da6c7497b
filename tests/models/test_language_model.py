"""Encoding with exact boundaries, scores, fingerprints, hidden states, loading."""

import logging
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.tiny_models import make_tiny, make_tokenizer
from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.models.encoding import Encoder


def merging_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Words of a, b and the merge ab, so that 'a' + 'b' straddles the boundary."""
    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "</s>": 3}, merges=[("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.Sequence([])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def test_boundary_is_exact_and_a_straddling_token_is_reported(caplog: pytest.LogCaptureFixture):
    encoder = Encoder(merging_tokenizer())
    with caplog.at_level(logging.WARNING, logger="trueup"):
        group = encoder.groups(["ba"], [["b", "a"]])[0]
        encoder.groups(["ba"], [["b"]])
    assert group.prompt == [1, 0]
    assert group.completions == [[1], [0]]
    assert encoder.joint_differs == 2
    assert len(caplog.records) == 1


def test_eos_ends_a_completion_once(tiny_llama: LanguageModel):
    group = tiny_llama.encode("a", ["b", "c</s>"], add_eos=True)
    assert [part[-1] for part in group.completions] == [2, 2]
    assert [len(part) for part in group.completions] == [2, 2]


def test_messages_go_through_the_chat_template():
    tokenizer = make_tokenizer(add_bos=False)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    encoder = Encoder(tokenizer)
    turns = [{"role": "user", "content": "hi"}]
    assert encoder.prompt_text(turns) == "[user]hi[assistant]"
    answer = [{"role": "assistant", "content": "yes"}]
    assert encoder.completion_text(turns, answer) == "yes"


def test_messages_without_a_template_become_plain_turns(tiny_llama: LanguageModel):
    turns = [{"role": "user", "content": "hi"}]
    assert tiny_llama.encoder.prompt_text(turns) == "\n\nHuman: hi\n\nAssistant:"
    assert tiny_llama.encoder.completion_text(turns, "yes") == " yes"


def test_empty_completion_is_refused(tiny_llama: LanguageModel):
    with pytest.raises(UserError, match="completion of prompt 2 is empty"):
        tiny_llama.score(["a", "b"], [["c"], [""]])


def test_too_long_a_prompt_is_one_clear_line(tiny_llama: LanguageModel):
    with pytest.raises(UserError, match="prompt 2 with its completion has 302 tokens"):
        tiny_llama.score(["a", "b" * 300], [["c"], ["d"]])


def test_text_logps_equal_a_whole_pass(tiny_llama: LanguageModel):
    text = "The nurse said"
    ids = tiny_llama.tokenizer(text, return_tensors="pt").input_ids  # starts with BOS
    logits = tiny_llama.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    expected = logits.gather(1, ids[0, 1:, None]).sum().item()
    assert tiny_llama.text_logps([text])[0] == pytest.approx(expected, abs=1e-4)
    assert tiny_llama.text_logps([(text, "x"), ("y", text)]).shape == (2, 2)


def test_scores_sum_their_tokens(tiny_llama: LanguageModel):
    scores = tiny_llama.score(["ab"], [["cd", "e"]])
    assert scores.lengths == [[2, 1]]
    assert scores.logps[0][0] == pytest.approx(float(scores.token_logps[0][0].sum()))


def test_hidden_states_feed_the_head(tiny_llama: LanguageModel):
    states = tiny_llama.hidden_states(["abc"])[0]
    assert states.shape == (3, 4, 32)  # embedding and two layers; BOS and three bytes
    ids = tiny_llama.tokenizer("abc", return_tensors="pt").input_ids
    logits = tiny_llama.model.lm_head(states[-1])
    torch.testing.assert_close(logits, tiny_llama.model(ids).logits[0], atol=1e-5, rtol=0)
    assert tiny_llama.hidden_states(["abc"], layers=[-1])[0].shape == (1, 4, 32)


def test_fingerprint_changes_with_anything_that_changes_answers(tmp_path: Path):
    first = load(make_tiny("llama", tmp_path / "a"))
    same = load(make_tiny("llama", tmp_path / "b"))
    assert first.fingerprint == same.fingerprint  # content, not place
    other = load(make_tiny("llama", tmp_path / "c", seed=1))
    assert other.fingerprint != first.fingerprint
    before = first.fingerprint
    with torch.no_grad():
        first.model.lm_head.weight[0, 0] += 1e-3
    assert first.fingerprint != before
    same.tokenizer.chat_template = "{{ messages }}"
    assert same.fingerprint != before
    bare = load(make_tiny("llama", tmp_path / "d", add_bos=False))
    assert bare.fingerprint != before


def test_adapter_is_loaded_and_fingerprinted(tmp_path: Path):
    folder = make_tiny("llama", tmp_path / "base")
    base = load(folder)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(load(folder).model, config)
    wrapped.save_pretrained(tmp_path / "adapter")
    adapted = load(folder, adapter=tmp_path / "adapter")
    assert adapted.fingerprint != base.fingerprint
    ids = torch.tensor([[1, 50, 51, 52]])
    expected = wrapped(input_ids=ids).logits[0].log_softmax(-1)[1, 51].item()
    group = [type(base.encode("a", ["b"]))([1, 50], [[51]])]
    assert adapted.score_groups(group)[0][0][0] == pytest.approx(expected, abs=1e-5)
    with adapted.model.disable_adapter():
        plain = adapted.score_groups(group)[0][0][0]
    assert plain == pytest.approx(base.score_groups(group)[0][0][0], abs=1e-6)
    base.tokenizer.save_pretrained(tmp_path / "adapter")
    alone = load(tmp_path / "adapter")  # an adapter folder names its own base
    assert alone.score_groups(group)[0][0][0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "none", "no such model folder"),
        (lambda p: p, "no config.json"),
    ],
)
def test_missing_models_are_one_clear_line(make, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message) as caught:
        load(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tmp_path: Path):
    folder = make_tiny("llama", tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load(folder)


def test_saved_model_scores_the_same(tiny_llama: LanguageModel, tmp_path: Path):
    tiny_llama.save(tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.fingerprint == tiny_llama.fingerprint
    np.testing.assert_array_equal(again.text_logps(["abc"]), tiny_llama.text_logps(["abc"]))
