"""Train networks on crops of songs, and classify whole songs with them.

All randomness follows from the seed and the number of the epoch, so that a resumed training equals
an uninterrupted one, and so that all processes draw the same epoch.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm
from tyro.conf import arg

from artistid import metrics
from artistid.foundation import progress
from artistid.foundation.errors import UserError, require_at_least
from artistid.metrics import Labels, Posteriors
from artistid.models.augmentation import Augmentation
from artistid.models.checkpoint import TrainingCheckpoint
from artistid.models.crops import Crops, Songs, covering, n_per_epoch, random_crops
from artistid.models.devices import DeviceName, Devices, Precision
from artistid.models.networks import ArtistNetwork

INIT, CROPS, AUGMENT, DROPOUT = range(4)  # what is drawn; each has random numbers of its own
WARM_UP = 0.3  # share of the steps during which the learning rate rises
EARLY = 0.8  # share of the epochs that have the early augmentations

Merits = NDArray[np.float64]  # (epochs, val songs): mean of top-1 and top-3, so 0, 0.5 or 1

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class TrainingSettings:
    """Training."""

    epochs: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: fewer on larger corpora)")
    ] = None
    """Training epochs."""
    batch_size: int = 32
    """Crops per step, over all processes."""
    lr: float = 3e-3
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    label_smoothing: float = 0.1
    """Share of the target spread over all artists."""
    crop_seconds: Annotated[float, arg(metavar="SECONDS")] = 15.0
    """Length of the crops that are classified."""
    seeds: int = 1
    """Networks to train, each with a seed of its own; the mean of their posteriors predicts."""
    refit: Annotated[bool, arg(help_behavior_hint="(default: train again on train and val)")] = True
    """Predict test with the network trained on train alone."""
    resume: bool = False
    """Resume an interrupted training; all settings must be the same."""
    device: DeviceName = "auto"
    """Where to compute; auto: CUDA or MPS if available, else the CPU."""
    precision: Precision = "auto"
    """auto: bf16 if the hardware supports it, else fp32."""

    def __post_init__(self) -> None:
        require_at_least(self, batch_size=2, seeds=1, weight_decay=0, crop_seconds=0.1)
        if self.epochs is not None:
            require_at_least(self, epochs=1)
        if not 0 < self.lr < float("inf"):
            raise UserError(f"--lr {self.lr}: must be above 0")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"--label-smoothing {self.label_smoothing}: must be from 0 to below 1")


@dataclass(frozen=True)
class Method:
    """What a task trains, and on what."""

    network: Callable[[Any], ArtistNetwork]
    widths: Any  # a frozen dataclass with `n_artists` and `hidden`, the argument of `network`
    array: str  # of a cache entry: the network's input
    input: Any  # a frozen dataclass, the settings that made the array
    frames_per_second: float
    augmentations: tuple[Augmentation, ...] = ()
    early_augmentations: tuple[Augmentation, ...] = ()  # not in the last epochs; come after those
    enough_hours: float = 100  # of audio heard over all epochs
    epochs_range: tuple[int, int] = (20, 50)

    def epochs_for(self, seconds: float) -> int:
        """Epochs of so many seconds of audio each that make up `enough_hours`, within
        `epochs_range`."""
        return int(np.clip(round(3600 * self.enough_hours / seconds), *self.epochs_range))


@dataclass(frozen=True)
class Examples:
    """Songs with known artists."""

    songs: Songs
    labels: Labels  # (songs,)


@dataclass(frozen=True)
class Validation:
    loss: float  # mean negative log posterior of the true artist, over songs
    top1: float
    top3: float
    merits: NDArray[np.float64]  # (songs,)


@dataclass(frozen=True)
class Epoch:
    loss: float  # mean over the augmented crops of train
    seconds: float
    val: Validation | None


class SongOutputs(NamedTuple):
    posteriors: Posteriors  # (songs, artists)
    vectors: NDArray[np.float64]  # (songs, hidden units)


class CropOutputs(NamedTuple):
    crops: Crops
    posteriors: NDArray[np.float32]  # (crops, artists)
    vectors: NDArray[np.float32]  # (crops, hidden units)


class Trainer:
    """Trains a network. After `fit` it has the weights of the epoch to keep: without val the last
    one, else the latest one that val cannot tell from the best."""

    def __init__(
        self,
        method: Method,
        train: Examples,
        crop_frames: int,
        settings: TrainingSettings,
        seed: int,
        devices: Devices,
    ) -> None:
        """`crop_frames` frames are classified at a time; `seed` draws everything random, the first
        weights among it."""
        self.method, self.train, self.crop_frames = method, train, crop_frames
        self.settings, self.seed, self.devices = settings, seed, devices
        network = initialised(method.network, method.widths, seed, devices)
        self.network = network.to(device=devices.device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.n_artists = method.widths.n_artists
        self.n_crops = n_per_epoch(train.songs.lengths, crop_frames)
        self.crop_s = crop_frames / method.frames_per_second
        self.epochs = settings.epochs or method.epochs_for(self.n_crops * self.crop_s)
        self.history: list[Epoch] = []
        self._forecast: _Forecast | None = None
        self._kept = _copied(network)
        self._shared = devices.share(network)
        self._optimizer = torch.optim.AdamW(
            network.parameters(), settings.lr, weight_decay=settings.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            settings.lr,
            total_steps=self.epochs * len(self.own_batches(0)),
            pct_start=WARM_UP,
        )

    def fit(self, val: Examples | None, checkpoint: TrainingCheckpoint, resume: bool) -> None:
        """Train to the end, from the state in `checkpoint` if `resume`.

        Raises UserError if the loss diverges, memory runs out or there is nothing to resume."""
        if resume:
            self._restore(self.devices.from_main(checkpoint.load() if self.devices.is_main else {}))
        self._log_plan()
        self._forecast = _Forecast((self.epochs - len(self.history)) * self.n_crops)
        with _memory_errors_explained(self.settings), self._progress_bar() as bar:
            while len(self.history) < self.epochs:
                number, begin = len(self.history), time.perf_counter()
                bar.set_description(f"epoch {number + 1}/{self.epochs}")
                loss = self.train_epoch(number, bar)
                validation = self._validate(val) if val else None
                self.history.append(Epoch(loss, time.perf_counter() - begin, validation))
                if self.kept_epoch == number:  # so far
                    self._kept = _copied(self.network)
                self._log_epoch(bar)
                if self.devices.is_main:
                    checkpoint.save(self._state())
        self.network.load_state_dict(self._kept)

    @property
    def kept_epoch(self) -> int:
        """Number of the epoch to keep, from 0."""
        merits = self._merits
        return len(self.history) - 1 if merits is None else kept_epoch_of(merits)

    @property
    def _merits(self) -> Merits | None:
        rows = [epoch.val.merits for epoch in self.history if epoch.val]
        return np.stack(rows) if rows else None

    @property
    def curves(self) -> dict[str, list[float]]:
        """By name, one value per epoch; those of val only where there is a val."""
        curves = {
            "loss": [epoch.loss for epoch in self.history],
            "val_loss": [epoch.val.loss for epoch in self.history if epoch.val],
            "top1": [epoch.val.top1 for epoch in self.history if epoch.val],
            "top3": [epoch.val.top3 for epoch in self.history if epoch.val],
            "seconds": [epoch.seconds for epoch in self.history],
        }
        return {name: values for name, values in curves.items() if values}

    def posteriors(self, songs: Songs) -> Posteriors:
        """(songs, artists), from the network as it is now."""
        return self.outputs(songs).posteriors

    def outputs(self, songs: Songs) -> SongOutputs:
        """From the network as it is now."""
        with _memory_errors_explained(self.settings):
            return song_outputs(
                self.network,
                songs,
                self.crop_frames,
                self.method.widths,
                self.settings.batch_size,
                self.devices,
            )

    def train_epoch(
        self, number: int, bar: "tqdm[Any] | None" = None, steps: int | None = None
    ) -> float:
        """Train for one epoch, or for its first `steps`; returns the mean loss per crop over all
        processes. Raises UserError if it is not finite."""
        rank = self.devices.rank
        draw = np.random.default_rng(seed_for(self.seed, AUGMENT, number, rank))
        total, n = torch.zeros((), device=self.devices.device), 0
        augmentations = self.method.augmentations
        if number < EARLY * self.epochs:
            augmentations += self.method.early_augmentations
        self.network.train()
        with self.devices.seeded(seed_for(self.seed, DROPOUT, number, rank)):
            for crops in self.own_batches(number)[:steps]:
                total += self._step(crops, augmentations, draw) * len(crops)
                n += len(crops)
                n_of_all = len(crops) * self.devices.n_processes
                if bar is not None:
                    bar.update(n_of_all)
                if self._forecast is not None:
                    self._forecast.update(n_of_all)
        self.devices.synchronise_buffers(self.network)
        sums = self.devices.gather([(float(total), n)])
        loss = sum(total for total, _ in sums) / sum(n for _, n in sums)
        if not np.isfinite(loss):
            raise UserError(f"training diverged in epoch {number + 1}: use a smaller --lr")
        return loss

    def _step(self, crops: Crops, augmentations: Sequence[Augmentation], draw: Generator) -> Tensor:
        """One optimizer step; returns the mean loss of its crops."""
        device = self.devices.device
        inputs = self.train.songs.read(crops, self.crop_frames).to(device).float()
        labels = torch.from_numpy(self.train.labels[crops.songs]).to(device)
        targets = F.one_hot(labels, self.n_artists).float()
        for augment in augmentations:
            inputs, targets = augment(inputs, targets, draw)
        with self.devices.autocast():
            logits = self._shared(inputs)
        smoothing = self.settings.label_smoothing
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        return loss.detach()

    def own_batches(self, number: int) -> list[Crops]:
        """What this process trains on in an epoch. All processes have equally many crops and
        batches, and a batch has two crops at least, for batch normalisation: the first crops repeat
        where their number does not divide evenly."""
        draw = np.random.default_rng(seed_for(self.seed, CROPS, number))
        crops = random_crops(self.train.songs.lengths, self.crop_frames, draw)
        n = self.devices.n_processes
        n_own = max(2, -(-len(crops) // n))
        own = np.resize(np.arange(len(crops)), n_own * n)[self.devices.rank :: n]
        n_batches = min(-(-n_own // max(2, self.settings.batch_size // n)), n_own // 2)
        return [crops.take(batch) for batch in np.array_split(own, n_batches)]

    def _validate(self, val: Examples) -> Validation:
        posteriors = self.posteriors(val.songs)
        hits = metrics.ranking(posteriors) == val.labels[:, np.newaxis]
        top1, top3 = hits[:, 0], hits[:, :3].any(axis=1)
        merits = (top1.astype(float) + top3) / 2
        loss = float(-metrics.log_posteriors(posteriors, val.labels).mean())
        return Validation(loss, float(top1.mean()), float(top3.mean()), merits)

    def _log_plan(self) -> None:
        millions = sum(parameter.numel() for parameter in self.network.parameters()) / 1e6
        name = type(self.network).__name__
        log.info("%s: %.2f million parameters, on %s", name, millions, self.devices)
        per_artist = np.bincount(self.train.labels)
        hours = self.epochs * self.n_crops * self.crop_s / 3600
        log.info(
            "%d epochs of %d crops of %.3g s, %.1f h of audio in all; "
            "%d to %d training songs per artist",
            *(self.epochs, self.n_crops, self.crop_s, hours),
            *(per_artist.min(), per_artist.max()),
        )

    def _log_epoch(self, bar: "tqdm[Any]") -> None:
        number, epoch = len(self.history), self.history[-1]
        line = f"epoch {number:3}: loss {epoch.loss:.3f}; "
        status = f"loss {epoch.loss:.3f}"
        if epoch.val:
            line += f"val: loss {epoch.val.loss:.3f}, top-1 {epoch.val.top1:.3f}, "
            line += f"top-3 {epoch.val.top3:.3f}; "
            status += f", val top-1 {epoch.val.top1:.3f}"
        line += f"{epoch.seconds:.1f} s"
        if epoch.val and self.kept_epoch == number - 1:
            line += "  *"
        bar.set_postfix_str(status)
        log.info("%s", line)

    def _progress_bar(self) -> "tqdm[Any]":
        done = len(self.history) * self.n_crops
        total = self.epochs * self.n_crops
        return progress.bar(total=total, initial=done, unit="crop", hidden=not self.devices.is_main)

    def _state(self) -> dict[str, Any]:
        merits = self._merits
        return {
            "history": [[epoch.loss, epoch.seconds] for epoch in self.history],
            "val": [[e.val.loss, e.val.top1, e.val.top3] for e in self.history if e.val],
            "merits": torch.from_numpy(np.empty((0, 0)) if merits is None else merits),
            "network": self.network.state_dict(),
            "kept": self._kept,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        validations: list[Validation | None] = [
            Validation(loss, top1, top3, merits.numpy())
            for (loss, top1, top3), merits in zip(state["val"], state["merits"], strict=True)
        ]
        validations = validations or [None] * len(state["history"])
        self.history = [
            Epoch(loss, seconds, validation)
            for (loss, seconds), validation in zip(state["history"], validations, strict=True)
        ]
        self.network.load_state_dict(state["network"])
        self._kept = state["kept"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        log.info("resumed after epoch %d", len(self.history))


def best_epoch_of(merits: Merits) -> int:
    """Number of the best epoch, from 0; the first among equals."""
    return int(merits.mean(axis=1).argmax())


def kept_epoch_of(merits: Merits) -> int:
    """Number of the epoch to keep: the latest one within one standard error of the best (the
    rule by which Breiman et al. 1984 choose trees).

    With many epochs and few songs the best one is mostly lucky, while later ones benefit from a
    lower learning rate."""
    behind = merits[best_epoch_of(merits)] - merits
    error = np.sqrt(behind.var(axis=1) / max(merits.shape[1] - 1, 1))
    return int(np.flatnonzero(behind.mean(axis=1) <= error + 1e-9)[-1])


class _Forecast:
    """Says in the log, once, how long a training will take: the bar is for terminals."""

    AFTER_S = 60

    def __init__(self, left: int) -> None:
        """`left` is the number of crops to train on from now."""
        self._left, self._done, self._is_said = left, 0, False
        self._begin = time.perf_counter()

    def update(self, n: int) -> None:
        self._left, self._done = self._left - n, self._done + n
        elapsed = time.perf_counter() - self._begin
        if elapsed >= self.AFTER_S and not self._is_said:
            minutes = elapsed * self._left / self._done / 60
            log.info("about %.0f min of this training left", minutes)
            self._is_said = True


def seed_for(seed: int, purpose: int, *numbers: int) -> int:
    """A seed independent of those for other purposes and numbers."""
    sequence = np.random.SeedSequence([seed, purpose, *numbers])
    return int(sequence.generate_state(1)[0])


def initialised(
    kind: Callable[[Any], ArtistNetwork], widths: Any, seed: int, devices: Devices
) -> ArtistNetwork:
    """A new network of these widths, with weights drawn from `seed`."""
    with devices.seeded(seed_for(seed, INIT)):
        return kind(widths)


def identity_of(settings: TrainingSettings, seed: int, devices: Devices) -> dict[str, Any]:
    """What must be the same for a training to be resumed."""
    names = {field.name for field in fields(settings)} - {"device", "resume"}
    values = {name: value for name, value in asdict(settings).items() if name in names}
    return values | {
        "seed": seed,
        "precision": devices.precision,
        "processes": devices.n_processes,
    }


def _copied(network: nn.Module) -> dict[str, Tensor]:
    """The present weights, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def song_outputs(
    network: ArtistNetwork,
    songs: Songs,
    crop_frames: int,
    widths: Any,
    batch_size: int,
    devices: Devices,
) -> SongOutputs:
    """The means over crops that cover the whole song, from each source. `widths` are the network's:
    `n_artists` and `hidden`.

    The processes share the songs, and each gets the outputs of all."""
    network.eval()
    own = np.arange(len(songs.lengths))[devices.rank :: devices.n_processes]
    within = covering(songs.lengths[own], crop_frames)
    crops = Crops(own[within.songs], within.starts)
    sums = np.zeros((len(songs.lengths), widths.n_artists + widths.hidden))
    for batch, *outputs in crop_outputs(network, songs, crops, crop_frames, batch_size, devices):
        np.add.at(sums, batch.songs, np.hstack(outputs))
    total = np.sum(devices.gather([sums]), axis=0)
    n_crops = np.bincount(covering(songs.lengths, crop_frames).songs, minlength=len(total))
    means = total / n_crops[:, np.newaxis]
    return SongOutputs(means[:, : widths.n_artists], means[:, widths.n_artists :])


def crop_outputs(
    network: ArtistNetwork,
    songs: Songs,
    crops: Crops,
    crop_frames: int,
    batch_size: int,
    devices: Devices,
) -> Iterator[CropOutputs]:
    """Of batches of the crops: the means over sources."""
    for first in range(0, len(crops), batch_size):
        batch = crops.take(slice(first, first + batch_size))
        frames = songs.read(batch, crop_frames).to(devices.device).float()
        with torch.inference_mode(), devices.autocast():
            vectors = [network.vectors(source) for source in frames.chunk(songs.n_sources, dim=2)]
            logits = [network.logits(source) for source in vectors]
        posteriors = torch.stack(logits).float().softmax(dim=2).mean(dim=0)
        hidden = torch.stack(vectors).float().mean(dim=0)
        yield CropOutputs(batch, posteriors.cpu().numpy(), hidden.cpu().numpy())


@contextmanager
def _memory_errors_explained(settings: TrainingSettings) -> Iterator[None]:
    """Raise UserError with the remedy if memory runs out in the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not is_of_memory and "can't allocate memory" not in str(error):  # torch's, on a CPU
            raise
        raise UserError(
            f"out of memory: use a smaller --batch-size (now {settings.batch_size}) or shorter "
            f"--crop-seconds (now {settings.crop_seconds:g})"
        ) from error
