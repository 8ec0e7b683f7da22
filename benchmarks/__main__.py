"""Every measurement that the README quotes, one after the other, into one file.

    python3 -m benchmarks [--data gamemusic] [--official CHECKOUT]

Each module here is one of them, and can be run alone: python3 -m benchmarks.features. Nothing else
should run on the machine meanwhile; it takes about three quarters of an hour on two cores.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import tyro

from artistid.foundation.files import replacing
from benchmarks import (
    artist20_size,
    cnn,
    cross_validation,
    features,
    growth,
    mistakes,
    musicfm,
    stages,
    tasks,
)
from benchmarks.measured import GAMEMUSIC, Measured, machine, markdown

RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus; python3 -m benchmarks.gamemusic makes it."""
    official: Path | None = None
    """Checkout of github.com/minzwon/musicfm, to compare with."""
    out: Path = RESULTS
    """File to write."""


def benchmarks(settings: Settings) -> list[Callable[[], Measured]]:
    data = settings.data
    of_any = [
        lambda: musicfm.measure(musicfm.Settings(official=settings.official)),
        lambda: growth.measure(growth.Settings()),
        lambda: artist20_size.measure(artist20_size.Settings()),
    ]
    if not data.is_dir():
        print(f"no {data}: what needs it is left out", file=sys.stderr)
        return of_any
    return [
        lambda: mistakes.measure(mistakes.Settings(data)),
        lambda: cross_validation.measure(cross_validation.Settings(data)),
        lambda: features.measure(features.Settings(data)),
        lambda: cnn.measure(cnn.Settings(data)),
        lambda: tasks.measure(tasks.Settings(data)),
        lambda: stages.measure(stages.Settings(data)),
        *of_any,
    ]


def main(settings: Settings) -> None:
    begin, found = time.perf_counter(), []
    for benchmark in benchmarks(settings):
        found.append(benchmark())
        print(found[-1], end="\n\n", flush=True)
    minutes = (time.perf_counter() - begin) / 60
    ratios = [["", "ratio", "from, to"]]
    ratios += [[ratio.what, ratio.median, ratio.spread] for one in found for ratio in one.ratios]
    text = [
        "# Measurements",
        f"`python3 -m benchmarks` wrote this in {minutes:.0f} minutes on {date.today()}. "
        "Ratios are of things done in turn; median of the rounds, and the least to the most of "
        f"them.\n\n{machine()}.",
        markdown(ratios),
        *map(str, found),
    ]
    with replacing(settings.out) as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print(f"{markdown(ratios)}\n\n{machine()}\n{settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
