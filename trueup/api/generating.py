"""`trueup.generate`: samples for a file of prompts, in chunks that survive a kill."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.api.models import opened_causal
from trueup.api.progress import Progress, ignored
from trueup.api.run_folder import run_folder
from trueup.errors import UserError, build, unknown_name

if TYPE_CHECKING:
    from trueup.data import Table
    from trueup.models import LanguageModel
    from trueup.models.sampling import Sample, Sampling

CHUNK = 64  # prompts that are sampled, and saved, together
DECODERS = ("sample",)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a model wrote.

    Fields: rows has one entry per sample, in the order of the prompts: id, prompt, text, reason
            ("eos", "stop" or "length"), n_tokens, logp (the sum of its tokens' log-probabilities
            under the model, in nats), seed, settings; folder is None where nothing was written.
    """

    model: str
    rows: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    folder: Path | None = None

    def __str__(self) -> str:
        return self.as_jsonl()

    def __repr__(self) -> str:
        return f"Generation({self.model!r}, {len(self.rows)} samples)"

    @property
    def texts(self) -> list[str]:
        """The samples' texts in the order of the prompts."""
        return [row["text"] for row in self.rows]

    def as_dict(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        own = [
            {key: row[key] for key in row if key not in ("settings", "seed")} for row in self.rows
        ]
        return {
            "schema": 1,
            "model": self.model,
            "settings": dict(self.settings),
            "samples": own,
            "out": self.folder,
        }

    def as_jsonl(self) -> str:
        """One JSON object per line and sample."""
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in self.rows)


def generate(
    model: "str | Path | LanguageModel",
    prompts: Any,
    *,
    out: str | Path | None = None,
    decoder: str | None = None,
    n: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    heads: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Generation:
    """Sample completions of every prompt.

    Fields: prompts is a file or data set with the column `prompt` (or `messages`), a text, or a
            list of texts; decoder "sample", the default, is the only one so far; temperature 0 is
            greedy, top_k 0 and top_p 1 cut nothing off; out is the run folder to write, in it
            samples.jsonl; resume goes on with an unfinished one; heads mixes the output heads of a
            model trained for several objectives, {"honest": 0.7, ...}.
    Edges:  the same seed gives the same samples whatever the order of the prompts; a prompt that
            stands twice gets other samples the second time.
    Raises: UserError where a setting or the data is wrong or a prompt leaves no room, before
            anything is sampled.
    """
    from trueup.models.sampling import Sampling

    if (decoder or "sample") not in DECODERS:
        raise unknown_name("decoder", str(decoder), DECODERS)
    sampling = Sampling(
        n=n,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=seed,
    )
    table = _table(prompts)
    lm = opened_causal(model, device=device, dtype=dtype, heads=heads)
    _check_room(lm, table, sampling)
    job = Job(lm, table, sampling, heads or {})
    if out is None:
        rows = [row for rows, _ in job.sampled(set(), progress or ignored) for row in rows]
        return job.generation(rows, None)
    return _in_folder(job, Path(out), resume, progress or ignored)


def sampling_of(settings: Mapping[str, Any]) -> "Sampling":
    """The sampling's settings, texts read as the fields' types.

    Raises: UserError for an unknown one, or one that leaves its range.
    """
    from trueup.models.sampling import Sampling

    return build("sample", Sampling, settings)


@dataclass(frozen=True)
class Job:
    """What is sampled from which prompts; heads are the weights by which the model was mixed."""

    model: "LanguageModel"
    table: "Table"
    sampling: "Sampling"
    heads: Mapping[str, float]

    def settings(self) -> dict[str, Any]:
        """The sampling's settings as JSON holds them; the seed is one of them."""
        return {"decoder": "sample", **asdict(self.sampling), "stop": list(self.sampling.stop)}

    def sampled(
        self, done: set[str], progress: Progress
    ) -> "Iterator[tuple[list[dict[str, Any]], dict[str, int]]]":
        """The samples of every chunk of prompts that is not yet done, and the work they cost."""
        finished = 0
        for chunk in _chunks([_key(row["prompt"]) for row in self.table]):
            progress(finished, len(self.table), "sampling")
            finished += len(chunk)
            if {_name(index, k) for index in chunk for k in range(self.sampling.n)} <= done:
                continue
            before = self.model.work.as_dict()
            settings = asdict(self.sampling)
            found = self.model.sample([self.table.rows[i]["prompt"] for i in chunk], **settings)
            rows = [
                _row(self.table.rows[index]["prompt"], index, number, sample)
                for index, samples in zip(chunk, found, strict=True)
                for number, sample in enumerate(samples)
            ]
            after = self.model.work.as_dict()
            yield rows, {name: count - before[name] for name, count in after.items()}
        progress(len(self.table), len(self.table), "sampling")

    def generation(self, rows: Sequence[Mapping[str, Any]], folder: Path | None) -> Generation:
        """The samples in the order of the prompts, each with the settings that made it."""
        settings = self.settings()
        told = {name: value for name, value in settings.items() if name != "seed"}
        ordered = sorted(rows, key=lambda row: tuple(map(int, row["id"].split("-"))))
        full = [{**row, "seed": self.sampling.seed, "settings": told} for row in ordered]
        return Generation(model=self.model.name, rows=full, settings=settings, folder=folder)


def _table(prompts: Any) -> "Table":
    """The prompts as a validated table."""
    from trueup.data import read

    is_texts = isinstance(prompts, (list, tuple)) and all(isinstance(p, str) for p in prompts)
    if is_texts:
        prompts = [{"prompt": text} for text in prompts]
    return read(prompts, "prompts")


def _check_room(lm: "LanguageModel", table: "Table", sampling: "Sampling") -> None:
    """Refuse a prompt that leaves no room in the context, with its place."""
    for index, row in enumerate(table):
        size = len(lm.encoder.prompt(row["prompt"]))
        if size + sampling.max_new_tokens > lm.max_length:
            raise UserError(
                f"{table.place(index)}: the prompt has {size} tokens and max_new_tokens is "
                f"{sampling.max_new_tokens}, but the model reads {lm.max_length}; shorten one"
            )


def _in_folder(job: Job, out: Path, resume: bool, progress: Progress) -> Generation:
    """Sample into a run folder, chunk by chunk."""
    import pandas as pd

    from trueup.files import write_text

    mixed = {"heads": dict(job.heads)} if job.heads else {}
    with run_folder(
        out,
        verb="generate",
        arguments={**job.settings(), "device": job.model.device.type, **mixed},
        seed=job.sampling.seed,
        model=job.model.name,
        model_hash=job.model.fingerprint,
        data=job.table.source,
        data_hash=job.table.hash,
        resume=resume,
    ) as run:
        if not run.is_done:
            for rows, spent in job.sampled(run.done_ids(), progress):
                packed = [{**row, "prompt": _key(row["prompt"])} for row in rows]
                run.append_items(pd.DataFrame(packed), work=spent)
        rows = [
            {**{str(key): value for key, value in row.items()}, "prompt": json.loads(row["prompt"])}
            for row in run.items().to_dict("records")
        ]
        result = job.generation(rows, run.path)
        if not run.is_done:
            write_text(run.path / "samples.jsonl", result.as_jsonl() + "\n")
            run.finish("done")
    return result


def _chunks(keys: Sequence[str]) -> list[list[int]]:
    """The prompts' numbers, `CHUNK` different prompts at a time; equal prompts stay together.

    Together, because a prompt's second sample differs from its first only within one call.
    """
    places: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        places.setdefault(key, []).append(index)
    groups = list(places.values())
    return [
        [index for group in groups[start : start + CHUNK] for index in group]
        for start in range(0, len(groups), CHUNK)
    ]


def _key(prompt: Any) -> str:
    """A prompt as one text, whether it is a string or messages."""
    return json.dumps(prompt, ensure_ascii=False)


def _name(index: int, number: int) -> str:
    """The id of one sample of one prompt, both counted from 1."""
    return f"{index + 1}-{number + 1}"


def _row(prompt: Any, index: int, number: int, sample: "Sample") -> dict[str, Any]:
    """One sample as a row."""
    return {
        "id": _name(index, number),
        "prompt": prompt,
        "text": sample.text,
        "reason": sample.reason,
        "n_tokens": len(sample.token_ids),
        "logp": float(sum(sample.logps)),
    }
