"""Safetensors files and folders that are whole or absent; a full disk is one line."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from trueup.errors import UserError
from trueup.files import disk_errors, replacing

METADATA = "trueup"  # the one entry of the header that is ours


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the tensors as safetensors, atomically; equal content gives equal bytes.

    safetensors writes several metadata entries in random order, so ours are one JSON text.
    Raises: UserError where the disk is full.
    """
    header = {METADATA: json.dumps(dict(metadata), sort_keys=True)} if metadata else None
    with replacing(path) as temporary, full_disk():
        safetensors.torch.save_file(dict(tensors), temporary, metadata=header)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a file that can be made again.

    Raises: UserError where the file is no safetensors file.
    """
    try:
        return read_tensors(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: is damaged ({error}); remove it and run again") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors on the CPU, each in its own memory, and our metadata, {} in a foreign file.

    Raises: SafetensorError where the file is no safetensors file, OSError where there is none.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        names = file.keys()
        metadata = json.loads((file.metadata() or {}).get(METADATA, "{}"))
        return {name: file.get_tensor(name).clone() for name in names}, metadata


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; after the block it becomes `path`, flushed to the disk.

    Edges:  a folder that was there is replaced; on an error it stays and the new one goes.
    Raises: UserError where the disk is full.
    """
    part = path.with_name(f".{path.name}.part")
    with disk_errors(path), full_disk():
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            for file in sorted(part.rglob("*")):
                _flush(file)
            _flush(part)
            remove_folder(path)
            part.rename(path)
            _flush(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder; killed half-way, it leaves remains that nobody takes for the whole."""
    if path.is_dir():
        remains = path.with_name(f".{path.name}.old.part")
        shutil.rmtree(remains, ignore_errors=True)
        path.rename(remains)
        shutil.rmtree(remains)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Give safetensors' own error for a full disk the operating system's form."""
    try:
        yield
    except safetensors.SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise


def _flush(path: Path) -> None:
    """Wait until the disk holds a file or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
