import pytest

from trueup.redaction import redacted


@pytest.mark.parametrize(
    "name",
    ["api_key", "OPENAI_API_KEY", "key", "hf_token", "Authorization", "db-password", "secret"],
)
def test_a_text_under_a_secret_name_is_hidden(name: str) -> None:
    assert redacted({"a": [{name: "canary"}]}) == {"a": [{name: "***"}]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token_budget", 8192),
        ("token_budget", "8192"),
        ("max_new_tokens", "64"),
        ("tokenizer", "gpt2"),
        ("monkey", "x"),
        ("key", 3),
    ],
)
def test_settings_that_only_sound_like_secrets_stay(name: str, value: object) -> None:
    assert redacted({name: value}) == {name: value}


@pytest.mark.parametrize("variable", ["CANARY_API_KEY", "CANARY_TOKEN", "MY_SECRET", "DB_PASSWORD"])
def test_a_value_of_the_environment_is_hidden_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "canary-7f3a91")
    value = {"url": "http://h/v1?x=canary-7f3a91&y=1", "list": ("canary-7f3a91",)}
    assert redacted(value) == {"url": "http://h/v1?x=***&y=1", "list": ["***"]}


def test_a_short_value_of_the_environment_is_not_cut_out_of_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "age")
    assert redacted(["age", "language"]) == ["***", "language"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:pw@host/v1", "https://***@host/v1"),
        ("https://host/v1?api_key=abc&model=m", "https://host/v1?api_key=***&model=m"),
        ("Bearer abc.def", "Bearer ***"),
        ("sk-abcdefghijklmnopqrstuvwx", "***"),
        ("hf-internal-testing/tiny-gpt2", "hf-internal-testing/tiny-gpt2"),
    ],
)
def test_what_is_shaped_like_a_secret_is_hidden(text: str, clean: str) -> None:
    assert redacted(text) == clean


def test_what_json_does_not_know_becomes_its_text() -> None:
    assert redacted({"dtype": complex(1, 2), "nan": float("nan")}) == {
        "dtype": "(1+2j)",
        "nan": None,
    }
