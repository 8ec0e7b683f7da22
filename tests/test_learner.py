"""What a network task does with its corpus: train, refit, resume, and tidy up."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artistid.audio import cache
from artistid.audio.cache import Entries
from artistid.audio.melspec import MelSettings
from artistid.dataset.corpus import SPLITS, Corpus, Track
from artistid.foundation.errors import UserError
from artistid.models.augmentation import SpecAugment
from artistid.models.checkpoint import TrainingCheckpoint, load_network
from artistid.models.devices import Devices
from artistid.models.known_songs import KnownSongs
from artistid.models.learner import NetworkLearner
from artistid.models.networks import MelCNN, MelCNNSettings, joined, n_joined
from artistid.models.training import Method, TrainingSettings, song_outputs

MEL = MelSettings(n_mels=8)
WIDTHS = MelCNNSettings(2, 8, channels=(2,), temporal=(3,), hidden=4)
JOINT = replace(WIDTHS, hidden=8)  # of two networks
METHOD = Method(MelCNN, WIDTHS, "log_mel", MEL, 62.5, (SpecAugment(),))
SETTINGS = TrainingSettings(
    epochs=3, batch_size=4, crop_seconds=0.1, device="cpu", precision="fp32"
)


@pytest.fixture
def learner(tmp_path: Path) -> NetworkLearner:
    """Two artists with two songs in train, one in val and one in test."""
    draw = np.random.default_rng(4)
    entries: dict[Track, Entries] = {}
    for artist in ("a", "b"):
        for title, split in zip("wxyz", ("train", *SPLITS), strict=True):
            track = Track(Path(f"{artist}{title}.mp3"), f"{artist}{title}", split, artist, "album")
            entry = tmp_path / "cache" / f"{artist}{title}.safetensors"
            log_mel = draw.normal(-40, 10, (15, 8)).astype(np.float16)
            cache.save_entry(entry, {"log_mel": log_mel})
            entries[track] = (entry,)
    corpus = Corpus("tiny", tuple(entries))
    compute = Devices("cpu", "fp32")
    return NetworkLearner(
        "task2", METHOD, corpus, entries, "mix", SETTINGS, 0, compute, tmp_path / "result"
    )


def train(learner: NetworkLearner) -> Any:
    corpus = learner.corpus
    (best,) = learner.fit(corpus.split("train"), corpus.split("val"))
    (refitted,) = learner.refit([best], corpus.split("train") + corpus.split("val"))
    return best, refitted


def left(learner: NetworkLearner) -> list[str]:
    return sorted(path.name for path in learner.folder.iterdir())


def test_a_task_trains_refits_saves_and_tidies_up(
    learner: NetworkLearner, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "artistid"):
        best, final = train(learner)
    text = caplog.text
    assert (
        "3 epochs of 10 crops of 0.096 s, 0.0 h of audio in all; 2 to 2 training songs per artist"
        in text
    )
    assert (
        "3 epochs of 15 crops of 0.096 s, 0.0 h of audio in all; 3 to 3 training songs per artist"
        in text
    )
    assert left(learner) == ["model_task2_resume.pt", "model_task2_resume_refit.pt"]
    test = learner.corpus.split("test")
    final.save(learner.folder / "model_task2", learner.card)
    learner.clean_up()
    assert left(learner) == ["model_task2.json", "model_task2.safetensors"]

    weights, card, known = load_network(learner.folder / "model_task2.safetensors")
    assert card.artists == ("a", "b")
    assert (card.task, card.input, card.crop_frames) == ("task2", asdict(MEL), 6)
    network = MelCNN(METHOD.widths)
    network.load_state_dict(weights)
    final.trainers[0].network.load_state_dict(network.state_dict())
    expected = final.answers(test)
    assert expected.runs.shape == (1, 2, 2)
    assert not np.allclose(best.answers(test).runs, expected.runs)
    trained_on = learner.corpus.split("train") + learner.corpus.split("val")
    expected = KnownSongs.of(final.answers(trained_on).vectors, trained_on)
    np.testing.assert_array_equal(known.vectors, expected.vectors)
    assert known.songs == expected.songs


@pytest.mark.parametrize(
    ("seeds", "name"),
    [
        (1, "model_task2_resume.pt"),
        (1, "model_task2_resume_refit.pt"),
        (2, "model_task2_resume_1.pt"),
        (2, "model_task2_resume_refit_1.pt"),
    ],
)
def test_a_task_resumes_where_it_was_interrupted(
    learner: NetworkLearner, monkeypatch: pytest.MonkeyPatch, seeds: int, name: str
) -> None:
    learner = replace(learner, settings=replace(SETTINGS, seeds=seeds))
    _, uninterrupted = train(learner)
    expected = uninterrupted.answers(learner.corpus.tracks).runs
    learner.clean_up()
    learner.folder.joinpath("model_task2_resume_refit.pt").write_bytes(b"of another training")

    save = TrainingCheckpoint.save

    def save_and_stop(self: TrainingCheckpoint, state: Any) -> None:
        save(self, state)
        if self.path.name == name:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingCheckpoint, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(learner)
    monkeypatch.undo()
    _, resumed = train(replace(learner, settings=replace(learner.settings, resume=True)))
    np.testing.assert_array_equal(resumed.answers(learner.corpus.tracks).runs, expected)


def test_each_seed_trains_a_network_and_the_saved_one_is_their_mean(
    learner: NetworkLearner, tmp_path: Path
) -> None:
    several = replace(learner, settings=replace(SETTINGS, seeds=2), folder=tmp_path / "several")
    best, final = train(several)
    assert best.summary == {"kept": "epoch 3, 3 of 3"}
    assert best.details["curves"] != best.details["further_seeds"][0]["curves"]
    test = learner.corpus.split("test")
    runs, vectors = final.answers(test)
    for number in range(2):
        one = replace(learner, seed=number, folder=tmp_path / str(number))
        np.testing.assert_array_equal(train(one)[1].answers(test).runs[0], runs[number])
    final.save(tmp_path / "model", learner.card)
    weights, *_ = load_network(tmp_path / "model.safetensors")
    network = joined([MelCNN(METHOD.widths) for _ in range(n_joined(weights))])
    network.load_state_dict(weights)
    songs = learner.songs(test)
    joint = song_outputs(network, songs, learner.crop_frames, JOINT, 4, learner.devices)
    np.testing.assert_allclose(joint.posteriors, runs.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(joint.vectors, vectors, rtol=1e-5)


CHANGES: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "lr": {"settings": replace(SETTINGS, lr=0.1)},
    "input n_mels": {"method": replace(METHOD, input=MelSettings(n_mels=9))},
    "network hidden": {"method": replace(METHOD, widths=replace(METHOD.widths, hidden=5))},
    "crop_frames": {"method": replace(METHOD, frames_per_second=70.0)},
    "augmentations": {"method": replace(METHOD, augmentations=())},
}


def test_a_training_is_resumed_with_the_same_settings_only(learner: NetworkLearner) -> None:
    train(learner)
    for name, change in CHANGES.items():
        other = replace(learner, **change)
        other = replace(other, settings=replace(other.settings, resume=True))
        with pytest.raises(UserError, match=rf"was started with {name} "):
            train(other)
    tracks = [replace(track, artist="c") for track in learner.corpus.split("val")]
    corpus = Corpus("other", (*learner.corpus.split("train"), *tracks))
    entries = dict(zip(corpus.tracks, learner.entries.values(), strict=False))
    other = replace(
        learner, corpus=corpus, entries=entries, settings=replace(SETTINGS, resume=True)
    )
    with pytest.raises(UserError, match="was trained on another corpus"):
        other.fit(corpus.split("train"), [])


def test_replacing_the_checkpoint_of_an_interrupted_run_is_said(
    learner: NetworkLearner, caplog: pytest.LogCaptureFixture
) -> None:
    learner.folder.mkdir()
    (learner.folder / "model_task2_resume.pt").write_bytes(b"x")
    with caplog.at_level(logging.INFO, "artistid"):
        train(learner)
    assert "of an interrupted run (--resume continues it)" in caplog.text
