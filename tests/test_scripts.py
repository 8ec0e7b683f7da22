"""The scripts as people run them."""

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from conftest import Script, command, top1_of_songs

import task1
from artistid import cli
from artistid.inference import classical
from artistid.models.classical import load_model

FIGURES = [
    f"{name}_confusion_matrix.png"
    for name in ("KNN", "RandomForest", "SVM", "LDA", "LogisticRegression")
]
RESULTS = [*FIGURES, "index.html", "metrics_task1.json", "model_task1.skops"]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_task1_from_files_to_a_scored_prediction(run_script: Script, course: Path) -> None:
    done = run_script("task1.py", "--data", course, "--cache", course / "cache")
    assert done.returncode == 0, done.stderr
    work = course.parent / "work"
    assert sorted(p.name for p in work.iterdir()) == ["log.txt", "pred_task1.json", "result"]
    assert sorted(p.name for p in (work / "result").iterdir()) == sorted(RESULTS)
    log = (work / "log.txt").read_text()
    for line in done.stdout.splitlines():
        assert line in log
    for line, words in zip(
        log.splitlines(), ("task1, git commit", "versions: python 3", "settings: by="), strict=False
    ):
        assert re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  {words}", line)
    for part in ("4 artists", "16 train, 8 val, 4 test", "2 folds x 2 repeats, by album", "KNN  "):
        assert part in log
    metrics = read(work / "result/metrics_task1.json")
    assert (metrics["val"]["n"], metrics["test"]["n"]) == (8, 4)
    assert metrics["val"]["top1"] >= 0.75
    for split in ("val", "test"):
        assert top1_of_songs(metrics, split) == pytest.approx(metrics[split]["top1"])
        assert all((work / "result" / song["file"]).is_file() for song in metrics["songs"][split])
    assert {figure["file"] for figure in metrics["figures"]} == set(FIGURES)
    assert "scikit-learn" in metrics["versions"]  # those that are loaded
    assert "torch" not in metrics["versions"]
    scored = run_script("hw1/count_score.py", course / "test_ans.json", "pred_task1.json")
    assert scored.stdout == f"{metrics['test']['top1']}\n{metrics['test']['top3']}\n"
    model = load_model(work / "result/model_task1.skops")
    assert model.artists == [f"artist_{i}" for i in range(4)]
    assert model.features["excerpt_s"] == 5.0


# --- every setting has its effect --------------------------------------------------------------


def outcome(folder: Path, settings: task1.Settings, capsys: pytest.CaptureFixture[str]) -> Any:
    """Metrics and screen of a run."""
    task1.main(settings)
    return read(folder / "metrics_task1.json"), capsys.readouterr().out


@pytest.fixture
def settings(course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """With two of the five kinds of classifiers, which is faster."""
    families = classical.families
    monkeypatch.setattr(classical, "families", lambda *sizes: families(*sizes)[::3])
    return {"data": course, "out": tmp_path / "out", "cache": tmp_path / "cache", "jobs": 1}


EFFECTS = {
    "excerpt_seconds": (1.0, "to train on: 16 songs, 48 rows", "to train on: 16 songs, 32 rows"),
    "max_excerpts": (16, "to train on: 16 songs, 32 rows", "to train on: 16 songs, 48 rows"),
    "folds": (3, "3 folds", "2 folds"),
    "repeats": (1, "folds x 1 repeats", "folds x 2 repeats"),
    "refit": (False, None, "to train on: 24 songs"),
}
BASIS = {"max_excerpts": {"excerpt_seconds": 1.0}, "folds": {}}


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_of_task1_does_what_it_says(
    name: str, course: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    value, with_it, without_it = EFFECTS[name]
    if name == "folds":  # by song, so that there are enough of them
        shutil.rmtree(course / "artist20/train_val/artist_0/album_1")
        entries = read(course / "artist20/train.json")
        kept = [entry for entry in entries if "artist_0/album_1" not in entry]
        (course / "artist20/train.json").write_text(json.dumps(kept))
        without_it = "4 folds"
    basis = {**settings, **BASIS.get(name, {})}
    _, screen = outcome(basis["out"], task1.Settings(**basis), capsys)
    assert without_it in screen
    assert with_it is None or with_it not in screen
    metrics, screen = outcome(basis["out"], task1.Settings(**basis, **{name: value}), capsys)
    assert without_it not in screen
    assert with_it is None or with_it in screen
    assert metrics["settings"][name] == value


def test_seed_and_jobs(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The same seed gives the same results with any number of processes; another, others."""
    results = []
    for seed, jobs in ((0, 1), (0, 2), (1, 1)):
        chosen = task1.Settings(**{**settings, "seed": seed, "jobs": jobs, "max_excerpts": 16})
        metrics, _ = outcome(settings["out"], chosen, capsys)
        assert metrics["seed"] == seed
        models = {name: (m["cv"], m["val"]) for name, m in metrics["models"].items()}
        results.append((models, (settings["out"] / "pred_task1.json").read_bytes()))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_all_settings_are_tested_and_explained(run_script: Script) -> None:
    elsewhere = {"data", "out", "cache", "seed", "jobs", "skip_bad"}
    elsewhere |= {"by", "min_tracks", "compilations", "follow_links", "split"}  # test_library.py
    elsewhere |= {"dask", "quiet"}  # test_cluster.py, test_command_line.py
    names = {field.name for field in fields(task1.Settings)}
    assert names == elsewhere | set(EFFECTS)
    text = run_script("task1.py", "--help").stdout
    for name in names:
        assert f"--{name.replace('_', '-')}" in text
    for default in ("(default: 5.0)", "(default: 10000)", "seconds", "(default: 0)"):
        assert default in text


# --- what the user can mend --------------------------------------------------------------------


def test_bad_files_stop_the_run_after_all_were_tried(
    course: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    metrics, _ = outcome(settings["out"], task1.Settings(**settings), capsys)
    before = {path: path.read_bytes() for path in settings["out"].iterdir()}
    (course / "artist20/train_val/artist_0/album_0/0.mp3").write_bytes(b"")
    (course / "artist20/test/002.mp3").write_text("no music")
    with pytest.raises(ValueError, match="2 of 28 files can't be used") as error:
        task1.main(task1.Settings(**settings))
    assert "artist_0/album_0/0.mp3: is empty" in str(error.value)
    assert {path: path.read_bytes() for path in settings["out"].iterdir()} == before

    metrics, screen = outcome(settings["out"], task1.Settings(**settings, skip_bad=True), capsys)
    assert "002.mp3 can't be decoded: Format not recognised; it gets no prediction" in screen
    assert list(read(settings["out"] / "pred_task1.json")) == ["001", "003", "004"]
    assert set(metrics["left_out"]) == {"train_val/artist_0/album_0/0.mp3", "002"}
    assert metrics["test"]["n"] == 4


def test_a_corpus_without_test_songs_has_no_predictions(
    course: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(course / "artist20/test")
    metrics, screen = outcome(settings["out"], task1.Settings(**settings), capsys)
    assert "no songs in test: pred_task1.json is not written" in screen
    assert "test" not in metrics
    assert not (settings["out"] / "pred_task1.json").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--data", "nowhere"], "nowhere: no such folder; name one with --data"),
        (["--seed", "-1"], "--seed -1: must be from 0"),
        (["--jobs", "0"], "--jobs 0: use a number of processes"),
        (["--folds", "1"], "--folds 1: must be at least 2"),
        (["--max-excerpts", "0"], "--max-excerpts 0: must be at least 1"),
        (["--excerpt-seconds", "0.01"], "an excerpt of 0.01 s is shorter than a frame"),
        (["--excerpt-seconds", "nan"], "an excerpt of nan s is shorter than a frame"),
        (["--out", "/proc/none"], "/proc/none"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    run_script: Script, course: Path, arguments: list[str], reason: str
) -> None:
    if "--data" not in arguments:
        arguments = ["--data", str(course), *arguments]
    done = run_script("task1.py", "--cache", course / "cache", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("task1.py: ")
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_option_that_does_not_exist_is_status_2(run_script: Script) -> None:
    assert run_script("task1.py", "--gpu").returncode == 2


# --- which corpus, and where to ----------------------------------------------------------------


def test_without_a_corpus_it_is_the_demo_and_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    course: Path,
) -> None:
    home = tmp_path / "hw1"
    monkeypatch.setattr(cli, "COURSE", home)
    monkeypatch.setattr(cli, "DEMO", home / "demo")

    def pretend(folder: Path, **_: Any) -> bool:
        shutil.copytree(course, folder)
        (folder / "demo.json").write_text("{}")
        return True

    monkeypatch.setattr(cli, "ensure_demo_corpus", pretend)
    monkeypatch.chdir(tmp_path)
    task1.main(task1.Settings(cache=tmp_path / "cache", jobs=1))
    results = tmp_path / "result/demo"
    assert sorted(p.name for p in results.iterdir()) == sorted(
        [*RESULTS, "log.txt", "pred_task1.json"]
    )
    said = (capsys.readouterr().out, (results / "log.txt").read_text())
    assert all("synthetic demo corpus" in text for text in said)
    assert "synthetic demo corpus" in str(read(results / "metrics_task1.json")["notices"])
    assert not (tmp_path / "log.txt").exists()

    # a course corpus that is there but broken is an error, never a reason to fall back
    (home / "artist20").mkdir()
    (home / "artist20/train.json").write_text("[")
    with pytest.raises(ValueError, match="not valid JSON"):
        task1.main(task1.Settings(cache=tmp_path / "cache", jobs=1))


# --- long --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_music_reaches_what_it_should(gamemusic: Path, tmp_path: Path) -> None:
    subprocess.run(command("task1", gamemusic, tmp_path, "--quiet"), check=True)
    metrics = read(tmp_path / "out/metrics_task1.json")
    assert metrics["val"]["top1"] >= 0.70
    assert metrics["test"]["top1"] >= 0.58
    assert metrics["test"]["top3"] >= 0.78
