"""What a run writes: predictions, metrics, figures, the split of a library."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import read
from numpy.typing import NDArray

from artistid import metrics
from artistid.dataset.corpus import Track
from artistid.results import record
from artistid.results.record import Candidate, Outputs, Provenance, Record, Task

ARTISTS = ["abba", "blur", "cher", "dido"]
VAL = np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.6, 0.2, 0.1]])
TEST = np.array([[0.1, 0.2, 0.4, 0.3], [0.7, 0.2, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0]])
CURVES = {name: [0.5, 0.75] for name in ("top1", "top3", "loss", "val_loss")}


def made(
    folder: Path, test_artists: list[str | None], temperature: float = 1.0, **changes: Any
) -> Record:
    """A record of a task that has two songs in val and leaves the third song of test out."""
    val = [Track(folder / f"music/{name} #1? 100% ü.mp3", name, "val", name) for name in "ab"]
    val = [replace(track, artist=artist) for track, artist in zip(val, ARTISTS, strict=False)]
    test = [
        Track(folder / f"music/{i:03d}.mp3", f"{i:03d}", "test", artist)
        for i, artist in enumerate(test_artists, start=1)
    ]

    def evaluated(rows: NDArray[np.float64], tracks: list[Track]) -> metrics.Evaluation:
        names = [track.artist for track in tracks]
        return metrics.evaluate(rows[np.newaxis, : len(tracks)], names, ARTISTS, temperature)

    svm = Candidate("SVM", evaluated(VAL, val), {}, {"settings": "C=1"})
    knn = Candidate("KNN", evaluated(VAL[::-1], val), {}, {"settings": "n_neighbors=5"})
    values = {
        "task": Task("task1", "log.txt", "{model}.png"),
        "settings": {"seed": 3, "cache": "cache"},
        "provenance": Provenance({"numpy": np.__version__}, "0123abc"),
        "corpus": "some",
        "artists": ARTISTS,
        "notices": ["a warning"],
        "left_out": dict.fromkeys(test[2:], "empty file"),
        "split_lists": {},
        "tracks": {"val": val, "test": test},
        "candidates": [svm, knn],
        "best": svm,
        "test": evaluated(TEST, test),
        "calibration": metrics.Calibration(temperature),
        "extra": {},
        "seconds": {"total": 1.5},
    }
    return Record(**{**values, **changes})


def written(folder: Path, result: Record) -> tuple[Any, dict[str, list[str]]]:
    """The metrics and the predictions in the files of `result`."""
    record.write(result, Outputs(folder, folder / "result"), {})
    predictions = folder / f"pred_{result.task.name}.json"
    return (
        read(folder / f"result/metrics_{result.task.name}.json"),
        read(predictions) if predictions.exists() else {},
    )


def test_predictions_have_one_key_for_each_test_song(tmp_path: Path) -> None:
    _, predictions = written(tmp_path, made(tmp_path, [None, None]))
    assert predictions == {"001": ["cher", "dido", "blur"], "002": ["abba", "blur", "dido"]}


def test_metrics_keep_their_contract(tmp_path: Path) -> None:
    values, _ = written(tmp_path, made(tmp_path, ["cher", "abba"], extra={"encoder": {"a": 1}}))
    assert {k: values[k] for k in ("task", "corpus", "seed", "notices", "best_model")} == {
        "task": "task1",
        "corpus": "some",
        "seed": 3,
        "notices": ["a warning"],
        "best_model": "SVM",
    }
    assert values["settings"] == {"seed": 3, "cache": "cache"}
    assert values["versions"] == {"numpy": np.__version__}
    assert values["git_commit"] == "0123abc"
    assert values["encoder"] == {"a": 1}
    assert values["seconds"] == {"total": 1.5}
    assert (values["val"]["n"], values["val"]["top1"], values["val"]["top3"]) == (2, 0.5, 0.5)
    assert values["test"]["top1"] == values["test"]["macro_f1"] == 1
    for split in ("val", "test"):
        assert set(values[split]["per_artist"]) == set(ARTISTS)
        low, high = values[split]["top1_interval"]
        assert low < values[split]["top1"] <= high
        assert set(values["calibration"][split]) == {"ece_before", "ece_after"}


def test_metrics_compare_the_candidates_of_task1(tmp_path: Path) -> None:
    models = written(tmp_path, made(tmp_path, []))[0]["models"]
    assert {name: model["settings"] for name, model in models.items()} == {
        "SVM": "C=1",
        "KNN": "n_neighbors=5",
    }
    assert [models[name]["val"]["top1"] for name in ("SVM", "KNN")] == [0.5, 0]


def test_songs_have_calibrated_probabilities_and_relative_paths(tmp_path: Path) -> None:
    songs = written(tmp_path, made(tmp_path, ["cher", "blur", "abba"], temperature=0.5))[0]["songs"]
    squares = [pytest.approx(square / 30) for square in (16, 9, 4)]  # of 1 to 4 tenths
    assert songs["val"][0] == {
        "id": "a",
        "artist": "abba",
        "file": "../music/a #1? 100% ü.mp3",
        "best": [["dido", squares[0]], ["cher", squares[1]], ["blur", squares[2]]],
    }
    assert [song["id"] for song in songs["test"]] == ["001", "002", "003"]
    assert songs["test"][1]["best"][0] == ["abba", pytest.approx(49 / 54)]
    assert "best" not in songs["test"][2]


def test_a_network_has_its_curves_and_every_figure_is_listed(tmp_path: Path) -> None:
    result = made(tmp_path, [], task=Task("task2", "log", "c.png", "curve.png"))
    details = {"kept_epoch": 2, "curves": CURVES}
    network = replace(result.best, name="CNN", details=details)
    values, _ = written(tmp_path, replace(result, candidates=[network], best=network))
    assert values["figures"] == [
        {"file": "curve.png", "model": "CNN", "shows": "training curves"},
        {"file": "c.png", "model": "CNN", "shows": "confusion matrix"},
    ]
    assert (values["kept_epoch"], values["curves"]) == (2, CURVES)
    assert "models" not in values
    for figure in values["figures"]:
        assert (tmp_path / "result" / figure["file"]).read_bytes().startswith(b"\x89PNG")


def test_the_page_shows_the_run_and_a_library_its_split(tmp_path: Path) -> None:
    lists = {"train.json": ["./x/y/周.mp3"], "val.json": [], "test.json": []}
    written(tmp_path, made(tmp_path, [], split_lists=lists))
    assert {name: read(tmp_path / "result" / name) for name in lists} == lists
    page = (tmp_path / "result/index.html").read_text(encoding="utf-8")
    assert "SVM on MFCC, chroma and spectral statistics" in page
    assert "a warning" in page


def test_only_packages_in_use_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    versions = record.provenance().versions
    assert versions["numpy"] == np.__version__
    assert "torch" not in versions


def test_the_commit_is_marked_if_the_code_differs_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "checkout", lambda: tmp_path)
    assert record.provenance().git_commit == ""  # no repository

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=b")
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    (tmp_path / "task.py").write_text("1")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "all")
    clean = record.provenance().git_commit
    assert len(clean) == 12
    (tmp_path / "notes.txt").write_text("not code")
    assert record.provenance().git_commit == clean
    (tmp_path / "task.py").write_text("2")
    assert record.provenance().git_commit == clean + "+"
