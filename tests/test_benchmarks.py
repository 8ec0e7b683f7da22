"""The benchmarks on a few short songs: that comparisons are fair and figures are right."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tone, write_audio
from numpy.random import Generator
from test_musicfm import TINY

import benchmarks.__main__ as runner
from artistid import metrics
from artistid.audio.features import frame_features
from artistid.dataset.corpus import Track
from artistid.dataset.read import read_corpus
from artistid.foundation.errors import UserError
from artistid.metrics import labels_of
from artistid.models.classical import SongClassifier
from benchmarks import (
    cross_validation,
    features,
    growth,
    measured,
    mistakes,
    musicfm,
    strangers,
    tasks,
)
from benchmarks.measured import Cost, Measured, Ratio, brief, markdown, spread

# raised by audioread, which librosa.load imports
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated and slated:DeprecationWarning")


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.01234, "0.0123"), (1.5, "1.5"), (12.34, "12.3"), (999.4, "999"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits(value: float, words: str) -> None:
    assert brief(value) == words


def test_a_ratio_is_the_median_with_its_spread() -> None:
    ratio = Ratio("a / b", [3.0, 1.0, 2.5])
    assert (ratio.median, ratio.spread) == ("2.5", "1 to 3")
    assert spread([2.0]) == ""


def test_a_table_is_markdown() -> None:
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_the_command_repeats_the_measurement() -> None:
    settings = cross_validation.Settings(models=("small",), epochs=(5, 10), folds_of=("songs",))
    assert measured.command_of("x", settings) == (
        "python3 -m x --data gamemusic --models small --epochs 5 10 --folds-of songs"
    )
    assert measured.command_of("x", growth.Settings()) == "python3 -m x"


@pytest.mark.parametrize("module", [features, tasks, musicfm])
def test_nothing_is_measured_zero_times(module: Any) -> None:
    with pytest.raises(UserError, match="--rounds 0: must be at least 1"):
        module.Settings(rounds=0)


def test_the_file_has_each_measurement_with_its_command_and_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        Measured("One", "python3 -m one", "Here.", [["s"], ["5"]], [Ratio("a / b", [2.0, 4.0])]),
        Measured("Two", "python3 -m two", "There.", [["s"], ["6"]]),
    ]
    monkeypatch.setattr(runner, "benchmarks", lambda _: [lambda: found[0], lambda: found[1]])
    path = runner.main(runner.Settings(out=tmp_path / "RESULTS.md"))
    text = path.read_text()
    parts = ["## One", "`python3 -m one`", "| 5 |", "| a / b | 3 | 2 to 4 |", "## Two", "| 6 |"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_without_the_corpus_the_rest_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = runner.benchmarks(runner.Settings(data=Path("nowhere")))
    assert len(found) == 2
    assert "no corpus at nowhere" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own() -> None:
    cost = measured.alone(np.ones, 100_000_000)  # 763 MiB; the libraries need less than 600
    assert 763 < cost.mib < 763 + 600


# --- features ----------------------------------------------------------------------------------


def test_librosa_computes_the_same_features(rng: Generator) -> None:
    samples = rng.normal(0, 0.1, 20_000).astype(np.float32)
    theirs = features.librosa_one_by_one(samples)
    ours = frame_features(samples, features.FEATURES).T
    assert len(ours) == len(theirs) + features.FEATURES.n_mels
    np.testing.assert_allclose(ours[: len(theirs)], theirs, rtol=1e-3, atol=1e-3)


def test_speed_is_relative_to_the_length_of_the_songs(course: Path) -> None:
    found = features.measure(features.Settings(course, songs=3, rounds=1))
    for _, seconds, speed in found.rows[1:]:
        assert float(seconds) * float(speed.replace(",", "")) == pytest.approx(3 * 2.0, rel=0.02)


# --- whole tasks -------------------------------------------------------------------------------


def test_a_corpus_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        tasks.measure(tasks.Settings(tmp_path / "nowhere", rounds=1))


def test_a_homework_epoch_counts_as_often_as_ours(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_task(task: str, _data: Path, _cache: Path, out: Path) -> None:
        (out / f"metrics_{task}.json").write_text(json.dumps({"curves": {"loss": [2.0, 1.0, 0.5]}}))

    def seconds_of(function: Any, *arguments: Any) -> float:
        function(*arguments)
        return 4.0

    monkeypatch.setattr(tasks, "run_task", run_task)
    monkeypatch.setattr(tasks, "log_mels_of_train", lambda *_: None)
    monkeypatch.setattr(tasks, "epoch_of_task2", lambda _, size, __: 2.0 if size == "small" else 5)
    monkeypatch.setattr(tasks, "seconds_of", seconds_of)
    monkeypatch.setattr(tasks, "alone", lambda *_: Cost(seconds=10.0, mib=100.0))
    found = tasks.measure(tasks.Settings(course, rounds=2))
    times = {tuple(row[:2]): row[2] for row in found.rows[1:]}
    assert times["task1.py", "homework"] == times["task2.py", "first run"] == "4"
    assert times["task2.py", "homework"] == "30"
    assert [ratio.median for ratio in found.ratios] == ["1", "7.5", "5", "2", "1"]


@pytest.mark.slow
def test_the_homework_of_task_1_learns(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the comparison would be unfair."""
    corpus = read_corpus(course)
    val = labels_of([track.artist for track in corpus.split("val")], corpus.artists)
    monkeypatch.setattr(tasks, "GRIDS", tasks.GRIDS[1:2])
    (forest,) = tasks.homework_task1(course)
    assert np.mean(forest == [*val, *range(4)]) > 0.6  # chance is 0.25


def test_a_homework_epoch_trains_on_every_song(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "POOLS", ((2, 2),) * 5)  # these songs are too short for its own
    trained: list[int] = []
    loss = tasks.F.cross_entropy

    def counting(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        trained.extend(target.tolist())
        return loss(logits, target)

    monkeypatch.setattr(tasks.F, "cross_entropy", counting)
    with torch.random.fork_rng():
        tasks.homework_epoch(course)
    assert sorted(trained) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_our_epoch_trains_on_every_song(
    course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    step = tasks.Trainer._step
    monkeypatch.setattr(
        tasks.Trainer, "_step", lambda *given: (trained.extend(given[1].songs), step(*given))[1]
    )
    train = tasks.log_mels_of_train(course, tmp_path)
    assert tasks.epoch_of_task2(train, "small", "fp32") > 0
    assert sorted(trained) == sorted([*range(16)] * 2)  # to warm up, and to be timed


# --- mistakes ----------------------------------------------------------------------------------


def test_the_mistake_scales_training_songs_only(rng: Generator) -> None:
    labels = np.arange(40) % 2
    columns = 1000 + rng.normal(0, 1, (40, 3)) + 5 * labels[:, np.newaxis]
    assert SongClassifier().fit(columns, labels).score(columns, labels) == 1
    assert mistakes.UnscaledLater().fit(columns, labels).score(columns, labels) == 0.5


def test_albums_are_shared_between_folds_only_by_mistake(course: Path) -> None:
    tracks, _ = cross_validation.known_tracks(course)
    albums = np.array([track.album_key for track in tracks])

    def n_shared(of: Any) -> list[int]:
        (folds,) = cross_validation.draw_folds(tracks, 5, 1, of)
        return [len(set(albums[a]) & set(albums[b])) for a, b in folds.pairs]

    assert not any(n_shared("albums"))
    assert all(n_shared("songs"))


def test_the_first_seconds_are_all_of_a_shorter_song(course: Path) -> None:
    tracks = cross_validation.known_tracks(course)[0][:1]
    (whole,), (same,), (less,) = (cross_validation.statistics(tracks, s) for s in (None, 30.0, 1.0))
    np.testing.assert_array_equal(same, whole)
    assert np.abs(less - whole).max() > 0.1


def test_at_the_wrong_rate_a_tone_sounds_higher(tmp_path: Path) -> None:
    for hz in (400, 600):
        write_audio(tmp_path / f"{hz}.wav", tone(hz, 6.0))
    low, high = (Track(tmp_path / f"{hz}.wav", "", "train") for hz in (400, 600))
    (wrong,), (right,) = (
        cross_validation.embeddings((low,), wrong_by=1.5),
        cross_validation.embeddings((low,)),
    )
    (higher,) = cross_validation.embeddings((high,))
    assert np.linalg.norm(wrong[0] - higher[0]) < 0.01 * np.linalg.norm(right[0] - higher[0])


@pytest.mark.slow
def test_models_learn_what_can_be_learnt(rng: Generator) -> None:
    labels = np.arange(12) % 2
    draws = cross_validation.draw_folds(
        [Track(Path(), str(i), "train", f"{i % 2}") for i in range(12)], 5, 1
    )
    rows = [(label + rng.normal(0, 0.1, (4, 1506 + 256))).astype(np.float32) for label in labels]
    far = [100 + song[:, :8] for song in rows]
    by_svm = partial(cross_validation.by_family, "SVM", far, labels, draws)
    by_mlp = cross_validation.by_mlp(rows, labels, draws, epochs=10)
    for found in (by_mlp, by_svm(SongClassifier)):
        assert found[0].cv.top1 == 1
    assert by_svm(mistakes.UnscaledLater)[0].cv.top1 < 0.7


# --- strangers ---------------------------------------------------------------------------------


def test_songs_of_the_artists_left_out_are_the_strangers(shared_course: Path) -> None:
    corpus = read_corpus(shared_course)
    draws = [strangers.draw_artists(corpus, seed) for seed in range(4)]
    assert len({draw.strangers[0].artist for draw in draws}) > 1
    for draw in draws:
        (left_out,) = {track.artist for track in draw.strangers}
        assert left_out not in draw.artists
        assert {t.artist for t in draw.train} == {t.artist for t in draw.known} == {*draw.artists}
        assert [len(songs) for songs in (draw.train, draw.known, draw.strangers)] == [12, 6, 6]
        assert {track.split for track in draw.known} == {"val"}


def test_the_area_is_the_share_of_pairs_in_order_and_95_percent_of_the_known_pass() -> None:
    tracks = [Track(Path(), str(i), "val") for i in range(50)]
    draw = strangers.Draw([], [], tracks[:40], tracks[40:])
    scores = np.random.default_rng(2).normal(size=50) + (np.arange(50) < 40)
    pairs = scores[:40, np.newaxis] > scores[40:]
    area, caught = strangers.auroc_and_caught(draw, scores)
    assert area == pytest.approx(pairs.mean())
    below = np.sort(scores[:40])[1]  # one of 40 is below
    assert caught == (scores[40:] < below).mean()


def test_strangers_are_told_by_what_the_known_songs_calibrate(rng: Generator) -> None:
    tracks = [Track(Path(), str(i), "val", "ab"[i % 2]) for i in range(50)]
    draw = strangers.Draw(["a", "b"], [], tracks[:40], tracks[40:])
    said = strangers.Said(rng.dirichlet(np.ones(2), 50), rng.normal(0.8, 0.1, 50))
    scores = strangers.scored(draw, said).scores
    labels = draw.labels(draw.known)
    expected = metrics.calibrate(said.posteriors[:40], said.similarity[:40], labels)
    calibrated = metrics.tempered(said.posteriors, expected.temperature)
    np.testing.assert_array_equal(scores["similarity"], said.similarity)
    np.testing.assert_allclose(scores["margin"], np.abs(calibrated[:, 0] - calibrated[:, 1]))


# --- growth ------------------------------------------------------------------------------------


def test_growth_is_that_of_the_last_two_sizes() -> None:
    costs = {"a stage": [Cost(seconds=3.0 * n, mib=100 + n) for n in (2, 10, 100)]}
    found = growth.table((2, 10, 100), costs)
    assert found.rows[1] == ["a stage", "6", "30", "300", "3,000", "102", "110", "200"]
    time_, memory = found.ratios
    assert list(time_.values) == [10]
    assert list(memory.values) == [200 / 110]


@pytest.mark.slow
def test_every_stage_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def here(function: Any, *arguments: Any) -> Cost:
        calls.append(function.__name__)
        function(*arguments)
        return Cost(1, 1)

    monkeypatch.setattr(growth, "alone", here)
    tracks = growth.make_songs(tmp_path, 20)
    stages = [stage for stage, _ in growth.costs(tracks, tmp_path)]
    assert len(stages) == len(set(stages)) == len(calls) == 8
    cached = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(cached) == 2 * 20  # no two songs are alike


# --- MusicFM -----------------------------------------------------------------------------------


def test_models_are_compared_with_the_first_one(
    rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = rng.normal(1, 1, (25, 8)).astype(np.float32)
    models: dict[str, musicfm.Model] = {
        "basis": lambda *_: hidden,
        "doubled": lambda *_: 2 * hidden,
        "negated": lambda *_: -hidden,
    }
    seconds = dict(zip(models.values(), (6.0, 3.0, 1.0), strict=True))
    monkeypatch.setattr(musicfm, "seconds_of", lambda model, *_: seconds[model])
    rows = musicfm.compare(models, musicfm.noise(3), layer=1, rounds=2)
    assert [row[3] for row in rows] == ["0.5", "1", "3"]  # times real time
    assert [row[-2] for row in rows] == ["1.000000", "1.000000", "-1.000000"]
    assert [row[-1] for row in rows] == ["0.0e+00", "1.0e+00", "2.0e+00"]
    assert [row[4] for row in rows] == ["1", "2", "6"]  # times as fast as the first


def test_bfloat16_is_close_to_float32_but_not_equal() -> None:
    settings = musicfm.Settings(seconds=(1,), layer=2, rounds=1, device="cpu")
    found = musicfm.measure(settings, TINY)
    assert 0.999 < float(found.rows[2][-2]) < 1
    assert float(found.rows[2][-1]) > 2**-9  # half a step of bfloat16
