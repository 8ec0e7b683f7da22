"""Show what a music folder holds, and how the tasks would split it. Writes nothing.

Artists and albums come at once; durations, formats and unusable files after all files are decoded.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from artistid import cli
from artistid.audio import source
from artistid.audio.decode import AudioError
from artistid.dataset.corpus import SPLITS, Corpus, Track
from artistid.dataset.library import LibrarySettings
from artistid.dataset.read import read_corpus
from artistid.foundation import parallel
from artistid.foundation.errors import printable
from artistid.foundation.parallel import Workers

CHANNELS = {1: "mono", 2: "stereo"}


@dataclass(frozen=True)
class Settings:
    folder: Annotated[Path, Positional, arg(metavar="FOLDER")] = Path()
    """A library, or a corpus in the course's layout."""
    seed: int = 0
    """The task's --seed: it draws the split."""
    quiet: bool = False
    """Show no progress bars."""
    library: LibrarySettings = LibrarySettings()
    workers: Workers = Workers()


@dataclass(frozen=True)
class Inspection:
    """What decoding a file revealed."""

    seconds: float = 0.0
    format: str = ""
    sample_rate: int = 0  # Hz
    channels: int = 0
    note: str = ""  # odd, but usable
    refusal: str = ""  # why it is unusable


def main(settings: Settings) -> None:
    corpus = read_corpus(settings.folder, settings.seed, settings.library)
    for line in overview(corpus):
        print(line, flush=True)
    paths = [track.path for track in corpus.tracks]
    found = parallel.run(
        inspect,
        [path.absolute() for path in paths],  # a worker may run in another folder
        workers=settings.workers,
        label="decode",
        unit="song",
        needs=(settings.folder.absolute(),),
    )
    for line in summary(dict(zip(paths, found, strict=True))):
        print(line)


def overview(corpus: Corpus) -> Iterator[str]:
    """Totals, a line per artist, and the corpus' warnings."""

    def n_albums(tracks: Iterable[Track]) -> int:
        return len({track.album_key for track in tracks if track.artist and track.album})

    splits = ", ".join(f"{len(corpus.split(split))} {split}" for split in SPLITS)
    yield (
        f"{printable(corpus.name)}: {len(corpus.tracks)} tracks by {len(corpus.artists)} artists, "
        f"{n_albums(corpus.tracks)} albums; {splits}"
    )
    width = max(len(printable(artist)) for artist in corpus.artists)
    yield f"  {'':{width}}  tracks  albums  train   val  test"
    for artist in corpus.artists:
        own = [track for track in corpus.tracks if track.artist == artist]
        n = Counter(track.split for track in own)
        yield (
            f"  {printable(artist):{width}}  {len(own):6}  {n_albums(own):6}  "
            f"{n['train']:5} {n['val']:5} {n['test']:5}"
        )
    yield from (f"notice: {warning}" for warning in corpus.warnings)


def inspect(path: Path) -> Inspection:
    """Decode a file from start to end, as the tasks do."""
    try:
        audio = source.load(path, None)
    except AudioError as error:
        return Inspection(refusal=str(error))
    return Inspection(audio.seconds, audio.format, audio.sample_rate, audio.channels, audio.note)


def summary(files: dict[Path, Inspection]) -> Iterator[str]:
    """Total duration, formats, odd files and unusable ones."""
    good = [file for file in files.values() if not file.refusal]
    yield f"{sum(file.seconds for file in good) / 3600:.2f} hours"
    yield _counted("formats", [file.format for file in good])
    yield _counted("sample rates", [f"{file.sample_rate} Hz" for file in good])
    channels = [CHANNELS.get(file.channels, f"{file.channels} channels") for file in good]
    yield _counted("channels", channels)
    yield from (
        f"notice: {printable(path)}: {file.note}" for path, file in files.items() if file.note
    )
    bad = {path: file for path, file in files.items() if file.refusal}
    yield f"{len(bad)} of {len(files)} files are unusable" + (":" if bad else "")
    yield from (f"  {printable(path)}: {file.refusal}" for path, file in bad.items())


def _counted(title: str, values: Sequence[str]) -> str:
    counts = Counter(values).most_common()
    return f"{title}: " + ", ".join(f"{value} ({count})" for value, count in counts)


if __name__ == "__main__":
    cli.start(Settings, main, __doc__, after_interrupt="everything above is complete")
