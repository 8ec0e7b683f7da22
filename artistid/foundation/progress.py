"""Progress bars: on a terminal only, and not even there with --quiet. Lines that go above them."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_wanted = True


def show_bars(wanted: bool) -> None:
    """For all bars to come."""
    global _wanted
    _wanted = wanted


def bar(items: Iterable[Any] | None = None, *, hidden: bool = False, **options: Any) -> "tqdm[Any]":
    """A tqdm bar; None as its `disable` hides it where there is no terminal."""
    return tqdm(items, disable=True if hidden or not _wanted else None, **options)


def say(line: str) -> None:
    """Print, above the bars, and at once."""
    tqdm.write(line)
    sys.stdout.flush()
