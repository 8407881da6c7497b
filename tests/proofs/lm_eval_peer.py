"""lm-evaluation-harness' task code, one file at a time; the test is skipped where it is missing."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def peer_of(task: str) -> ModuleType:
    """The task's `utils.py`, loaded without the rest of the harness."""
    package = importlib.util.find_spec("lm_eval")
    if package is None or package.origin is None:
        pytest.skip("lm-eval is not installed")
    file = Path(package.origin).parent / "tasks" / task / "utils.py"
    if not file.is_file():
        pytest.skip(f"lm-eval has no {file.name} for {task}")
    spec = importlib.util.spec_from_file_location(f"lm_eval_{task}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
