"""The course's layout is read as specified, or all of its problems are reported at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from artistid.dataset.corpus import Corpus, CorpusError, Track
from artistid.dataset.read import read_corpus

A, B = "./train_val/abba/one/song 1.mp3", "./train_val/blur/two/song.mp3"
VAL = "./train_val/blur/three/歌.mp3"


def make(folder: Path, train: Any = (A, B), val: Any = (VAL,), tests: Any = ("001", "002")) -> Path:
    """A course corpus of empty files: nothing is decoded when it is read."""
    root = folder / "artist20"
    for entry in (A, B, VAL, *(f"test/{stem}.mp3" for stem in tests)):
        (root / entry).parent.mkdir(parents=True, exist_ok=True)
        (root / entry).touch()
    for name, value in (("train", train), ("val", val)):
        text = value if isinstance(value, str) else json.dumps(value)
        (root / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def test_course_layout(tmp_path: Path) -> None:
    make(tmp_path / "mine")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "artist20"):
        corpus = read_corpus(folder)
        assert corpus.name == "mine"
        assert corpus.artists == ["abba", "blur"]
        assert [t.id for t in corpus.split("train")] == [A[2:], B[2:]]
        (val,) = corpus.split("val")
        assert (val.artist, val.album, val.path.name) == ("blur", "three", "歌.mp3")
        assert [t.id for t in corpus.split("test")] == ["001", "002"]
        assert [t.artist for t in corpus.split("test")] == [None, None]
        assert corpus.warnings == ()


def test_answers_label_test_files_by_number(tmp_path: Path) -> None:
    make(tmp_path, tests=("002", "1"))
    (tmp_path / "test_ans.json").write_text('["abba", "blur", "cher"]')
    tests = {t.id: t.artist for t in read_corpus(tmp_path).split("test")}
    assert tests == {"002": "blur", "1": "abba"}


def test_the_corpus_may_be_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "mine")
    (tmp_path / "mine/test_ans.json").write_text('["abba", "blur"]')
    monkeypatch.chdir(tmp_path / "mine/artist20")
    corpus = read_corpus(Path())
    assert corpus.name == "mine"
    assert [track.artist for track in corpus.split("test")] == ["abba", "blur"]


def test_answers_that_nothing_can_match_are_told(tmp_path: Path) -> None:
    make(tmp_path, tests=("002", "1"))
    (tmp_path / "test_ans.json").write_text('["abba", "nobody", "cher", "cher"]')
    warnings = "\n".join(read_corpus(tmp_path).warnings)
    assert "answers to 2 songs that are not in test/ (003, 004)" in warnings
    assert "1 test song(s) are by artists not in train (nobody)" in warnings


def test_two_test_files_of_one_number_are_refused(tmp_path: Path) -> None:
    make(tmp_path, tests=("001", "1"))
    with pytest.raises(CorpusError, match="2 files are called 001; predictions need one each"):
        read_corpus(tmp_path)


def test_the_test_folder_may_be_empty(tmp_path: Path) -> None:
    assert read_corpus(make(tmp_path, tests=())).split("test") == []


def test_albums_in_both_train_and_val_cause_a_warning(tmp_path: Path) -> None:
    (tmp_path / "artist20/train_val/blur/two").mkdir(parents=True)
    (tmp_path / "artist20/train_val/blur/two/other.mp3").touch()
    corpus = read_corpus(make(tmp_path, val=["./train_val/blur/two/other.mp3"]))
    assert "1 album(s) in both train and val (blur/two)" in corpus.warnings[0]


def test_albums_with_the_same_title_by_two_artists_are_two_albums(tmp_path: Path) -> None:
    (tmp_path / "artist20/train_val/abba/two").mkdir(parents=True)
    (tmp_path / "artist20/train_val/abba/two/hits.mp3").touch()
    assert read_corpus(make(tmp_path, val=["./train_val/abba/two/hits.mp3"])).warnings == ()


BAD = {
    "broken": ({"train": '["a",\n  "b"'}, r"train\.json: not valid JSON, line 2 column 6"),
    "object": ({"train": {"a": 1}}, r"train\.json: must be a list of strings"),
    "numbers": ({"val": [1, 2]}, r"val\.json: must be a list of strings"),
    "empty": ({"val": []}, r"val\.json: empty list"),
    "no album": ({"train": [A, B, "./train_val/x.mp3"]}, "entry 3, .* is not ./train_val/<artist>"),
    "parent": ({"train": [A, B, "./train_val/../../x.mp3"]}, "leads out of the corpus"),
    "absolute": ({"train": [A, B, "/etc/passwd"]}, "leads out of the corpus"),
    "missing": ({"train": [A, B, "./train_val/a/b/no.mp3"]}, r"no\.mp3': no such file"),
    "too long": (
        {"train": [A, B, f"./train_val/abba/one/{'x' * 300}"]},
        r"xxx': file name too long",
    ),
    "twice": ({"train": [A, B, A]}, "song 1.mp3 is listed 2 times"),
    "twice, spelt differently": ({"train": [A, B, A[2:]]}, "song 1.mp3 is listed 2 times"),
    "both": ({"train": [A, B, VAL]}, r"歌\.mp3 is in train\.json and in val\.json"),
    "unknown artist": (
        {"train": [A, "./train_val/abba/one/2.mp3"]},
        "blur is in val but not in tr",
    ),
    "one artist": ({"train": [B]}, "only one artist, blur"),
}


@pytest.mark.parametrize("kind", BAD)
def test_invalid_lists_are_refused(tmp_path: Path, kind: str) -> None:
    arguments, reason = BAD[kind]
    folder = make(tmp_path, **arguments)
    (tmp_path / "artist20/train_val/abba/one/2.mp3").touch()
    with pytest.raises(CorpusError, match=reason):
        read_corpus(folder)


def test_test_files_with_the_same_number_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "artist20/test/001.wav").touch()
    with pytest.raises(CorpusError, match="2 files are called 001"):
        read_corpus(tmp_path)


def test_missing_answers_are_refused(tmp_path: Path) -> None:
    make(tmp_path, tests=("001", "003", "song"))
    (tmp_path / "test_ans.json").write_text('["abba", "blur"]')
    with pytest.raises(CorpusError, match="none for test file 003") as error:
        read_corpus(tmp_path)
    assert "none for test file song" in str(error.value)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    make(tmp_path, train=[A, "/etc/passwd", "./train_val/a/b/no.mp3"], val="{")
    with pytest.raises(CorpusError, match="3 problems") as error:
        read_corpus(tmp_path)
    for part in ("/etc/passwd", "no.mp3", "val.json: not valid JSON"):
        assert part in str(error.value)


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder; name one with --data"):
        read_corpus(tmp_path / "none")
    with pytest.raises(CorpusError, match=r"neither artist20/train\.json nor audio in <artist>"):
        read_corpus(tmp_path)


def test_a_course_corpus_without_lists_is_not_read_as_a_library(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "artist20/val.json").unlink()
    with pytest.raises(CorpusError, match=r"val\.json: no such file"):
        read_corpus(tmp_path)


def test_a_corpus_that_loses_an_artist_or_a_split_is_refused(tmp_path: Path) -> None:
    corpus = read_corpus(make(tmp_path))
    with pytest.raises(CorpusError, match="only one artist, abba"):
        corpus.without([t for t in corpus.split("train") if t.artist == "blur"])
    with pytest.raises(CorpusError, match="no usable val tracks"):
        corpus.without(corpus.split("val"))


def test_tracks_are_orphaned_when_their_artist_loses_its_last_training_track() -> None:
    uses = [("train", "abba"), ("train", "abba"), ("val", "abba"), ("test", "abba")]
    uses += [("train", "blur"), ("val", "blur"), ("test", None)]
    tracks = [Track(Path(f"{i}"), f"{i}", *use) for i, use in enumerate(uses)]
    corpus = Corpus("mine", tuple(tracks))
    assert corpus.orphaned_by(tracks[:1]) == []
    assert corpus.orphaned_by(tracks[:2]) == tracks[2:4]
    assert corpus.orphaned_by(tracks[:3]) == tracks[3:4]
    assert corpus.orphaned_by([tracks[4]]) == [tracks[5]]
