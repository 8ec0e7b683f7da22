"""Saved models of all three tasks, from Python."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from conftest import MODELS, RATE, Finish, hum, read
from numpy.typing import NDArray

import artistid
from artistid import inference
from artistid.audio.decode import AudioError
from artistid.dataset.read import read_corpus
from artistid.foundation.errors import UserError
from artistid.inference import Predictor
from artistid.metrics import tempered
from artistid.results.posteriors import posteriors_file, read_posteriors


@pytest.fixture(scope="module", params=MODELS)
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- the public API ----------------------------------------------------------------------------


def test_a_path_its_text_and_its_samples_are_the_same_song(
    finished: Finish, task: str, shared_course: Path
) -> None:
    model = artistid.load_model(str(finished(task).model))
    path = shared_course / "artist20/test/003.mp3"
    expected = model.predict(path)
    assert model.predict(str(path)).top(3) == expected.top(3)
    samples, rate = soundfile.read(path, dtype="float32")
    for song in (samples, np.stack([samples, samples], axis=1)):
        prediction = model.predict((song, rate))
        assert [name for name, _ in prediction.top(3)] == [name for name, _ in expected.top(3)]
        # soundfile rounds samples differently when it reads a file as a whole
        np.testing.assert_allclose(prediction.posterior, expected.posterior, atol=1e-3)


def at_temperature(model: Predictor, temperature: float) -> Predictor:
    card = model.card.calibrated(replace(model.card.calibration, temperature=temperature))
    return replace(model, listener=replace(model.listener, card=card))


def test_songs_of_another_sample_rate_are_resampled(
    finished: Finish, task: str, rng: np.random.Generator
) -> None:
    """Mistake 2: 16 kHz audio fed to a model that expects another rate."""
    model = artistid.load_model(finished(task).model)
    model = at_temperature(model, 50.0)  # posteriors far from 0, 1
    song = hum(1, rng, seconds=3.0)
    resampled = soxr.resample(song, RATE, 44_100)
    right, ours, mistaken = (
        model.predict(heard) for heard in ((song, RATE), (resampled, 44_100), (resampled, RATE))
    )
    assert (right.sample_rate, ours.sample_rate) == (RATE, 44_100)
    assert right.excerpts.shape == ours.excerpts.shape
    ours_off, mistaken_off = (
        np.abs(np.log(one.posterior / right.posterior)).max() for one in (ours, mistaken)
    )
    assert ours_off < mistaken_off / 2


def test_it_predicts_the_test_songs_as_the_task_did(
    finished: Finish, task: str, shared_course: Path
) -> None:
    model = artistid.load_model(finished(task).model)
    assert model.artists == tuple(f"artist_{i}" for i in range(4))
    songs = read(finished(task).folder / f"result/metrics_{task}.json")["songs"]["test"]
    predictions = read(finished(task).folder / f"pred_{task}.json")
    assert len(songs) == 4
    for song in songs:
        top = model.predict(shared_course / f"artist20/test/{song['id']}.mp3").top(3)
        assert [artist for artist, _ in top] == predictions[song["id"]]
        expected = [probability for _, probability in song["best"]]
        assert [probability for _, probability in top] == pytest.approx(expected, abs=2e-3)


def test_embeddings_are_excerpts_by_dim(rng: np.random.Generator) -> None:
    song = hum(1, rng, seconds=7.0)
    embeddings = artistid.embed((song, RATE), encoder="musicnn")
    assert embeddings.shape == (3, 1_506)  # excerpts of 3 s
    assert np.isfinite(embeddings).all()
    first = artistid.embed((song[: 4 * RATE], RATE), encoder="musicnn")
    np.testing.assert_allclose(embeddings[0], first[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="--encoder x: choose from auto"):
        artistid.embed((song, RATE), encoder="x")


def test_the_package_offers_nothing_else() -> None:
    assert artistid.__all__ == ["__version__", "embed", "load_model"]
    with pytest.raises(AttributeError, match="module 'artistid' has no attribute 'x'"):
        _ = artistid.x


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros(RATE, np.float32), "silent from start to end"),
        (np.ones(RATE, np.int16), r"needs floating-point samples in \[-1, 1\]"),
        (np.array([0.5, -0.5, np.nan], np.float32), "not numbers"),
        (np.array([0.5, -0.5], np.float32), "too short: 2 samples at 16000 Hz"),
    ],
)
def test_samples_that_cannot_be_used(
    finished: Finish, task: str, samples: NDArray[Any], reason: str
) -> None:
    with pytest.raises(AudioError, match=reason):
        artistid.load_model(finished(task).model).predict((samples, RATE))


# --- excerpts and calibration ------------------------------------------------------------------


def test_probabilities_are_calibrated_by_the_temperature_of_val(
    finished: Finish, task: str, shared_course: Path
) -> None:
    metrics = read(finished(task).folder / f"result/metrics_{task}.json")
    model = artistid.load_model(finished(task).model)
    temperature = model.card.calibration.temperature
    assert temperature == pytest.approx(metrics["calibration"]["temperature"])
    assert temperature != 1.0
    raw = at_temperature(model, 1.0)
    song = shared_course / "artist20/test/001.mp3"
    plain, calibrated = raw.predict(song), model.predict(song)
    for name in ("posterior", "excerpts"):
        expected = tempered(getattr(plain, name), temperature)
        np.testing.assert_allclose(getattr(calibrated, name), expected)


def test_a_song_is_heard_as_it_was_by_the_task(
    finished: Finish, task: str, shared_course: Path
) -> None:
    """Its posterior, and how familiar it is."""
    results = finished(task).model.parent
    model = artistid.load_model(finished(task).model)
    run = read_posteriors(posteriors_file(results, task))
    saved = run.models[run.chosen]
    for i, track in enumerate(run.tracks["test"]):
        found = model.predict(shared_course / f"artist20/test/{track.id}.mp3")
        np.testing.assert_allclose(found.posterior, saved.posteriors["test"][i], atol=2e-3)
        assert found.familiarity == pytest.approx(saved.familiarity["test"][i], abs=0.05)


def test_nothing_is_as_near_to_a_training_song_as_itself(
    finished: Finish, task: str, shared_course: Path
) -> None:
    model = artistid.load_model(finished(task).model)
    tracks = read_corpus(shared_course).tracks
    for artist in ("artist_0", "artist_3"):
        own = [t for t in tracks if t.artist == artist and t.split != "test"]
        for track in own:
            prediction = model.predict(track.path)
            assert len(prediction.likeness) == 24  # train and val
            nearest = prediction.nearest(artist, k=9)
            assert sorted(nearest) == sorted(track.id for track in own)
            assert nearest[0] == track.id


def test_mix_and_vocals_are_averaged_where_both_are_heard(rng: np.random.Generator) -> None:
    mix, vocals = (
        inference.ExcerptOutputs(
            rng.dirichlet(np.ones(3), 1 + len(starts)),
            rng.normal(size=(1 + len(starts), 5)),
            n_rows,
            np.array(starts),
            np.array(starts) + 3,
        )
        for starts, n_rows in (([0.0, 3.0, 6.0, 9.0], 5), ([3.02, 9.01], 3))  # silent elsewhere
    )
    both = inference._mean([mix, vocals])
    assert both.starts_s.tolist() == [0, 3, 6, 9]
    for found, of_mix, of_vocals in (
        (both.posteriors, mix.posteriors, vocals.posteriors),
        (both.vectors, mix.vectors, vocals.vectors),
    ):
        np.testing.assert_allclose(found[0], (5 * of_mix[0] + 3 * of_vocals[0]) / 8)
        np.testing.assert_allclose(found[[2, 4]], (of_mix[[2, 4]] + of_vocals[1:]) / 2)
        np.testing.assert_array_equal(found[[1, 3]], of_mix[[1, 3]])
    assert both.n_rows == 8


def test_the_last_excerpts_of_mix_and_vocals_belong_together(rng: np.random.Generator) -> None:
    """They end with their songs, and vocals may be a little shorter."""
    mix, vocals = (
        inference.ExcerptOutputs(
            rng.dirichlet(np.ones(3), 4),
            rng.normal(size=(4, 5)),
            3,
            np.array([0.0, 7.5, last_s]),
            np.array([7.5, 15.0, last_s + 7.5]),
        )
        for last_s in (9.0, 8.6)
    )
    both = inference._mean([mix, vocals])
    np.testing.assert_allclose(both.posteriors[1:], (mix.posteriors + vocals.posteriors)[1:] / 2)


def test_excerpts_cover_the_song_in_order(
    finished: Finish, task: str, rng: np.random.Generator
) -> None:
    """Mistake 5: only the first 30 s heard."""
    song = hum(1, rng, seconds=33.0)
    prediction = artistid.load_model(finished(task).model).predict((song, RATE))
    starts_s, ends_s = prediction.starts_s, prediction.ends_s
    assert len(prediction.excerpts) == len(starts_s) == len(ends_s) >= 2
    np.testing.assert_allclose(prediction.excerpts.sum(axis=1), 1)
    np.testing.assert_allclose(prediction.posterior.sum(), 1)
    assert starts_s[0] == 0
    assert (np.diff(starts_s) > 0).all()
    assert (ends_s > starts_s).all()
    assert (ends_s[:-1] >= starts_s[1:] - 0.02).all()
    assert ends_s[-1] == pytest.approx(33, abs=0.6)
    assert len(prediction.samples) == 33 * prediction.sample_rate
    # the song's posterior is the mean of its excerpts; task 1 has one more row for the whole song
    if task != "task1":
        temperature = artistid.load_model(finished(task).model).card.calibration.temperature
        raw = prediction.excerpts**temperature
        mean = (raw / raw.sum(axis=1, keepdims=True)).mean(axis=0, keepdims=True)
        np.testing.assert_allclose(tempered(mean, temperature)[0], prediction.posterior, atol=1e-6)


def test_task1_leaves_silence_out(finished: Finish, rng: np.random.Generator) -> None:
    song = hum(1, rng, seconds=62.0)
    song[19 * RATE : 36 * RATE] = 0
    prediction = artistid.load_model(finished("task1").model).predict((song, RATE))
    assert prediction.ends_s[-1] == 62
    middle = (prediction.starts_s + prediction.ends_s) / 2
    assert not ((middle > 21) & (middle < 34)).any()
    assert (middle < 20).sum() == 4


# --- model files that are refused --------------------------------------------------------------


@pytest.fixture
def copied(finished: Finish, tmp_path: Path) -> Any:
    """A copy of a task's model, and of its card."""

    def copy(task: str) -> Path:
        for path in finished(task).model.parent.glob("model_*"):
            shutil.copy(path, tmp_path)
        return tmp_path / MODELS[task]

    return copy


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x.pkl", r"x\.pkl: not a model; their names end in \.skops, \.safetensors or \.json"),
        ("x.skops", r"x\.skops: no such file; train a model with task1\.py"),
        ("x.safetensors", r"x\.json: no such file; train a model first"),
    ],
)
def test_a_path_without_a_model(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        artistid.load_model(tmp_path / name)


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def test_a_hostile_file_is_refused_and_does_not_run(copied: Any, task: str, tmp_path: Path) -> None:
    trace, model = tmp_path / "trace", copied(task)
    model.write_bytes(pickle.dumps({"weights": Payload(trace)}))
    with pytest.raises(UserError, match=f"{model}: not a "):
        artistid.load_model(model)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("task", "changes", "reason"),
    [
        ("task2", {"format": 2}, r"another version of artistid \(model format 2, this one reads"),
        ("task2", {"task": "task9"}, "a model of task9, which this version does not have"),
        ("task2", {"artists": []}, "damaged model card: artists"),
        ("task2", {"input": {"hops": 3}}, "the card does not fit the weights .ValueError: unknown"),
        ("task2", {"source": "drums"}, "listens to drums, which this version cannot provide"),
        ("task2", {"artists": ["a", "b"]}, "2 artists for a model of 4"),
        ("task2", {"crop_frames": 0}, "damaged model card: crop_frames"),
        ("task2", {"crop_frames": 10**30}, "damaged model card: crop_frames"),
        ("task2", {"input": {"n_mels": 64}}, "ValueError: input of width 64 for a network of 96"),
        ("task2", {"network": {"hidden": 3}}, "ValueError: input of width 128 for a network of 3"),
        ("task2", {"network": {"temporal": [3]}}, "does not fit the weights .RuntimeError"),
        ("task2_baseline", {"input": {"name": "x"}}, "embeddings of x, an encoder that this"),
        (
            "task2_baseline",
            {"input": {"weights": "0" * 64}},
            "with weights of SHA-256 000000000000…",
        ),
    ],
)
def test_a_card_that_does_not_fit_is_refused_in_one_line(
    copied: Any, task: str, changes: dict[str, Any], reason: str
) -> None:
    model = copied(task)
    values = read(model.with_suffix(".json"))
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    model.with_suffix(".json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=reason) as error:
        artistid.load_model(model)
    assert len(str(error.value).splitlines()) == 1


def test_weights_and_card_of_two_runs_are_refused(copied: Any, finished: Finish) -> None:
    model = copied("task2")
    other = finished("task2_baseline").model
    shutil.copy(other, model)
    with pytest.raises(UserError, match=r"model_task2\.json is from a different run"):
        artistid.load_model(model)


def test_the_models_of_the_first_folder_that_has_any_the_newest_first(tmp_path: Path) -> None:
    first, second = tmp_path / "result", tmp_path / "result/demo"
    with pytest.raises(UserError, match=r"no model in .*result or .*demo: train one with task1"):
        inference.newest_models(first, second)
    second.mkdir(parents=True)
    for folder, name in ((second, "model_task1.skops"), (second, "model_task2.safetensors")):
        (folder / name).touch()
    newer = second / "model_task1.skops"
    for seconds, path in enumerate((second / "model_task2.safetensors", newer)):
        os.utime(path, (seconds, seconds))
    assert inference.newest_models(first, second) == [newer, second / "model_task2.safetensors"]
    (first / "model_task2.safetensors").touch()
    assert inference.newest_models(first, second) == [first / "model_task2.safetensors"]
