"""Several models as one: who may be a member, how much each counts, and what they say together."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODELS, Call, Finish, read
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.optimize import minimize
from test_faults import Killed, killed_before_rename

import artistid
import ensemble as script
from artistid import ensemble, inference, metrics
from artistid.audio.cache import content_digest
from artistid.audio.decode import Audio
from artistid.dataset.corpus import Split, Track
from artistid.foundation.errors import UserError
from artistid.models.card import ModelCard, ensemble_card
from artistid.models.known_songs import KnownSong, KnownSongs
from artistid.results import figures
from artistid.results.posteriors import (
    RunPosteriors,
    SavedModel,
    posteriors_file,
    read_posteriors,
    to_npz,
)
from artistid.vocals.heard import Source

ARTISTS = ("abba", "blur", "cher")


def drawn(rng: Generator, n: int) -> NDArray[np.float64]:
    return rng.dirichlet(np.ones(len(ARTISTS)), n)


def tracks(split: Split, ids: Sequence[str]) -> list[Track]:
    artists = [*ARTISTS, None]
    return [
        Track(Path("/music") / id_, id_, split, artists[i % (3 if split == "val" else 4)])
        for i, id_ in enumerate(ids)
    ]


Leave = Callable[..., RunPosteriors]


@pytest.fixture
def leave(tmp_path: Path, rng: Generator) -> Leave:
    """Leave the posteriors of a task, with two models A and B, of which B predicts."""

    def write(task: str, val: Sequence[str] = "uvwxyz", **changes: Any) -> RunPosteriors:
        songs: dict[Split, list[Track]] = {"val": tracks("val", val), "test": tracks("test", "st")}
        models = []
        for name in "AB":
            file = tmp_path / f"{task}_{name}.skops"
            file.write_bytes(name.encode())
            said: dict[Split, Any] = {split: drawn(rng, len(own)) for split, own in songs.items()}
            like = {split: rng.normal(size=len(own)) for split, own in songs.items()}
            models.append(SavedModel(name, file.name, content_digest(file), said, like))
        run = RunPosteriors(task, "some", "0a1b", ["a notice"], ARTISTS, songs, models, 1)
        run = replace(run, **changes)
        posteriors_file(tmp_path, task).write_bytes(to_npz(run, tmp_path))
        return run

    return write


# --- the file ----------------------------------------------------------------------------------


def test_posteriors_come_back_as_they_were_written(leave: Leave, tmp_path: Path) -> None:
    names = ["a, b.mp3", "ü\udcff.mp3", 'x"y.mp3']
    run = leave("task1", names)
    found = read_posteriors(posteriors_file(tmp_path, "task1"))
    assert [track.id for track in found.tracks["val"]] == names
    assert [t.path.resolve() for t in found.tracks["val"]] == [t.path for t in run.tracks["val"]]
    assert [track.artist for track in found.tracks["test"]] == ["abba", "blur"]
    for ours, theirs in zip(found.models, run.models, strict=True):
        assert (ours.name, ours.file, ours.digest) == (theirs.name, theirs.file, theirs.digest)
        for split in ("val", "test"):
            np.testing.assert_array_equal(ours.posteriors[split], theirs.posteriors[split])
    plain = ("task", "corpus", "split", "notices", "artists", "chosen")
    assert [getattr(found, name) for name in plain] == [getattr(run, name) for name in plain]


def test_the_file_can_be_read_with_numpy_alone(leave: Leave, tmp_path: Path) -> None:
    run = leave("task1")
    with np.load(posteriors_file(tmp_path, "task1"), allow_pickle=False) as file:
        assert file["val"].shape == (2, 6, 3)
        np.testing.assert_array_equal(file["test"][1], run.models[1].posteriors["test"])
        assert file["val_ids"].tolist() == list("uvwxyz")
        assert file["artists"].tolist() == list(ARTISTS)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_file_is_refused(leave: Leave, tmp_path: Path, content: bytes | None) -> None:
    leave("task1")
    path = posteriors_file(tmp_path, "task1")
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(UserError, match=r"posteriors_task1\.npz: damaged, run its task again"):
        read_posteriors(path)


# --- members -----------------------------------------------------------------------------------


def names(members: Sequence[ensemble.Member]) -> list[str]:
    return [member.name for member in members]


def test_by_default_the_predicting_model_of_every_task_is_a_member(
    leave: Leave, tmp_path: Path
) -> None:
    for task in ("task2_baseline", "task1", "task2"):
        leave(task)
    found = ensemble.find_members(tmp_path, ())
    assert names(found) == ["task1:B", "task2:B", "task2_baseline:B"]
    found = ensemble.find_members(tmp_path, ("task2_baseline", "task1:A"))
    assert names(found) == ["task1:A", "task2_baseline:B"]
    assert names(ensemble.find_members(tmp_path, ("task1:A", "task1"))) == ["task1:A", "task1:B"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("task2", "task1"), r"posteriors_task2\.npz: no such file; run task2\.py on the same"),
        (("task1:C", "task1"), r"task1 has no model C; it has A, B"),
        (("task1:B", "task1"), r"--members task1:B task1: names a model twice"),
        (("taks1", "task1"), r"--members taks1: not one of task1, task2, task2_baseline"),
        ((), r"task1 has run: run task2\.py or task2_baseline\.py on the same songs"),
    ],
)
def test_members_that_cannot_be_had(
    leave: Leave, tmp_path: Path, chosen: tuple[str, ...], message: str
) -> None:
    leave("task1")
    with pytest.raises(UserError, match=message):
        ensemble.find_members(tmp_path, chosen)


def test_without_any_run_the_tasks_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no task has run: run task1\.py or task2\.py or"):
        ensemble.find_members(tmp_path, ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "other"}, "task1 has run on some, task2 on other"),
        ({"split": "ffff"}, "have run on different splits of some"),
        ({"artists": ("abba", "blur", "dido")}, "have learnt different lists of artists"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(
    leave: Leave, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    leave("task1")
    leave("task2", **changes)
    with pytest.raises(UserError, match=f"{message}; run task2.py again as task1.py"):
        ensemble.find_members(tmp_path, ())


@pytest.mark.parametrize(("content", "what"), [(None, "is missing"), (b"x", "is not of the run")])
def test_posteriors_and_models_are_of_one_run(
    leave: Leave, tmp_path: Path, content: bytes | None, what: str
) -> None:
    leave("task1")
    leave("task2")
    (tmp_path / "task2_B.skops").unlink()
    if content:
        (tmp_path / "task2_B.skops").write_bytes(content)
    with pytest.raises(UserError, match=rf"task2_B\.skops: {what}.*run task2\.py again"):
        ensemble.find_members(tmp_path, ())


def test_songs_that_one_member_lacks_are_the_others_alone(leave: Leave, tmp_path: Path) -> None:
    one, other = leave("task1", "uvwx"), leave("task2", "vwxy")
    songs = ensemble.songs_of(ensemble.find_members(tmp_path, ()), "val")
    assert [track.id for track in songs.tracks] == list("uvwxy")
    mean = metrics.weighted_mean(songs.posteriors, np.array([0.25, 0.75]))
    left, right = (run.models[1].posteriors["val"] for run in (one, other))
    np.testing.assert_allclose(mean[0], left[0])
    np.testing.assert_allclose(mean[4], right[3])
    np.testing.assert_allclose(mean[1:4], 0.25 * left[1:] + 0.75 * right[:3])


# --- weights -----------------------------------------------------------------------------------


def test_fitted_weights_are_those_of_a_general_optimiser(rng: Generator) -> None:
    labels = rng.integers(0, 3, 200)
    members = np.stack([drawn(rng, 200) for _ in range(4)])
    members[1, np.arange(200), labels] += 0.8  # two know something
    members[3, np.arange(100), labels[:100]] += 1.5
    members /= members.sum(axis=2, keepdims=True)

    def loss(weights: NDArray[np.float64]) -> float:
        mean = np.einsum("m,msa->sa", weights, members)
        return float(-np.log(mean[np.arange(200), labels]).mean())

    simplex = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    start = np.full(4, 0.25)
    expected = minimize(loss, start, bounds=[(0, 1)] * 4, constraints=simplex, tol=1e-10)
    found = metrics.fit_weights(members, labels)
    assert found.sum() == pytest.approx(1)
    assert found.min() >= 0
    assert loss(found) == pytest.approx(expected.fun, abs=1e-4)
    np.testing.assert_allclose(found, expected.x, atol=0.02)


def test_weights_are_fitted_on_the_songs_that_all_members_predict(rng: Generator) -> None:
    labels = rng.integers(0, 3, 40)
    members = np.stack(2 * [drawn(rng, 40)])
    members[1, 0] = 0
    np.testing.assert_allclose(metrics.fit_weights(members, labels), 0.5)
    members[1] = 0
    np.testing.assert_allclose(metrics.fit_weights(members, labels), 0.5)


@pytest.mark.parametrize(("n", "knowledge", "is_fitted"), [(400, 2.0, True), (400, 0.0, False)])
def test_weights_are_fitted_where_songs_they_were_not_fitted_on_gain(
    rng: Generator, n: int, knowledge: float, is_fitted: bool
) -> None:
    labels = rng.integers(0, 3, n)
    members = np.stack([drawn(rng, n) for _ in range(3)])
    members[0, np.arange(n), labels] += knowledge
    members /= members.sum(axis=2, keepdims=True)
    weights = ensemble.choose_weights(members, labels, "auto")
    fitted = metrics.fit_weights(members, labels)
    np.testing.assert_allclose(weights, fitted if is_fitted else 1 / 3)
    np.testing.assert_allclose(ensemble.choose_weights(members, labels, "fitted"), fitted)
    np.testing.assert_allclose(ensemble.choose_weights(members, labels, "equal"), 1 / 3)


# --- from the tasks to the answer --------------------------------------------------------------


@pytest.fixture
def tasks(finished: Finish, tmp_path: Path) -> Path:
    """The results of all tasks in one folder."""
    folder = tmp_path / "out"
    for task in MODELS:
        shutil.copytree(finished(task).folder / "result", folder, dirs_exist_ok=True)
    return folder


def test_the_ensemble_says_the_mean_of_its_members(
    tasks: Path, call: Call, shared_course: Path
) -> None:
    status, screen, _ = call(script, "--out", tasks, "--weights", "equal")
    assert status == 0
    values, predicted = read(tasks / "metrics_ensemble.json"), read(tasks / "pred_ensemble.json")
    said = [np.load(posteriors_file(tasks, task)) for task in MODELS]
    chosen = [json.loads(str(file["about"]))["chosen"] for file in said]
    mean = np.mean([file["test"][i] for file, i in zip(said, chosen, strict=True)], axis=0)
    best = said[0]["artists"][mean.argsort(axis=1)[:, ::-1][:, :3]]
    assert predicted == dict(zip(said[0]["test_ids"], best.tolist(), strict=True))
    assert list(values["models"]) == [
        "ensemble",
        *(
            f"{task}:{name}"
            for task, name in zip(MODELS, [m["model"] for m in values["members"]], strict=True)
        ),
    ]
    assert "test: top-1" in screen
    assert (tasks / "confusion_matrix_ensemble.png").exists()
    page = (tasks / "index.html").read_text()
    assert page.index("Ensemble") < page.index("Task 1")

    model = artistid.load_model(tasks / "model_ensemble.json")
    calibration, pairs = model.card.calibration, list(zip(said, chosen, strict=True))
    of_members = np.mean([file["test_familiarity"][i] for file, i in pairs], axis=0)
    familiarity = calibration.familiarity(of_members)
    for i, (name, expected) in enumerate(predicted.items()):
        prediction = model.predict(shared_course / f"artist20/test/{name}.mp3")
        assert prediction.familiarity == pytest.approx(familiarity[i], abs=0.05)
        assert [artist for artist, _ in prediction.top()] == expected
        own = next(song for song in values["songs"]["test"] if song["id"] == name)
        np.testing.assert_allclose([p for _, p in prediction.top()], [p for _, p in own["best"]],
                                   rtol=1e-3, atol=1e-5)  # fmt: skip
        assert prediction.excerpts.sum(axis=1) == pytest.approx(1)


def test_any_model_of_a_task_can_be_a_member(tasks: Path, call: Call, shared_course: Path) -> None:
    members = ("task1:KNN", "task1:RandomForest", "task2_baseline:LDA")
    assert call(script, "--out", tasks, "--members", *members)[0] == 0
    values = read(tasks / "metrics_ensemble.json")
    assert [f"{m['task']}:{m['model']}" for m in values["members"]] == list(members)
    model = artistid.load_model(tasks / "model_ensemble.json")
    prediction = model.predict(shared_course / "artist20/test/002.mp3")
    assert [a for a, _ in prediction.top()] == read(tasks / "pred_ensemble.json")["002"]


def test_a_member_that_is_gone_or_was_trained_again(tasks: Path, call: Call) -> None:
    call(script, "--out", tasks)
    member = tasks / MODELS["task2"]
    content = member.read_bytes()
    member.write_bytes(b"another")
    with pytest.raises(UserError, match=r"model_task2\.safetensors: not the one that .* was made"):
        artistid.load_model(tasks / "model_ensemble.json")
    member.unlink()
    with pytest.raises(UserError, match=r"is missing; run task2\.py again, then ensemble\.py"):
        artistid.load_model(tasks / "model_ensemble.json")
    member.write_bytes(content)
    with pytest.raises(UserError, match=r"name the model itself, model_task2\.safetensors"):
        artistid.load_model(tasks / "model_task2.json")
    with pytest.raises(UserError, match=r"no such file; make it with ensemble\.py"):
        artistid.load_model(tasks / "x.json")


def test_a_mistake_is_one_line_and_changes_nothing(tasks: Path, call: Call) -> None:
    call(script, "--out", tasks)
    before = {path: path.read_bytes() for path in tasks.rglob("*") if path.is_file()}
    status, _, line = call(script, "--out", tasks, "--members", "task1", "task1:Q")
    assert (status, line.count("\n")) == (2, 1)
    assert line.startswith("ensemble.py: task1 has no model Q; it has KNN, ")
    assert {path: path.read_bytes() for path in tasks.rglob("*") if path.is_file()} == before


def test_killed_at_any_write_an_ensemble_is_whole(tasks: Path, call: Call) -> None:
    call(script, "--out", tasks, "--weights", "equal")
    model = tasks / "model_ensemble.json"
    old = model.read_bytes()
    again = ("--out", tasks, "--members", "task1", "task2")
    for number in range(1, 20):
        try:
            with killed_before_rename(number):
                assert call(script, *again)[0] == 0
            break
        except Killed:
            pass
        is_new = model.read_bytes() != old
        assert len(artistid.load_model(model).card.input["members"]) == (2 if is_new else 3)
        model.write_bytes(old)
    assert 4 < number < 19
    assert len(artistid.load_model(model).card.input["members"]) == 2


# --- over the song, and over time --------------------------------------------------------------


KNOWN = KnownSongs(np.array([[1, 0]], np.float16), (KnownSong("1", "abba"),))


@dataclass(frozen=True)
class Fixed:
    """Says the same of every excerpt of a length."""

    seconds: float
    posterior: tuple[float, ...]

    def outputs(self, audio: Audio) -> inference.ExcerptOutputs:
        starts_s = np.arange(0, audio.seconds, self.seconds)
        rows = np.tile(self.posterior, (len(starts_s), 1))
        rows[0] = rows[0][::-1]  # but of the first
        ends_s = np.minimum(starts_s + self.seconds, audio.seconds)
        rows = np.vstack([rows.mean(axis=0), rows])
        return inference.ExcerptOutputs(rows, rows, len(starts_s), starts_s, ends_s)


def listening(
    model: Fixed, source: Source = "mix", known: KnownSongs = KNOWN
) -> inference.Listener:
    card = ModelCard("task1", ("abba", "blur"), {}, source=source)
    return inference.Listener(card, model, known, source)


def test_excerpts_are_joined_with_those_at_the_same_time() -> None:
    short, long = Fixed(2.0, (0.9, 0.1)), Fixed(6.0, (0.8, 0.2))
    card = ensemble_card(("abba", "blur"), [], metrics.Calibration())
    weights = np.array([0.25, 0.75])
    model = inference.Ensemble(card, [listening(long), listening(short)], weights)
    song = np.random.default_rng(0).normal(0, 0.1, 12 * 8_000).astype(np.float32)
    prediction = inference.Predictor(model, Counted()).predict((song, 8_000))
    assert prediction.starts_s.tolist() == [0, 2, 4, 6, 8, 10]
    by_long, by_short = [0.2] * 3 + [0.8] * 3, [0.1] + [0.9] * 5
    expected = 0.25 * np.array(by_long) + 0.75 * np.array(by_short)
    np.testing.assert_allclose(prediction.excerpts[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(prediction.posterior[0], expected.mean(), atol=1e-6)
    familiarity = 0.25 * cosine(by_long) + 0.75 * cosine(by_short)
    np.testing.assert_allclose(prediction.excerpts_familiarity, familiarity, atol=1e-3)
    assert figures.timeline_png(prediction, "song").startswith(b"\x89PNG")


def cosine(first: Sequence[float]) -> NDArray[np.float64]:
    """Of (first, 1 - first) and (1, 0)."""
    rows = np.array(first)
    return rows / np.hypot(rows, 1 - rows)


def test_the_nearest_songs_are_of_those_that_all_members_know() -> None:
    one, other = (
        KnownSongs(
            np.array([posterior for *_, posterior in songs], np.float16),
            tuple(KnownSong(name, artist) for name, artist, _ in songs),
        )
        for songs in (
            [("1", "abba", (1, 0)), ("2", "abba", (0, 1)), ("3", "blur", (1, 0))],
            [("4", "abba", (1, 0)), ("2", "abba", (1, 0)), ("1", "abba", (0.6, 0.8))],
        )
    )
    said = Fixed(2.0, (1.0, 0.0))  # but of the first excerpt: (5/6, 1/6) of the song
    card = ensemble_card(("abba", "blur"), [], metrics.Calibration())
    for weights, order in (((0.9, 0.1), ["1", "2"]), ((0.1, 0.9), ["2", "1"])):
        members = [listening(said, known=one), listening(said, known=other)]
        model = inference.Ensemble(card, members, np.array(weights))
        song = np.random.default_rng(0).normal(0, 0.1, 12 * 8_000).astype(np.float32)
        prediction = inference.Predictor(model, Counted()).predict((song, 8_000))
        assert prediction.nearest("abba") == order
        assert prediction.nearest("abba", k=1) == order[:1]
        assert prediction.nearest("blur") == []
        heard = np.array([5, 1]) / np.hypot(5, 1)
        first = weights[0] * heard[0] + weights[1] * heard @ (0.6, 0.8)
        assert prediction.likeness["1", "abba"] == pytest.approx(first, abs=1e-3)


class Counted:
    """Vocals at half the level, and how often they were asked for."""

    n = 0

    def vocals(self, _file: Path | None, mix: Audio) -> Audio:
        self.n += 1
        return replace(mix, samples=mix.samples / 2)


def test_a_song_is_separated_once_for_all_members() -> None:
    card = ensemble_card(("abba", "blur"), [], metrics.Calibration())
    one = Fixed(2.0, (0.9, 0.1))
    members = [listening(one, "vocals"), listening(one, "both"), listening(one)]
    model = inference.Ensemble(card, members, np.full(3, 1 / 3))
    voice, song = Counted(), np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    prediction = inference.Predictor(model, voice).predict((song, 8_000))
    assert (model.source, voice.n) == ("both", 1)
    np.testing.assert_array_equal(prediction.samples, song)
