"""The benchmarks on a few short songs: that they measure what they say, not how fast it is."""

import time
from pathlib import Path

import numpy as np
import pytest
from conftest import make_course
from numpy.random import Generator

import benchmarks.__main__ as all_of_them
from artistid.audio.extraction import extract
from artistid.dataset.corpus import Track
from artistid.foundation.parallel import Workers
from artistid.models.classical import SongClassifier
from benchmarks import (
    artist20_size,
    cnn,
    cross_validation,
    features,
    growth,
    mistakes,
    musicfm,
    stages,
    tasks,
)
from benchmarks.measured import Measured, Ratio, brief, markdown, spread


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough for the homework's network."""
    return make_course(tmp_path_factory.mktemp("benchmarks"), seconds=21)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.01234, "0.0123"), (1.5, "1.5"), (12.34, "12.3"), (999.4, "999"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits(value: float, words: str) -> None:
    assert brief(value) == words


def test_a_ratio_is_the_median_and_its_spread() -> None:
    ratio = Ratio("a / b", [3.0, 1.0, 2.5])
    assert (ratio.median, ratio.spread) == ("2.5", "1 to 3")
    assert spread([2.0]) == ""


def test_a_table_is_markdown() -> None:
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_the_file_has_all_ratios_first_then_each_measurement_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        Measured("One", "python3 -m one", "Here.", [["s"], ["5"]], [Ratio("a / b", [2.0, 4.0])]),
        Measured("Two", "python3 -m two", "There.", [["s"], ["6"]]),
    ]
    monkeypatch.setattr(all_of_them, "benchmarks", lambda _: [lambda: found[0], lambda: found[1]])
    all_of_them.main(all_of_them.Settings(out=tmp_path / "RESULTS.md"))
    text = (tmp_path / "RESULTS.md").read_text()
    parts = ["| a / b | 3 | 2 to 4 |", "## One", "`python3 -m one`", "| 5 |", "## Two", "| 6 |"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_without_music_the_rest_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = all_of_them.benchmarks(all_of_them.Settings(data=Path("nowhere")))
    assert len(found) == 3
    assert "no nowhere" in capsys.readouterr().err


def test_a_stopwatch_counts_no_second_twice() -> None:
    watch = stages.Stopwatch()
    inner = watch.around("inner", lambda: time.sleep(0.2))

    def work() -> None:
        inner()
        time.sleep(0.1)

    watch.around("outer", work)()
    assert watch.seconds["inner"] == pytest.approx(0.2, abs=0.05)
    assert watch.seconds["outer"] == pytest.approx(0.1, abs=0.05)


def test_the_mistake_scales_training_songs_only(rng: Generator) -> None:
    labels = np.arange(40) % 2
    columns = 1000 + rng.normal(0, 1, (40, 3)) + 5 * labels[:, np.newaxis]
    assert SongClassifier().fit(columns, labels).score(columns, labels) == 1
    assert mistakes.UnscaledLater().fit(columns, labels).score(columns, labels) == 0.5


def test_folds_by_album_share_none() -> None:
    labels = np.repeat(np.arange(2), 20)
    albums = np.repeat(np.arange(10), 4)
    for known, held_out in cross_validation.folds_of(labels, 1, albums)[0].pairs:
        assert not set(albums[known]) & set(albums[held_out])


@pytest.mark.slow
def test_features_and_training(songs: Path) -> None:
    found = features.measure(features.Settings(songs, songs=2, rounds=2))
    assert len(found.ratios[0].values) == 2
    found = cnn.measure(cnn.Settings(songs, songs=4, rounds=1))
    audio_s = 4 * 21
    for row in found.rows[1:]:
        assert float(row[1]) * float(row[2].replace(",", "")) == pytest.approx(audio_s, rel=0.02)


@pytest.mark.slow
def test_whole_tasks_and_their_stages(songs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tasks, stages):
        monkeypatch.setattr(module, "TASKS", ("task1",))
    monkeypatch.setattr(tasks, "PAIRS", tasks.PAIRS[:1])
    found = tasks.measure(tasks.Settings(songs, rounds=1))
    assert {way for _, way, *_ in found.rows[1:]} == {"homework", "first run"}
    (shares,) = stages.measure(stages.Settings(songs)).rows[1:]
    assert sum(map(float, shares[2:])) == pytest.approx(100, abs=5)
    assert min(map(float, shares[2:])) >= 0
    assert float(shares[2]) > 5  # the start of it, for songs so few
    assert tasks._time_task2(songs, {"curves": {"loss": [1.0, 1.0]}}) > 0


@pytest.mark.slow
def test_mistakes_cost_what_they_cost(songs: Path) -> None:
    unscaled, first_seconds, wrong_rate = mistakes.on_music(songs, repeats=1)
    assert unscaled.wrong.top1[0] < unscaled.right.top1[0]
    assert first_seconds.wrong == first_seconds.right  # these songs are shorter than that
    assert wrong_rate.by.startswith("MLP")


def test_growth_is_that_of_the_last_two_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def costs(tracks: list[Track], _: Path) -> list[tuple[str, growth.Cost]]:
        return [("a stage", growth.Cost(seconds=3.0 * len(tracks), mib=100 + len(tracks)))]

    monkeypatch.setattr(growth, "_costs", costs)
    found = growth.measure(growth.Settings(songs=(2, 10, 100)))
    assert found.rows[1] == ["a stage", "6", "30", "300", "3,000", "102", "110", "200"]
    time_, memory = found.ratios
    assert list(time_.values) == [10]
    assert list(memory.values) == [200 / 110]


@pytest.mark.slow
def test_stages_alone_and_the_size_of_artist20(tmp_path: Path) -> None:
    tracks, recipe = growth.make_songs(tmp_path, 20), growth.RECIPES["task 2"]
    in_parallel = growth.alone(growth.extraction, tracks, recipe, tmp_path)
    entries = list(extract(tracks, recipe, tmp_path, Workers(1)).entries.values())
    predictions = growth.alone(growth.predictions_of_network, tracks, entries)
    for cost in (in_parallel, predictions):
        assert 100 < cost.mib < 1500
        assert cost.seconds > 0
    (row,) = artist20_size.measure(artist20_size.Settings(songs=20, steps=2)).rows[1:]
    assert row[0] == "1,600"  # crops of 3 s in 20 songs of 240 s


@pytest.mark.slow
def test_musicfm_agrees_with_itself() -> None:
    found = musicfm.measure(musicfm.Settings(seconds=(1,), layers=(1,), rounds=1, device="cpu"))
    float32, bfloat16 = (float(row[-2]) for row in found.rows[1:])
    assert float32 == 1 > bfloat16 > 0.999
