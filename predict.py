"""Which artist is it? Songs of your own, by a model that one of the tasks has trained.

Prints a line for each song: the three artists that it sounds most like, and how probable each is.
"""

if __name__ == "__main__":
    from artistid.foundation import interrupts

    interrupts.end_at_once()  # the imports below take seconds

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tqdm import tqdm
from tyro.conf import Positional

from artistid import cli
from artistid import inference as models
from artistid.audio.decode import AudioError
from artistid.dataset.finding import find_songs
from artistid.foundation import progress
from artistid.foundation.errors import UserError, printable
from artistid.inference import devices
from artistid.results import predictions, timeline


@dataclass(frozen=True, kw_only=True)
class Settings(cli.ScreenSettings):
    how_to_go_on: ClassVar[str] = "run it again for the songs that are left"
    songs: Annotated[tuple[Path, ...], Positional]
    """Files, folders and patterns such as "Music/*/live/*.mp3"."""
    model: Path | None = None
    """A model that a task has saved. Default: the newest in result/, else in result/demo/."""
    weights: Path | None = None
    """MusicFM's weights, for a model of its embeddings. Default: as for task2_baseline.py."""
    json: Path | None = None
    """File to write the predictions to, as JSON."""
    csv: Path | None = None
    """File to write the predictions to, as CSV."""
    timeline: bool = False
    """Draw a figure of each song: which artist each stretch of it sounds like."""
    out: Path = Path("result/timeline")
    """Folder for the figures of --timeline."""
    device: devices.DeviceName = "auto"
    """Where to compute; auto: CUDA or MPS where there is one, else the CPU."""

    def check(self) -> None:
        """Raise UserError for a value that can't be used."""
        if not self.songs:
            raise UserError("which songs? Name files, folders or patterns (--help shows more)")


def main(settings: Settings) -> None:
    songs = find_songs(settings.songs)
    path = settings.model or models.newest(Path("result"), Path("result/demo"))
    width = max(len(printable(song.name)) for song in songs)
    found, refused, drawn = [], [], set[str]()
    with devices.start(settings.device, "auto") as compute:
        model = models.load(path, settings.weights, compute)
        if not settings.quiet:
            print(f"model: {path}, {len(model.artists)} artists", file=sys.stderr)
        for song in progress.bar(songs, unit="song", leave=False, hidden=len(songs) == 1):
            try:
                heard = model.predict(song)
            except AudioError as error:
                refused.append(f"{printable(song)}: {error}")
                continue
            if heard.note and not settings.quiet:
                tqdm.write(f"notice: {printable(song)} {heard.note}", file=sys.stderr)
            found.append(predictions.prediction(song, heard.song, model.artists))
            progress.say(found[-1].line(width))
            if settings.timeline:
                figure = timeline.path_for(song, settings.out, drawn)
                timeline.draw(figure, heard, model.artists, song.name)
    predictions.write(found, settings.json, settings.csv)
    if refused:
        raise UserError(f"{len(refused)} of {len(songs)} can't be used\n" + "\n".join(refused))


if __name__ == "__main__":
    cli.start(Settings, main, __doc__)
