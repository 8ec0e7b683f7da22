"""Your own library: artist and album from folders or tags, and a split by album.

"Various Artists" are nobody in particular, and a handful of tracks is too little to learn an artist
from: both are left out, and reported.
"""

import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import mutagen
from mutagen.easymp4 import EasyMP4Tags
from tyro.conf import arg

from artistid.dataset.corpus import (
    SPLITS,
    Corpus,
    Split,
    Track,
    label_problems,
    listing,
    raise_problems,
    read_strings,
)
from artistid.dataset.finding import audio_files
from artistid.foundation import progress
from artistid.foundation.errors import require_at_least

NOBODY = {  # names in folders and tags that stand for no artist in particular, case-folded
    *("various artists", "various", "va", "v.a.", "v/a", "compilation", "compilations"),
    *("soundtrack", "soundtracks", "unknown artist", "unknown", "<unknown>"),
    *("diverse", "verschiedene interpreten", "artistes divers", "varios artistas"),
    *("artisti vari", "群星", "合輯", "合辑", "オムニバス"),
}
TAGS = {  # as mutagen's easy interface, Vorbis comments, ID3 (in WAV and AIFF), ASF call them
    "artist": ("artist", "TPE1", "Author"),
    "albumartist": ("albumartist", "album artist", "TPE2", "WM/AlbumArtist"),
    "album": ("album", "TALB", "WM/AlbumTitle"),
    "compilation": ("compilation", "TCMP", "WM/IsCompilation"),
}
EasyMP4Tags.RegisterKey("compilation", lambda tags, _: [str(tags["cpil"])])
MIN_ALBUMS = 3  # one per split
MAX_NAMES = 10  # listed in a warning; the others are counted


@dataclass(frozen=True)
class LibrarySettings:
    """Your own library (the course's layout ignores these)."""

    by: Literal["folders", "tags"] = "folders"
    """Read artist and album from folders or tags (untagged files: from folders)."""
    min_tracks: int = 6
    """Leave out artists with fewer tracks."""
    compilations: bool = False
    """Include "Various Artists" and the like."""
    follow_links: bool = False
    """Follow symbolic links that lead out of the library."""
    split: Annotated[
        Path | None,
        arg(metavar="FOLDER", help_behavior_hint="(default: a new one, by album, from --seed)"),
    ] = None
    """Repeat the split of an earlier run, from the lists in its result folder."""

    def __post_init__(self) -> None:
        require_at_least(self, min_tracks=1)


class Song(NamedTuple):
    path: Path
    id: str  # path below the library
    artist: str
    album: str
    is_compilation: bool  # from an album of various artists, or by nobody in particular


def read_library(folder: Path, settings: LibrarySettings, seed: int) -> Corpus:
    """Read and split the library in `folder`. Raises CorpusError if no model can be trained."""
    found = audio_files(folder, settings.follow_links)
    identify = _by_tags if settings.by == "tags" else _by_folders
    songs, notes = identify(folder, found.files)
    if found.left_out:
        links = listing(found.left_out, MAX_NAMES)
        notes.append(f"left out: {links} (--follow-links follows links)")
    if not songs:
        nothing = "neither artist20/train.json nor audio in <artist>/<album>/"
        hint = f"; try --by tags for the {len(found.files)} audio file(s) elsewhere in it"
        raise_problems(folder, [nothing + (hint if found.files and settings.by != "tags" else "")])
    songs = _one_spelling(songs)
    if settings.split is not None:
        tracks = _repeat_split(settings.split, songs, notes)
    else:
        tracks = _draw_split(_select(songs, settings, notes), notes, seed)
    corpus = Corpus(folder.resolve().name, tuple(tracks), tuple(notes), is_split_here=True)
    raise_problems(folder, label_problems(corpus.split("train"), corpus.split("val")), notes)
    return corpus


# --- artist and album ------------------------------------------------------------------------


def _by_folders(folder: Path, files: Sequence[Path]) -> tuple[list[Song], list[str]]:
    placed = {file: _from_folders(folder, file) for file in files}
    strays = [str(file.relative_to(folder)) for file, song in placed.items() if song is None]
    notes = []
    if strays:
        notes.append(
            f"{len(strays)} file(s) outside <artist>/<album>/ are left out "
            f"(--by tags may identify them): {listing(strays, MAX_NAMES)}"
        )
    return [song for song in placed.values() if song], notes


def _by_tags(folder: Path, files: Sequence[Path]) -> tuple[list[Song], list[str]]:
    songs, n_placed, unknown = [], 0, []
    for file in progress.bar(files, desc="tags", unit="file", leave=False):
        song = _from_tags(folder, file)
        if song is None:
            song = _from_folders(folder, file)
            n_placed += song is not None
        if song is None:
            unknown.append(str(file.relative_to(folder)))
        else:
            songs.append(song)
    notes = []
    if n_placed:
        notes.append(f"{n_placed} file(s) without an artist tag: artists taken from folders")
    if unknown:
        notes.append(
            f"{len(unknown)} file(s) without an artist in tags or folders are left out: "
            f"{listing(unknown, MAX_NAMES)}"
        )
    return songs, notes


def _from_folders(folder: Path, file: Path) -> Song | None:
    parts = file.relative_to(folder).parts
    if len(parts) < 3:
        return None
    artist, album = parts[:2]
    return Song(file, "/".join(parts), artist, album, _is_nobody(artist))


def _from_tags(folder: Path, file: Path) -> Song | None:
    """By the album's artist, who is the same for the whole album, else by the track's."""
    try:
        tags = getattr(mutagen.File(file, easy=True), "tags", None) or {}
    except Exception:  # damaged files make the parser raise anything; decoding will report them
        tags = {}
    album_artist, track_artist = _tag(tags, "albumartist"), _tag(tags, "artist")
    is_compilation = _is_nobody(album_artist) or _tag(tags, "compilation") in ("1", "True")
    artist = track_artist if is_compilation else album_artist or track_artist
    if not artist:
        return None
    album = _tag(tags, "album") or file.parent.name
    id = file.relative_to(folder).as_posix()
    return Song(file, id, artist, album, is_compilation or _is_nobody(artist))


def _tag(tags: Mapping[str, Any], name: str) -> str:
    """First value of a tag; empty if it is missing."""
    for key in TAGS[name]:
        value = tags.get(key)
        if values := getattr(value, "text", value):  # an ID3 frame has a text
            return " ".join(str(values[0]).split())
    return ""


def _is_nobody(artist: str) -> bool:
    return artist.casefold() in NOBODY


def _one_spelling(songs: Sequence[Song]) -> list[Song]:
    """Give names that differ only in case or Unicode form their most frequent spelling."""
    artists = _most_frequent(song.artist for song in songs)
    albums = _most_frequent(song.album for song in songs)
    return [
        song._replace(artist=artists[_folded(song.artist)], album=albums[_folded(song.album)])
        for song in songs
    ]


def _most_frequent(names: Iterable[str]) -> dict[str, str]:
    """Folded name -> its most frequent spelling."""
    counts = Counter(unicodedata.normalize("NFC", name) for name in names)
    return {_folded(name): name for name in sorted(counts, key=lambda name: (counts[name], name))}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


# --- the split -------------------------------------------------------------------------------


def _select(songs: Sequence[Song], settings: LibrarySettings, notes: list[str]) -> list[Song]:
    """Leave out compilations, then artists with few tracks."""
    if not settings.compilations:
        compiled = [song for song in songs if song.is_compilation]
        songs = [song for song in songs if not song.is_compilation]
        if compiled:
            names = listing(sorted({song.artist for song in compiled}), MAX_NAMES)
            notes.append(
                f"{len(compiled)} track(s) of compilations are left out "
                f"(--compilations includes them): {names}"
            )
    counts = Counter(song.artist for song in songs)
    few = sorted(artist for artist, count in counts.items() if count < settings.min_tracks)
    if few:
        names = listing([f"{artist} ({counts[artist]})" for artist in few], MAX_NAMES)
        notes.append(
            f"{len(few)} artist(s) with fewer than {settings.min_tracks} tracks are left out "
            f"(--min-tracks): {names}"
        )
    return [song for song in songs if counts[song.artist] >= settings.min_tracks]


def _draw_split(songs: Sequence[Song], notes: list[str], seed: int) -> list[Track]:
    """About 4/1/1 of each artist's albums, or of the tracks of artists with few albums.

    What is too little to divide is for training.
    """
    draw = random.Random(seed)
    by_artist: dict[str, list[Song]] = defaultdict(list)
    for song in songs:
        by_artist[song.artist].append(song)
    tracks, split_by_song = [], []
    for artist, own in sorted(by_artist.items()):
        has_albums = len({song.album for song in own}) >= MIN_ALBUMS
        if not has_albums:
            split_by_song.append(artist)
        units: dict[str, list[Song]] = defaultdict(list)
        for song in own:
            units[song.album if has_albums else song.id].append(song)
        names = sorted(units)
        draw.shuffle(names)
        n_held_out = max(1, round(len(names) / 6)) if len(names) >= len(SPLITS) else 0
        for i, name in enumerate(names):
            split: Split = "test" if i < n_held_out else "val" if i < 2 * n_held_out else "train"
            tracks += [_track(song, split) for song in units[name]]
    if split_by_song:
        notes.append(
            f"{len(split_by_song)} artist(s) with fewer than {MIN_ALBUMS} albums are split by "
            f"track ({listing(split_by_song, MAX_NAMES)}): their scores are too high, since a "
            "model may recognise the album's sound instead of the artist"
        )
    return tracks


def _repeat_split(folder: Path, songs: Sequence[Song], notes: list[str]) -> list[Track]:
    """The split in the lists in `folder`. Raises CorpusError with every problem in them."""
    by_id = {f"./{song.id}": song for song in songs}
    problems: list[str] = []
    split_of: dict[str, Split] = {}
    for split in SPLITS:
        file = folder / f"{split}.json"
        if split == "test" and not file.exists():
            continue
        for entry in read_strings(file, problems, may_be_empty=split == "test"):
            if entry not in by_id:
                problems.append(f"{file}: {entry!r}: no such track in the library")
            elif entry in split_of:
                problems.append(f"{file}: {entry!r} is already in {split_of[entry]}.json")
            else:
                split_of[entry] = split
    raise_problems(folder, problems)
    n_unlisted = len(by_id) - len(split_of)
    if n_unlisted:
        notes.append(f"{n_unlisted} track(s) are in no list in {folder}: left out")
    return [_track(by_id[entry], split) for entry, split in split_of.items()]


def _track(song: Song, split: Split) -> Track:
    return Track(song.path, song.id, split, song.artist, song.album)


def split_lists(corpus: Corpus) -> dict[str, list[str]]:
    """File name -> entries, of the lists from which --split repeats this split."""
    return {f"{split}.json": [f"./{t.id}" for t in corpus.split(split)] for split in SPLITS}
