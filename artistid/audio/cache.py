"""A cache of arrays on disk, keyed by the content of the audio file and by the settings.

An entry is one safetensors file of named arrays and a few strings. Different files never share an
entry, even under the same name; copies of a file do. Entries never change, so runs and machines
may share the folder, and it may be deleted at any time.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from artistid.foundation.errors import UserError
from artistid.foundation.files import checkout, replacing

DEFAULT_CACHE = (checkout() or Path()) / "cache"

Entries = tuple[Path, ...]  # of a song: one for each source that is heard of it


def content_digest(path: Path) -> str:
    """BLAKE2b of the file's bytes, 40 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


def settings_digest(settings: Mapping[str, Any]) -> str:
    """BLAKE2b of the settings as JSON with sorted keys, 16 hexadecimal digits."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def entry_path(folder: Path, content: str, settings: str) -> Path:
    """Path of the entry for two digests."""
    return folder / content[:2] / f"{content}-{settings}.safetensors"


def load_notes(path: Path) -> Mapping[str, str] | None:
    """The notes of the entry at `path`; None if it is missing or damaged, and must be made again.

    safetensors compares the file's length with its header, so a truncated entry is noticed."""
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The entry at `path` as a `safe_open` file: a memory map that slices can be read from.

    Raises UserError if it is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{path}: gone from the cache; run it again") from error


def save_entry(
    path: Path, arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, str] | None = None
) -> None:
    """Write an entry: arrays by name, and strings to keep with them."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(whole, metadata=dict(notes or {})))
