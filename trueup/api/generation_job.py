"""What `generate` does: a chain of decoders over prompts, in chunks that survive a kill."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.api.progress import Progress
from trueup.api.run_folder import run_folder
from trueup.errors import UserError

if TYPE_CHECKING:
    from trueup.data import Table
    from trueup.decoding.compose import Chain
    from trueup.decoding.protocol import Decoded
    from trueup.models.reward import Reward
    from trueup.models.sampling import Sampling

CHUNK = 64  # prompts that are sampled, and saved, together
SEARCHED = 16  # and of a search, whose prompts cost more
TRACED = 8  # prompts whose search the report shows
COLUMNS = ("id", "prompt", "text", "reason", "n_tokens", "logp")
SEARCH_COLUMNS = ("score", "rewards")


@dataclass(frozen=True)
class Job:
    """What is decoded from which prompts; heads are the weights by which the model was mixed."""

    model: Any
    table: "Table"
    sampling: "Sampling"
    chain: "Chain"
    rewards: "Mapping[str, Reward]"
    heads: Mapping[str, float]

    @property
    def is_search(self) -> bool:
        """Whether something is sought, and not only sampled."""
        return self.chain.search.name != "sample"

    def settings(self) -> dict[str, Any]:
        """The decoder's and the sampling's settings as JSON holds them, the seed among them."""
        from trueup.models.reward import reward_identity

        found = {
            "decoder": self.chain.name,
            **asdict(self.sampling),
            "stop": list(self.sampling.stop),
        }
        own = {name: fields for name, fields in self.chain.settings().items() if fields}
        if own:
            found["decoders"] = own
        if self.rewards:
            found["rewards"] = {name: reward_identity(each) for name, each in self.rewards.items()}
        return found

    def check_room(self) -> None:
        """Refuse a prompt that leaves no room in the context, with its place; a step may add."""
        encoder = getattr(self.model, "encoder", None)
        if encoder is None:
            return
        for index, row in enumerate(self.table):
            if isinstance(row["prompt"], Mapping):  # documents, which pine lays out and counts
                continue
            size = len(encoder.prompt(row["prompt"]))
            excess = size + self.sampling.max_new_tokens - self.model.max_length
            if excess > 0:
                raise UserError(
                    f"{self.table.place(index)}: the prompt has {size} tokens and max_new_tokens "
                    f"is {self.sampling.max_new_tokens}, but the model reads "
                    f"{self.model.max_length}; shorten one by {excess}"
                )

    def sampled(
        self, done: set[str], progress: Progress
    ) -> Iterator[tuple[list[dict[str, Any]], dict[str, int]]]:
        """The rows of every chunk of prompts that is not yet done, and the work they cost."""
        finished = 0
        size = SEARCHED if self.is_search else CHUNK
        with self.chain.applied(self.model):
            writer = self.chain.writer(self.model)
            for chunk in _chunks([_key(row["prompt"]) for row in self.table], size):
                progress(finished, len(self.table), "sampling")
                finished += len(chunk)
                if {_name(index, k) for index in chunk for k in range(self.sampling.n)} <= done:
                    continue
                before = dict(self.model.work.as_dict())
                rows = [
                    self._row(index, number, decoded)
                    for index, several in zip(chunk, self._decoded(writer, chunk), strict=True)
                    for number, decoded in enumerate(several)
                ]
                after = self.model.work.as_dict()
                yield rows, {name: count - before.get(name, 0) for name, count in after.items()}
        progress(len(self.table), len(self.table), "sampling")

    def full(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The rows in the order of the prompts, each with the settings that made it."""
        names = COLUMNS + (SEARCH_COLUMNS if self.is_search else ())
        told = {name: value for name, value in self.settings().items() if name != "seed"}
        ordered = sorted(rows, key=lambda row: tuple(map(int, row["id"].split("-"))))
        return [
            {
                **{name: row[name] for name in names if row[name] is not None},
                "seed": self.sampling.seed,
                "settings": told,
            }
            for row in ordered
        ]

    def _decoded(self, writer: Any, chunk: Sequence[int]) -> "list[list[Decoded]]":
        """The chunk's completions; an error that names one of its prompts names its place."""
        from trueup.decoding.protocol import Request

        request = Request(sampling=self.sampling, rewards=self.rewards)
        prompts = [self.table.rows[index]["prompt"] for index in chunk]
        try:
            return self.chain.decode(writer, prompts, request)
        except UserError as error:
            found = re.match(r"prompt (\d+)\b", str(error))
            if not found or int(found[1]) > len(chunk):
                raise
            place = self.table.place(chunk[int(found[1]) - 1])
            raise UserError(f"{place}: {str(error)[found.end() :].lstrip(': ')}") from error

    def _row(self, index: int, number: int, decoded: "Decoded") -> dict[str, Any]:
        """One completion as a row."""
        has_tokens = bool(decoded.token_ids)
        is_traced = index < TRACED and number == 0
        return {
            "id": _name(index, number),
            "prompt": self.table.rows[index]["prompt"],
            "text": decoded.text,
            "reason": decoded.reason,
            "n_tokens": len(decoded.token_ids) if has_tokens else None,
            "logp": float(sum(decoded.logps)) if has_tokens else None,
            "score": decoded.score,
            "rewards": dict(decoded.rewards),
            "trace": list(decoded.trace) if is_traced else [],
        }


def in_folder(
    job: Job, out: Path, resume: bool, progress: Progress
) -> tuple[list[dict[str, Any]], Path]:
    """Decode into a run folder, chunk by chunk; the rows, and the folder."""
    import pandas as pd

    from trueup.files import write_text
    from trueup.report import report_run

    mixed: dict[str, Any] = {"heads": dict(job.heads)} if job.heads else {}
    if files := job.chain.files():  # whoever goes on with a run must find them as they were
        mixed["files"] = files
    device = getattr(getattr(job.model, "model", None), "device", None)
    with run_folder(
        out,
        verb="generate",
        arguments={**job.settings(), "device": getattr(device, "type", None), **mixed},
        seed=job.sampling.seed,
        model=job.model.name,
        model_hash=job.model.fingerprint,
        data=job.table.source,
        data_hash=job.table.hash,
        resume=resume,
    ) as run:
        if not run.is_done:
            for rows, spent in job.sampled(run.done_ids(), progress):
                run.append_items(pd.DataFrame([_packed(row) for row in rows]), work=spent)
        found = job.full([_unpacked(row) for row in run.items().to_dict("records")])
        if not run.is_done:
            lines = [json.dumps(row, ensure_ascii=False) for row in found]
            write_text(run.path / "samples.jsonl", "\n".join(lines) + "\n")
            run.finish("done")
    report_run(run.path)
    return found, run.path


PACKED = ("prompt", "rewards", "trace")


def _packed(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row for a table, whose columns are of one type."""
    return {**row, **{name: _key(row[name]) for name in PACKED}}


def _unpacked(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The row as it was before `_packed`."""
    found = {str(name): value for name, value in row.items()}
    absent = {name: None for name, value in found.items() if value is None or value != value}
    whole = {} if "n_tokens" in absent else {"n_tokens": int(found["n_tokens"])}
    return {**found, **absent, **whole, **{name: json.loads(found[name]) for name in PACKED}}


def _chunks(keys: Sequence[str], size: int) -> list[list[int]]:
    """The prompts' numbers, `size` different prompts at a time; equal prompts stay together.

    Together, because a prompt's second sample differs from its first only within one call.
    """
    places: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        places.setdefault(key, []).append(index)
    groups = list(places.values())
    return [
        [index for group in groups[start : start + size] for index in group]
        for start in range(0, len(groups), size)
    ]


def _key(value: Any) -> str:
    """A prompt, or any of a row's parts, as one text."""
    return json.dumps(value, ensure_ascii=False)


def _name(index: int, number: int) -> str:
    """The id of one sample of one prompt, both counted from 1."""
    return f"{index + 1}-{number + 1}"
