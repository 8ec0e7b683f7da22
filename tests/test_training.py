"""Training on made songs: reproducible, resumable, and the same on two processes as on one."""

import itertools
import logging
import os
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.random import Generator
from numpy.testing import assert_allclose
from torch import Tensor, nn

from artistid import metrics
from artistid.foundation.errors import UserError
from artistid.models import devices, training
from artistid.models.augmentation import Mixup, SpecAugment
from artistid.models.checkpoint import TrainingCheckpoint
from artistid.models.crops import Crops, covering
from artistid.models.devices import Devices
from artistid.models.networks import ArtistNetwork, MelCNN, MelCNNSettings
from artistid.models.training import Examples, Method, Trainer, TrainingSettings

N_ARTISTS, N_MELS, N_FRAMES = 4, 16, 12
WIDTHS = MelCNNSettings(N_ARTISTS, N_MELS, channels=(4, 8), temporal=(8,), hidden=16)
METHOD = Method(MelCNN, WIDTHS, "log_mel", None, 62.5, (SpecAugment(),), (Mixup(),))
SETTINGS = TrainingSettings(epochs=4, batch_size=8, device="cpu", precision="fp32")


class MadeSongs:
    """Songs of 20 to 40 frames: the artist's spectrum under noise."""

    def __init__(self, labels: np.ndarray, seed: int) -> None:
        draw = np.random.default_rng(seed)
        spectra = np.random.default_rng(0).normal(-40, 8, (N_ARTISTS, N_MELS))
        self.n_sources = 1
        self.lengths = draw.integers(20, 41, len(labels))
        self.frames = [
            (spectra[label] + draw.normal(0, 6, (length, N_MELS))).astype(np.float16)
            for label, length in zip(labels, self.lengths, strict=True)
        ]

    def read(self, crops: Crops, crop_frames: int) -> Tensor:
        pairs = zip(crops.songs, crops.starts, strict=True)
        rows = [self.frames[song][start : start + crop_frames] for song, start in pairs]
        return torch.from_numpy(np.stack(rows))


def examples(n_songs: int, seed: int) -> Examples:
    labels = np.arange(n_songs) % N_ARTISTS
    return Examples(MadeSongs(labels, seed), labels)


TRAIN, VAL = examples(22, 1), examples(12, 2)


def make_trainer(
    settings: TrainingSettings = SETTINGS, seed: int = 0, processes: Any = None
) -> Trainer:
    processes = processes or Devices("cpu", settings.precision)
    return Trainer(METHOD, TRAIN, N_FRAMES, settings, seed, processes)


def checkpoint(folder: Path) -> TrainingCheckpoint:
    return TrainingCheckpoint(folder / "resume.pt", {"lr": 1}, "corpus")


def curves(trainer: Trainer) -> dict[str, list[float]]:
    return {name: values for name, values in trainer.curves.items() if name != "seconds"}


def weights(trainer: Trainer) -> list[Tensor]:
    return [tensor.clone() for tensor in trainer.network.state_dict().values()]


def are_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- learning and predicting -------------------------------------------------------------------


def test_it_learns_to_recognise_artists_in_new_songs(tmp_path: Path) -> None:
    trainer = make_trainer(replace(SETTINGS, epochs=25))
    before = trainer.posteriors(VAL.songs)
    trainer.fit(VAL, checkpoint(tmp_path), resume=False)
    assert metrics.top_k(before, VAL.labels, 1) < 0.5
    assert metrics.top_k(trainer.posteriors(VAL.songs), VAL.labels, 1) >= 0.9
    assert trainer.history[-1].loss < 0.7 * trainer.history[0].loss


def test_a_song_gets_the_mean_posterior_of_crops_that_cover_it() -> None:
    trainer = make_trainer()
    found = trainer.posteriors(VAL.songs)
    trainer.network.eval()
    for song in range(12):
        frames = torch.from_numpy(VAL.songs.frames[song]).float()
        starts = covering(VAL.songs.lengths[[song]], N_FRAMES).starts
        with torch.no_grad():
            parts = torch.stack([frames[start : start + N_FRAMES] for start in starts])
            expected = trainer.network(parts).softmax(dim=1).mean(dim=0)
        assert_allclose(found[song], expected, rtol=1e-4)


def test_val_is_scored_on_whole_songs(tmp_path: Path) -> None:
    trainer = make_trainer(replace(SETTINGS, epochs=1))
    trainer.fit(VAL, checkpoint(tmp_path), resume=False)
    posteriors, (epoch,) = trainer.posteriors(VAL.songs), trainer.history
    assert epoch.val is not None
    assert epoch.val.top1 == metrics.top_k(posteriors, VAL.labels, 1)
    assert epoch.val.top3 == metrics.top_k(posteriors, VAL.labels, 3)
    of_true = [row[label] for row, label in zip(posteriors, VAL.labels, strict=True)]
    assert epoch.val.loss == pytest.approx(-np.mean(np.log(of_true)))


def test_the_same_seed_trains_the_same_network(tmp_path: Path) -> None:
    trained = []
    for seed in (0, 0, 1):
        trainer = make_trainer(seed=seed)
        trainer.fit(VAL, checkpoint(tmp_path), resume=False)
        trained.append((curves(trainer), weights(trainer)))
        torch.rand(3)  # random numbers drawn elsewhere do not matter
    assert trained[0][0] == trained[1][0]
    assert are_equal(trained[0][1], trained[1][1])
    assert trained[0][0] != trained[2][0]


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 1e-4},
        {"weight_decay": 0.5},
        {"label_smoothing": 0.3},
        {"batch_size": 4},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_a_setting_changes_the_training(change: dict[str, Any]) -> None:
    losses = []
    for settings in (SETTINGS, replace(SETTINGS, **change)):
        trainer = make_trainer(settings)
        losses.append([trainer.train_epoch(0), trainer.train_epoch(1)])
    assert losses[0] != losses[1]


def test_the_last_fifth_of_the_epochs_is_without_early_augmentations() -> None:
    applied = []

    def noted(name: str, inputs: Tensor, targets: Tensor, _: Generator) -> tuple[Tensor, Tensor]:
        applied.append((epoch, name))
        return inputs, targets

    always, early = ((partial(noted, name),) for name in ("always", "early"))
    method = replace(METHOD, augmentations=always, early_augmentations=early)
    settings = replace(SETTINGS, epochs=10)
    trainer = Trainer(method, TRAIN, N_FRAMES, settings, 0, Devices("cpu", "fp32"))
    for epoch in range(10):
        trainer.train_epoch(epoch, steps=1)
    both = [(epoch, name) for epoch in range(8) for name in ("always", "early")]
    assert applied == [*both, (8, "always"), (9, "always")]


def test_small_corpora_get_more_epochs() -> None:
    fewest, most = METHOD.epochs_range
    assert METHOD.epochs_for(10) == most
    assert METHOD.epochs_for(10**7) == fewest
    assert METHOD.epochs_for(3600 * METHOD.enough_hours / 25) == 25


def test_the_log_says_once_how_long_it_will_take(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = itertools.count(step=16)  # seconds
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    forecast = training._Forecast(left=50)
    with caplog.at_level(logging.INFO, "artistid"):
        for _ in range(10):
            forecast.update(5)
    # the fourth update is 64 s after the start: 20 crops are done and 30 are left
    assert caplog.messages == ["about 2 min of this training left"]


# --- which epoch is kept -----------------------------------------------------------------------


def script_val(monkeypatch: pytest.MonkeyPatch, right: list[list[int]]) -> None:
    """Let the songs `right` of each epoch be the ones whose artist is found in val."""

    def posteriors(trainer: Trainer, _: Any) -> np.ndarray:
        rows = np.full((12, N_ARTISTS), 0.1)
        for song in right[len(trainer.history)]:
            rows[song, VAL.labels[song]] = 0.7
        return rows

    monkeypatch.setattr(Trainer, "posteriors", posteriors)


def test_the_epoch_that_val_chooses_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_epoch: list[list[Tensor]] = []
    train_epoch = Trainer.train_epoch

    def spy(trainer: Trainer, *arguments: Any) -> float:
        loss = train_epoch(trainer, *arguments)
        by_epoch.append(weights(trainer))
        return loss

    script_val(monkeypatch, [[5], [5, 6, 7, 8], [4, 5, 6, 7], [6]])
    monkeypatch.setattr(Trainer, "train_epoch", spy)
    trainer = make_trainer()
    trainer.fit(VAL, checkpoint(tmp_path), resume=False)
    assert trainer.kept_epoch == 2
    assert are_equal(weights(trainer), by_epoch[2])
    assert not are_equal(weights(trainer), by_epoch[3])


def merits(*epochs: list[int]) -> Any:
    """Of 16 songs, given those that are right in each epoch."""
    values = np.zeros((len(epochs), 16))
    for row, right in zip(values, epochs, strict=True):
        row[right] = 1
    return values


def test_the_latest_epoch_within_one_standard_error_of_the_best_is_kept() -> None:
    many, few = list(range(10)), list(range(6))
    assert training.best_epoch_of(merits(few, many, many)) == 1
    assert training.kept_epoch_of(merits(few, many, many)) == 2
    # one song less is just within the standard error of the difference, 1/16
    assert training.kept_epoch_of(merits(many, many[1:])) == 1
    # so are four lost and two gained: 0.125 of 0.155
    assert training.kept_epoch_of(merits(many, [*many[4:], 14, 15])) == 1
    # four lost are not: 0.25 of 0.112
    assert training.kept_epoch_of(merits(many, many[4:])) == 0
    assert training.kept_epoch_of(merits(few, many, few)) == 1
    assert training.kept_epoch_of(np.ones((3, 1))) == 2


def test_without_val_the_last_epoch_is_kept(tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.fit(None, checkpoint(tmp_path), resume=False)
    assert len(trainer.history) == 4
    assert trainer.kept_epoch == 3
    assert trainer.curves.keys() == {"loss", "seconds"}
    again = make_trainer()
    for number in range(4):
        again.train_epoch(number)
    assert are_equal(weights(trainer), weights(again))


# --- resuming ----------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("val", [VAL, None], ids=["with val", "without val"])
@pytest.mark.parametrize("n_done", [1, 3, 4])
def test_a_resumed_training_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_done: int, val: Examples | None
) -> None:
    uninterrupted = make_trainer()
    uninterrupted.fit(val, checkpoint(tmp_path / "uninterrupted"), resume=False)

    save = TrainingCheckpoint.save

    def save_and_die(self: TrainingCheckpoint, state: dict[str, Any]) -> None:
        save(self, state)
        if len(state["history"]) == n_done:
            raise Killed

    monkeypatch.setattr(TrainingCheckpoint, "save", save_and_die)
    with pytest.raises(Killed):
        make_trainer().fit(val, checkpoint(tmp_path), resume=False)
    monkeypatch.undo()

    trained: list[int] = []
    train_epoch = Trainer.train_epoch

    def spy(trainer: Trainer, number: int, *more: Any) -> float:
        trained.append(number)
        return train_epoch(trainer, number, *more)

    monkeypatch.setattr(Trainer, "train_epoch", spy)
    resumed = make_trainer()
    resumed.fit(val, checkpoint(tmp_path), resume=True)
    assert trained == list(range(n_done, 4))
    assert curves(resumed) == curves(uninterrupted)
    assert are_equal(weights(resumed), weights(uninterrupted))


def test_nothing_to_resume_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--resume: no checkpoint at"):
        make_trainer().fit(VAL, checkpoint(tmp_path), resume=True)


def test_all_settings_but_the_device_must_be_the_same_to_resume() -> None:
    cpu = Devices("cpu", "fp32")
    identity = training.identity_of(SETTINGS, 0, cpu)
    assert identity == training.identity_of(replace(SETTINGS, resume=True, device="auto"), 0, cpu)
    for change in ({"lr": 1.0}, {"epochs": 5}, {"seeds": 2}, {"refit": False}):
        assert identity != training.identity_of(replace(SETTINGS, **change), 0, cpu)
    assert identity != training.identity_of(SETTINGS, 1, cpu)
    assert identity != training.identity_of(SETTINGS, 0, Devices("cpu", "bf16"))
    two = training.identity_of(SETTINGS, 0, cast(Devices, Process(0, 2)))
    assert {name for name in identity if identity[name] != two[name]} == {"processes"}


# --- mistakes and faults -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"epochs": 0}, "--epochs 0: must be at least 1"),
        ({"batch_size": 1}, "--batch-size 1: must be at least 2"),
        ({"seeds": 0}, "--seeds 0: must be at least 1"),
        ({"weight_decay": float("nan")}, "--weight-decay nan: must be at least 0"),
        ({"lr": 0.0}, r"--lr 0\.0: must be above 0"),
        ({"lr": float("nan")}, "--lr nan: must be above 0"),
        ({"label_smoothing": 1.0}, r"--label-smoothing 1\.0: must be from 0 to below 1"),
        ({"crop_seconds": 0.0}, r"--crop-seconds 0\.0: must be at least 0\.1"),
        ({"crop_seconds": float("inf")}, "--crop-seconds inf: must be finite"),
    ],
)
def test_impossible_settings_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainingSettings(**option)


def test_a_diverging_loss_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training diverged in epoch 1: use a smaller --lr"):
        make_trainer(replace(SETTINGS, lr=1e30)).fit(VAL, checkpoint(tmp_path), resume=False)


OUT_OF_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    "numpy": MemoryError(),
}


def failing_with(error: Exception) -> Any:
    def read(*_: Any) -> None:
        raise error

    return read


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY.keys())
def test_out_of_memory_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    trainer = make_trainer()
    monkeypatch.setattr(MadeSongs, "read", failing_with(error))
    remedy = r"smaller --batch-size \(now 8\) or shorter --crop-seconds \(now 15\)"
    with pytest.raises(UserError, match=remedy):
        trainer.fit(VAL, checkpoint(tmp_path), resume=False)
    with pytest.raises(UserError, match=remedy):
        trainer.posteriors(VAL.songs)


@pytest.mark.parametrize("kind", [RuntimeError, NotImplementedError, torch.AcceleratorError])
def test_other_errors_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    monkeypatch.setattr(MadeSongs, "read", failing_with(kind("our own fault")))
    with pytest.raises(kind, match="our own fault"):
        make_trainer().fit(VAL, checkpoint(tmp_path), resume=False)


# --- several processes -------------------------------------------------------------------------


class Process:
    """One of several, without the others."""

    device, precision = torch.device("cpu"), "fp32"

    def __init__(self, rank: int, n_processes: int) -> None:
        self.rank, self.n_processes = rank, n_processes

    def share(self, network: nn.Module) -> nn.Module:
        return network

    seeded = Devices.seeded


@pytest.mark.parametrize(
    ("n_processes", "batch_size"), [(1, 8), (1, 2), (2, 8), (3, 8), (3, 2), (2, 500)]
)
def test_processes_share_the_crops_of_an_epoch(n_processes: int, batch_size: int) -> None:
    settings = replace(SETTINGS, batch_size=batch_size)
    alone = make_trainer(settings, processes=Process(0, 1))
    trainers = [
        make_trainer(settings, processes=Process(r, n_processes)) for r in range(n_processes)
    ]
    for number in (0, 1):
        batches = [trainer.own_batches(number) for trainer in trainers]
        sizes = [[len(batch) for batch in own] for own in batches]
        assert all(own == sizes[0] for own in sizes)  # otherwise they would wait for each other
        assert max(sizes[0]) <= max(3, batch_size // n_processes)
        assert min(sizes[0]) >= 2  # batch normalisation needs two
        shared = [crop for own in batches for batch in own for crop in crops_of(batch)]
        expected = [crop for batch in alone.own_batches(number) for crop in crops_of(batch)]
        assert len(expected) <= len(shared) < len(expected) + n_processes
        assert set(shared) == set(expected)


def crops_of(batch: Crops) -> list[tuple[int, int]]:
    return list(zip(batch.songs.tolist(), batch.starts.tolist(), strict=True))


class PlainNetwork(ArtistNetwork):
    """Without batch normalisation, whose statistics are those of each process's own crops."""

    def __init__(self, widths: MelCNNSettings) -> None:
        super().__init__()
        self.hidden = nn.Linear(N_FRAMES * N_MELS, widths.hidden)
        self.output = nn.Linear(widths.hidden, widths.n_artists)

    def vectors(self, batch: Tensor) -> Tensor:
        return torch.tanh(self.hidden(batch.flatten(1)))

    def logits(self, vectors: Tensor) -> Tensor:
        return self.output(vectors)


def steps(compute: Devices) -> dict[str, Any]:
    """Two steps on the same crops, whatever the number of processes, and what came of them."""
    even = examples(8, 3)
    even.songs.lengths = np.full(8, 18)  # 12 crops: two batches of 6
    plain = Method(PlainNetwork, WIDTHS, "log_mel", None, 62.5)
    trainer = Trainer(plain, even, N_FRAMES, SETTINGS, 0, compute)
    gradients: list[Tensor] = []
    trainer._optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(p.grad.clone() for p in trainer.network.parameters())
    )
    loss = trainer.train_epoch(0, steps=1)
    after_one = weights(trainer)
    rest = trainer.train_epoch(1, steps=1)
    return {
        "losses": torch.tensor([loss, rest]),
        "gradients": gradients,
        "weights": [*after_one, *weights(trainer)],
        "posteriors": torch.from_numpy(trainer.posteriors(VAL.songs)),
        "vectors": torch.from_numpy(trainer.outputs(VAL.songs).vectors),
    }


def run_process(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with devices.start("cpu", "fp32") as compute:
        assert (compute.n_processes, compute.rank) == (2, rank)
        assert compute.from_main(f"from {rank}") == "from 0"
        assert compute.gather([rank]) == [0, 1]
        torch.save(steps(compute), folder / f"{rank}.pt")
    names = [thread.read_text() for thread in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in names if "gloo" in name]  # one that lives on aborts at exit


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_process, (port, tmp_path), nprocs=2)
    alone = steps(Devices("cpu", "fp32"))
    assert max(float(gradient.abs().max()) for gradient in alone["gradients"]) > 0.01
    for rank in (0, 1):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-6)
