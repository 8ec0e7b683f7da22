"""Whatever lists, answers, names and patterns contain, they are used or refused with a message."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artistid.dataset.corpus import Corpus, CorpusError
from artistid.dataset.finding import find_songs
from artistid.dataset.library import LibrarySettings
from artistid.dataset.read import read_corpus

TRACKS = ["abba/one/1.mp3", "abba/two/2.mp3", "blur/x/歌 1.mp3", "blur/y/2.mp3"]

seeded = settings(max_examples=60, derandomize=True, deadline=None, database=None)

parts = st.sampled_from(["..", ".", "", "~", "\0", "a" * 300, "\ud800", "\n", "%s", "train_val"])
paths = st.lists(st.one_of(parts, st.text(max_size=8)), max_size=6).map("/".join)
entries = [f"./train_val/{track}" for track in TRACKS]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
bad_lists = st.one_of(
    st.lists(st.sampled_from(entries) | paths, max_size=6).map(json.dumps).map(str.encode),
    values.map(json.dumps).map(str.encode),
    st.binary(max_size=40),
    st.just(b"[" * 100_000),
)
optional = st.booleans().flatmap(lambda is_there: bad_lists if is_there else st.none())


@st.composite
def train_and_val(draw: st.DrawFn) -> list[bytes]:
    """The contents of two lists that are valid, mostly, and otherwise anything."""
    order, n_train = draw(st.permutations(entries)), draw(st.integers(1, 3))
    valid = [json.dumps(part).encode() for part in (order[:n_train], order[n_train:])]
    return [draw(bad_lists) if draw(st.integers(0, 2)) == 0 else content for content in valid]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course corpus of empty files, without lists."""
    folder = tmp_path_factory.mktemp("fuzz")
    for path in (*(f"train_val/{track}" for track in TRACKS), "test/001.mp3", "test/002.mp3"):
        file = folder / "artist20" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def require_printable(error: CorpusError) -> None:
    assert all(line.isprintable() for line in str(error).splitlines())


def outcome(read: Callable[[], Corpus], root: Path) -> str:
    """What came of reading a corpus; a corpus that was read is consistent."""
    try:
        corpus = read()
    except CorpusError as error:
        require_printable(error)
        return "refused"
    assert len(corpus.artists) >= 2
    for track in corpus.tracks:
        assert track.path.resolve().is_relative_to(root.resolve())
        assert track.path.is_file()
    return "used"


def write(file: Path, content: bytes | None) -> None:
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_bytes(content)


def require_both(outcomes: Counter[str]) -> None:
    """The examples must reach both ends."""
    assert outcomes["used"], outcomes
    assert outcomes["refused"], outcomes


def test_lists_and_answers_of_a_course(fuzzed: Path) -> None:
    outcomes: Counter[str] = Counter()

    @seeded
    @given(lists=train_and_val(), answers=optional)
    def check(lists: list[bytes], answers: bytes | None) -> None:
        write(fuzzed / "artist20/train.json", lists[0])
        write(fuzzed / "artist20/val.json", lists[1])
        write(fuzzed / "test_ans.json", answers)
        outcomes[outcome(lambda: read_corpus(fuzzed), fuzzed)] += 1

    check()
    require_both(outcomes)


def test_lists_of_a_split(fuzzed: Path, tmp_path: Path) -> None:
    library = fuzzed / "artist20/train_val"
    outcomes: Counter[str] = Counter()

    @seeded
    @given(lists=train_and_val(), test=optional)
    def check(lists: list[bytes], test: bytes | None) -> None:
        for name, content in zip(("train", "val", "test"), (*lists, test), strict=True):
            content = content and content.replace(b"./train_val/", b"./")
            write(tmp_path / f"{name}.json", content)
        split = LibrarySettings(split=tmp_path)
        outcomes[outcome(lambda: read_corpus(library, 0, split), library)] += 1

    check()
    require_both(outcomes)


globs = st.sampled_from(["*", "**", "a**b", "[ab]*", "[", "*.mp3", "train_val", "{a,b}", "test"])


def test_patterns(fuzzed: Path) -> None:
    outcomes: Counter[str] = Counter()

    @seeded
    @given(place=paths | st.lists(globs, min_size=1, max_size=5).map("/".join))
    def check(place: str) -> None:
        try:
            songs, _ = find_songs([fuzzed / "artist20" / place.lstrip("/")])
        except CorpusError as error:
            require_printable(error)
            outcomes["refused"] += 1
        else:
            assert songs
            assert all(song.is_file() for song in songs)
            outcomes["used"] += 1

    check()
    require_both(outcomes)


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=()), min_size=1)


def test_any_folder_name() -> None:
    outcomes: Counter[str] = Counter()

    @seeded
    @given(artists=st.lists(names.filter(lambda name: not name.startswith(".")), max_size=5))
    def check(artists: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for artist in artists:
                for album in range(3):
                    place = Path(folder, artist, f"{album}")
                    try:
                        place.mkdir(parents=True, exist_ok=True)
                    except (OSError, UnicodeEncodeError):
                        continue  # not a valid file name
                    for song in range(2):
                        Path(place, f"{song}.mp3").touch()
            outcomes[outcome(lambda: read_corpus(Path(folder)), Path(folder))] += 1

    check()
    require_both(outcomes)
