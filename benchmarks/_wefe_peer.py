"""One WEAT by wefe, from vectors on stdin; runs in wefe's own environment, see audits.py."""

import json
import logging
import sys
import time
import warnings

import numpy as np

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

from gensim.models import KeyedVectors  # noqa: E402
from wefe.metrics import WEAT  # noqa: E402
from wefe.query import Query  # noqa: E402
from wefe.word_embedding_model import WordEmbeddingModel  # noqa: E402


def main() -> None:
    """Read sets of vectors, print seconds, effect size and p."""
    asked = json.load(sys.stdin)
    sets = [np.array(part, dtype=np.float64) for part in asked["sets"]]
    names = [
        [f"w{number}x{index}" for index in range(len(part))] for number, part in enumerate(sets)
    ]
    vectors = KeyedVectors(sets[0].shape[1], dtype=np.float64)
    vectors.add_vectors([name for part in names for name in part], np.concatenate(sets))
    model = WordEmbeddingModel(vectors, "bench")
    query = Query(names[:2], names[2:], ["x", "y"], ["a", "b"])
    started = time.perf_counter()
    found = WEAT().run_query(
        query,
        model,
        calculate_p_value=True,
        p_value_method="approximate",
        p_value_iterations=asked["partitions"],
    )
    seconds = time.perf_counter() - started
    result = {
        "seconds": seconds,
        "effect_size": float(found["effect_size"]),
        "p_value": float(found["p_value"]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
