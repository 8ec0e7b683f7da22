"""A library of one's own: who and which album each file is, and a split by album.

Folders say it, `<artist>/<album>/<track>`, or the files' tags. No song is by "Various Artists", and
of an artist with a handful of songs nothing can be learnt: both are left out, and said.
"""

import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import mutagen

from artistid.dataset.corpus import (
    SPLITS,
    Corpus,
    Split,
    Track,
    label_problems,
    listing,
    read_strings,
    refuse,
)
from artistid.dataset.finding import audio_files
from artistid.foundation import progress
from artistid.foundation.errors import require_at_least

NOBODY = {  # as folders and tags name them, in lower case
    *("various artists", "various", "va", "v.a.", "v/a", "compilation", "compilations"),
    *("soundtrack", "soundtracks", "unknown artist", "unknown", "<unknown>"),
    *("diverse", "verschiedene interpreten", "artistes divers", "varios artistas"),
    *("artisti vari", "群星", "合輯", "合辑", "オムニバス"),
}
ID3_FRAMES = {"artist": "TPE1", "albumartist": "TPE2", "album": "TALB", "compilation": "TCMP"}


@dataclass(frozen=True)
class LibrarySettings:
    """How a plain library is read; of the course's layout nothing changes."""

    by: Literal["folders", "tags"] = "folders"
    """Of a library: what names artist and album, its folders or its files' tags.
    A file whose tags name no artist goes by its folders."""
    min_tracks: int = 6
    """Of a library: artists with fewer tracks are left out."""
    compilations: bool = False
    """Of a library: use "Various Artists" and their like, too."""
    follow_links: bool = False
    """Of a library: follow symbolic links that lead out of it."""
    split: Path | None = None
    """Of a library: repeat the split of an earlier run, which has left its lists in this folder.
    Default: a new one, by album, drawn from --seed."""

    def check(self) -> None:
        """Raise UserError for a value that can't be used."""
        require_at_least(self, min_tracks=1)


class Song(NamedTuple):
    path: Path
    id: str  # its path below the library
    artist: str
    album: str
    is_compiled: bool  # on an album of various artists, or by nobody in particular


def read_library(folder: Path, settings: LibrarySettings, seed: int) -> Corpus:
    """Raises CorpusError where there is nothing to learn from."""
    found = audio_files(folder, settings.follow_links)
    songs, notes = _BY[settings.by](folder, found.files)
    if found.left_out:
        remedy = " (--follow-links takes links)"
        notes.append(f"left out: {listing(found.left_out, 10)}{remedy}")
    if not songs:
        refuse(folder, [_nothing_here(folder, found.files)])
    if settings.split is not None:
        tracks = _as_listed(settings.split, songs, notes)
    else:
        tracks = _drawn(_chosen(_one_spelling(songs), settings, notes), notes, seed)
    corpus = Corpus(folder.resolve().name, tuple(tracks), tuple(notes), is_split_here=True)
    refuse(folder, label_problems(corpus.split("train"), corpus.split("val")), notes)
    return corpus


def _nothing_here(folder: Path, files: Sequence[Path]) -> str:
    what = f"neither artist20/train.json nor audio in <artist>/<album>/ in {folder}"
    return f"{what}; --by tags reads the tags of its {len(files)} files" if files else what


# --- who it is -------------------------------------------------------------------------------


def _by_folders(folder: Path, files: Sequence[Path]) -> tuple[list[Song], list[str]]:
    placed = {file: _placed(folder, file) for file in files}
    strays = [str(file.relative_to(folder)) for file, song in placed.items() if song is None]
    notes = []
    if strays:
        notes.append(
            f"{len(strays)} file(s) not in <artist>/<album>/ are left out (--by tags may know "
            f"whose they are): {listing(strays, 10)}"
        )
    return [song for song in placed.values() if song], notes


def _placed(folder: Path, file: Path) -> Song | None:
    parts = file.relative_to(folder).parts
    if len(parts) < 3:
        return None
    artist, album = parts[:2]
    return Song(file, "/".join(parts), artist, album, _is_nobody(artist))


def _by_tags(folder: Path, files: Sequence[Path]) -> tuple[list[Song], list[str]]:
    songs, untagged, unknown = [], 0, []
    for file in progress.bar(files, desc="tags", unit="file", leave=False):
        song = _tagged(folder, file)
        if song is None:
            untagged += 1
            song = _placed(folder, file)
        if song is None:
            unknown.append(str(file.relative_to(folder)))
        else:
            songs.append(song)
    notes = []
    if untagged > len(unknown):
        notes.append(
            f"{untagged - len(unknown)} file(s) without an artist in their tags: as the folders say"
        )
    if unknown:
        notes.append(
            f"{len(unknown)} file(s) whose artist neither tags nor folders tell are left out: "
            f"{listing(unknown, 10)}"
        )
    return songs, notes


def _tagged(folder: Path, file: Path) -> Song | None:
    """The album's artist, who is the same for all its songs, where it is anybody; else the
    song's."""
    try:
        tags = getattr(mutagen.File(file, easy=True), "tags", None) or {}
    except Exception:  # whatever a damaged file makes of the parser; decoding will tell
        tags = {}
    of_album, of_song = _tag(tags, "albumartist"), _tag(tags, "artist")
    is_compiled = _is_nobody(of_album) or _tag(tags, "compilation") == "1"
    artist = of_song if is_compiled else of_album or of_song
    if not artist:
        return None
    album = _tag(tags, "album") or file.parent.name
    id = file.relative_to(folder).as_posix()
    return Song(file, id, artist, album, is_compiled or _is_nobody(artist))


def _tag(tags: Mapping[str, Any], name: str) -> str:
    """Its first value; empty where there is none. WAV and AIFF have the frames of ID3."""
    values = tags.get(name) or getattr(tags.get(ID3_FRAMES[name]), "text", None) or [""]
    return " ".join(str(values[0]).split())


def _is_nobody(artist: str) -> bool:
    return artist.casefold() in NOBODY


_BY: dict[str, Callable[[Path, Sequence[Path]], tuple[list[Song], list[str]]]] = {
    "folders": _by_folders,
    "tags": _by_tags,
}


def _one_spelling(songs: Sequence[Song]) -> list[Song]:
    """Names that differ in capitals or in how an accent is encoded become the most frequent."""
    artists, albums = (
        _most_frequent(getattr(song, name) for song in songs) for name in ("artist", "album")
    )
    return [
        song._replace(artist=artists[_folded(song.artist)], album=albums[_folded(song.album)])
        for song in songs
    ]


def _most_frequent(names: Iterable[str]) -> dict[str, str]:
    """The spelling by the folded name."""
    counts = Counter(unicodedata.normalize("NFC", name) for name in names)
    spelt = sorted(counts, key=lambda name: (counts[name], name))
    return {_folded(name): name for name in spelt}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


# --- what is used, and for what --------------------------------------------------------------


def _chosen(songs: Sequence[Song], settings: LibrarySettings, notes: list[str]) -> list[Song]:
    compiled = [song for song in songs if song.is_compiled and not settings.compilations]
    if compiled:
        artists = sorted({song.artist for song in compiled})
        notes.append(
            f"{len(compiled)} song(s) of compilations are left out (--compilations takes them): "
            f"{listing(artists, 10)}"
        )
    rest = [song for song in songs if settings.compilations or not song.is_compiled]
    counts = Counter(song.artist for song in rest)
    few = sorted(artist for artist, count in counts.items() if count < settings.min_tracks)
    if few:
        notes.append(
            f"{len(few)} artist(s) with fewer than {settings.min_tracks} tracks are left out "
            f"(--min-tracks): {listing([f'{artist} ({counts[artist]})' for artist in few], 10)}"
        )
    return [song for song in rest if counts[song.artist] >= settings.min_tracks]


def _drawn(songs: Sequence[Song], notes: list[str], seed: int) -> list[Track]:
    draw = random.Random(seed)
    by_artist: dict[str, list[Song]] = defaultdict(list)
    for song in songs:
        by_artist[song.artist].append(song)
    tracks, by_song = [], []
    for artist, own in sorted(by_artist.items()):
        has_albums = len({song.album for song in own}) >= 3
        if not has_albums:
            by_song.append(artist)
        tracks += _split_artist(own, has_albums, draw)
    if by_song:
        notes.append(
            f"{len(by_song)} artist(s) with fewer than 3 albums are split by song "
            f"({listing(by_song, 10)}): scores are then too high, since a model may know the "
            "album's sound and not the artist"
        )
    return tracks


def _split_artist(songs: list[Song], by_album: bool, draw: random.Random) -> list[Track]:
    """About 4/1/1 of the albums, or of the songs; what is too little to divide is for training."""
    units: dict[str, list[Song]] = defaultdict(list)
    for song in songs:
        units[song.album if by_album else song.id].append(song)
    names = sorted(units)
    draw.shuffle(names)
    held_out = max(1, round(len(names) / 6)) if len(names) >= 3 else 0
    kinds: list[Split] = ["test", "val", "train"]
    counts = (held_out, held_out, len(names) - 2 * held_out)
    uses = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
    return [
        _track(song, use) for name, use in zip(names, uses, strict=True) for song in units[name]
    ]


def _track(song: Song, split: Split) -> Track:
    return Track(song.path, song.id, split, song.artist, song.album)


# --- the split of an earlier run -------------------------------------------------------------


def split_lists(corpus: Corpus) -> dict[str, list[str]]:
    """What to write so that the split can be repeated: file names and what is in them."""
    return {f"{split}.json": [f"./{t.id}" for t in corpus.split(split)] for split in SPLITS}


def _as_listed(folder: Path, songs: Sequence[Song], notes: list[str]) -> list[Track]:
    """Raises CorpusError with every problem of the lists."""
    by_id = {f"./{song.id}": song for song in _one_spelling(songs)}
    problems: list[str] = []
    use: dict[str, Split] = {}
    for split in SPLITS:
        file = folder / f"{split}.json"
        if split == "test" and not file.exists():
            continue
        for entry in read_strings(file, problems, may_be_empty=split == "test"):
            if entry not in by_id:
                problems.append(f"{file}: {entry!r}: no such song in the library")
            elif entry in use:
                problems.append(f"{file}: {entry!r} is in {use[entry]}.json, too, or listed twice")
            else:
                use[entry] = split
    refuse(folder, problems)
    if len(use) < len(by_id):
        notes.append(f"{len(by_id) - len(use)} song(s) are in no list in {folder}: left out")
    return [_track(by_id[entry], split) for entry, split in use.items()]
