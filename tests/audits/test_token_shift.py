"""Token shift's edges: what counts as a token, what is refused, the picture."""

import json

import pandas as pd
import peft
import pytest
import torch

from tests.tiny_models import make_tiny, make_tokenizer
from trueup.audits.behaviour.token_shift import TokenShift
from trueup.audits.behaviour.token_shift_tables import by_position, tokens_of
from trueup.errors import UserError
from trueup.models import LanguageModel, load
from trueup.report.token_shift_picture import token_shift_curve

PROMPTS = [{"prompt": "Hello", "id": "a", "group": "x"}, {"prompt": "Who?", "id": "b"}]


def ending(lm: LanguageModel) -> LanguageModel:
    """The same model, which ends every answer at once."""
    with torch.no_grad():
        lm.model.lm_head.weight.zero_()
        lm.model.model.norm.weight.fill_(1.0)
    lm.model.lm_head = torch.nn.Linear(32, 260)
    with torch.no_grad():
        lm.model.lm_head.weight.zero_()
        lm.model.lm_head.bias.zero_()
        lm.model.lm_head.bias[lm.tokenizer.eos_token_id] = 9
    return lm


@pytest.fixture
def pair(tmp_path):
    return [load(make_tiny("llama", tmp_path / str(seed), seed=seed)) for seed in (0, 1)]


def test_items_hold_a_row_per_prompt_with_its_tokens(pair):
    audit = TokenShift(base=pair[0], max_new_tokens=6)
    items = audit.measure(pair[1], audit.probes(PROMPTS))
    assert items["id"].tolist() == ["a", "b"]
    assert items["tokens"].tolist() == [6, 6]
    assert [len(json.loads(text)) for text in items["ranks"]] == [6, 6]
    assert (items[["shifted", "marginal", "unshifted"]].sum(axis=1).round(12) == 1).all()
    assert list(audit.slices(items)) == ["all", "x"]


def test_messages_are_prompts(pair):
    audit = TokenShift(base=pair[0], max_new_tokens=2)
    rows = [{"prompt": [{"role": "user", "content": "Hi"}]}]
    assert audit.measure(pair[1], audit.probes(rows))["input"].tolist() == ["user: Hi"]


def test_an_answer_of_the_end_alone_has_no_numbers(pair):
    audit = TokenShift(base=pair[0], max_new_tokens=4)
    items = audit.measure(ending(pair[1]), audit.probes(PROMPTS))
    assert items["tokens"].tolist() == [0, 0]
    assert items["shifted"].isna().all()
    assert audit.estimate(items)[0].n == 0
    assert "2 answers have none" in audit.notes(items)[0]


def test_the_end_counts_where_asked(pair):
    audit = TokenShift(base=pair[0], max_new_tokens=4, count_end=True)
    items = audit.measure(ending(pair[1]), audit.probes(PROMPTS))
    assert items["tokens"].tolist() == [1, 1]


def test_the_base_may_be_a_folder(tmp_path, pair):
    folder = make_tiny("llama", tmp_path / "base", seed=0)
    audits = [TokenShift(base=each, max_new_tokens=3) for each in (str(folder), pair[0])]
    tables = [audit.measure(pair[1], audit.probes(PROMPTS)) for audit in audits]
    pd.testing.assert_frame_equal(*tables)


def test_an_adapter_names_its_own_base(tmp_path):
    folder = make_tiny("llama", tmp_path / "base", seed=0)
    lora = peft.get_peft_model(
        load(folder).model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    lora.peft_config["default"].base_model_name_or_path = str(folder)
    lora.save_pretrained(tmp_path / "adapter")
    make_tokenizer().save_pretrained(tmp_path / "adapter")
    audit = TokenShift(max_new_tokens=3)
    items = audit.measure(load(tmp_path / "adapter"), audit.probes(PROMPTS))
    assert items["unshifted"].tolist() == [1.0, 1.0]  # a new adapter changes nothing


def test_a_model_that_does_not_name_its_base_is_refused(pair):
    audit = TokenShift(max_new_tokens=3)
    with pytest.raises(UserError, match="does not say what it was tuned from; give base"):
        audit.measure(pair[1], audit.probes(PROMPTS))


def test_another_vocabulary_is_refused(pair):
    pair[0].tokenizer.add_tokens(["new"])
    audit = TokenShift(base=pair[0], max_new_tokens=2)
    with pytest.raises(UserError, match="must share one vocabulary, got 1 tokens that differ"):
        audit.measure(pair[1], audit.probes(PROMPTS))


def test_a_base_that_reads_less_is_told_by_how_much(pair):
    pair[0].tokenizer.model_max_length = 8
    audit = TokenShift(base=pair[0], max_new_tokens=6)
    with pytest.raises(UserError, match="prompt a with its answer has 12 tokens.*reads 8, 4 fewer"):
        audit.measure(pair[1], audit.probes(PROMPTS))


def test_an_empty_prompt_is_refused():
    with pytest.raises(UserError, match="row 2: 'prompt' is empty"):
        TokenShift(base="b").probes([{"prompt": "a"}, {"prompt": ""}])


@pytest.mark.parametrize("setting", ["max_new_tokens", "marginal"])
def test_settings_out_of_range_are_refused(setting: str):
    with pytest.raises(UserError, match=f"{setting} must be at least 1, got 0"):
        TokenShift(base="b", **{setting: 0})


def test_the_picture_shows_a_column_by_position(pair):
    audit = TokenShift(base=pair[0], max_new_tokens=6)
    items = audit.measure(pair[1], audit.probes(PROMPTS))
    assert len(tokens_of(items)) == 12
    picture = token_shift_curve(by_position(items), "kl", 350)
    assert picture.startswith("<svg")
    assert "KL(aligned || base) by position, 6 positions" in picture
