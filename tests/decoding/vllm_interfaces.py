"""vLLM's two interfaces for logits processors: its own classes, or what they were in 0.33.0.

Neither CI nor a laptop has vLLM. `recorded` has the signatures that its classes had in the wheel of
0.33.0; `real` takes the classes themselves, from an installed vLLM, or from the folder in
TRUEUP_VLLM_SOURCE into which a wheel's files were taken out (no dependency of it is needed).
"""

import enum
import importlib
import importlib.util
import os
import sys
import types
from abc import ABC, abstractmethod
from collections import namedtuple
from pathlib import Path

import pytest

from trueup.decoding.vllm_processors import INTERFACES

BatchUpdate = namedtuple("BatchUpdate", ["batch_size", "removed", "added", "moved"])
Buffers = namedtuple("Buffers", ["all_token_ids", "prompt_len", "total_len"])
Context = namedtuple("Context", ["expanded_idx_mapping", "input_ids", "pos"])


class Moves(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


class RecordedV1(ABC):
    @classmethod
    def validate_params(cls, sampling_params):
        return None

    @abstractmethod
    def __init__(self, vllm_config, device, is_pin_memory): ...

    @abstractmethod
    def apply(self, logits): ...

    @abstractmethod
    def is_argmax_invariant(self): ...

    @abstractmethod
    def update_state(self, batch_update): ...


class RecordedV2(ABC):
    def __init__(self, vllm_config, req_states):
        return None

    @classmethod
    def validate_params(cls, sampling_params):
        return None

    def add_request(self, req_idx, sampling_params):
        return True

    def apply_staged_writes(self):
        return None

    @abstractmethod
    def apply(self, logits, ctx): ...


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """Put the recorded classes where vLLM has its own."""
    bases = [RecordedV1, RecordedV2]
    for name, base in zip(INTERFACES, bases, strict=True):
        module = types.ModuleType(name)
        module.LogitsProcessor = base
        monkeypatch.setitem(sys.modules, name, module)
    return bases


def real(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """vLLM's own classes; skips the test where there is no vLLM."""
    source = os.environ.get("TRUEUP_VLLM_SOURCE")
    if source:
        return [_loaded(Path(source), name, monkeypatch) for name in INTERFACES]
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("no vllm here, and TRUEUP_VLLM_SOURCE names no folder with its files")
    return [importlib.import_module(name).LogitsProcessor for name in INTERFACES]


def _loaded(source: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> type:
    """An interface's file alone, without the package around it."""
    parent = types.ModuleType("vllm")
    parent.SamplingParams = object
    monkeypatch.setitem(sys.modules, "vllm", parent)
    path = source.joinpath(*name.split("."), "interface.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module.LogitsProcessor
