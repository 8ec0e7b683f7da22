"""The demo corpus is the same every time, in the course's layout, and has an album effect."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artistid.audio.decode import features
from artistid.audio.extraction import extract
from artistid.dataset import demo
from artistid.dataset.corpus import Track
from artistid.dataset.read import read_corpus
from artistid.foundation.parallel import Workers
from artistid.inference import classical
from artistid.metrics import top_k


@pytest.mark.slow
def test_layout_and_sizes(demo_corpus: Path) -> None:
    corpus = read_corpus(demo_corpus)
    sizes = [len(corpus.split(split)) for split in ("train", "val", "test")]
    assert sizes == [160, 40, 40]
    assert corpus.warnings == ()
    assert len(corpus.artists) == 20
    tests = corpus.split("test")
    assert all(sum(t.artist == artist for t in tests) == 2 for artist in corpus.artists)
    assert [t.artist for t in tests] != sorted(t.artist or "" for t in tests)
    sizes_bytes = {track.path.stat().st_size for track in corpus.tracks}
    assert min(sizes_bytes) > 38_000  # 10 s at 32 kbit/s
    assert max(sizes_bytes) < 42_000


def test_one_seed_is_one_corpus_and_another_is_another(tmp_path: Path) -> None:
    song = demo.synthesize(3, 2, 1)
    np.testing.assert_array_equal(song, demo.synthesize(3, 2, 1))
    for other in (demo.synthesize(3, 2, 0), demo.synthesize(3, 1, 1), demo.synthesize(2, 2, 1)):
        assert np.corrcoef(song, other)[0, 1] < 0.5
    assert np.corrcoef(song, demo.synthesize(3, 2, 1, seed=1))[0, 1] < 0.5
    for name in "ab":
        demo._write_song((tmp_path / f"{name}.mp3", 3, 2, 1), seed=0)
    assert (tmp_path / "a.mp3").read_bytes() == (tmp_path / "b.mp3").read_bytes()


def test_songs_are_audible_and_of_different_levels() -> None:
    peaks = [np.abs(demo.synthesize(0, album, 0)).max() for album in range(4)]
    assert all(0.25 < peak < 1 for peak in peaks)
    assert np.ptp(peaks) > 0.05


def test_it_is_made_once_and_again_for_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(demo, "make_demo_corpus", lambda f, *_: (f.mkdir(), made.append(f)))
    folder = tmp_path / "hw1" / "demo"
    assert demo.ensure_demo_corpus(folder)
    assert demo.is_demo_corpus(folder)
    assert not demo.ensure_demo_corpus(folder)
    monkeypatch.setattr(demo, "VERSION", -1)
    assert demo.ensure_demo_corpus(folder)
    assert len(made) == 2
    assert list(folder.parent.iterdir()) == [folder]


def album_number(track: Track) -> int:
    return int((track.album or "")[-1])


@pytest.mark.slow
def test_a_song_split_scores_higher_than_the_album_split(demo_corpus: Path, tmp_path: Path) -> None:
    """The mistake that the corpus is there to show: knowing the album instead of the singer."""
    corpus = read_corpus(demo_corpus)
    labelled = corpus.split("train") + corpus.split("val")
    recipe = features.recipe(features.FeatureSettings())
    load = features.SongLoader(extract(labelled, recipe, tmp_path, workers=Workers()).entries)
    # held out: the second song of the fifth album; trained on: as many songs either way
    held_out = [t for t in labelled if album_number(t) == 5 and t.path.stem == "song_2"]
    same_album = [t for t in labelled if album_number(t) == 5 and t.path.stem == "song_1"]
    others = [t for t in labelled if album_number(t) in (1, 2, 3)]
    fourth = [t for t in labelled if album_number(t) == 4 and t.path.stem == "song_1"]

    def top1(family: classical.Family, train: list[Track]) -> float:
        songs, labels = classical.training_songs(train, corpus.artists, load, 10_000)
        model = classical.clone(family.classifier).fit(songs, labels)
        truth = [corpus.artists.index(track.artist or "") for track in held_out]
        return top_k(classical.posteriors(model, held_out, load), truth, 1)

    for family in classical.families(480, 426, seed=0):
        by_album, by_song = top1(family, others + fourth), top1(family, others + same_album)
        if family.name == "LDA":
            assert by_song >= by_album
        else:
            assert by_song >= by_album + 0.2, family.name


@pytest.mark.slow
def test_the_notice_is_kept(demo_corpus: Path) -> None:
    corpus = read_corpus(demo_corpus)
    assert corpus.with_warning("x") == replace(corpus, warnings=("x",))
    answers = json.loads((demo_corpus / "test_ans.json").read_text())
    assert {t.id: t.artist for t in corpus.split("test")} == {
        f"{i + 1:03d}": artist for i, artist in enumerate(answers)
    }
