"""The names that users may rely on; a change here is a change of the public contract."""

import inspect
import subprocess
import sys

import pytest

import trueup
from trueup.errors import UserError

NAMES = ["align", "audit", "compare", "connect", "generate", "load", "select"]
API_NAMES = ["AuditRun", "Comparison", "Generation", "align", "audit", "compare", "generate"]
KEYWORDS = {
    "load": [
        "path_or_id", "dtype", "device", "adapter", "heads", "trust_remote_code", "revision",
    ],
    "audit": [
        "model", "audits",
        "suite", "data", "out", "seed", "resume", "device", "dtype", "heads", "progress",
    ],
    "align": [
        "model", "objective", "data", "out", "eval_data", "reference", "reward", "teacher",
        "ref_teacher", "ranker", "scorers", "resume", "seed", "device", "dtype", "progress",
    ],
    "compare": ["before", "after", "out", "smallest"],
    "generate": [
        "model", "prompts", "out", "decoder", "reward", "n", "max_new_tokens", "temperature",
        "top_k", "top_p", "stop", "seed", "resume", "device", "dtype", "heads", "progress",
    ],
    "select": [
        "pool", "selector", "model", "keep", "out", "resume", "device", "dtype", "progress",
    ],
}  # fmt: skip


def test_top_level_is_these_names_and_no_more():
    assert sorted(trueup.__all__) == NAMES
    public = {name for name in dir(trueup) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(trueup, name))}
    assert public - modules - {"TYPE_CHECKING", "Any", "import_module"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_a_documented_function(name: str):
    function = getattr(trueup, name)
    assert inspect.isfunction(function)
    assert function.__doc__


@pytest.mark.parametrize("name", KEYWORDS)
def test_keywords(name: str):
    parameters = inspect.signature(getattr(trueup, name)).parameters.values()
    found = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    assert found == KEYWORDS[name]


def test_api_names():
    from trueup import api

    assert set(API_NAMES) <= set(dir(api))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'trueup' has no attribute 'nope'"):
        trueup.nope  # noqa: B018  # the access is the test


def test_select_refuses_a_selector_that_is_not_there_yet():
    with pytest.raises(UserError, match="no selector 'zip-fit'; known: ches"):
        trueup.select("pool.jsonl", "zip-fit", target="task.jsonl", keep=0.1)


def test_version_is_that_of_the_package():
    from importlib.metadata import version

    assert trueup.__version__ == version("trueup")


def test_import_is_light():
    code = "import sys, trueup; print(*({'torch', 'numpy', 'pandas', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
