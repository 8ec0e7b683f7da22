"""The baseline as people run it; what it shares with task 2 is tested in test_task2.py."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Call, Finish, command, n_right, read, top1_of_songs
from test_encoders import weights  # noqa: F401  a fixture

import artistid
import musicfm.published
import task2
import task2_baseline
from artistid import cli
from artistid.encoders import musicnn
from hw1 import count_score
from musicfm import hub

pytestmark = pytest.mark.usefixtures("no_figures")
RESULTS = [
    "accuracy_curve_baseline.png",
    "confusion_matrix_task2_baseline.png",
    "index.html",
    "members",
    "metrics_task2_baseline.json",
    "model_task2_baseline.json",
    "model_task2_baseline.safetensors",
    "posteriors_task2_baseline.npz",
]


def test_from_files_to_a_scored_prediction(
    finished: Finish, shared_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, screen = finished("task2_baseline")
    texts = ["log_task2_baseline.txt", "pred_task2_baseline.json"]
    assert sorted(p.name for p in folder.iterdir()) == [*texts, "result"]
    assert sorted(p.name for p in (folder / "result").iterdir()) == RESULTS
    log = (folder / texts[0]).read_text()
    assert all(line in log for line in screen.splitlines())
    digest = hub.sha256(musicnn.WEIGHTS)
    assert f"encoder: musicnn; weights msd_musicnn.safetensors, SHA-256 {digest}" in log

    metrics = read(folder / "result/metrics_task2_baseline.json")
    assert metrics["encoder"]["weights"] == digest
    assert (metrics["val"]["n"], metrics["test"]["n"]) == (8, 4)
    assert metrics["val"]["top1"] >= 0.75
    for split in ("val", "test"):
        assert top1_of_songs(metrics, split) == metrics[split]["top1"]
    page = (folder / "result/index.html").read_text(encoding="utf-8")
    assert "EmbeddingMLP on musicnn embeddings" in page
    files = shared_course / "test_ans.json", folder / texts[1]
    assert count_score.main([str(file) for file in files]) == 0
    test = metrics["test"]
    assert capsys.readouterr().out == f"{test['top1']}\n{test['top3']}\n"
    card = read(folder / "result/model_task2_baseline.json")
    assert card["input"] == metrics["encoder"]
    assert card["crop_frames"] == 1  # a song of 2 s is one excerpt


Outcome = Callable[..., tuple[Any, str]]


@pytest.fixture
def outcome(shared_course: Path, shared_cache: Path, tmp_path: Path, call: Call) -> Outcome:
    """A run of two epochs on train alone: its metrics and its screen."""

    def run(*options: object) -> tuple[Any, str]:
        places = ("--data", shared_course, "--cache", shared_cache, "--out", tmp_path / "out")
        fast = ("--jobs", 1, "--epochs", 2, "--no-refit")
        status, screen, errors = call(task2_baseline, *places, *fast, *options)
        assert status == 0, errors
        return read(tmp_path / "out/metrics_task2_baseline.json"), screen

    return run


def losses(metrics: Any) -> list[float]:
    return list(metrics["curves"]["loss"])


def test_encoder_seed_and_mixup_have_their_effect(outcome: Outcome) -> None:
    basis, screen = outcome("--encoder", "musicnn")
    assert "2 epochs of 16 crops" in screen
    assert basis["encoder"]["name"] == "musicnn"
    assert losses(outcome("--encoder", "musicnn")[0]) == losses(basis)
    for other in (("--seed", 1), ("--mixup", 0)):
        assert losses(outcome("--encoder", "musicnn", *other)[0]) != losses(basis)


def test_weights_and_layer_of_musicfm_have_their_effect(
    outcome: Outcome,
    weights: Path,  # noqa: F811
) -> None:
    basis, screen = outcome("--weights", weights, "--layer", 2)
    assert "encoder: musicfm layer 2" in screen
    assert (basis["encoder"]["name"], basis["encoder"]["layer"]) == ("musicfm", 2)
    assert losses(outcome("--weights", weights, "--layer", 3)[0]) != losses(basis)


def test_the_other_heads_are_scored_beside_the_mlp(outcome: Outcome, tmp_path: Path) -> None:
    metrics, screen = outcome("--encoder", "musicnn")
    assert list(metrics["models"]) == ["EmbeddingMLP", "LogisticRegression", "LDA"]
    for name, model in metrics["models"].items():
        assert model["val"]["n"] == 8
        assert ("cv" in model) == (name != "EmbeddingMLP")
    assert "chosen by --head mlp, and so the one that predicts: EmbeddingMLP" in screen
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "LogisticRegression" in page


def test_another_head_predicts_and_is_saved(
    outcome: Outcome, tmp_path: Path, shared_course: Path
) -> None:
    outcome("--encoder", "musicnn")
    metrics, _ = outcome("--encoder", "musicnn", "--head", "lda")
    assert metrics["best_model"] == "LDA"
    assert metrics["val"] == metrics["models"]["LDA"]["val"]
    assert len(losses(metrics)) == 2  # the MLP's
    files = sorted(path.name for path in (tmp_path / "out").glob("model_*"))
    assert files == ["model_task2_baseline.skops"]  # the MLP of the run before is gone
    model = artistid.load_model(tmp_path / "out" / files[0])
    predictions = read(tmp_path / "out/pred_task2_baseline.json")
    for song, artists in predictions.items():
        found = model.predict(shared_course / f"artist20/test/{song}.mp3")
        assert [artist for artist, _ in found.top(3)] == artists
        assert found.excerpts.shape == (1, 4)
        np.testing.assert_allclose(found.excerpts[0], found.posterior, atol=1e-6)


def test_auto_is_the_best_head_by_cross_validation(outcome: Outcome) -> None:
    metrics, screen = outcome("--encoder", "musicnn", "--head", "auto")
    merits = {
        name: model["cv"]["top1"] + model["cv"]["top3"] for name, model in metrics["models"].items()
    }
    assert len(merits) == 3
    assert metrics["best_model"] == max(merits, key=lambda name: merits[name])
    assert metrics["best_model"] != "EmbeddingMLP"  # after two epochs
    assert screen.count("cross-validation, fold") == 2
    assert "best by cross-validation, and so the one that predicts: " in screen


def test_every_setting_is_tested() -> None:
    """The others are those of task 2, and tested there."""
    own, others = (cli.flat(script.Settings()).keys() for script in (task2_baseline, task2))
    assert own - others == {"encoder", "weights", "layer", "head"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--weights", "nowhere.pt"), "nowhere.pt: no such file; python3 -m musicfm download"),
        (("--encoder", "musicfm"), "--encoder musicfm: no weights found; python3 -m musicfm down"),
        (("--encoder", "musicnn", "--weights", "x"), "--weights x: of which encoder? none"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    shared_course: Path,
    shared_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    monkeypatch.setattr(musicfm.published, "find", lambda _: None)
    places = ("--data", shared_course, "--cache", shared_cache, "--jobs", 1)
    status, _, errors = call(task2_baseline, *places, *arguments)
    assert status == 2
    assert errors.startswith("task2_baseline.py: ")
    assert reason in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.slow
def test_real_music_is_learnt(some_music: Path, tmp_path: Path) -> None:
    options = ("--quiet", "--encoder", "musicnn", "--epochs", 40, "--no-refit", "--jobs", 2)
    subprocess.run(command("task2_baseline", some_music, tmp_path, *options), check=True)
    metrics = read(tmp_path / "out/metrics_task2_baseline.json")
    assert n_right(metrics) >= 9
