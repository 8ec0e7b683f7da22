"""Whatever lists, answers, models and patterns hold: they are used, or refused in words."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artistid import inference as models
from artistid.dataset.corpus import Corpus, CorpusError
from artistid.dataset.finding import find_songs
from artistid.dataset.library import LibrarySettings
from artistid.dataset.read import read_corpus
from artistid.foundation.errors import UserError
from artistid.models.devices import Devices

TRACKS = ["abba/one/1.mp3", "abba/two/2.mp3", "blur/x/歌 1.mp3", "blur/y/2.mp3"]

seeded = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

parts = st.sampled_from(["..", ".", "", "~", "\0", "a" * 300, "\ud800", "\n", "%s", "train_val"])
paths = st.lists(st.one_of(parts, st.text(max_size=8)), max_size=6).map("/".join)
good = st.sampled_from([f"./train_val/{track}" for track in TRACKS])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
lists = st.one_of(
    st.lists(good | paths, max_size=6).map(json.dumps).map(str.encode),
    st.permutations([f"./train_val/{track}" for track in TRACKS]).map(json.dumps).map(str.encode),
    values.map(json.dumps).map(str.encode),
    st.binary(max_size=40),
    st.just(b"[" * 100_000),
)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for path in (*(f"train_val/{track}" for track in TRACKS), "test/001.mp3", "test/002.mp3"):
        file = folder / "artist20" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def require_printable(error: Exception) -> None:
    assert all(line.isprintable() for line in str(error).splitlines())


def read_or_refused(read: Callable[[], Corpus], root: Path) -> None:
    try:
        corpus = read()
    except CorpusError as error:
        require_printable(error)
        return
    assert len(corpus.artists) >= 2
    for track in corpus.tracks:
        assert track.path.resolve().is_relative_to(root.resolve())
        assert track.path.is_file()


@seeded
@given(train=lists, val=lists, answers=lists | st.none())
def test_lists_and_answers_of_a_course(
    course: Path, train: bytes, val: bytes, answers: bytes | None
) -> None:
    for name, content in (("artist20/train", train), ("artist20/val", val), ("test_ans", answers)):
        (course / f"{name}.json").unlink(missing_ok=True)
        if content is not None:
            (course / f"{name}.json").write_bytes(content)
    read_or_refused(lambda: read_corpus(course), course)


@seeded
@given(train=lists, val=lists, test=lists | st.none())
def test_lists_of_a_split(course: Path, train: bytes, val: bytes, test: bytes | None) -> None:
    library = course / "artist20/train_val"
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("train", train), ("val", val), ("test", test)):
            if content is not None:
                replaced = content.replace(b"./train_val/", b"./")
                Path(folder, f"{name}.json").write_bytes(replaced)
        split = LibrarySettings(split=Path(folder))
        read_or_refused(lambda: read_corpus(library, 0, split), library)


@seeded
@given(place=paths | st.sampled_from(["**", "a**b", "[", "*/*.mp3", "/**x", "{a,b}"]))
def test_patterns(course: Path, place: str) -> None:
    try:
        songs = find_songs([course / "artist20" / place.lstrip("/")])
    except CorpusError as error:
        require_printable(error)
    else:
        assert songs
        assert all(song.is_file() for song in songs)


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=()), min_size=1)


@seeded
@given(artists=st.lists(names.filter(lambda name: not name.startswith(".")), max_size=5))
def test_any_names_of_folders(artists: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for artist in artists:
            for album in range(3):
                for song in range(2):
                    try:
                        place = Path(folder, artist, f"{album}")
                        place.mkdir(parents=True, exist_ok=True)
                    except (OSError, UnicodeEncodeError):
                        continue  # no name for a file
                    Path(place, f"{song}.mp3").touch()
        read_or_refused(lambda: read_corpus(Path(folder)), Path(folder))


DESCRIPTION = {
    "format": 1,
    "task": "task2",
    "artists": ["abba", "blur"],
    "network": {"n_artists": 2, "n_mels": 96},
    "mel": {},
    "crop_frames": 188,
    "temperature": 1.0,
}


@seeded
@given(key=st.sampled_from(sorted(DESCRIPTION)), value=values)
def test_descriptions_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    path = tmp_path / "model.safetensors"
    description = {**DESCRIPTION, key: json.loads(json.dumps(value))}
    monkeypatch.setattr(models, "load_network", lambda _: ({}, description))
    with pytest.raises(UserError, match="model"):
        models.load(path, None, Devices("cpu", "fp32"))
