"""Vocals of songs: where they are found, when the mix is heard in their place, and what the tasks
make of them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import MODELS, RATE, TASKS, Call, hum, read, tone, write_audio
from numpy.testing import assert_allclose

import artistid
import predict
import task1
import task2
import task2_baseline
from artistid.audio import levels
from artistid.audio.decode import AudioError
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers
from artistid.vocals import heard
from artistid.vocals.heard import SourceSettings, has_singer
from artistid.vocals.stems import find_stems
from artistid.vocals.voice import Stems
from benchmarks import sources

pytestmark = pytest.mark.usefixtures("no_figures")
SCRIPTS = {"task1": task1, "task2": task2, "task2_baseline": task2_baseline}


def touched(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


# --- stems -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("Music/Abba/Arrival/01.flac", "Music/Abba/Gold/01.opus"),
        ("Arrival/01.flac", "Gold/01.mp3"),
        ("htdemucs/Arrival/01/vocals.wav", "htdemucs/Gold/01/vocals.wav"),
        ("Arrival/01/vocals.mp3", "Abba/Gold/01/vocals.wav"),
    ],
)
def test_stems_have_the_paths_of_their_songs_or_demucs_names(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    songs = touched(tmp_path / "Music", "Abba/Arrival/01.mp3", "Abba/Gold/01.mp3")
    touched(tmp_path / "stems", "01/drums.wav", "Gold/01/no_vocals.wav")
    stems = touched(tmp_path / "stems", *names)
    assert find_stems(songs, tmp_path / "stems") == dict(zip(songs, stems, strict=True))


def test_demucs_keeps_titles_alone(tmp_path: Path) -> None:
    songs = touched(tmp_path / "Music", "Abba/Arrival/Tiger.mp3", "Abba/Gold/Fernando.mp3")
    (stem,) = touched(tmp_path / "stems", "htdemucs/Tiger/vocals.wav")
    assert find_stems(songs, tmp_path / "stems") == {songs[0]: stem}


def test_a_stem_is_of_one_song(tmp_path: Path) -> None:
    songs = touched(tmp_path / "Music", "Abba/Arrival/01.mp3", "Abba/Gold/01.mp3")
    touched(tmp_path / "stems", "htdemucs/01/vocals.wav")
    with pytest.raises(
        UserError, match=r"vocals\.wav: vocals of which song\? .*Arrival.* and .*Gol"
    ):
        find_stems(songs, tmp_path / "stems")
    with pytest.raises(UserError, match="no such folder"):
        find_stems(songs, tmp_path / "none")


def test_vocals_lie_apart_from_the_songs(tmp_path: Path) -> None:
    """In a library they would be songs, by an artist "vocals"."""
    songs = touched(tmp_path / "Music", "Abba/Arrival/01.mp3", "vocals/Abba/Arrival/01.mp3")
    with pytest.raises(UserError, match=r"vocals/Abba/Arrival/01\.mp3 lies in it"):
        find_stems(songs, tmp_path / "Music/vocals")


# --- songs without a singer --------------------------------------------------------------------


def test_levels_are_mean_squares_of_seconds() -> None:
    song = np.concatenate([tone(440, 1, 8_000), np.zeros(8_000), 0.5 * tone(100, 0.5, 8_000)])
    assert_allclose(levels.powers(song.astype("f4"), 8_000), [1 / 8, 0, 1 / 32], rtol=1e-3)


@pytest.mark.parametrize(
    ("vocals", "sings"),
    [((0, 0, 0), False), ((0.9e-3, 0.9e-3, 0), False), ((0, 0, 1.1e-3), True), ((0, 2, 0), True)],
)
def test_a_singer_is_within_30_db_of_the_mix_in_some_second(
    vocals: tuple[float, ...], sings: bool
) -> None:
    assert has_singer(np.array([1, 1, 1], "f4"), np.array(vocals, "f4")) == sings


def test_noise_in_a_silent_second_is_no_singer() -> None:
    assert not has_singer(np.array([1, 0], "f4"), np.array([0, 1e-9], "f4"))


# --- settings ----------------------------------------------------------------------------------


def test_vocals_that_are_not_heard_are_refused() -> None:
    for name in ("vocals", "separator"):
        with pytest.raises(UserError, match=f"--{name} is of no use without --source vocals"):
            SourceSettings("mix", **{name: Path("x")})
    with pytest.raises(UserError, match="use only one"):
        SourceSettings("both", Path("x"), Path("y"))


# --- the tasks ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def stems(shared_course: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vocals of the tiny course, other hums than its mixes. Nobody sings in test song 2."""
    folder, draw = tmp_path_factory.mktemp("stems"), np.random.default_rng(6)
    for path in sorted((shared_course / "artist20").rglob("*.mp3")):
        place = path.relative_to(shared_course / "artist20")
        artist = int(place.stem) - 1 if place.parts[0] == "test" else int(place.parts[1][-1])
        voice = hum(10 + artist, draw) * (place.stem != "002")
        write_audio((folder / place).with_suffix(".flac"), voice)
    return folder


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(shared_course: Path, shared_cache: Path, call: Call, tmp_path: Path) -> Run:
    """Run a task on the tiny course; its metrics."""

    def run(task: str, *options: object) -> dict[str, Any]:
        places = ("--data", shared_course, "--cache", shared_cache, "--quiet")
        status, _, errors = call(SCRIPTS[task], *places, *TASKS[task], *options)
        assert (status, errors) == (0, "")
        metrics: dict[str, Any] = read(tmp_path / f"result/metrics_{task}.json")
        return metrics

    return run


@pytest.mark.parametrize(
    ("task", "source"),
    [("task1", "both"), ("task2", "vocals"), ("task2", "both"), ("task2_baseline", "both")],
)
def test_a_task_hears_the_vocals_and_so_does_the_model_that_it_saves(
    run: Run, shared_course: Path, stems: Path, tmp_path: Path, task: str, source: Any
) -> None:
    metrics = run(task, "--source", source, "--vocals", stems)
    assert metrics["without_singer"] == ["002"]
    path = tmp_path / "result" / MODELS[task]
    songs = sorted((shared_course / "artist20/test").iterdir())
    voice = Stems.find(songs, stems)
    model = artistid.load_model(path, device="cpu", voice=voice)
    assert (model.card.source, model.source) == (source, source)
    for song, said in zip(songs, metrics["songs"]["test"], strict=True):
        (artist, probability), *_ = said["best"]
        best = model.predict(song).top(1)
        assert best == [(artist, pytest.approx(probability, abs=2e-3))]
    swapped = {songs[0].absolute(): voice.of[songs[2].absolute()]}
    other = artistid.load_model(path, device="cpu", voice=Stems(stems, swapped))
    first, third = other.predict(songs[0]).posterior, model.predict(songs[2]).posterior
    assert np.allclose(first, third) == (source == "vocals")  # the mix does not matter

    model = artistid.load_model(path, voice=Stems(stems, {}))
    with pytest.raises(AudioError, match="no vocals in"):
        model.predict(songs[0])
    with pytest.raises(AudioError, match="no vocals in"):
        model.predict((tone(440, 1), RATE))
    damaged = {songs[0].absolute(): shared_course / "test_ans.json"}
    model = artistid.load_model(path, voice=Stems(stems, damaged))
    with pytest.raises(AudioError, match=r"its vocals, .*test_ans\.json: cannot be decoded"):
        model.predict(songs[0])
    if source == "both":
        alone = artistid.load_model(path, source="mix", voice=Stems(stems, {}))
        assert not np.allclose(alone.predict(songs[0]).posterior, third)
    else:
        with pytest.raises(UserError, match="trained on vocals, so it cannot listen to mix"):
            artistid.load_model(path, source="mix")


def test_a_mistyped_folder_of_vocals_costs_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heard, "extract", lambda *_: pytest.fail("songs were decoded"))
    settings = SourceSettings("vocals", tmp_path / "vocal")
    with pytest.raises(UserError, match="vocal: no such folder"):
        heard.find_voices([], settings, tmp_path, Workers(1), skip_bad=False)


def test_missing_and_broken_vocals_are_named_all_at_once(
    shared_course: Path, shared_cache: Path, stems: Path, tmp_path: Path, call: Call, run: Run
) -> None:
    folder = Path(shutil.copytree(stems, tmp_path / "some"))
    albums = folder / "train_val/artist_0"
    (albums / "album_0/0.flac").unlink()
    (albums / "album_0/1.flac").write_text("no music")
    soundfile.write(albums / "album_1/0.flac", np.zeros(7 * RATE), RATE)
    (folder / "test/001.flac").unlink()
    places = ("--data", shared_course, "--cache", shared_cache, "--source", "vocals")
    status, _, errors = call(task1, *places, "--vocals", folder)
    assert status == 2
    head, *lines = errors.strip().splitlines()
    assert head.startswith("task1.py: 4 of 28 files cannot be used; repair them, or leave")
    assert len(lines) == 4

    options = ("--source", "vocals", "--vocals", folder, "--skip-bad", "--epochs", 1)
    metrics = run("task2", *options)
    broken = f"its vocals, {albums}/album_0/1.flac: cannot be decoded: Format not recognised"
    assert metrics["left_out"] == {
        "train_val/artist_0/album_0/0.mp3": f"no vocals in {folder}",
        "train_val/artist_0/album_0/1.mp3": broken,
        "train_val/artist_0/album_1/0.mp3": f"its vocals, {albums}/album_1/0.flac, are 7 s long, "
        "and the song 2 s",
        "001": f"no vocals in {folder}",
    }


def test_predict_takes_stems(
    run: Run, shared_course: Path, stems: Path, tmp_path: Path, call: Call
) -> None:
    run("task2", "--source", "both", "--vocals", stems, "--epochs", 1)
    song = shared_course / "artist20/test/003.mp3"
    found = []
    for options in (
        ("--vocals", stems),
        ("--vocals", stems, "--source", "vocals"),
        ("--source", "mix"),
    ):
        status, _, errors = call(predict, song, "--json", "p.json", *options)
        assert (status, errors.splitlines()[1:]) == (0, [])
        found.append((tmp_path / "p.json").read_text())
    assert len(set(found)) == 3
    assert call(predict, song, "--vocals", stems, "--source", "mix")[::2] == (
        2,
        "predict.py: --vocals and --separator: of no use, only the mix is heard\n",
    )
    status, _, errors = call(predict, song, "--vocals", stems, "--separator", "x")
    assert (status, "there is nothing to separate" in errors) == (2, True)
    status, _, errors = call(predict, song, "--vocals", tmp_path / "result")
    assert status == 2
    assert errors.splitlines()[-1].endswith(f"003.mp3: no vocals in {tmp_path}/result")


def test_the_benchmark_tests_on_each_source(
    shared_course: Path, stems: Path, shared_cache: Path
) -> None:
    settings = sources.Settings(
        shared_course, stems, ("both",), seeds=1, epochs=12, cache=shared_cache
    )
    _, *rows = sources.measure(settings).rows
    assert [row[:2] for row in rows] == [["both", "mix"], ["both", "vocals"], ["both", "both"]]
    assert all(float(row[2].split("/")[1]) > 0.6 for row in rows)  # chance is 0.75 at most
