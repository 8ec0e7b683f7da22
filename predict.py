"""Which artist is it? Songs of your own, by a model that one of the tasks has trained.

Prints a line for each song: the three most probable artists, with their probabilities. "unknown?"
marks a song that is less like the songs the model was trained on than 95% of the songs of val are.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from artistid import cli, inference
from artistid.audio.cache import DEFAULT_CACHE
from artistid.audio.decode import AudioError
from artistid.dataset.finding import find_songs
from artistid.foundation import progress
from artistid.foundation.errors import UserError, printable
from artistid.foundation.files import require_ordinary, write_all
from artistid.models.devices import DeviceName
from artistid.results import figures, predictions
from artistid.vocals.heard import SeparatorFile, VocalsFolder, require_one
from artistid.vocals.voice import Separated, Stems


@dataclass(frozen=True)
class Settings:
    songs: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="SONG ...", help_behavior_hint="")
    ] = ()
    """Files, folders, and patterns such as "Music/*/live/*.mp3"."""
    model: Annotated[
        Path | None,
        arg(metavar="FILE", help_behavior_hint="(default: the newest in result/ or result/demo/)"),
    ] = None
    """A model saved by one of the tasks."""
    json: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the predictions to a JSON file."""
    csv: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the predictions to a CSV file."""
    timeline: bool = False
    """Draw each song over time: the posterior of every excerpt."""
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("result/timeline")
    """Folder for the figures of --timeline."""
    source: Annotated[
        Literal["trained", "mix", "vocals", "both"], arg(help_behavior_hint="(default: trained)")
    ] = "trained"
    """What is heard of a song: what the model was trained on; of one that was trained on both, also
    the mix or the vocals alone."""
    vocals: VocalsFolder = None
    separator: SeparatorFile = None
    cache: Annotated[
        Path, arg(metavar="FOLDER", help_behavior_hint="(default: cache/ of the project)")
    ] = DEFAULT_CACHE
    """Folder for vocals that are separated."""
    weights: Annotated[
        Path | None, arg(metavar="FILE", help_behavior_hint="(default: as for task2_baseline.py)")
    ] = None
    """Weights of MusicFM or ECAPA-TDNN, for a model on their embeddings."""
    device: DeviceName = "auto"
    """Where to compute; auto: CUDA or MPS if available, else the CPU."""
    quiet: bool = False
    """Show only results and errors."""

    def __post_init__(self) -> None:
        if not self.songs:
            raise UserError("which songs? Name files, folders or patterns (see --help)")
        require_one(self.vocals, self.separator)
        for file in filter(None, (self.json, self.csv)):
            require_ordinary(file)


def main(settings: Settings) -> None:
    songs, left_out = find_songs(settings.songs)
    path = settings.model or inference.newest_models(Path("result"), Path("result/demo"))[0]
    width = max(len(printable(song.name)) for song in songs)
    voice = (
        Stems.find(songs, settings.vocals)
        if settings.vocals
        else Separated(settings.cache, settings.separator)
    )
    source = None if settings.source == "trained" else settings.source
    predictor = inference.load_model(path, settings.weights, settings.device, source, voice)
    if (settings.vocals or settings.separator) and predictor.source == "mix":
        raise UserError("--vocals and --separator: of no use, only the mix is heard")
    if not settings.quiet:
        heard = "" if predictor.source == "mix" else f", listens to {predictor.source}"
        print(f"model: {path}, {len(predictor.artists)} artists{heard}", file=sys.stderr)
        for place in left_out:
            print(f"notice: left out: {printable(place)}", file=sys.stderr)
    verdicts: dict[Path, predictions.Verdict] = {}
    refused: list[str] = []
    drawn: set[Path] = set()
    with progress.decoders_silenced(), saved(verdicts, settings):
        for song in progress.bar(songs, unit="song", leave=False, hidden=len(songs) == 1):
            try:
                prediction = predictor.predict(song)
            except AudioError as error:
                refused.append(f"{printable(song)}: {error}")
                continue
            if prediction.note and not settings.quiet:
                progress.say(f"notice: {printable(song)}: {prediction.note}", sys.stderr)
            verdicts[song] = prediction.verdict
            progress.say(predictions.line(song, verdicts[song], width))
            if settings.timeline:
                names = (f"{song.stem} {n}" if n > 1 else song.stem for n in count(1))
                figure = next(
                    f for name in names if (f := settings.out / f"{name}.png") not in drawn
                )
                drawn.add(figure)
                write_all({figure: figures.timeline_png(prediction, song.name)})
    if refused:
        raise UserError(
            f"{len(refused)} of {len(songs)} files cannot be used\n" + "\n".join(refused)
        )


@contextmanager
def saved(verdicts: Mapping[Path, predictions.Verdict], settings: Settings) -> Iterator[None]:
    """Write --json and --csv at the end of the block, also of one that is interrupted."""
    try:
        yield
    finally:
        if settings.json and verdicts:
            predictions.write_predictions_json(settings.json, verdicts)
        if settings.csv and verdicts:
            predictions.write_predictions_csv(settings.csv, verdicts)


if __name__ == "__main__":
    cli.start(Settings, main, __doc__, "the lines above are complete; name the remaining songs")
