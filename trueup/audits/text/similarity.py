"""How alike two texts are, as lists of words: 1 for the same, 0 for nothing in common."""

import math
from collections import Counter
from collections.abc import Sequence


def exact_match(a: Sequence[str], b: Sequence[str]) -> float:
    """1 where both are the same words in the same order, else 0."""
    return float(list(a) == list(b))


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F1 of the longest common subsequence, 2 L / (|a| + |b|); two empty texts are the same.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", with beta = 1.
    """
    if not a and not b:
        return 1.0
    return 2 * longest_common(a, b) / (len(a) + len(b))


def cosine(a: Sequence[str], b: Sequence[str]) -> float:
    """Cosine of the counts of words; two empty texts are the same."""
    if not a or not b:
        return float(not a and not b)
    first, second = Counter(a), Counter(b)
    product = sum(count * second[word] for word, count in first.items())
    squares = [sum(count**2 for count in counts.values()) for counts in (first, second)]
    return product / math.sqrt(squares[0] * squares[1])


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest subsequence of both."""
    best = [0] * (len(b) + 1)
    for word in a:
        previous = 0
        for place, other in enumerate(b, start=1):
            previous, best[place] = (
                best[place],
                previous + 1 if word == other else max(best[place], best[place - 1]),
            )
    return best[-1]
