"""Write files whole or not at all: under a temporary name in the same folder, then renamed."""

import errno
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY = ".artistid-making-"  # prefix of temporary names, which no other program uses
STALE_S = 24 * 3600  # older temporary files were left by runs that were killed


def checkout() -> Path | None:
    """Root of the source checkout that this package runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / ".git").exists() and (root / "hw1").is_dir() else None


def remove_stale(folder: Path) -> None:
    """Delete temporary files in `folder` that killed runs left; younger ones may be in use."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(FileNotFoundError):  # another run may be tidying up as well
            if time.time() - path.stat().st_mtime < STALE_S:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def require_ordinary(path: Path) -> None:
    """Raise OSError if something is at `path` that is no file: a folder, or a device, which must
    stay one."""
    if path.exists() and not path.is_file():
        number = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(number, "is no ordinary file; name another one", str(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The folder is created if necessary. After an error, `path` is unchanged and nothing is left.
    """
    require_ordinary(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    # with the same suffix: writers such as matplotlib choose the format by it
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix}"
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a full disk has no name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, for files that will be renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=TEMPORARY) as temporary:
        yield Path(temporary)


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write several files: none is renamed before all are complete. The first is renamed last."""
    with ExitStack() as stack:
        for path, content in contents.items():
            stack.enter_context(replacing(path)).write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    write_all({path: to_json(value)})


def to_json(value: Any) -> bytes:
    """Indented JSON in UTF-8, with escapes if a string cannot be encoded."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a file name in another encoding, which escapes preserve
        text = json.dumps(value, indent=2).encode()
    return text + b"\n"
