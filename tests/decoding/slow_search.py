"""The straightforward reward-guided search: every token re-reads its whole text, one at a time."""

import hashlib
from collections.abc import Callable

import torch

from trueup.models import LanguageModel


def hashed(prompts: list[str], texts: list[str]) -> list[float]:
    """A reward in [0, 1) that every change of the text changes."""
    pairs = zip(prompts, texts, strict=True)
    return [
        hashlib.sha256((p + "|" + t).encode("utf-8", "replace")).digest()[0] / 256 for p, t in pairs
    ]


def next_logprobs(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
    return logits.float().log_softmax(-1).double()


def continued(lm: LanguageModel, ids: list[int], count: int) -> list[int]:
    """Greedy tokens up to the end of text."""
    found: list[int] = []
    while len(found) < count and (not found or found[-1] != lm.tokenizer.eos_token_id):
        found.append(int(next_logprobs(lm, ids + found).argmax()))
    return found


def slow_search(
    lm: LanguageModel,
    prompt: str,
    *,
    score: Callable[[list[float], float], float],
    reward: Callable[[list[str], list[str]], list[float]],
    top_k: int,
    lookahead: int,
    max_new_tokens: int,
    num_beams: int = 1,
    roller: LanguageModel | None = None,
) -> tuple[list[int], float]:
    """The best beam's tokens and score; score is of its log-probabilities and its reward."""
    start = lm.encoder.prompt(prompt)
    beams: list[tuple[float, list[int], list[float], bool]] = [(0.0, [], [], False)]
    while not all(done for *_, done in beams):
        pool = [beam for beam in beams if beam[3]]
        for _, ids, logps, done in beams:
            if done:
                continue
            logprobs = next_logprobs(lm, start + ids)
            for token in logprobs.topk(top_k).indices.tolist():
                new = [*ids, token]
                ended = token == lm.tokenizer.eos_token_id or len(new) == max_new_tokens
                ahead: list[int] = []
                if not ended:
                    count = min(lookahead, max_new_tokens - len(new))
                    ahead = continued(roller or lm, start + new, count)
                text = lm.tokenizer.decode(new + ahead, skip_special_tokens=True)
                own = [*logps, float(logprobs[token])]
                pool.append((score(own, reward([prompt], [text])[0]), new, own, ended))
        beams = sorted(pool, key=lambda beam: -beam[0])[:num_beams]
    return beams[0][1], beams[0][0]
