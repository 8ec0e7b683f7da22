"""Task 2 as people run it; what all tasks share is tested in test_experiment.py, and training in
test_training.py."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROJECT, Call, Finish, command, n_right, read, top1_of_songs

import task2
from artistid import cli
from artistid.audio import melspec
from artistid.audio.extraction import extract
from artistid.dataset.read import read_corpus
from artistid.foundation.parallel import Workers
from artistid.models import training
from artistid.models.card import restored
from artistid.models.checkpoint import TrainingCheckpoint, load_network
from artistid.models.crops import open_songs
from artistid.models.devices import Devices
from artistid.models.networks import MelCNN, MelCNNSettings
from artistid.models.training import Method
from hw1 import count_score

pytestmark = pytest.mark.usefixtures("no_figures")
RESULTS = [
    "accuracy_curve.png",
    "confusion_matrix_task2.png",
    "index.html",
    "metrics_task2.json",
    "model_task2.json",
    "model_task2.safetensors",
    "posteriors_task2.npz",
]


def predictions_of_saved_network(folder: Path, corpus: Path, cache: Path) -> dict[str, list[str]]:
    """What the model in `folder` predicts for test, put together from its files alone."""
    weights, card, _ = load_network(folder / "model_task2.safetensors")
    network = MelCNN(restored(MelCNNSettings, card.network))
    network.load_state_dict(weights)
    mel = restored(melspec.MelSettings, card.input)
    tests = read_corpus(corpus).split("test")
    entries = extract(tests, melspec.recipe(mel), cache, workers=Workers(1)).entries
    cpu = Devices("cpu", "auto")
    songs = open_songs([(entries[track],) for track in tests], melspec.LOG_MEL, cpu.device)
    posteriors, _ = training.song_outputs(
        network, songs, card.crop_frames, network.settings, 32, cpu
    )
    best = np.argsort(-posteriors, axis=1, kind="stable")[:, :3]
    named = [[card.artists[i] for i in row] for row in best]
    return dict(zip([track.id for track in tests], named, strict=True))


def test_from_files_to_a_scored_prediction(
    finished: Finish, shared_course: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, screen = finished("task2")
    assert sorted(p.name for p in folder.iterdir()) == [
        *("log_task2.txt", "pred_task2.json", "result"),
    ]
    assert sorted(p.name for p in (folder / "result").iterdir()) == RESULTS
    log = (folder / "log_task2.txt").read_text()
    assert all(line in log for line in screen.splitlines())
    for part in ("16 train, 8 val, 4 test", "torch 2", "million parameters, on ", "epoch  12: "):
        assert part in log

    metrics = read(folder / "result/metrics_task2.json")
    curves = metrics["curves"]
    assert (metrics["val"]["n"], metrics["test"]["n"]) == (8, 4)
    assert set(curves) == {"loss", "val_loss", "top1", "top3", "seconds"}
    assert {len(values) for values in curves.values()} == {12}
    assert curves["loss"][-1] < 0.8 * curves["loss"][0]
    # mistake 6: the last epoch reported, and not the one that val chose
    kept = metrics["kept_epoch"] - 1
    assert (metrics["val"]["top1"], metrics["val"]["top3"]) == (
        curves["top1"][kept],
        curves["top3"][kept],
    )
    for split in ("val", "test"):
        assert top1_of_songs(metrics, split) == metrics[split]["top1"]
    shown = {"confusion_matrix_task2.png", "accuracy_curve.png"}
    assert {figure["file"] for figure in metrics["figures"]} == shown

    predictions = folder / "pred_task2.json"
    assert count_score.main([str(shared_course / "test_ans.json"), str(predictions)]) == 0
    test = metrics["test"]
    assert capsys.readouterr().out == f"{test['top1']}\n{test['top3']}\n"
    again = predictions_of_saved_network(folder / "result", shared_course, shared_cache)
    assert read(predictions) == again


# --- every setting has its effect --------------------------------------------------------------

Outcome = Callable[..., tuple[Any, str]]


@pytest.fixture
def outcome(
    shared_cache: Path,
    shared_course: Path,
    tmp_path: Path,
    call: Call,
) -> Outcome:
    """A run of two epochs on train alone: its curves and its screen."""

    def run(*options: object, data: Path = shared_course) -> tuple[Any, str]:
        places = ("--data", data, "--cache", shared_cache, "--out", tmp_path / "out")
        status, screen, errors = call(task2, *places, "--jobs", 1, "--epochs", 2, *options)
        if status:
            raise Failed(errors)
        curves = read(tmp_path / "out/metrics_task2.json")["curves"]
        del curves["seconds"]
        return curves, screen

    return run


class Failed(Exception):
    """A run that ended with a message to its user."""


EFFECTS = {  # options, and what the screen has with them
    "epochs": (("--epochs", 3), "3 epochs of 16 crops"),
    "batch_size": (("--batch-size", 5), "batch_size=5"),
    "lr": (("--lr", 1e-4), "lr=0.0001"),
    "weight_decay": (("--weight-decay", 0.9), "weight_decay=0.9"),
    "label_smoothing": (("--label-smoothing", 0.4), "label_smoothing=0.4"),
    "size": (("--size", "large"), "size=large"),
    "masks": (("--masks", 0), "masks=0"),
    "mixup": (("--mixup", 0), "mixup=0.0"),
    "crop_seconds": (("--crop-seconds", 1), "2 epochs of 33 crops of 0.992 s"),
    "precision": (("--precision", "fp32"), ", fp32\n"),
    "seed": (("--seed", 1), "seed=1"),
}
ELSEWHERE = {
    *("refit", "resume", "device"),  # below
    "seeds",  # test_learner.py
    *("data", "out", "skip_bad", "cache", "quiet"),  # test_experiment.py, test_cli.py
    *("source", "vocals", "separator"),  # test_vocals.py, test_htdemucs.py
    *("by", "min_tracks", "compilations", "follow_links", "split"),  # test_library.py
    *("jobs", "dask"),  # test_task1.py, test_cluster.py
}


def test_every_setting_is_tested() -> None:
    assert cli.flat(task2.Settings()).keys() == EFFECTS.keys() | ELSEWHERE


def test_each_setting_changes_the_curves(outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    able = {"avx512_bf16": True}  # wherever the test runs
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    basis, screen = outcome("--no-refit")
    assert outcome("--no-refit")[0] == basis
    for name, (options, words) in EFFECTS.items():
        assert words not in screen
        curves, with_it = outcome("--no-refit", *options)
        assert words in with_it
        assert curves != basis, name


def test_by_default_the_size_of_the_corpus_decides_the_epochs(
    shared_course: Path, shared_cache: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = {"enough_hours": 3 * 16 * 2 / 3600, "epochs_range": (2, 9)}
    monkeypatch.setattr(task2, "Method", partial(Method, **rule))
    places = ("--data", shared_course, "--cache", shared_cache, "--jobs", 1)
    assert "3 epochs of 16 crops" in call(task2, *places, "--no-refit")[1]


def test_refit_trains_the_network_that_predicts_on_val_too(
    outcome: Outcome, tmp_path: Path, shared_course: Path, shared_cache: Path
) -> None:
    weights = tmp_path / "out/model_task2.safetensors"
    curves, screen = outcome()
    assert "4 to 4 training songs per artist" in screen
    assert (
        "2 epochs of 24 crops of 2.02 s, 0.0 h of audio in all; 6 to 6 training songs per artist"
        in screen
    )
    refitted = weights.read_bytes()
    assert read(tmp_path / "out/pred_task2.json") == predictions_of_saved_network(
        tmp_path / "out", shared_course, shared_cache
    )
    kept, screen = outcome("--no-refit")
    assert "24 crops" not in screen
    assert kept == curves  # what val says does not change
    assert weights.read_bytes() != refitted


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--resume",), "--resume: no checkpoint at .*out/model_task2_resume.pt"),
        (("--device", "mps"), "--device mps: not available to this PyTorch"),
        (("--device", "cuda"), "--device cuda: not available to this PyTorch"),
    ],
)
def test_what_the_machine_or_the_folder_lacks_is_one_line(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(Failed, match=rf"^task2\.py: {reason}[^\n]*\n$"):
        outcome(*options)


# --- resume ------------------------------------------------------------------------------------


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the next run be interrupted as soon as the checkpoint of this name is written."""
    save = TrainingCheckpoint.save

    def at(name: str) -> None:
        def save_and_stop(self: TrainingCheckpoint, state: Any) -> None:
            save(self, state)
            if self.path.name == name:
                monkeypatch.setattr(TrainingCheckpoint, "save", save)
                raise KeyboardInterrupt

        monkeypatch.setattr(TrainingCheckpoint, "save", save_and_stop)

    return at


def contents(folder: Path) -> dict[str, bytes]:
    """All that must be the same in two runs."""
    return {
        p.name: p.read_bytes() for p in folder.iterdir() if p.name.startswith(("model", "pred"))
    }


def test_a_resumed_run_equals_an_uninterrupted_one(
    outcome: Outcome, stopped: Callable[[str], None], tmp_path: Path
) -> None:
    straight, _ = outcome()
    expected = contents(tmp_path / "out")
    for name in ("model_task2_resume.pt", "model_task2_resume_refit.pt"):
        (tmp_path / "out/model_task2_resume_refit.pt").write_bytes(b"of another training")
        stopped(name)
        with pytest.raises(Failed, match="interrupted; run it again"):
            outcome()
        curves, screen = outcome("--resume")
        assert "resumed after epoch 1" in screen
        assert ("resumed after epoch 2" in screen) == name.endswith("refit.pt")
        log = (tmp_path / "out/log_task2.txt").read_text()
        assert log.index("epoch   1:") < log.index("interrupted") < log.index("resumed after")
        assert curves == straight
        assert contents(tmp_path / "out") == expected  # and no checkpoint is left


def test_only_the_same_settings_and_corpus_are_resumed(
    outcome: Outcome, stopped: Callable[[str], None], tmp_path: Path, course: Path
) -> None:
    stopped("model_task2_resume.pt")
    with pytest.raises(Failed, match="interrupted"):
        outcome()
    before = contents(tmp_path / "out")
    for options, reason in (
        (("--lr", 0.5), "was started with lr 0.003, now 0.5"),
        (("--epochs", 5), "epochs 2, now 5"),
        (("--masks", 0), "augmentations .*n_masks=2.*, now .*n_masks=0"),
    ):
        with pytest.raises(Failed, match=reason):
            outcome("--resume", *options)
    album = course / "artist20/train_val/artist_0/album_0"
    first, second = (album / name for name in ("0.mp3", "1.mp3"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(Failed, match="was trained on another corpus"):
        outcome("--resume", data=course)
    assert contents(tmp_path / "out") == before  # nothing is lost
    assert "resumed after epoch 1" in outcome("--resume")[1]


def test_a_new_training_gives_notice_that_it_replaces_an_interrupted_one(
    outcome: Outcome, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model_task2_resume.pt").write_bytes(b"x")
    _, screen = outcome("--no-refit")
    assert "model_task2_resume.pt of an interrupted run (--resume continues it)" in screen


# --- long --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_write_one_result(
    shared_course: Path, shared_cache: Path, tmp_path: Path
) -> None:
    """That they take the steps of one is tested in test_training.py."""
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29517"]
    places = ("--data", shared_course, "--cache", shared_cache, "--out", tmp_path)
    task = (PROJECT / "task2.py", *places, "--epochs", 3, "--jobs", 1, "--device", "cpu")
    subprocess.run([sys.executable, *map(str, (*launch, *task))], check=True, timeout=300)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == sorted([*RESULTS, "log_task2.txt", "pred_task2.json"])
    log = (tmp_path / "log_task2.txt").read_text()
    assert ", 2 processes\n" in log
    assert log.count("training MelCNN again") == 1
    metrics = read(tmp_path / "metrics_task2.json")
    assert (metrics["val"]["n"], metrics["test"]["n"]) == (8, 4)
    # the songs were shared between two, and each counted once: one process finds the same
    assert read(tmp_path / "pred_task2.json") == predictions_of_saved_network(
        tmp_path, shared_course, shared_cache
    )


@pytest.mark.slow
def test_real_music_is_learnt(some_music: Path, tmp_path: Path) -> None:
    fast = ("--epochs", 8, "--crop-seconds", 3, "--mixup", 0, "--no-refit")
    subprocess.run(command("task2", some_music, tmp_path, "--quiet", *fast), check=True)
    metrics = read(tmp_path / "out/metrics_task2.json")
    assert n_right(metrics) >= 9
