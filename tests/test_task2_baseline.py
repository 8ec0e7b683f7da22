"""The baseline as people run it; what it shares with task 2 is tested in test_task2.py."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from conftest import Call, Script
from test_encoders import weights  # noqa: F401  a fixture

import musicfm.published
import task2_baseline
from artistid import cli
from artistid.encoders.registry import musicnn
from artistid.inference import training

RESULTS = [
    "accuracy_curve_baseline.png",
    "confusion_matrix_task2_baseline.png",
    "index.html",
    "metrics_task2_baseline.json",
    "model_task2_baseline.json",
    "model_task2_baseline.safetensors",
]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_from_files_to_a_scored_prediction(run_script: Script, course: Path) -> None:
    places = ("--data", course, "--cache", course / "cache", "--encoder", "musicnn")
    done = run_script("task2_baseline.py", *places, "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    work = course.parent / "work"
    texts = ["log_task2_baseline.txt", "pred_task2_baseline.json"]
    assert sorted(p.name for p in work.iterdir()) == [*texts, "result"]
    assert sorted(p.name for p in (work / "result").iterdir()) == RESULTS
    log = (work / "log_task2_baseline.txt").read_text()
    for line in done.stdout.splitlines():
        assert line in log
    digest = musicfm.published.sha256(musicnn.WEIGHTS)
    assert f"encoder: musicnn; weights msd_musicnn.safetensors, SHA-256 {digest}" in log
    assert "musicnn: 0.0 h of audio, " in log
    metrics = read(work / "result/metrics_task2_baseline.json")
    assert metrics["task"] == "task2_baseline"
    assert metrics["encoder"]["weights"] == digest
    assert (metrics["val"]["n"], metrics["test"]["n"]) == (8, 4)
    assert metrics["val"]["top1"] >= 0.75
    assert "MLP on embeddings of musicnn" in (work / "result/index.html").read_text()
    scored = run_script("hw1/count_score.py", course / "test_ans.json", texts[1])
    assert scored.stdout == f"{metrics['test']['top1']}\n{metrics['test']['top3']}\n"
    model = read(work / "result/model_task2_baseline.json")
    assert model["artists"] == [f"artist_{i}" for i in range(4)]
    assert model["encoder"] == metrics["encoder"]
    assert model["crop_frames"] == 5


@pytest.fixture
def settings(course: Path, tmp_path: Path) -> dict[str, Any]:
    places = {"data": course, "out": tmp_path / "out", "cache": tmp_path / "cache"}
    return {**places, "jobs": 1, "epochs": 2, "encoder": "musicnn", "refit": False}


def outcome(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """Metrics of a run, and its screen."""
    task2_baseline.main(task2_baseline.Settings(**settings))
    metrics = read(settings["out"] / "metrics_task2_baseline.json")
    del metrics["curves"]["seconds"]
    return metrics, capsys.readouterr().out


def test_all_settings_are_explained_and_tested(run_script: Script) -> None:
    names = {field.name for field in fields(task2_baseline.Settings)}
    shared = {
        field.name for field in (*fields(cli.CommonSettings), *fields(training.TrainingSettings))
    }
    assert names == shared | {"encoder", "weights", "layer"}
    text = run_script("task2_baseline.py", "--help").stdout
    for name in names:
        assert f"--{name.replace('_', '-')}" in text


def test_length_of_crops_and_seed_have_their_effect(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    basis, screen = outcome(settings, capsys)
    assert "2 epochs of 16 crops" in screen
    assert outcome(settings, capsys)[0]["curves"] == basis["curves"]
    assert outcome({**settings, "seed": 1}, capsys)[0]["curves"] != basis["curves"]
    shorter, _ = outcome({**settings, "crop_seconds": 1.0}, capsys)
    assert shorter["settings"]["crop_seconds"] == 1.0
    assert read(settings["out"] / "model_task2_baseline.json")["crop_frames"] == 1


def test_with_musicfm_the_layer_has_its_effect(
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    weights: Path,  # noqa: F811
) -> None:
    musicfm_settings = {**settings, "encoder": "auto", "weights": weights, "layer": 2}
    basis, screen = outcome(musicfm_settings, capsys)
    assert "encoder: musicfm layer 2" in screen
    assert basis["encoder"]["name"] == "musicfm"
    assert basis["network"]["dim"] == 32
    other, _ = outcome({**musicfm_settings, "layer": 3}, capsys)
    assert other["curves"] != basis["curves"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--layer", "-1"], "--layer -1: must be at least 0"),
        (["--weights", "nowhere.pt"], "nowhere.pt: no such file; python3 -m musicfm download"),
        (["--encoder", "musicfm"], "--encoder musicfm: no weights found; python3 -m musicfm down"),
        (["--encoder", "musicnn", "--resume"], "--resume: nothing to go on with, there is no res"),
        (["--encoder", "musicnn", "--weights", "x"], "--weights: musicnn has its own; leave it"),
        (["--crop-seconds", "0"], "--crop-seconds 0.0: must be at least 0.1"),
        (["--data", "nowhere"], "nowhere: no such folder; name one with --data"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    course: Path, monkeypatch: pytest.MonkeyPatch, call: Call, arguments: list[str], reason: str
) -> None:
    monkeypatch.setattr(musicfm.published, "find", lambda _: None)
    places = [] if "--data" in arguments else ["--data", course, "--cache", course / "cache"]
    status, _, said = call(task2_baseline, *places, "--jobs", 1, *arguments)
    assert status == 2
    assert said.startswith("task2_baseline.py: ")
    assert reason in said
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_real_music_reaches_what_it_should(
    gamemusic: Path, tmp_path: Path, run_script: Script
) -> None:
    places = ("--data", gamemusic, "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    assert run_script("task2_baseline.py", *places, "--encoder", "musicnn").returncode == 0
    metrics = read(tmp_path / "out/metrics_task2_baseline.json")
    assert metrics["val"]["top1"] >= 0.65
    assert metrics["val"]["top3"] >= 0.85
    assert metrics["test"]["top1"] >= 0.6
    hours = 118 / 60
    assert hours * 3600 / metrics["seconds"]["musicnn"] > 30  # times real time, on a busy machine
