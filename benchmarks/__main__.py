"""Run every benchmark and write benchmarks/RESULTS.md.

    python3 -m benchmarks [--data gamemusic] [--official CHECKOUT]

Takes about an hour on two cores; nothing else should run on the machine meanwhile. Needs the
packages of requirements-dev.txt. Each benchmark also runs alone, for example
python3 -m benchmarks.features.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from artistid.foundation.files import replacing
from benchmarks import cross_validation, features, growth, measured, mistakes, musicfm, tasks
from benchmarks.measured import GAMEMUSIC, Measured, machine

RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus, built by python3 -m benchmarks.gamemusic."""
    official: Path | None = None
    """Checkout of github.com/minzwon/musicfm to compare with."""
    out: Path = RESULTS
    """File to write."""


def benchmarks(settings: Settings) -> list[Callable[[], Measured]]:
    data = settings.data
    on_music: list[Callable[[], Measured]] = [
        lambda: cross_validation.measure(cross_validation.Settings(data, repeats=1)),
        lambda: mistakes.measure(mistakes.Settings(data)),
        lambda: features.measure(features.Settings(data)),
        lambda: tasks.measure(tasks.Settings(data)),
    ]
    if not data.is_dir():
        print(f"no corpus at {data}: benchmarks that need it are skipped", file=sys.stderr)
        on_music = []
    return [
        lambda: musicfm.measure(musicfm.Settings(official=settings.official)),
        *on_music,
        lambda: growth.measure(growth.Settings()),
    ]


def main(settings: Settings) -> Path:
    """Returns the path of the file."""
    found = []
    for benchmark in benchmarks(settings):
        found.append(benchmark())
        print(found[-1], end="\n\n", flush=True)
    text = [
        "# Measurements",
        f"Measured by `python3 -m benchmarks` on {date.today()}. A ratio compares two alternatives "
        "that ran in turn: median, minimum and maximum over the rounds.",
        f"{machine()}.",
        *map(str, found),
    ]
    with replacing(settings.out) as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return settings.out


if __name__ == "__main__":
    measured.run(Settings, main, __doc__)
