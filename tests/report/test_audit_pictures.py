"""An audit's own pictures stand in its report, with the numbers behind them."""

from pathlib import Path

import trueup
from tests.tiny_models import make_tiny
from trueup.audits import TokenShift
from trueup.models import LanguageModel
from trueup.report.audit_pictures import audit_pictures
from trueup.runs import Run


def test_token_shift_shows_its_numbers_by_position(tiny_llama: LanguageModel, tmp_path: Path):
    make_tiny("llama", tmp_path / "base", seed=3)
    audit = TokenShift(base=str(tmp_path / "base"), max_new_tokens=5)
    prompts = [{"prompt": "Why?"}, {"prompt": "How so?"}]
    trueup.audit(tiny_llama, [audit], data=prompts, out=tmp_path / "run")
    [found] = audit_pictures(Run.open(tmp_path / "run"))
    assert found["name"] == "token-shift"
    assert len(found["pictures"]) == 3
    [table] = found["tables"]
    assert [row[0] for row in table["rows"]] == ["1", "2", "3", "4", "5"]
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Pictures of token-shift" in page
    assert page.count(", by position in the answer</figcaption><svg") == 3


def test_an_audit_without_pictures_has_no_section(tiny_llama: LanguageModel, tmp_path: Path):
    rows = [{"text": "Why so?"}] * 3
    trueup.audit(tiny_llama, ["perplexity"], data=rows, out=tmp_path / "run")
    assert audit_pictures(Run.open(tmp_path / "run")) == []
    assert "Pictures of" not in (tmp_path / "run" / "report.html").read_text("utf-8")
