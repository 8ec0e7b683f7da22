"""Files that are there whole or not at all: written beside their place and renamed into it."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    The folder is made where it is missing. After an error nothing is left and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # keeps the suffix, by which writers such as matplotlib choose the format
    temporary = path.parent / f".tmp-{secrets.token_hex(8)}{path.suffix}"
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is reported without a name
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
