"""Task 2 as people run it; what all scripts share is tested in test_scripts.py."""

import json
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROJECT, Call, Script, top1_of_songs

import task2
from artistid import cli
from artistid.audio.decode import melspec
from artistid.audio.extraction import extract
from artistid.dataset.read import read_corpus
from artistid.foundation.parallel import Workers
from artistid.inference import training
from artistid.models.checkpoint import ResumeFile, load_network
from artistid.models.crops import open_songs
from artistid.models.devices import Devices
from artistid.models.networks import MelCNN, MelCNNSettings

RESULTS = [
    "accuracy_curve.png",
    "confusion_matrix_task2.png",
    "index.html",
    "metrics_task2.json",
    "model_task2.json",
    "model_task2.safetensors",
]
EPOCHS = ["--epochs", "20", "--batch-size", "4"]  # enough for the tiny corpus
LAUNCH = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29517"]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def predictions_of_saved_network(folder: Path, corpus: Path, cache: Path) -> dict[str, list[str]]:
    """What the model in `folder` predicts for test, put together from its files alone."""
    weights, description = load_network(folder / "model_task2.safetensors")
    network = MelCNN(MelCNNSettings(**description["network"]))
    network.load_state_dict(weights)
    mel = melspec.MelSettings(**description["mel"])
    tests = read_corpus(corpus).split("test")
    entries = extract(tests, melspec.recipe(mel), cache, workers=Workers(1)).entries
    cpu = Devices("cpu", "auto")
    songs = open_songs([entries[track] for track in tests], melspec.NAME, cpu.device)
    n_artists = len(description["artists"])
    posteriors = training.song_posteriors(
        network, songs, description["crop_frames"], n_artists, 32, cpu
    )
    best = np.argsort(-posteriors, axis=1, kind="stable")[:, :3]
    named = [[description["artists"][i] for i in row] for row in best]
    return dict(zip([track.id for track in tests], named, strict=True))


def test_from_files_to_a_scored_prediction(run_script: Script, course: Path) -> None:
    cache = course / "cache"
    done = run_script("task2.py", "--data", course, "--cache", cache, *EPOCHS)
    assert done.returncode == 0, done.stderr
    work = course.parent / "work"
    assert sorted(p.name for p in work.iterdir()) == ["log_task2.txt", "pred_task2.json", "result"]
    assert sorted(p.name for p in (work / "result").iterdir()) == RESULTS
    log = (work / "log_task2.txt").read_text()
    for line in done.stdout.splitlines():
        assert line in log
    for part in (
        "16 train, 8 val, 4 test",
        "torch 2",
        "million parameters, on ",
        "epoch  20: loss",
    ):
        assert part in log
    metrics = read(work / "result/metrics_task2.json")
    assert (metrics["val"]["n"], metrics["test"]["n"]) == (8, 4)
    assert metrics["curves"]["loss"][-1] < 0.8 * metrics["curves"]["loss"][0]
    assert metrics["val"]["top1"] == metrics["curves"]["top1"][metrics["kept_epoch"] - 1]
    assert len(metrics["curves"]["loss"]) == 20
    for split in ("val", "test"):
        assert top1_of_songs(metrics, split) == pytest.approx(metrics[split]["top1"])
    shown = ["confusion_matrix_task2.png", "accuracy_curve.png"]
    assert {figure["file"] for figure in metrics["figures"]} == set(shown)
    scored = run_script("hw1/count_score.py", course / "test_ans.json", "pred_task2.json")
    assert scored.stdout == f"{metrics['test']['top1']}\n{metrics['test']['top3']}\n"
    again = predictions_of_saved_network(work / "result", course, cache)
    assert read(work / "pred_task2.json") == again


def test_the_log_is_on_the_screen_or_with_quiet_in_its_file_alone(
    call: Call, course: Path, tmp_path: Path
) -> None:
    places = ("--data", course, "--cache", course / "cache", "--jobs", 1, "--epochs", 2)
    for quiet in ([], ["--quiet"]):
        status, screen, errors = call(task2, *places, "--out", tmp_path / "out", *quiet)
        log = (tmp_path / "out/log_task2.txt").read_text()
        assert (status, errors) == (0, "")
        assert log.count("epoch   2: loss") == 2  # of the refit, too
        assert screen.count("epoch   2: loss") == (0 if quiet else 2)
        assert bool(screen) is not bool(quiet)


# --- every setting has its effect --------------------------------------------------------------


@pytest.fixture
def settings(course: Path, tmp_path: Path) -> dict[str, Any]:
    places = {"data": course, "out": tmp_path / "out", "cache": tmp_path / "cache"}
    return {**places, "jobs": 1, "epochs": 2, "refit": False}


def outcome(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """Curves of a run, and its screen."""
    task2.main(task2.Settings(**settings))
    curves = read(settings["out"] / "metrics_task2.json")["curves"]
    del curves["seconds"]
    return curves, capsys.readouterr().out


EFFECTS = {
    "epochs": (3, "3 epochs of 16 crops"),
    "batch_size": (5, "batch_size=5"),
    "lr": (1e-4, "lr=0.0001"),
    "weight_decay": (0.9, "weight_decay=0.9"),
    "label_smoothing": (0.4, "label_smoothing=0.4"),
    "mixup": (0.5, "mixup=0.5"),
    "masks": (0, "masks=0"),
    "crop_seconds": (1.0, "2 epochs of 48 crops"),
    "precision": ("fp32", ", fp32, 1 process"),
    "seed": (1, "seed=1"),
}
ELSEWHERE = {"patience", "device", "resume", "refit"}  # tested in test_training.py, and below


def test_each_setting_changes_the_curves(
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    basis, screen = outcome(settings, capsys)
    assert outcome(settings, capsys)[0] == basis
    for name, (value, said) in EFFECTS.items():
        assert said not in screen
        curves, with_it = outcome({**settings, name: value}, capsys)
        assert said in with_it
        assert curves != basis, name


def test_all_settings_are_tested_and_explained(run_script: Script) -> None:
    names = {field.name for field in fields(task2.Settings)}
    assert names == {field.name for field in fields(cli.CommonSettings)} | set(EFFECTS) | ELSEWHERE
    text = run_script("task2.py", "--help").stdout
    for name in names:
        assert f"--{name.replace('_', '-')}" in text
    assert "CUDA or MPS where there is one" in text


def test_without_a_number_of_epochs_the_corpus_size_says_it(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "ENOUGH_CROPS", 5 * 16)
    monkeypatch.setattr(training, "EPOCHS_RANGE", (2, 9))
    assert "5 epochs of 16 crops" in outcome({**settings, "epochs": None}, capsys)[1]


# --- what the user can mend --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--data", "nowhere"], "nowhere: no such folder; name one with --data"),
        (["--seed", "-1"], "--seed -1: must be from 0"),
        (["--epochs", "0"], "--epochs 0: must be at least 1"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["--patience", "0"], "--patience 0: must be at least 1"),
        (["--masks", "-1"], "--masks -1: must be at least 0"),
        (["--mixup", "nan"], "--mixup nan: must be at least 0"),
        (["--weight-decay", "-1"], "--weight-decay -1.0: must be at least 0"),
        (["--label-smoothing", "1"], "--label-smoothing 1.0: must be from 0 to below 1"),
        (["--lr", "0"], "--lr 0.0: must be above 0"),
        (["--lr", "nan"], "--lr nan: must be above 0"),
        (["--crop-seconds", "0"], "--crop-seconds 0.0: must be at least 0.1"),
        (["--crop-seconds", "1e9"], "out of memory: use a smaller --batch-size (now 32) or short"),
        (["--resume"], "--resume: nothing to go on with, there is no result/model_task2_resume.pt"),
        (["--device", "mps"], "--device mps: this PyTorch"),
        (["--device", "cuda"], "--device cuda: this PyTorch"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    course: Path, monkeypatch: pytest.MonkeyPatch, call: Call, arguments: list[str], reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    places = [] if "--data" in arguments else ["--data", course, "--cache", course / "cache"]
    status, _, said = call(task2, *places, "--jobs", 1, *arguments)
    assert status == 2
    assert said.startswith("task2.py: ")
    assert reason in said
    assert len(said.splitlines()) == 1


def test_bad_files_stop_the_run_or_are_left_out(
    course: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome(settings, capsys)
    before = {path: path.read_bytes() for path in settings["out"].iterdir()}
    (course / "artist20/train_val/artist_0/album_0/0.mp3").write_bytes(b"")
    (course / "artist20/test/002.mp3").write_text("no music")
    with pytest.raises(ValueError, match=r"2 of 28 files can't be used"):
        outcome(settings, capsys)
    assert {path: path.read_bytes() for path in settings["out"].iterdir()} == before
    outcome({**settings, "skip_bad": True}, capsys)
    assert list(read(settings["out"] / "pred_task2.json")) == ["001", "003", "004"]
    metrics = read(settings["out"] / "metrics_task2.json")
    assert set(metrics["left_out"]) == {"train_val/artist_0/album_0/0.mp3", "002"}
    assert metrics["test"]["n"] == 4


def test_a_corpus_without_test_songs_has_no_predictions(
    course: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (course / "artist20/test").iterdir():
        path.unlink()
    _, screen = outcome(settings, capsys)
    assert "no songs in test: pred_task2.json is not written" in screen


def test_a_stopped_training_is_gone_on_with_by_the_same_settings_only(
    course: Path,
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight, _ = outcome(settings, capsys)
    expected = (settings["out"] / "pred_task2.json").read_bytes()

    save = ResumeFile.save

    def save_and_stop(self: ResumeFile, state: Any) -> None:
        save(self, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(ResumeFile, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        outcome(settings, capsys)
    monkeypatch.undo()
    state = (settings["out"] / "model_task2_resume.pt").read_bytes()
    for change, reason in (({"lr": 0.5}, "with lr 0.003, now 0.5"), ({"epochs": 5}, "epochs 2, n")):
        with pytest.raises(ValueError, match=reason):
            outcome({**settings, **change, "resume": True}, capsys)
    test = course / "artist20/train_val/artist_0/album_0"
    (test / "0.mp3").rename(test / "2.mp3")
    (test / "1.mp3").rename(test / "0.mp3")
    (test / "2.mp3").rename(test / "1.mp3")
    with pytest.raises(ValueError, match="is of another corpus"):
        outcome({**settings, "resume": True}, capsys)
    (test / "0.mp3").rename(test / "2.mp3")
    (test / "1.mp3").rename(test / "0.mp3")
    (test / "2.mp3").rename(test / "1.mp3")
    assert (settings["out"] / "model_task2_resume.pt").read_bytes() == state  # nothing was lost
    curves, screen = outcome({**settings, "resume": True}, capsys)
    assert "resumed after epoch 1" in screen
    assert curves == straight
    assert (settings["out"] / "pred_task2.json").read_bytes() == expected
    assert not (settings["out"] / "model_task2_resume.pt").exists()


def test_refit_trains_the_network_that_predicts_on_val_too(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str], course: Path
) -> None:
    weights = settings["out"] / "model_task2.safetensors"
    curves, screen = outcome({**settings, "refit": True}, capsys)
    assert "an artist has 4 to 4 songs to train on" in screen
    assert "now on train and val together" in screen
    assert "2 epochs of 24 crops; an artist has 6 to 6 songs to train on" in screen
    refitted = weights.read_bytes()
    assert read(settings["out"] / "pred_task2.json") == predictions_of_saved_network(
        settings["out"], course, settings["cache"]
    )
    kept, screen = outcome(settings, capsys)
    assert "now on train and val together" not in screen
    assert kept == curves  # what val says does not change
    assert weights.read_bytes() != refitted


def test_resumed_while_refitting(
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings["refit"] = True
    outcome(settings, capsys)
    weights = settings["out"] / "model_task2.safetensors"
    expected = weights.read_bytes()
    save = ResumeFile.save

    def save_and_stop(self: ResumeFile, state: Any) -> None:
        save(self, state)
        if self.path.name == stopped:
            raise KeyboardInterrupt

    # what another training has left is none of this one's, wherever this one is stopped
    for stopped in ("model_task2_resume.pt", "model_task2_resume_refit.pt"):
        (settings["out"] / "model_task2_resume_refit.pt").write_bytes(b"of another training")
        monkeypatch.setattr(ResumeFile, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            outcome(settings, capsys)
        monkeypatch.setattr(ResumeFile, "save", save)
        _, screen = outcome({**settings, "resume": True}, capsys)
        assert "resumed after epoch 1" in screen
        assert ("resumed after epoch 2" in screen) == stopped.endswith("refit.pt")
        assert weights.read_bytes() == expected
        assert not list(settings["out"].glob("*resume*"))


def test_a_new_training_says_that_it_replaces_a_stopped_one(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings["out"].mkdir()
    (settings["out"] / "model_task2_resume.pt").write_bytes(b"x")
    _, screen = outcome(settings, capsys)
    assert "of a run that was stopped (--resume goes on with it)" in screen


# --- long --------------------------------------------------------------------------------------


def start(*arguments: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_two_processes_agree_with_one(demo_corpus: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    losses = []
    for launch in ([], LAUNCH):
        out = tmp_path / f"out{len(launch)}"
        places = ("--data", demo_corpus, "--cache", cache, "--out", out)
        task = [PROJECT / "task2.py", *places, "--epochs", 6, "--device", "cpu"]
        assert start(*launch, *task).wait() == 0
        metrics = read(out / "metrics_task2.json")
        assert (metrics["val"]["n"], metrics["test"]["n"]) == (40, 40)
        losses.append(metrics["curves"]["loss"])
    np.testing.assert_allclose(*losses, atol=0.2)  # the noise of seeds
    assert losses[0][-1] < losses[0][0] - 0.3
    # here and now `out` is that of the two processes
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*RESULTS, "log_task2.txt", "pred_task2.json"]
    )
    log = (out / "log_task2.txt").read_text()
    assert "2 process(es)" in log
    assert log.count("kept: epoch") == 1
    # the songs were shared between two, and each counted once: one process finds the same
    assert read(out / "pred_task2.json") == predictions_of_saved_network(out, demo_corpus, cache)


@pytest.mark.slow
def test_real_music_reaches_what_it_should(gamemusic: Path, tmp_path: Path) -> None:
    places = ("--data", gamemusic, "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    begin = time.monotonic()
    assert start(PROJECT / "task2.py", *places).wait() == 0
    assert time.monotonic() - begin < 360
    metrics = read(tmp_path / "out/metrics_task2.json")
    assert metrics["val"]["top1"] >= 0.70
    assert metrics["val"]["top3"] >= 0.90
    assert metrics["test"]["top1"] >= 0.5
