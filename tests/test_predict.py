"""predict.py with models of all three kinds, trained here on a small corpus."""

import csv
import json
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import skops.io
from conftest import Call, Script, hum, make_course, write_audio

import predict
import task1
import task2
import task2_baseline
from artistid import inference as models
from artistid.calibration import tempered
from artistid.foundation.errors import UserError
from artistid.inference import classical
from artistid.models.devices import Devices
from artistid.results import timeline

MODELS = {
    "task1": "model_task1.skops",
    "task2": "model_task2.safetensors",
    "task2_baseline": "model_task2_baseline.safetensors",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus "tiny", and the results of all tasks in "out"."""
    folder = tmp_path_factory.mktemp("trained")
    data = make_course(folder, seconds=4.0)
    places = {"data": data, "out": folder / "out", "cache": folder / "cache", "jobs": 1}
    task1.main(task1.Settings(**places))
    task2.main(task2.Settings(**places, epochs=12, batch_size=4))
    task2_baseline.main(task2_baseline.Settings(**places, epochs=30, encoder="musicnn"))
    return folder


@pytest.fixture
def tests(trained: Path) -> list[Path]:
    return sorted((trained / "tiny/artist20/test").iterdir())


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(call: Call) -> Command:
    return partial(call, predict)


@pytest.mark.parametrize("task", MODELS)
def test_it_predicts_as_the_task_did(
    trained: Path, tests: list[Path], command: Command, tmp_path: Path, task: str
) -> None:
    model = trained / "out" / MODELS[task]
    status, printed, said = command(*tests, "--model", model, "--json", "p.json", "--csv", "p.csv")
    assert status == 0, said
    expected = read(trained / f"out/pred_{task}.json")
    predictions = read(tmp_path / "p.json")
    assert list(predictions) == [str(path) for path in tests]
    lines = printed.splitlines()
    for path, line in zip(tests, lines, strict=True):
        named = predictions[str(path)]
        assert [entry["artist"] for entry in named] == expected[path.stem]
        probabilities = [entry["probability"] for entry in named]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1 + 1e-9
        assert line.split("  ")[0] == path.name
        assert f"{named[0]['artist']} {probabilities[0]:.0%}, " in line
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["song"] for row in rows] == list(predictions)
    assert [row["artist_3"] for row in rows] == [p[2]["artist"] for p in predictions.values()]


@pytest.mark.parametrize("task", MODELS)
def test_probabilities_are_calibrated_by_the_temperature_of_val(
    trained: Path, tests: list[Path], task: str
) -> None:
    calibration = read(trained / f"out/metrics_{task}.json")["calibration"]
    model = models.load(trained / "out" / MODELS[task], None, Devices("cpu", "auto"))
    assert model.temperature == pytest.approx(calibration["temperature"])
    assert model.temperature != 1.0
    raw, calibrated = (m.predict(tests[0]) for m in (replace(model, temperature=1.0), model))
    for name in ("song", "excerpts"):
        expected = tempered(getattr(raw, name), model.temperature)
        np.testing.assert_allclose(getattr(calibrated, name), expected)
    assert {"ece_before", "ece_after"} == set(calibration["val"]) == set(calibration["test"])


@pytest.mark.parametrize("task", MODELS)
def test_excerpts_are_those_of_the_song_in_order(
    trained: Path, tmp_path: Path, rng: np.random.Generator, task: str
) -> None:
    path = tmp_path / "song.wav"
    write_audio(path, hum(1, rng, seconds=33.0))
    heard = models.load(trained / "out" / MODELS[task], None, Devices("cpu", "auto")).predict(path)
    assert len(heard.excerpts) >= 2
    np.testing.assert_allclose(heard.excerpts.sum(axis=1), 1)
    np.testing.assert_allclose(heard.song.sum(), 1)
    assert heard.starts_s[0] == 0
    assert (np.diff(heard.starts_s) > 0).all()
    assert (heard.ends_s > heard.starts_s).all()
    assert (heard.ends_s[:-1] >= heard.starts_s[1:] - 0.02).all()
    assert heard.ends_s[-1] == pytest.approx(33, abs=0.6)


def test_what_is_silent_is_not_in_the_timeline_and_the_end_is(
    trained: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "song.wav"
    song = hum(1, rng, seconds=62.0)
    song[19 * 16_000 : 36 * 16_000] = 0
    write_audio(path, song)
    model = models.load(trained / "out" / MODELS["task1"], None, Devices("cpu", "auto"))
    heard = model.predict(path)
    assert len(heard.starts_s) == len(heard.ends_s) == len(heard.excerpts)
    assert heard.ends_s[-1] == 62
    middle = (heard.starts_s + heard.ends_s) / 2
    assert not ((middle > 21) & (middle < 34)).any()
    assert (middle < 20).sum() == 4
    edges, columns = timeline._columns(heard)
    (silent,) = np.flatnonzero(np.isnan(columns).all(axis=1))
    assert edges[silent : silent + 2] == pytest.approx([20, 35], abs=0.6)
    assert np.isnan(columns).sum() == columns.shape[1]
    timeline.draw(tmp_path / "x.png", heard, model.artists, "song")


def test_no_figure_takes_the_name_of_another(tmp_path: Path) -> None:
    drawn: set[str] = set()
    songs = [Path("x/a.mp3"), Path("y/a.mp3"), Path("a 2.wav"), Path("z/a.ogg")]
    names = [timeline.path_for(song, tmp_path, drawn).name for song in songs]
    assert names == ["a.png", "a 2.png", "a 2 2.png", "a 3.png"]


def test_folders_and_patterns_are_gone_through_once(
    trained: Path, tests: list[Path], command: Command
) -> None:
    folder = tests[0].parent
    model = trained / "out" / MODELS["task1"]
    _, printed, _ = command(tests[2], folder, f"{folder}/00[12].mp3", "--model", model)
    names = [line.split("  ")[0] for line in printed.splitlines()]
    assert names == ["003.mp3", "001.mp3", "002.mp3", "004.mp3"]


def test_the_newest_model_in_result_is_the_default(
    trained: Path, tests: list[Path], command: Command, tmp_path: Path
) -> None:
    status, _, said = command(tests[0])
    assert status == 2
    assert "predict.py: no model in result or result/demo: train one with task1.py" in said
    shutil.copytree(trained / "out", tmp_path / "result/demo")
    newest = tmp_path / "result/demo" / MODELS["task2"]
    newest.touch()
    status, _, said = command(tests[0])
    assert status == 0
    assert "model: result/demo/model_task2.safetensors, 4 artists" in said


def test_songs_that_cannot_be_used_are_named_and_the_others_predicted(
    trained: Path, tests: list[Path], command: Command, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_text("no music")
    model = trained / "out" / MODELS["task1"]
    status, printed, said = command(bad, tests[0], "--model", model, "--json", "p.json")
    assert status == 2
    assert printed.startswith("001.mp3 ")
    assert "predict.py: 1 of 2 can't be used\n" in said
    assert f"{bad}: can't be decoded" in said
    assert list(read(tmp_path / "p.json")) == [str(tests[0])]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "which songs? Name files, folders or patterns"),
        (["nowhere.mp3"], "nowhere.mp3: one problem\nno audio here"),
        (["SONG", "--model", "nowhere.skops"], "nowhere.skops: no such file; train a model"),
        (["SONG", "--model", "nowhere.safetensors"], "nowhere.json: no such file; train a model"),
        (["SONG", "--model", "SONG"], "not a model; their names end in .skops or .safetensors"),
        (["SONG", "--device", "mps"], "--device mps: this PyTorch"),
    ],
)
def test_a_users_mistake_is_said_and_status_2(
    tests: list[Path],
    command: Command,
    trained: Path,
    tmp_path: Path,
    arguments: list[str],
    reason: str,
) -> None:
    shutil.copytree(trained / "out", tmp_path / "result")
    status, _, said = command(*(tests[0] if a == "SONG" else a for a in arguments))
    assert status == 2
    assert said.startswith("predict.py: ")
    assert reason in said


# --- model files -------------------------------------------------------------------------------


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", MODELS.values())
def test_a_hostile_file_is_refused_and_does_not_run(
    trained: Path, tests: list[Path], command: Command, tmp_path: Path, name: str
) -> None:
    trace, model = tmp_path / "trace", tmp_path / name
    shutil.copytree(trained / "out", tmp_path, dirs_exist_ok=True)
    model.write_bytes(pickle.dumps({"weights": Payload(trace)}))
    status, _, said = command(tests[0], "--model", model)
    assert status == 2
    assert f"{model}: not a " in said
    assert not trace.exists()


def test_an_untrusted_type_in_a_model_of_task1_is_refused(
    tests: list[Path], command: Command, tmp_path: Path
) -> None:
    model = tmp_path / "model_task1.skops"
    skops.io.dump({"classifier": Path("x"), "artists": [], "features": {}}, model)
    status, _, said = command(tests[0], "--model", model)
    assert status == 2
    assert "model_task1.skops: not a model of task1.py" in said


def test_a_model_of_task1_of_another_version_is_refused(
    trained: Path,
    tests: list[Path],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = classical.load_model(trained / "out" / MODELS["task1"])
    with monkeypatch.context() as patch:
        patch.setattr(classical, "FORMAT", 1)
        classical.save_model(tmp_path / "old.skops", model)
    status, _, said = command(tests[0], "--model", tmp_path / "old.skops")
    assert status == 2
    assert "old.skops: not a model of task1.py: it is of another version" in said


def edit(folder: Path, name: str, **changes: Any) -> Path:
    """A copy of a model, its description changed."""
    path = (folder / name).with_suffix(".json")
    description = read(path)
    for key, value in changes.items():
        if isinstance(value, dict):
            description[key].update(value)
        else:
            description[key] = value
    path.write_text(json.dumps(description))
    return folder / name


@pytest.mark.parametrize(
    ("task", "changes", "reason"),
    [
        ("task2", {"format": 0}, "of another version of this program (format 0, not 1); train it"),
        ("task2", {"task": "task9"}, "of another version of this program"),
        ("task2", {"mel": {"hops": 3}}, "not a model of this program: ValueError unknown setting"),
        (
            "task2",
            {"mel": {"n_mels": 64}},
            "not a model of this program: ValueError log-mels of 64",
        ),
        ("task2", {"network": {"hidden": 3}}, "not a model of this program: RuntimeError"),
        ("task2_baseline", {"encoder": {"weights": "0" * 64}}, "weights of SHA-256 000000000000…"),
    ],
)
def test_a_model_of_other_settings_is_one_clear_line(
    trained: Path,
    tests: list[Path],
    command: Command,
    tmp_path: Path,
    task: str,
    changes: dict[str, Any],
    reason: str,
) -> None:
    shutil.copytree(trained / "out", tmp_path, dirs_exist_ok=True)
    model = edit(tmp_path, MODELS[task], **changes)
    status, _, said = command(tests[0], "--model", model)
    assert status == 2
    assert reason in said
    assert len([line for line in said.splitlines() if line]) == 1


# --- the timeline ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 30])
def test_the_timeline_shows_every_stretch(rng: np.random.Generator, n: int) -> None:
    heard = models.Heard(
        song=rng.dirichlet(np.ones(n)),
        excerpts=rng.dirichlet(np.full(n, 0.1), 5),
        starts_s=np.array([0.0, 3, 6, 9, 10]),
        ends_s=np.array([3.0, 6, 9, 12, 13]),
        samples=rng.normal(0, 0.1, 13 * 8_000).astype(np.float32),
        sample_rate=8_000,
        note="",
    )
    artists = [f"artist {i}" for i in range(n)]
    figure = timeline._figure(heard, artists, "song " * 30)
    try:
        figure.draw_without_rendering()
        wave, map_ = (axes for axes in figure.axes if axes.get_xlim() == (0, 13))
        best = heard.song.argmax()
        assert wave.get_title().endswith(f"…: artist {best} {heard.song[best]:.0%}")
        labels = [label.get_text() for label in map_.get_yticklabels()]
        assert labels[0] == f"artist {best}"
        assert len(labels) == min(n, timeline.MOST_ROWS) or n > timeline.MOST_ROWS > len(labels)
        songs = [heard.song[artists.index(label)] for label in labels]
        assert songs == sorted(songs, reverse=True)
        drawn = map_.collections[0].get_array()
        rows = [artists.index(label) for label in labels]
        np.testing.assert_array_equal(np.asarray(drawn), heard.excerpts[:, rows].T)
    finally:
        plt.close(figure)


def test_songs_of_one_name_have_figures_of_their_own(
    trained: Path, tests: list[Path], command: Command, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / tests[0].name
    other.parent.mkdir()
    shutil.copy(tests[1], other)
    places = ("--model", trained / "out" / MODELS["task1"], "--timeline", "--out", "figures")
    assert command(tests[0], other, *places)[0] == 0
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["001 2.png", "001.png"]


@pytest.mark.slow
@pytest.mark.parametrize("task", MODELS)
def test_from_a_cold_start_it_takes_seconds(
    trained: Path, tests: list[Path], run_script: Script, task: str
) -> None:
    begin = time.monotonic()
    done = run_script("predict.py", tests[0], "--model", trained / "out" / MODELS[task])
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 20  # 5 on a machine with nothing else to do


def test_a_file_that_is_no_model_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a model"):
        models.load(tmp_path / "x.pkl", None, Devices("cpu", "auto"))
