"""The demo corpus: reproducible, in the course's layout, and with an album effect."""

import errno
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from conftest import RATE
from numpy.typing import NDArray
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from artistid.dataset import demo
from artistid.dataset.corpus import Track
from artistid.dataset.read import read_corpus
from artistid.foundation.errors import UserError


@pytest.mark.slow
def test_layout_sizes_and_answers(demo_corpus: Path, tmp_path: Path) -> None:
    corpus = read_corpus(demo_corpus)
    sizes = [len(corpus.split(split)) for split in ("train", "val", "test")]
    assert sizes == [160, 40, 40]
    assert corpus.warnings == ()
    assert len(corpus.artists) == 20
    sizes_bytes = {track.path.stat().st_size for track in corpus.tracks}
    assert min(sizes_bytes) > 38_000  # 10 s at 32 kbit/s
    assert max(sizes_bytes) < 42_000
    strangers = sorted((demo_corpus / "strangers").iterdir())
    assert [path.name for path in strangers] == ["1.mp3", "2.mp3"]
    demo.write_mp3(tmp_path / "stranger.mp3", demo.synthesize(demo.N_SINGERS, 0, 0))
    assert strangers[0].read_bytes() == (tmp_path / "stranger.mp3").read_bytes()
    tests = corpus.split("test")
    assert all(sum(t.artist == artist for t in tests) == 2 for artist in corpus.artists)
    assert [t.artist for t in tests] != sorted(t.artist or "" for t in tests)
    for singer in (0, 13):  # the answers name the singer who is heard
        answered = {t.path.read_bytes() for t in tests if t.artist == f"singer_{singer + 1:02d}"}
        made = set()
        for song in range(2):
            demo.write_mp3(tmp_path / "song.mp3", demo.synthesize(singer, demo.TEST_ALBUM, song))
            made.add((tmp_path / "song.mp3").read_bytes())
        assert answered == made


def test_songs_depend_on_singer_album_song_and_seed_only() -> None:
    song = demo.synthesize(3, 2, 1)
    np.testing.assert_array_equal(song, demo.synthesize(3, 2, 1))
    for other in (demo.synthesize(3, 2, 0), demo.synthesize(3, 1, 1), demo.synthesize(2, 2, 1)):
        assert np.corrcoef(song, other)[0, 1] < 0.5
    assert np.corrcoef(song, demo.synthesize(3, 2, 1, seed=1))[0, 1] < 0.5


def test_the_audio_changes_only_with_the_version() -> None:
    parts = np.array_split(demo.synthesize(3, 2, 1), 5)
    levels = [float(np.sqrt(np.mean(part**2))) for part in parts]
    assert demo.VERSION == 2
    np.testing.assert_allclose(levels, [0.32582, 0.33220, 0.27336, 0.37945, 0.33831], rtol=1e-4)


def test_albums_differ_in_level_and_none_clips() -> None:
    peaks = [np.abs(demo.synthesize(0, album, 0)).max() for album in range(4)]
    assert all(0.25 < peak < 1 for peak in peaks)
    assert np.ptp(peaks) > 0.05


def test_the_corpus_is_made_once_per_version(
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


def timbre(track: Track) -> NDArray[np.float64]:
    """Mean and deviation of the MFCCs, (40,)."""
    samples, _ = soundfile.read(track.path)
    mfcc = librosa.feature.mfcc(y=samples, sr=RATE, n_mfcc=20)  # (20, frames)
    return np.concatenate([mfcc.mean(axis=1), mfcc.std(axis=1)])


def test_a_full_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        demo.write_mp3(tmp_path / "a.mp3", np.zeros(RATE, "f4"))


def test_what_is_not_the_demo_corpus_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.mp3").touch()
    with pytest.raises(UserError, match="the demo corpus belongs there; move what is in it"):
        demo.ensure_demo_corpus(tmp_path)
    assert (tmp_path / "mine.mp3").exists()


@pytest.mark.slow
def test_a_song_split_scores_higher_than_an_album_split(demo_corpus: Path) -> None:
    """A model that has heard the album of the songs it is tested on recognises the album."""
    corpus = read_corpus(demo_corpus)
    labelled = {
        (t.artist, t.album, t.path.stem): timbre(t)
        for t in corpus.split("train") + corpus.split("val")
        if t.path.stem == "song_1" or t.album == "album_5"
    }

    def top1(*albums: str) -> float:
        """Trained on the first song of `albums`, tested on the second one of album 5."""
        train = [(singer, album, "song_1") for singer in corpus.artists for album in albums]
        test = [(singer, "album_5", "song_2") for singer in corpus.artists]
        model = make_pipeline(StandardScaler(), SVC(C=10))
        model.fit([labelled[song] for song in train], [singer for singer, *_ in train])
        return float(model.score([labelled[song] for song in test], corpus.artists))

    three = ("album_1", "album_2", "album_3")
    by_album, by_song = top1(*three, "album_4"), top1(*three, "album_5")
    assert by_album > 4 / 20  # far above chance, 1 / 20
    assert by_song >= by_album + 0.2
