from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from artistid.inference import training
from artistid.models.augmentation import spec_augment
from artistid.models.checkpoint import ResumeFile
from artistid.models.crops import Excerpts, covering
from artistid.models.devices import Devices
from artistid.models.networks import MelCNN, MelCNNSettings
from artistid.models.training import Examples, Trainer, TrainingSettings

N_ARTISTS, N_MELS, N_FRAMES = 4, 16, 12
SETTINGS = TrainingSettings(epochs=4, batch_size=8, device="cpu", precision="fp32")


class MadeSongs:
    """Songs of 20 to 40 frames: the artist's spectrum under noise."""

    def __init__(self, labels: np.ndarray, seed: int) -> None:
        draw = np.random.default_rng(seed)
        spectra = np.random.default_rng(0).normal(-40, 8, (N_ARTISTS, N_MELS))
        self.lengths = draw.integers(20, 41, len(labels))
        self.frames = [
            (spectra[label] + draw.normal(0, 6, (length, N_MELS))).astype(np.float16)
            for label, length in zip(labels, self.lengths, strict=True)
        ]

    def read(self, excerpts: Excerpts, n_frames: int) -> torch.Tensor:
        pairs = zip(excerpts.songs, excerpts.starts, strict=True)
        rows = [self.frames[song][start : start + n_frames] for song, start in pairs]
        return torch.from_numpy(np.stack(rows))


def examples(n_songs: int, seed: int) -> Examples:
    labels = np.arange(n_songs) % N_ARTISTS
    return Examples(MadeSongs(labels, seed), labels)


def make_trainer(settings: TrainingSettings = SETTINGS, devices: Any = None) -> Trainer:
    devices = devices or Devices("cpu", settings.precision)
    widths = MelCNNSettings(N_ARTISTS, N_MELS, channels=(4, 8), hidden=16)
    network = training.initialised(MelCNN, widths, settings, devices)
    return Trainer(
        network, examples(22, 1), examples(12, 2), N_FRAMES, settings, devices, spec_augment
    )


def make_refit_trainer(settings: TrainingSettings = SETTINGS) -> Trainer:
    """On train and val together, as the tasks do before they predict."""
    trainer = make_trainer(settings)
    return Trainer(
        trainer.network,
        examples(34, 1),
        None,
        N_FRAMES,
        settings,
        trainer.devices,
        trainer.augment,
    )


def resume_file(folder: Path) -> ResumeFile:
    return ResumeFile(folder / "resume.pt", {"lr": 1}, "corpus")


def curves(trainer: Trainer) -> dict[str, list[float]]:
    return {name: values for name, values in trainer.curves.items() if name != "seconds"}


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in trainer.network.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_it_learns_and_scores_songs_it_has_not_heard(tmp_path: Path) -> None:
    trainer = make_trainer(replace(SETTINGS, epochs=25))
    before = trainer.posteriors(trainer.val.songs)
    trainer.fit(resume_file(tmp_path))
    assert training.scoring.top_k(before, trainer.val.labels, 1) < 0.5
    assert trainer.history[trainer.kept_epoch].top1 >= 0.9
    assert trainer.history[-1].loss < 0.7 * trainer.history[0].loss


def test_a_song_has_the_mean_posterior_of_excerpts_that_cover_it() -> None:
    trainer = make_trainer()
    songs = trainer.val.songs
    found = trainer.posteriors(songs)
    trainer.network.eval()
    for song in range(12):
        frames = torch.from_numpy(songs.frames[song]).float()
        starts = covering(songs.lengths[[song]], N_FRAMES).starts
        with torch.no_grad():
            parts = torch.stack([frames[start : start + N_FRAMES] for start in starts])
            expected = trainer.network(parts).softmax(dim=1).mean(dim=0)
        np.testing.assert_allclose(found[song], expected, rtol=1e-4)


def test_the_same_seed_trains_the_same_network(tmp_path: Path) -> None:
    trained = []
    for seed in (0, 0, 1):
        trainer = make_trainer(replace(SETTINGS, seed=seed))
        trainer.fit(resume_file(tmp_path))
        trained.append((curves(trainer), weights(trainer)))
        torch.rand(3)  # what else draws in the process does not matter
    assert trained[0][0] == trained[1][0]
    assert same(trained[0][1], trained[1][1])
    assert trained[0][0] != trained[2][0]


class Killed(Exception):
    pass


@pytest.mark.parametrize("epochs_before", [1, 3, 4])
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs_before: int
) -> None:
    straight = make_trainer()
    straight.fit(resume_file(tmp_path / "straight"))

    save = ResumeFile.save

    def save_and_die(self: ResumeFile, state: dict[str, Any]) -> None:
        save(self, state)
        if len(state["history"]) == epochs_before:
            raise Killed

    monkeypatch.setattr(ResumeFile, "save", save_and_die)
    with pytest.raises(Killed):
        make_trainer().fit(resume_file(tmp_path))
    monkeypatch.undo()
    resumed = make_trainer(replace(SETTINGS, resume=True))
    resumed.fit(resume_file(tmp_path))
    assert curves(resumed) == curves(straight)
    assert same(weights(resumed), weights(straight))


def scripted(monkeypatch: pytest.MonkeyPatch, right: list[list[int]]) -> list[Trainer]:
    """Make val come out as `right`, the songs whose artist is found in each epoch."""
    trainers: list[Trainer] = []

    def posteriors(trainer: Trainer, _: Any) -> np.ndarray:
        trainers[:] = [trainer]
        wrong = np.full((12, N_ARTISTS), 0.1)
        for song in right[len(trainer.history)]:
            wrong[song, trainer.val.labels[song]] = 0.7
        return wrong

    monkeypatch.setattr(Trainer, "posteriors", posteriors)
    return trainers


def test_the_epoch_that_val_chooses_is_kept_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_epoch: list[list[torch.Tensor]] = []
    run_epoch = Trainer._run_epoch

    def spy(trainer: Trainer, bar: Any) -> None:
        run_epoch(trainer, bar)
        by_epoch.append(weights(trainer))

    scripted(monkeypatch, [[5], [5, 6, 7, 8], [4, 5, 6, 7], [6]])
    monkeypatch.setattr(Trainer, "_run_epoch", spy)
    trainer = make_trainer()
    trainer.fit(resume_file(tmp_path))
    assert trainer.kept_epoch == 2
    assert same(weights(trainer), by_epoch[2])
    assert not same(weights(trainer), by_epoch[3])


def test_training_ends_when_patience_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [[5], [5, 6], [5], [6], [5, 6, 7], *[[]] * 15])
    for patience, epochs in ((2, 4), (3, 8)):
        trainer = make_trainer(replace(SETTINGS, epochs=20, patience=patience))
        trainer.fit(resume_file(tmp_path))
        assert len(trainer.history) == epochs


def merits(*epochs: list[int]) -> Any:
    """Of 16 songs, from those of each epoch that are right."""
    values = np.zeros((len(epochs), 16))
    for row, right in zip(values, epochs, strict=True):
        row[right] = 1
    return values


def test_of_epochs_that_val_cannot_tell_apart_the_latest_is_kept() -> None:
    many, few = list(range(10)), list(range(6))
    assert training.best_of(merits(few, many, many)) == 1
    assert training.kept_of(merits(few, many, many)) == 2
    # one song less is just within the standard error of the difference, 1/16
    assert training.kept_of(merits(many, many[1:])) == 1
    # as are four lost and two gained: 0.125 of 0.155
    assert training.kept_of(merits(many, [*many[4:], 14, 15])) == 1
    # but not four lost: 0.25 of 0.112
    assert training.kept_of(merits(many, many[4:])) == 0
    assert training.kept_of(merits(few, many, few)) == 1
    assert training.kept_of(np.ones((3, 1))) == 2


class Process:
    """One of several, without the others."""

    device, precision = torch.device("cpu"), "fp32"

    def __init__(self, rank: int, n_processes: int) -> None:
        self.rank, self.n_processes = rank, n_processes

    def share(self, network: nn.Module) -> nn.Module:
        return network

    seeded = Devices.seeded


@pytest.mark.parametrize(("n_processes", "batch_size"), [(1, 8), (2, 8), (3, 8), (3, 2), (2, 500)])
def test_the_processes_share_the_crops_of_an_epoch(n_processes: int, batch_size: int) -> None:
    settings = replace(SETTINGS, batch_size=batch_size)
    trainers = [make_trainer(settings, Process(r, n_processes)) for r in range(n_processes)]
    for number in (0, 1):
        batches = [trainer.own_batches(number) for trainer in trainers]
        sizes = [[len(batch) for batch in own] for own in batches]
        assert all(own == sizes[0] for own in sizes)  # else they would wait for each other
        assert max(sizes[0]) <= max(1, batch_size // n_processes)
        seen = sorted(
            (int(song), int(start))
            for own in batches
            for batch in own
            for song, start in zip(batch.songs, batch.starts, strict=True)
        )
        expected = trainers[0].n_crops
        assert expected <= len(seen) < expected + n_processes
        alone = make_trainer(settings, Process(0, 1)).own_batches(number)
        assert set(seen) == {
            (int(song), int(start))
            for batch in alone
            for song, start in zip(batch.songs, batch.starts, strict=True)
        }


def test_small_corpora_are_gone_through_more_often() -> None:
    few, many = training.EPOCHS_RANGE
    assert training.epochs_for(10) == many
    assert training.epochs_for(10**7) == few
    middle = training.ENOUGH_CROPS // 25
    assert training.epochs_for(middle) == 25


def test_a_loss_that_runs_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="training diverged in epoch 1: use a smaller --lr"):
        make_trainer(replace(SETTINGS, lr=1e30)).fit(resume_file(tmp_path))


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu", "numpy"])
def test_out_of_memory_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    trainer = make_trainer()
    monkeypatch.setattr(MadeSongs, "read", fail)
    remedy = r"smaller --batch-size \(now 8\) or shorter --crop-seconds \(now 3\)"
    with pytest.raises(ValueError, match=remedy):
        trainer.fit(resume_file(tmp_path))
    with pytest.raises(ValueError, match=remedy):
        trainer.posteriors(trainer.val.songs)


def test_other_errors_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(MadeSongs, "read", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        make_trainer().fit(resume_file(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 1e-4},
        {"weight_decay": 0.5},
        {"label_smoothing": 0.3},
        {"mixup": 0.4},
        {"batch_size": 4},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_a_setting_changes_the_training(tmp_path: Path, change: dict[str, Any]) -> None:
    found = []
    for settings in (SETTINGS, replace(SETTINGS, **change)):
        trainer = make_trainer(replace(settings, epochs=2))
        trainer.fit(resume_file(tmp_path))
        found.append(curves(trainer))
    assert found[0] != found[1]


def test_without_val_the_last_epoch_is_kept(tmp_path: Path) -> None:
    trainer = make_refit_trainer(replace(SETTINGS, epochs=25, patience=1))
    trainer.fit(resume_file(tmp_path))
    assert len(trainer.history) == 25
    assert trainer.kept_epoch == 24
    assert np.isnan(trainer.curves["top1"]).all()
    unheard = examples(12, 2)
    assert training.scoring.top_k(trainer.posteriors(unheard.songs), unheard.labels, 1) >= 0.9


def test_a_training_without_val_goes_on_where_it_was_or_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = make_refit_trainer()
    straight.fit(resume_file(tmp_path / "straight"))
    settings = replace(SETTINGS, resume=True)
    begun = make_refit_trainer(settings)
    begun.fit(resume_file(tmp_path / "begun"), may_be_new=True)
    assert same(weights(begun), weights(straight))

    save = ResumeFile.save

    def save_and_die(self: ResumeFile, state: dict[str, Any]) -> None:
        save(self, state)
        if len(state["history"]) == 2:
            raise Killed

    monkeypatch.setattr(ResumeFile, "save", save_and_die)
    with pytest.raises(Killed):
        make_refit_trainer().fit(resume_file(tmp_path))
    monkeypatch.undo()
    epochs = []
    monkeypatch.setattr(Trainer, "train_epoch", spied(Trainer.train_epoch, epochs))
    resumed = make_refit_trainer(settings)
    resumed.fit(resume_file(tmp_path), may_be_new=True)
    assert epochs == [2, 3]
    assert same(weights(resumed), weights(straight))


def spied(train_epoch: Any, numbers: list[int]) -> Any:
    def train(self: Trainer, number: int, *more: Any) -> float:
        numbers.append(number)
        return float(train_epoch(self, number, *more))

    return train
