"""Arrays on disk, keyed by the content of the file they come from and by the settings.

An entry is one safetensors file: named arrays and a few strings. Two files of one name never
share an entry; two copies of one file do. Entries are never changed, so the folder may be shared
between runs and machines, and deleted at any time.
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
from artistid.foundation.files import replacing


def content_digest(path: Path) -> str:
    """BLAKE2b of the file's bytes, 40 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


def settings_digest(settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def entry_path(folder: Path, content: str, settings: str) -> Path:
    """Where the entry of two digests is kept."""
    return folder / content[:2] / f"{content}-{settings}.safetensors"


def load_notes(path: Path) -> Mapping[str, str] | None:
    """The notes of the entry at `path`; None where there is none or it is damaged (it is then made
    again). That all the arrays' bytes are there is checked, by the file's length."""
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return None


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The entry at `path` as a `safe_open` file: a memory map, of which slices can be read.

    Raises UserError where the cache has lost it."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{path}: gone from the cache; run it again") from error


def save_entry(
    path: Path, arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, str] | None = None
) -> None:
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(whole, metadata=dict(notes or {})))
