"""The protocol of all tasks, with a learner and a recipe that cost nothing."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import hum, read, write_audio
from numpy.typing import NDArray

from artistid import experiment
from artistid.audio.extraction import Recipe
from artistid.cli import DataSettings
from artistid.dataset.corpus import Track
from artistid.dataset.demo import STAMP
from artistid.dataset.library import LibrarySettings
from artistid.experiment import Extracted, Run
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers
from artistid.models.card import ModelCard
from artistid.models.known_songs import Answers, KnownSong, KnownSongs
from artistid.results.record import Task
from artistid.vocals.heard import SourceSettings
from hw1 import count_score

TASK = Task("task1", "log.txt", "{model}.png")


@dataclass(frozen=True)
class Rate:
    sample_rate: int = 16_000


@dataclass(frozen=True)
class Settings:
    data: DataSettings
    source: SourceSettings = SourceSettings()
    library: LibrarySettings = LibrarySettings()
    workers: Workers = Workers(1)


def loudness(samples: NDArray[np.float32], _: Rate) -> Mapping[str, NDArray[Any]]:
    return {"rms": np.array([np.sqrt(np.mean(samples**2))])}


RECIPE = Recipe("loudness", 1, Rate(), loudness)


@contextmanager
def started(settings: Settings, task: Task = TASK) -> Iterator[Run]:
    data, source = settings.data, settings.source
    with experiment.started(
        task, settings, data, source, settings.library, settings.workers
    ) as run:
        yield run


@pytest.fixture
def settings(course: Path, tmp_path: Path) -> Settings:
    return Settings(DataSettings(data=course, out=tmp_path / "out", cache=tmp_path / "cache"))


# --- which corpus, and where to ----------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, shared_course: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An hw1/ without a corpus, where the demo is the tiny course; the working directory is
    another."""
    folder = tmp_path / "hw1"
    monkeypatch.setattr(experiment, "COURSE", folder)
    monkeypatch.setattr(experiment, "DEMO", folder / "demo")

    def pretend(folder: Path, **_: Any) -> None:
        shutil.copytree(shared_course, folder, dirs_exist_ok=True)
        (folder / STAMP).write_text("{}")

    monkeypatch.setattr(experiment, "ensure_demo_corpus", pretend)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("named", [False, True])
def test_without_a_corpus_it_is_the_demo_in_a_folder_of_its_own(
    home: Path, capsys: pytest.CaptureFixture[str], named: bool
) -> None:
    data = DataSettings(data=home / "demo" if named else None)
    with started(Settings(data)) as run:
        assert run.corpus.name == "demo"
        assert run.outputs.texts == run.outputs.results == Path("result/demo")
        assert experiment.DEMO_NOTICE in run.corpus.warnings  # and so in the metrics
    screen, log = capsys.readouterr().out, Path("result/demo/log.txt").read_text()
    assert ("using the demo corpus" in screen) is not named
    for text in (screen, log):
        assert "this is the synthetic demo corpus" in text


def test_the_demos_own_folder_artist20_is_the_demo_too(home: Path) -> None:
    with started(Settings(DataSettings())):
        pass
    with started(Settings(DataSettings(data=home / "demo/artist20"))) as run:
        assert run.outputs.results == Path("result/demo")
        assert experiment.DEMO_NOTICE in run.corpus.warnings


def test_a_broken_corpus_is_an_error_and_no_reason_to_take_the_demo(home: Path) -> None:
    (home / "artist20").mkdir(parents=True)
    (home / "artist20/train.json").write_text("[")
    with pytest.raises(UserError, match="not valid JSON"), started(Settings(DataSettings())):
        pass
    assert not (home / "demo").exists()


def test_the_courses_corpus_is_the_default_and_writes_where_the_course_expects(
    home: Path, shared_course: Path, tmp_path: Path
) -> None:
    shutil.copytree(shared_course, home)
    with started(Settings(DataSettings())) as run:
        assert run.corpus.name == "artist20"
        assert (run.outputs.texts, run.outputs.results) == (Path(), Path("result"))
    assert (tmp_path / "log.txt").exists()
    with started(Settings(DataSettings(out=tmp_path / "out"))) as run:
        assert run.outputs.texts == run.outputs.results == tmp_path / "out"


def test_the_courses_corpus_is_never_a_library(home: Path, shared_course: Path) -> None:
    """Unpacked one folder too deep, beside the demo, it would have two artists."""
    shutil.copytree(shared_course / "artist20", home / "artist20/artist20")
    with (
        pytest.raises(UserError, match=r"artist20/train\.json: no such file"),
        started(Settings(DataSettings())),
    ):
        pass


# --- the log -----------------------------------------------------------------------------------


def test_the_log_begins_with_what_was_run(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(settings):
        log = (settings.data.out / "log.txt").read_text()  # written as it goes
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
    for line, words in zip(
        log.splitlines(),
        (
            "task1, git commit ",
            r"versions: python 3\.",
            f"settings: data={re.escape(str(settings.data.data))}, .*, seed=0, .*, jobs=1, ",
            "corpus tiny: 4 artists; songs: 16 train, 8 val, 4 test$",
        ),
        strict=True,
    ):
        assert re.match(stamp + words, line)
    assert capsys.readouterr().out == re.sub(rf"(?m)^{stamp}", "", log)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError("our fault")])
def test_a_crash_leaves_its_traceback_in_the_log(settings: Settings, error: Exception) -> None:
    """Also where the screen has one line: an OSError may be a fault of ours."""

    def fail() -> None:
        with started(settings):
            raise error

    with pytest.raises(type(error)):
        fail()
    log = (settings.data.out / "log.txt").read_text()
    assert "corpus tiny" in log
    assert "Traceback (most recent call last)" in log
    assert "in fail" in log
    assert log.endswith(f"{type(error).__name__}: {error}\n")


def test_with_quiet_only_the_file_has_the_log(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(replace(settings, data=replace(settings.data, quiet=True))):
        pass
    assert capsys.readouterr() == ("", "")
    assert "corpus tiny" in (settings.data.out / "log.txt").read_text()


# --- extraction --------------------------------------------------------------------------------


def extracted(settings: Settings) -> Extracted:
    with started(settings) as run:
        return experiment.extracted(run, RECIPE)


def skipping(settings: Settings) -> Settings:
    return replace(settings, data=replace(settings.data, skip_bad=True))


def test_unusable_files_stop_the_run_after_all_were_tried(course: Path, settings: Settings) -> None:
    (course / "artist20/train_val/artist_0/album_0/0.mp3").write_bytes(b"")
    (course / "artist20/test/002.mp3").write_text("no music")
    with pytest.raises(UserError, match="2 of 28 files cannot be used") as error:
        extracted(settings)
    assert "artist_0/album_0/0.mp3: empty file (0 bytes)" in str(error.value)
    assert str(error.value) in (settings.data.out / "log.txt").read_text()


def test_skip_bad_leaves_unusable_files_out(course: Path, settings: Settings) -> None:
    (course / "artist20/train_val/artist_0/album_0/0.mp3").write_bytes(b"")
    (course / "artist20/test/002.mp3").write_text("no music")
    songs = extracted(skipping(settings))
    reasons = {track.id: reason for track, reason in songs.left_out.items()}
    assert reasons == {
        "train_val/artist_0/album_0/0.mp3": "empty file (0 bytes)",
        "002": "cannot be decoded: Format not recognised",
    }
    assert len(songs.corpus.tracks) == len(songs.entries) == 26
    log = (settings.data.out / "log.txt").read_text()
    assert "002.mp3: cannot be decoded: Format not recognised; it gets no prediction\n" in log
    assert "0.mp3: empty file (0 bytes)\n" in log


def test_an_artist_of_a_library_without_usable_training_tracks_is_left_out(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = tmp_path / "library"
    for artist in range(3):
        for album in range(3):
            for song in range(2):
                write_audio(folder / f"{artist}/{album}/{song}.wav", hum(artist, rng))
    data = DataSettings(data=folder, out=tmp_path / "out", cache=tmp_path / "cache")
    settings = skipping(Settings(data))
    with started(settings) as run:
        train = [t for t in run.corpus.split("train") if t.artist == "1"]
    for track in train:
        track.path.write_bytes(b"")
    songs = extracted(settings)
    assert songs.corpus.artists == ["0", "2"]
    orphans = {r for t, r in songs.left_out.items() if t.split != "train"}
    assert orphans == {"1 has no usable training tracks left"}
    assert len(songs.left_out) == 6
    log = (tmp_path / "out/log.txt").read_text()
    assert log.count("1 has no usable training tracks left") == 4


def test_in_the_course_such_an_artist_is_an_error(course: Path, settings: Settings) -> None:
    for path in (course / "artist20/train_val/artist_1").glob("album_[01]/*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="artist artist_1 is in val but not in train"):
        extracted(skipping(settings))


# --- train and report --------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """Sees the artist of a song by its path, and is wrong where told so."""

    name: str
    merit: float
    trained_on: list[str]
    wrong_in: str = "nowhere"

    @property
    def card(self) -> ModelCard:
        return ModelCard("task1", tuple(f"artist_{i}" for i in range(4)), {})

    @property
    def summary(self) -> dict[str, str]:
        return {"merit": f"{self.merit}"}

    @property
    def details(self) -> dict[str, Any]:
        return {"cv": self.merit}

    def answers(self, tracks: Sequence[Track]) -> Answers:
        rows = np.full((len(tracks), 4), 0.1)
        for row, track in zip(rows, tracks, strict=True):
            artist = int((track.artist or "")[-1])
            row[(artist + (self.wrong_in in str(track.path))) % 4] = 0.7
        return Answers(rows[np.newaxis], rows)

    @property
    def known(self) -> KnownSongs:
        return KnownSongs(np.eye(4, dtype=np.float16), (KnownSong("1", "artist"),) * 4)

    def save(self, path: Path, card: ModelCard) -> set[Path]:
        path.parent.mkdir(exist_ok=True, parents=True)
        values = {"on": self.trained_on, **card.to_json()}
        path.with_suffix(".skops").write_text(json.dumps(values))
        return {path.with_suffix(".skops")}


@dataclass
class Learner:
    models: Callable[[list[str]], list[Model]]
    calls: list[str] = field(default_factory=list)
    chosen_by = "best on train"

    def choose(self, models: Sequence[Model]) -> int:
        return max(range(len(models)), key=lambda i: models[i].merit)

    def fit(self, train: Sequence[Track], val: Sequence[Track]) -> list[Model]:
        self.calls.append(f"fit on {len(train)}, {len(val)} in val")
        return self.models([track.id for track in train])

    def refit(self, models: Sequence[Model], tracks: Sequence[Track]) -> list[Model]:
        self.calls += [f"refit {model.name} on {len(tracks)}" for model in models]
        ids = [track.id for track in tracks]
        return [replace(model, trained_on=ids, wrong_in="/003.mp3") for model in models]

    def clean_up(self) -> None:
        self.calls.append("clean up")


def two_models(ids: list[str]) -> list[Model]:
    """The second is better on train, and wrong about one album of val."""
    return [Model("A", 0.25, ids), Model("B", 0.75, ids, wrong_in="artist_2/album_2")]


def reported(settings: Settings, learner: Learner, refit: bool = True) -> tuple[Any, str]:
    """Metrics and log."""
    with started(settings) as run:
        songs = experiment.extracted(run, RECIPE)
        experiment.train_and_report(run, songs, learner, refit, {"encoder": {"name": "x"}})
    out = settings.data.out
    return read(out / "metrics_task1.json"), (out / "log.txt").read_text()


def test_the_best_on_train_is_trained_again_and_predicts(
    settings: Settings, course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = Learner(two_models)
    values, log = reported(settings, learner)
    assert learner.calls == ["fit on 16, 8 in val", "refit A on 24", "refit B on 24", "clean up"]
    assert (values["best_model"], values["encoder"]) == ("B", {"name": "x"})
    assert {name: model["val"]["top1"] for name, model in values["models"].items()} == {
        "A": 1.0,
        "B": 0.75,
    }
    assert values["val"]["top1"] == values["test"]["top1"] == 0.75
    predictions = read(settings.data.out / "pred_task1.json")
    assert [best for best, *_ in predictions.values()] == [
        *("artist_0", "artist_1", "artist_3", "artist_3"),
    ]
    assert set(values["seconds"]) == {"loudness", "training", "evaluation", "total"}
    model = read(settings.data.out / "model_task1.skops")
    assert len(model["on"]) == 24
    assert model["calibration"]["temperature"] == values["calibration"]["temperature"] != 1
    table = [line for line in log.splitlines() if line.startswith(("model ", "A ", "B "))]
    assert table == [
        "model  val top-1             val top-3             macro-F1  merit",
        "A      1.000 [0.676, 1.000]  1.000 [0.676, 1.000]  1.000     0.25",
        "B      0.750 [0.409, 0.929]  0.750 [0.409, 0.929]  0.667     0.75",
    ]
    assert "best on train, and so the one that predicts: B" in log
    assert "test: top-1 0.750 [0.301, 0.954]" in log
    capsys.readouterr()
    files = course / "test_ans.json", settings.data.out / "pred_task1.json"
    assert count_score.main([str(file) for file in files]) == 0
    top1, top3 = (values["test"][name] for name in ("top1", "top3"))
    assert capsys.readouterr().out == f"{top1}\n{top3}\n"


def test_without_refit_the_model_trained_on_train_predicts(settings: Settings) -> None:
    learner = Learner(two_models)
    values, log = reported(settings, learner, refit=False)
    assert learner.calls == ["fit on 16, 8 in val", "clean up"]
    assert values["test"]["top1"] == 1
    assert len(read(settings.data.out / "model_task1.skops")["on"]) == 16
    assert "again" not in log


def test_an_unusable_test_song_counts_as_wrong(course: Path, settings: Settings) -> None:
    (course / "artist20/test/002.mp3").write_bytes(b"")
    values, _ = reported(skipping(settings), Learner(two_models), refit=False)
    assert list(read(settings.data.out / "pred_task1.json")) == ["001", "003", "004"]
    assert (values["test"]["n"], values["test"]["top1"]) == (4, 0.75)
    assert values["left_out"] == {"002": "empty file (0 bytes)"}
    assert [song["id"] for song in values["songs"]["test"]] == ["001", "003", "004", "002"]


def test_a_corpus_without_test_songs_is_validated_only(course: Path, settings: Settings) -> None:
    shutil.rmtree(course / "artist20/test")
    old = settings.data.out / "pred_task1.json"
    old.parent.mkdir(exist_ok=True)
    old.write_text("{}")  # of a run that had test songs
    values, log = reported(settings, Learner(two_models))
    assert "no test songs" in log
    assert "test" not in values
    assert not old.exists()


def test_without_answers_test_is_predicted_and_not_scored(course: Path, settings: Settings) -> None:
    (course / "test_ans.json").unlink()

    class Blind(Model):
        def answers(self, tracks: Sequence[Track]) -> Answers:
            rows = np.tile([0.1, 0.2, 0.3, 0.4], (len(tracks), 1))
            return Answers(rows[np.newaxis], rows)

    values, _ = reported(settings, Learner(lambda ids: [Blind("A", 0, ids)]), refit=False)
    assert "test" not in values
    assert list(values["songs"]) == ["val"]
    assert read(settings.data.out / "pred_task1.json")["004"] == [
        "artist_3",
        "artist_2",
        "artist_1",
    ]


def test_checkpoints_are_kept_until_everything_is_written(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(two_models)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(experiment.record, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        reported(settings, learner)
    assert "clean up" not in learner.calls


def test_what_somebody_keeps_beside_the_models_stays(settings: Settings) -> None:
    assert settings.data.out
    others = settings.data.out / "members/task1"
    (others / "old").mkdir(parents=True)
    kept = [settings.data.out / "model_task1.backup.skops", others / "C.backup.skops"]
    gone = [settings.data.out / "model_task1.safetensors", others / "C.skops"]
    for path in kept + gone:
        path.touch()
    reported(settings, Learner(two_models))
    assert (others / "old").is_dir()
    assert [path.exists() for path in kept + gone] == [True, True, False, False]


def test_only_the_first_of_several_processes_reports(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "IS_MAIN_PROCESS", False)
    learner = Learner(two_models)
    with started(settings) as run:
        experiment.train_and_report(run, experiment.extracted(run, RECIPE), learner, True)
    assert learner.calls == ["fit on 16, 8 in val", "refit A on 24", "refit B on 24"]
    assert not settings.data.out.exists()
