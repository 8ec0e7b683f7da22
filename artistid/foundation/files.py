"""Files that are there whole or not at all: written beside their place and renamed into it."""

import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY = ".artistid-making-"  # nobody else's names begin so: what is old may be deleted
STALE_S = 24 * 3600  # what is older was left by a run that was killed


def remove_stale(folder: Path) -> None:
    """Delete what killed runs left half-made in `folder`; nothing that may be in the making."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(FileNotFoundError):  # another run may be tidying up, too
            if time.time() - path.stat().st_mtime < STALE_S:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The folder is made where it is missing. After an error nothing is left and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    # keeps the suffix, by which writers such as matplotlib choose the format
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix}"
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is reported without a name
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, to make what is then renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=TEMPORARY) as temporary:
        yield Path(temporary)


def write_json(path: Path, value: Any) -> None:
    """Indented, in UTF-8, and as escapes where that can't be."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a file's name in another encoding; escaped, it comes back
        text = json.dumps(value, indent=2).encode()
    with replacing(path) as temporary:
        temporary.write_bytes(text + b"\n")
