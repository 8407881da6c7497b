"""Files that are either old or new and never half: atomic writes, content hashes, the cache."""

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueup.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; after the block it becomes `path`, flushed to the disk.

    Edges:  on any error the temporary file goes and the old file stays.
    Raises: UserError where the device is full or the folder cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into one line that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{path}: no space left on the device; free some, then run again with --resume"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR):
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write the text as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write the value as JSON, atomically; NaN and infinities become null."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: "Iterable[Mapping[str, Any]]") -> None:
    """Write rows as JSONL, atomically."""
    lines = (json.dumps(plain(dict(row)), ensure_ascii=False) + "\n" for row in rows)
    write_text(path, "".join(lines))


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write the table as Parquet, atomically."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)


def plain(value: Any) -> Any:
    """The value as JSON can hold it: NaN as null, paths as text, numpy scalars as numbers."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def content_hash(*parts: bytes | str | Path) -> str:
    """SHA-256 of the parts in order; a path stands for its bytes, a folder for all files in it."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            _add_path(digest, part)
        else:
            data = part.encode() if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _add_path(digest: "hashlib._Hash", path: Path) -> None:
    """Feed a file, or every file below a folder in sorted order with its name."""
    if path.is_dir():
        for child in sorted(path.rglob("*")):
            if child.is_file():
                digest.update(str(child.relative_to(path)).encode() + b"\0")
                _add_path(digest, child)
        return
    digest.update(path.stat().st_size.to_bytes(8, "big"))
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)


def cache_folder() -> Path:
    """Where trueup keeps what it can make again: $TRUEUP_CACHE, else the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("TRUEUP_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("trueup"))
