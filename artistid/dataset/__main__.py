"""What is in a folder of music, and how a task would split it. Writes nothing.

Artists and albums at once; hours, formats and files that can't be used after decoding all of it.
"""

if __name__ == "__main__":
    from artistid.foundation import interrupts

    interrupts.end_at_once()  # the imports below take seconds

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional

from artistid import cli
from artistid.dataset import survey
from artistid.dataset.library import LibrarySettings
from artistid.dataset.read import read_corpus


@dataclass(frozen=True)
class Settings(cli.SharedSettings, LibrarySettings):
    how_to_go_on: ClassVar[str] = "what is above is complete"

    folder: Annotated[Path, Positional] = Path()
    """A library, or a corpus in the course's layout."""
    seed: int = 0
    """The --seed of the task that is to come: it draws the split."""

    def check(self) -> None:
        cli.SharedSettings.check(self)
        LibrarySettings.check(self)


def main(settings: Settings) -> None:
    corpus = read_corpus(settings.folder, settings.seed, settings)
    for line in survey.overview(corpus):
        print(line, flush=True)
    for line in survey.summary(survey.inspect(corpus.tracks, settings.workers)):
        print(line)


if __name__ == "__main__":
    cli.start(Settings, main, __doc__)
