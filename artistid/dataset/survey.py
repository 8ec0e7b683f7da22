"""What is in a corpus: artists, albums, hours, formats, and the files that can't be used."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from artistid.audio.decode import AudioError
from artistid.audio.decode import decode as audio
from artistid.dataset.corpus import SPLITS, Corpus, Track
from artistid.foundation import parallel
from artistid.foundation.errors import printable
from artistid.foundation.parallel import Workers

CHANNELS = {1: "mono", 2: "stereo"}


@dataclass(frozen=True)
class File:
    """What a file turned out to be."""

    seconds: float = 0.0
    format: str = ""
    sample_rate: int = 0  # Hz
    channels: int = 0
    note: str = ""  # what to know about it
    refusal: str = ""  # why it can't be used


def overview(corpus: Corpus) -> Iterator[str]:
    """A line for each artist, and the corpus' notices."""
    known = [track for track in corpus.tracks if track.artist]
    albums = {track.album_key for track in known if track.album}
    splits = ", ".join(f"{len(corpus.split(split))} {split}" for split in SPLITS)
    yield (
        f"{printable(corpus.name)}: {len(corpus.tracks)} songs by {len(corpus.artists)} artists, "
        f"{len(albums)} albums; {splits}"
    )
    width = max(len(printable(artist)) for artist in corpus.artists)
    yield f"  {'':{width}}  songs  albums  train   val  test"
    for artist in corpus.artists:
        yield f"  {printable(artist):{width}}  {_row([t for t in known if t.artist == artist])}"
    yield from (f"notice: {warning}" for warning in corpus.warnings)


def _row(tracks: list[Track]) -> str:
    uses = Counter(track.split for track in tracks)
    n_albums = len({track.album for track in tracks if track.album})
    return f"{len(tracks):5}  {n_albums:6}  {uses['train']:5} {uses['val']:5} {uses['test']:5}"


def inspect(tracks: Iterable[Track], workers: Workers) -> dict[Path, File]:
    """Decode every track from beginning to end, as the tasks will."""
    paths = [track.path for track in tracks]
    found = parallel.run(_inspect_one, paths, workers=workers, label="decode", unit="song")
    return dict(zip(paths, found, strict=True))


def _inspect_one(path: Path) -> File:
    try:
        sound = audio.load(path, None)
    except AudioError as error:
        return File(refusal=str(error))
    return File(sound.seconds, sound.format, sound.sample_rate, sound.channels, sound.note)


def summary(files: dict[Path, File]) -> Iterator[str]:
    good = [file for file in files.values() if not file.refusal]
    yield f"{sum(file.seconds for file in good) / 3600:.2f} hours"
    yield _counted("formats", (file.format for file in good))
    yield _counted("sample rates", (f"{file.sample_rate} Hz" for file in good))
    channels = (CHANNELS.get(file.channels, f"{file.channels} channels") for file in good)
    yield _counted("channels", channels)
    yield from (
        f"notice: {printable(path)} {file.note}" for path, file in files.items() if file.note
    )
    bad = {path: file for path, file in files.items() if file.refusal}
    yield f"{len(bad)} of {len(files)} files can't be used" + (":" if bad else "")
    yield from (f"  {printable(path)}: {file.refusal}" for path, file in bad.items())


def _counted(what: str, values: Iterable[str]) -> str:
    counts = Counter(values).most_common()
    return f"{what}: " + ", ".join(f"{value} ({count})" for value, count in counts)
