"""Task 1 as people run it; what all tasks share is tested in test_experiment.py."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Call, Finish, command, n_right, read, top1_of_songs

import task1
from artistid import cli
from artistid.models.classical import load_model
from hw1 import count_score

pytestmark = pytest.mark.usefixtures("no_figures")
FAMILIES = ("KNN", "RandomForest", "SVM", "LDA", "LogisticRegression")
FIGURES = [f"{name}_confusion_matrix.png" for name in FAMILIES]
RESULTS = [
    *FIGURES,
    "index.html",
    "members",
    "metrics_task1.json",
    "model_task1.skops",
    "posteriors_task1.npz",
]


def test_from_files_to_a_scored_prediction(
    finished: Finish, shared_course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, screen = finished("task1")
    assert sorted(p.name for p in folder.iterdir()) == ["log.txt", "pred_task1.json", "result"]
    assert sorted(p.name for p in (folder / "result").iterdir()) == sorted(RESULTS)
    log = (folder / "log.txt").read_text()
    assert all(line in log for line in screen.splitlines())
    for part in ("16 train, 8 val, 4 test", "2 folds of whole albums, 1 repeat(s)", "  KNN: "):
        assert part in log

    metrics = read(folder / "result/metrics_task1.json")
    assert (metrics["val"]["n"], metrics["test"]["n"]) == (8, 4)
    assert metrics["val"]["top1"] >= 0.75
    assert set(metrics["models"]) == set(FAMILIES)
    best = max(metrics["models"].values(), key=lambda m: m["cv"]["top1"] + m["cv"]["top3"])
    assert metrics["val"] == best["val"]
    for split in ("val", "test"):
        assert top1_of_songs(metrics, split) == metrics[split]["top1"]
        assert all((folder / "result" / song["file"]).is_file() for song in metrics["songs"][split])
    assert {figure["file"] for figure in metrics["figures"]} == set(FIGURES)
    assert "scikit-learn" in metrics["versions"]
    assert "torch" not in metrics["versions"]  # not loaded

    files = shared_course / "test_ans.json", folder / "pred_task1.json"
    assert count_score.main([str(file) for file in files]) == 0
    test = metrics["test"]
    assert capsys.readouterr().out == f"{test['top1']}\n{test['top3']}\n"
    _, card, _ = load_model(folder / "result/model_task1.skops")
    assert card.artists == tuple(f"artist_{i}" for i in range(4))
    assert card.input["excerpt_s"] == 5.0


# --- every setting has its effect --------------------------------------------------------------

Outcome = Callable[..., tuple[Any, str, bytes]]


@pytest.fixture
def outcome(
    shared_course: Path,
    shared_cache: Path,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> Outcome:
    """A run with two of the five families: its metrics, screen and predictions."""
    families = task1.families

    def run(
        *options: object, data: Path = shared_course, names: tuple[str, ...] = ("KNN", "LDA")
    ) -> tuple[Any, str, bytes]:
        monkeypatch.setattr(
            task1, "families", lambda *sizes: [f for f in families(*sizes) if f.name in names]
        )
        places = ("--data", data, "--cache", shared_cache, "--out", tmp_path / "out")
        status, screen, errors = call(task1, *places, "--jobs", 1, *options)
        assert (status, errors) == (0, "")
        metrics = read(tmp_path / "out/metrics_task1.json")
        return metrics, screen, (tmp_path / "out/pred_task1.json").read_bytes()

    return run


BASIS = ("--excerpt-seconds", 1.0)
EFFECTS = {  # options, the value they set, and what the screen has with them and without them
    "excerpt_seconds": ((), 5.0, "16 songs, 32 rows", "16 songs, 48 rows"),
    "max_excerpts": ((*BASIS, "--max-excerpts", 16), 16, "16 songs, 32 rows", "16 songs, 48 rows"),
    "repeats": ((*BASIS, "--repeats", 1), 1, "albums, 1 repeat(s)", "albums, 2 repeat(s)"),
    "refit": ((*BASIS, "--no-refit"), False, "training on 16 songs", "training on 24 songs"),
}
ELSEWHERE = {
    *("folds", "seed", "jobs"),  # below
    *("data", "out", "skip_bad", "cache", "quiet"),  # test_experiment.py, test_cli.py
    *("source", "vocals", "separator"),  # test_vocals.py, test_htdemucs.py
    *("by", "min_tracks", "compilations", "follow_links", "split"),  # test_library.py
    "dask",  # test_cluster.py
}


def test_every_setting_is_tested() -> None:
    assert cli.flat(task1.Settings()).keys() == EFFECTS.keys() | ELSEWHERE


def test_each_setting_does_what_it_says(outcome: Outcome) -> None:
    _, basis, _ = outcome(*BASIS)
    for name, (options, value, with_it, without_it) in EFFECTS.items():
        assert without_it in basis
        metrics, screen, _ = outcome(*options)
        assert with_it in screen
        assert without_it not in screen
        assert metrics["settings"][name] == value


def test_folds_are_of_songs_where_an_artist_has_one_album(outcome: Outcome, course: Path) -> None:
    """Mistake 4: albums shared between folds."""
    entries = read(course / "artist20/train.json")
    kept = [entry for entry in entries if "artist_0/album_1" not in entry]
    (course / "artist20/train.json").write_text(json.dumps(kept))
    for options, folds in (((), 4), (("--folds", 3), 3)):
        _, screen, _ = outcome("--repeats", 1, *options, data=course)
        assert f"{folds} folds of songs (an artist has only one album)" in screen


def test_seed_and_jobs(outcome: Outcome) -> None:
    """The same seed gives the same results with any number of processes; another, others."""
    results = []
    for seed, jobs in ((0, 1), (0, 2), (1, 1)):
        options = ("--repeats", 1, "--seed", seed, "--jobs", jobs)
        metrics, _, predictions = outcome(*options, names=("RandomForest", "LDA"))
        assert metrics["seed"] == seed
        models = {name: (m["cv"], m["val"]) for name, m in metrics["models"].items()}
        results.append((models, metrics["songs"], predictions))
    assert results[0] == results[1]
    assert results[0] != results[2]


# --- real music --------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_music_is_learnt(some_music: Path, tmp_path: Path) -> None:
    """Mistake 1: test features that skip the scaler score far less on test than on val."""
    options = ("--quiet", "--repeats", 1, "--jobs", 2)
    subprocess.run(command("task1", some_music, tmp_path, *options), check=True)
    metrics = read(tmp_path / "out/metrics_task1.json")
    assert n_right(metrics) >= 9
    assert metrics["test"]["top1"] >= 0.4
