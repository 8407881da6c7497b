"""Audits against their peers, in one run, with equal numbers asserted.

crows-pairs, bbq  lm-evaluation-harness' requests for the same items under the same random model;
                  ours is the audit's whole `measure`
pll               pseudo-log-likelihoods of masked models: one row per mask, and the vocabulary's
                  head on every position, batch 16
weat              `wefe` in a venv of its own (made in the cache folder on first use), on the same
                  random vectors, 100,000 random partitions; wefe tries so many of them as
                  --peer-partitions says, and its time is scaled up, as it grows with their number

    python benchmarks/audits.py --json
"""

import argparse
import csv
import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from _setup import BBQ, SHARED, make_model, make_tokenizer, read_rows, show
from score_vs_lm_eval import CountedTokens, lm_eval_model, requests

from trueup.audits import BBQ as BBQAudit
from trueup.audits import CrowsPairs
from trueup.audits.embedding.weat import weat as weat_test
from trueup.audits.probability.pseudo_likelihood import masked_apart
from trueup.files import cache_folder
from trueup.models import LanguageModel
from trueup.models.masked_language_model import MaskedLanguageModel
from trueup.worlds.occupations import OccupationWorld

CROWS = SHARED / "crows_pairs.csv"
PEERS = cache_folder() / "peers"
WEFE = "wefe==1.0.1"


def main() -> None:
    """Run the parts that are asked for, print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["crows-pairs", "bbq", "pll", "weat"])
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--vocab-size", type=int, nargs="+", default=[8192, 49152])
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2, help="each side's best of so many runs")
    parser.add_argument("--partitions", type=int, default=100_000)
    parser.add_argument("--peer-partitions", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for part in arguments.parts:
        sizes = arguments.vocab_size if part in ("crows-pairs", "bbq", "pll") else [0]
        rows += [PARTS[part](size, arguments) for size in sizes]
    show(rows, arguments.json)


def crows_pairs(vocab_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Which sentence of a pair is likelier: lm-eval reads each whole, we what follows the split."""
    pairs, source = sentence_pairs(arguments.items)
    tokenizer = make_tokenizer([text for pair in pairs for text in pair])
    model = make_model(vocab_size, arguments.hidden, arguments.layers).eval()
    lm = LanguageModel(model, tokenizer, name="bench")
    peer = lm_eval_model(model, tokenizer, arguments.batch_size)
    audit = CrowsPairs(score="sum")
    probes = audit.probes([{"sent_more": more, "sent_less": less} for more, less in pairs])
    asked = requests([""] * len(pairs), [list(pair) for pair in pairs])
    audit.measure(lm, probes[:4])
    peer.loglikelihood(asked[:4], disable_tqdm=True)
    lm.work.reset()
    ours, items = best(lambda: audit.measure(lm, probes), arguments.repeats)
    counted = CountedTokens(model)
    theirs, found = best(lambda: peer.loglikelihood(asked, disable_tqdm=True), arguments.repeats)
    counted.stop()
    logps = np.array([value for value, _ in found]).reshape(-1, 2)
    gaps = items["score"].to_numpy() - (logps[:, 0] - logps[:, 1])
    share = float((logps[:, 0] > logps[:, 1]).mean())
    assert abs(share - audit.estimate(items)[0].value) < 1e-12, "the shares differ"
    return row(
        f"crows-pairs, {described(vocab_size, arguments)}",
        source,
        len(pairs),
        ours,
        theirs,
        gaps,
        ours_trunk_tokens=lm.work.trunk_tokens // arguments.repeats,
        peer_trunk_tokens=counted.tokens // arguments.repeats,
        share=share,
    )


def bbq(vocab_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The three answers of BBQ's questions."""
    rows = read_rows(BBQ, arguments.items)
    audit = BBQAudit(score="sum")
    probes = audit.probes(rows)
    tokenizer = make_tokenizer([probe.prompt + "".join(probe.texts) for probe in probes])
    model = make_model(vocab_size, arguments.hidden, arguments.layers).eval()
    lm = LanguageModel(model, tokenizer, name="bench")
    peer = lm_eval_model(model, tokenizer, arguments.batch_size)
    asked = requests([probe.prompt for probe in probes], [list(probe.texts) for probe in probes])
    audit.measure(lm, probes[:4])
    peer.loglikelihood(asked[:6], disable_tqdm=True)
    lm.work.reset()
    ours, items = best(lambda: audit.measure(lm, probes), arguments.repeats)
    counted = CountedTokens(model)
    theirs, found = best(lambda: peer.loglikelihood(asked, disable_tqdm=True), arguments.repeats)
    counted.stop()
    logps = np.array([value for value, _ in found]).reshape(-1, 3)
    own = items[["logp0", "logp1", "logp2"]].to_numpy()
    assert (own.argmax(axis=1) == logps.argmax(axis=1)).all(), "the answers differ"
    return row(
        f"bbq, {described(vocab_size, arguments)}",
        str(BBQ),
        len(probes),
        ours,
        theirs,
        own - logps,
        ours_trunk_tokens=lm.work.trunk_tokens // arguments.repeats,
        peer_trunk_tokens=counted.tokens // arguments.repeats,
    )


def pll(vocab_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Pseudo-log-likelihoods: the head on masked positions only, against the head on all."""
    pairs, source = sentence_pairs(max(1, arguments.items // 4))
    texts = [pair[0] for pair in pairs]
    model, tokenizer = masked_model(texts, vocab_size, arguments)
    lm = MaskedLanguageModel(model, tokenizer, name="bench")
    sentences = lm.sentences(texts)
    spans = [(sentence.ids, sentence.words) for sentence in sentences]
    masked_apart(spans[:2], lm.masked_logps, lm.mask_id)
    plain_pll(model, sentences[:2], lm.mask_id, arguments.batch_size)
    ours, own = best(lambda: masked_apart(spans, lm.masked_logps, lm.mask_id), arguments.repeats)
    theirs, found = best(
        lambda: plain_pll(model, sentences, lm.mask_id, arguments.batch_size), arguments.repeats
    )
    return row(
        f"masked pseudo-log-likelihood, {described(vocab_size, arguments)}",
        source,
        len(texts),
        ours,
        theirs,
        np.array(own) - np.array(found),
    )


@torch.no_grad()
def plain_pll(model: Any, sentences: Any, mask_id: int, batch_size: int) -> list[float]:
    """The straightforward way: a row per mask, sentence by sentence, logits of every position."""
    sums = []
    for sentence in sentences:
        ids = torch.tensor(sentence.ids)
        total = 0.0
        for start in range(0, len(sentence.words), batch_size):
            places = torch.tensor(sentence.words[start : start + batch_size])
            rows = ids.repeat(len(places), 1)
            lines = torch.arange(len(places))
            rows[lines, places] = mask_id
            logps = torch.log_softmax(model(input_ids=rows).logits, dim=-1)
            total += float(logps[lines, places, ids[places]].sum())
        sums.append(total)
    return sums


def weat(_: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Effect size and p of one test, 26 words a side and 20 attributes, 300 dimensions."""
    rng = np.random.default_rng(0)
    sizes = (26, 26, 20, 20)
    sets = [rng.normal(size=(size, 300)) + 0.02 * number for number, size in enumerate(sizes)]
    ours, own = best(
        lambda: weat_test(*sets, samples=arguments.partitions, seed=1), arguments.repeats
    )
    n_words = sizes[0] + sizes[1]
    as_wefe = own.d * (n_words / (n_words - 1)) ** 0.5  # wefe divides by n in the deviation
    tried = min(arguments.peer_partitions, arguments.partitions)
    peer = wefe_result(sets, tried)
    return row(
        f"weat, {sizes[0]} words a side, {arguments.partitions} partitions",
        "random vectors",
        arguments.partitions,
        ours,
        peer["seconds"] * arguments.partitions / tried,
        np.array([as_wefe - peer["effect_size"]]),
        p_value=own.partitions.p_value,
        peer_p_value=peer["p_value"],
        peer_version=WEFE,
        peer_partitions=tried,
        peer_seconds_measured=peer["seconds"],
    )


def wefe_result(sets: list[Any], partitions: int) -> dict[str, Any]:
    """The same test by wefe, in its own venv."""
    python = PEERS / "wefe" / "bin" / "python"
    if not python.is_file():
        venv.create(PEERS / "wefe", with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, WEFE], check=True, stdout=sys.stderr)
    sent = json.dumps({"sets": [part.tolist() for part in sets], "partitions": partitions})
    script = Path(__file__).parent / "_wefe_peer.py"
    done = subprocess.run(
        [str(python), str(script)], input=sent, check=True, capture_output=True, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def best(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The least seconds of several runs, and what the last one gave."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def row(
    what: str, data: str, n: int, ours: float, theirs: float, gaps: Any, **more: Any
) -> dict[str, Any]:
    """What every part prints."""
    largest = float(np.abs(gaps).max())
    assert largest < 1e-3, f"{what}: the sides do not compute the same numbers: {largest}"
    return {
        "what": what,
        "data": data,
        "n": n,
        "ours_seconds": ours,
        "peer_seconds": theirs,
        "ratio": theirs / ours,
        "max_difference": largest,
        **more,
    }


def described(vocab_size: int, arguments: argparse.Namespace) -> str:
    """The model in words."""
    return (
        f"{arguments.hidden} x {arguments.layers}, {vocab_size} words, float32, "
        f"{arguments.threads} threads"
    )


def sentence_pairs(count: int) -> tuple[list[tuple[str, str]], str]:
    """CrowS-Pairs, or sentences of the occupations world with the other pronoun."""
    if CROWS.is_file():
        with CROWS.open(encoding="utf-8", newline="") as file:
            rows = [row for row, _ in zip(csv.DictReader(file), range(count), strict=False)]
        return [(row["sent_more"], row["sent_less"]) for row in rows], str(CROWS)
    texts = [text for text in OccupationWorld(seed=1).corpus() if " he " in text][:count]
    return [(text, text.replace(" he ", " she ")) for text in texts], "the occupations world"


def masked_model(texts: list[str], vocab_size: int, arguments: argparse.Namespace) -> Any:
    """A random BERT of the benchmark's size, and its tokenizer."""
    tokenizer = make_tokenizer(texts)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    config = transformers.BertConfig(
        vocab_size=vocab_size,
        hidden_size=arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 64,
        intermediate_size=4 * arguments.hidden,
    )
    torch.manual_seed(0)
    return transformers.AutoModelForMaskedLM.from_config(config).eval(), tokenizer


PARTS: dict[str, Callable[[int, argparse.Namespace], dict[str, Any]]] = {
    "crows-pairs": crows_pairs,
    "bbq": bbq,
    "pll": pll,
    "weat": weat,
}

if __name__ == "__main__":
    main()
