"""inspect_ai: `.eval` archives and `.json` logs, read without the tool."""

import json
import math
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from trueup.data.canonical import canonical, one_line
from trueup.errors import UserError
from trueup.files import content_hash
from trueup.interop.foreign_log import (
    ForeignLog,
    ForeignMetric,
    ForeignTask,
    Sample,
    is_binary,
    items_of,
)

GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}  # inspect's correct, partial, incorrect, none
WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
ZSTANDARD = 93  # of the ZIP specification; zipfile knows it from Python 3.14 on

Row = dict[str, Any]


def read_inspect(path: Path) -> ForeignLog:
    """One log: every scorer is a metric, every epoch of a sample a measurement.

    Numbers are read as inspect reads them: C 1, P 0.5, I and N 0, yes and true 1, no and false 0.
    A scorer that gives several values is several metrics, SCORER/KEY. Inspect does not say what is
    better; higher is taken to be.
    Edges:  a value that inspect would count as 0 with a warning leaves its metric out.
    Raises: UserError where the file is no log, damaged, or its evaluation did not succeed.
    """
    header, rows = _archive(path) if zipfile.is_zipfile(path) else _plain(path)
    if not {"task", "model"} <= set(header.get("eval") or ()):
        raise UserError(f"{path}: no log of inspect_ai, whose 'eval' names the task and the model")
    status = header.get("status", "started")
    if status != "success":
        raise UserError(f"{path}: the evaluation is {status!r}, not 'success'; finish it first")
    about = header["eval"]
    read = _Reading()
    for row in sorted(rows, key=lambda row: int(row.get("epoch", 1))):
        read.add(row)
    name = str(about["task"])
    scores = read.scores()
    notes = [f"{name}: {metric} is left out, {why}" for metric, why in read.left_out.items()]
    if not scores:
        raise UserError(f"{path}: no score can be read; " + ("; ".join(notes) or "it has none"))
    return ForeignLog(
        source=path,
        tool="inspect_ai",
        model=str(about["model"]),
        tasks=(ForeignTask(name=name, version=str(about.get("task_version", "")), scores=scores),),
        tables={name: items_of(read.samples(), scores)},
        generation={name: _generation(header)},
        notes=(*notes, *_remarks(name, about, read.ungraded(scores))),
    )


class _Reading:
    """The samples of one log."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, dict[str, tuple[float, ...]]]] = []
        self.names: dict[str, bool] = {}  # whether every value was a grade such as C
        self.left_out: dict[str, str] = {}

    def add(self, row: Row) -> None:
        """Take in one sample of one epoch."""
        content = {key: _bare(row.get(key)) for key in ("input", "target", "choices", "files")}
        numbers: dict[str, tuple[float, ...]] = {}
        for scorer, score in (row.get("scores") or {}).items():
            value = score.get("value")
            several = value if isinstance(value, dict) else {"": value}
            for key, each in several.items():
                name = f"{scorer}/{key}" if key else scorer
                self.names[name] = self.names.get(name, True) and (
                    each is None or (isinstance(each, str) and each in GRADES)
                )
                number = _number(each)
                if number is None:
                    self.left_out[name] = f"its {one_line(repr(each), 40)} is no number"
                else:
                    numbers[name] = (number,)
        hashed = content_hash(canonical(content))[:32]
        self.rows.append((hashed, str(row.get("id")), _shown(row.get("input")), numbers))

    def ungraded(self, scores: tuple[ForeignMetric, ...]) -> list[str]:
        """The metrics whose numbers may mean anything."""
        return [score.name for score in scores if not self.names[score.name]]

    def samples(self) -> list[Sample]:
        """The samples; where several ids share prompt and target, the id tells them apart."""
        ids: dict[str, set[str]] = defaultdict(set)
        for content, name, _, _ in self.rows:
            ids[content].add(name)
        return [
            Sample(content if len(ids[content]) == 1 else f"{content}:{name}", prompt, numbers)
            for content, name, prompt, numbers in self.rows
        ]

    def scores(self) -> tuple[ForeignMetric, ...]:
        """The metrics that can be compared."""
        samples = self.samples()
        return tuple(
            ForeignMetric(name=name, is_share=is_binary(samples, name))
            for name in self.names
            if name not in self.left_out
        )


def _archive(path: Path) -> tuple[Row, Iterator[Row]]:
    """The header and the samples of an `.eval` file."""
    archive = zipfile.ZipFile(path)
    members = {info.filename: info for info in archive.infolist()}
    if "header.json" not in members:
        archive.close()
        raise UserError(f"{path}: has no header.json; the evaluation did not finish, or is no log")

    def rows() -> Iterator[Row]:
        with archive:
            for name, info in members.items():
                if name.startswith("samples/") and name.endswith(".json"):
                    yield _member(path, archive, info)

    header: Row = _member(path, archive, members["header.json"])
    return header, rows()


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    """One JSON file of an archive."""
    try:
        if info.compress_type != ZSTANDARD:
            return json.loads(archive.read(info))
        data = _zstandard(path, info)
        if zlib.crc32(data) != info.CRC:
            raise ValueError("its checksum is wrong")
        return json.loads(data)
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: {info.filename} is damaged ({one_line(str(error))})") from error


def _zstandard(path: Path, info: zipfile.ZipInfo) -> bytes:
    """The content of a member under Zstandard: 30 bytes, name and extra field stand before it."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = file.read(4)
        file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
        packed = file.read(info.compress_size)
    stream: bytes = pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read()
    return stream


def _plain(path: Path) -> tuple[Row, Iterator[Row]]:
    """The log and the samples of a `.json` file."""
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({one_line(str(error))})") from error
    if not isinstance(log, dict):
        raise UserError(f"{path}: no log of inspect_ai, which is one JSON object")
    return log, iter(log.get("samples") or [])


def _number(value: Any) -> float | None:
    """A score as inspect reads it; NaN where there is none, None where it is no number."""
    if value is None:
        return math.nan
    if isinstance(value, (bool, int, float)):
        return float(value)
    if not isinstance(value, str):
        return None
    if value in GRADES:
        return GRADES[value]
    if value.lower() in WORDS:
        return WORDS[value.lower()]
    try:
        return float(value)
    except ValueError:
        return None


def _bare(value: Any) -> Any:
    """A prompt without what differs between runs of the same one: the ids of messages, nulls."""
    if isinstance(value, dict):
        return {key: _bare(each) for key, each in value.items() if key != "id" and each is not None}
    return [_bare(each) for each in value] if isinstance(value, list) else value


def _shown(prompt: Any) -> str:
    """The last words of a prompt that a person can read."""
    if isinstance(prompt, list) and prompt:
        prompt = prompt[-1].get("content") if isinstance(prompt[-1], dict) else prompt[-1]
    return (prompt if isinstance(prompt, str) else json.dumps(prompt))[:200]


def _generation(header: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the model was told of decoding."""
    plan, own = (header.get("plan") or {}).get("config"), header["eval"]
    return {**(own.get("model_generate_config") or {}), **(plan or {})}


def _remarks(name: str, about: Row, ungraded: list[str]) -> list[str]:
    """What must be known beside the numbers."""
    told = []
    if ungraded:
        told.append(f"{name}: more is taken to be better of {', '.join(ungraded)}")
    reducer = (about.get("config") or {}).get("epochs_reducer") or ["mean"]
    if reducer != ["mean"]:
        told.append(f"{name}: the log joins epochs by {', '.join(reducer)}; here each one counts")
    return told
