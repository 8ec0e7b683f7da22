"""Train a network on excerpts of songs, and score whole songs with it.

What is random follows from the seed and the number of the epoch alone, so that a training that was
stopped goes on as if it had not been, and so that all processes draw the same epoch.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from artistid import metrics as scoring
from artistid.foundation import progress
from artistid.foundation.errors import UserError, require_at_least
from artistid.models.augmentation import Augmentation, mixup
from artistid.models.checkpoint import ResumeFile
from artistid.models.crops import Excerpts, Songs, covering, random_crops
from artistid.models.devices import DeviceName, Devices, Precision

INIT, CROPS, AUGMENT, DROPOUT = range(4)  # what is drawn; each has random numbers of its own
WARM_UP = 0.3  # share of the steps in which the learning rate rises
ENOUGH_CROPS = 30_000  # by cross-validation on 70 songs: 13,000 are too few, 51,000 no better
EPOCHS_RANGE = (15, 50)  # the help of --epochs says it, too

log = logging.getLogger("artistid")

Posteriors = NDArray[np.float64]  # (songs, artists)
Merits = NDArray[np.float64]  # (epochs, songs of val): mean of top-1 and top-3, 0, 0.5 or 1


@dataclass(frozen=True)
class TrainingSettings:
    how_to_go_on: ClassVar[str] = (
        "what was extracted is cached; run it with --resume to go on after its last whole epoch"
    )

    seed: int = 0
    """Seed of everything random: the same one gives the same numbers."""
    epochs: int | None = None
    """Times to go through all songs. Default: 15 to 50, the fewer the larger the corpus."""
    batch_size: int = 32
    """Crops in a step, over all processes."""
    lr: float = 3e-3
    """Highest learning rate of the one-cycle schedule."""
    weight_decay: float = 0.01
    """Weight decay of the optimizer, AdamW."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all artists."""
    mixup: float = 0.0
    """Alpha of the beta distribution that mixup draws shares from; 0: no mixup."""
    crop_seconds: float = 3.0
    """Length of the excerpts that are classified, in seconds."""
    patience: int = 20
    """Training ends after so many epochs without a better one on val."""
    device: DeviceName = "auto"
    """Where to compute; auto: CUDA or MPS where there is one, else the CPU."""
    precision: Precision = "auto"
    """auto: bf16 where the hardware has it, else fp32."""
    refit: bool = True
    """Train a second network on train and val, for as many epochs; it predicts test and is saved.
    Scores on val stay those of the first one, which has not trained on val."""
    resume: bool = False
    """Go on with a training that was stopped; the settings must be the same."""

    def check(self) -> None:
        """Raise UserError for a value that can't be used."""
        require_at_least(self, batch_size=1, patience=1, weight_decay=0, mixup=0)
        if self.epochs is not None:
            require_at_least(self, epochs=1)
        if not 0 < self.lr < float("inf"):
            raise UserError(f"--lr {self.lr}: must be above 0")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"--label-smoothing {self.label_smoothing}: must be from 0 to below 1")
        if not 0.1 <= self.crop_seconds < float("inf"):
            raise UserError(f"--crop-seconds {self.crop_seconds}: must be at least 0.1")


@dataclass(frozen=True)
class Examples:
    """Songs whose artists are known."""

    songs: Songs
    labels: NDArray[np.intp]  # (songs,)


@dataclass(frozen=True)
class Epoch:
    """How far an epoch brought the network."""

    loss: float  # mean over the crops of train, as they were augmented
    val_loss: float  # mean over the songs of val: -log of the artist's posterior
    top1: float  # on val, as `top3`
    top3: float
    seconds: float


def best_of(merits: Merits) -> int:
    """Number of the best epoch, from 0; the first one of equals."""
    return int(merits.mean(axis=1).argmax())


def kept_of(merits: Merits) -> int:
    """Number of the epoch to keep: the latest one that val can't tell from the best, within the
    standard error of their difference (Breiman et al. 1984 choose trees by such a rule).

    Of many epochs and few songs, the best is mostly the luckiest, while the later ones have the
    advantage that the learning rate has come down."""
    behind = merits[best_of(merits)] - merits
    error = np.sqrt(behind.var(axis=1) / max(merits.shape[1] - 1, 1))
    return int(np.flatnonzero(behind.mean(axis=1) <= error + 1e-9)[-1])


class Trainer:
    """A network in training: call `fit`, then use the network."""

    def __init__(
        self,
        network: nn.Module,
        train: Examples,
        val: Examples | None,
        n_frames: int,
        settings: TrainingSettings,
        devices: Devices,
        augment: Augmentation,
    ) -> None:
        """`n_frames` is the length of a crop; `settings.epochs` may be None; `augment` changes
        the crops to train on. Without `val` the last epoch is kept."""
        self.network = network.to(device=devices.device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.train, self.val, self.n_frames = train, val, n_frames
        self.n_artists = int(train.labels.max()) + 1
        self.settings, self.devices, self.augment = settings, devices, augment
        self.n_crops = len(covering(train.songs.lengths, n_frames))
        self.epochs = settings.epochs or epochs_for(self.n_crops)
        self.history: list[Epoch] = []
        self._merits: Merits = np.empty((0, len(val.labels) if val else 0))
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

    def fit(self, file: ResumeFile, may_be_new: bool = False) -> None:
        """Train to the end; then the network has the weights of the epoch to keep.

        With `settings.resume` from where `file` says, or, if it `may_be_new`, from the beginning
        where there is none. Raises UserError where the loss runs away."""
        exists = self.devices.from_main(file.path.exists())
        if self.settings.resume and (exists or not may_be_new):
            self._restore(self.devices.from_main(file.load() if self.devices.is_main else {}))
        elif exists:
            words = "notice: this replaces %s, of a run that was stopped (--resume goes on with it)"
            log.info(words, file.path)
        self._log_plan()
        with _memory_named(self.settings), self._progress_bar() as bar:
            while len(self.history) < self.epochs and not self._lost_patience():
                self._run_epoch(bar)
                if self.devices.is_main:
                    file.save(self._state())
        self.network.load_state_dict(self._kept)
        if self.val:
            kept = self.history[self.kept_epoch]
            scores = (self.kept_epoch + 1, kept.top1, kept.top3, len(self.val.labels))
            log.info("kept: epoch %d, val top-1 %.3f, top-3 %.3f of %d songs", *scores)

    @property
    def kept_epoch(self) -> int:
        """Its number, from 0."""
        return kept_of(self._merits) if self.val else len(self.history) - 1

    @property
    def curves(self) -> dict[str, list[float]]:
        """The history by quantity: the fields of `Epoch`."""
        return {f.name: [getattr(epoch, f.name) for epoch in self.history] for f in fields(Epoch)}

    def posteriors(self, songs: Songs) -> Posteriors:
        """(songs, artists), as the network is now."""
        size = self.settings.batch_size
        with _memory_named(self.settings):
            return song_posteriors(
                self.network, songs, self.n_frames, self.n_artists, size, self.devices
            )

    def _log_plan(self) -> None:
        millions = sum(parameter.numel() for parameter in self.network.parameters()) / 1e6
        name = type(self.network).__name__
        log.info("%s: %.2f million parameters, on %s", name, millions, self.devices)
        of_artist = np.bincount(self.train.labels)
        log.info(
            "%d epochs of %d crops; an artist has %d to %d songs to train on",
            *(self.epochs, self.n_crops, of_artist.min(), of_artist.max()),
        )

    def _lost_patience(self) -> bool:
        if not self.history or not self.val:
            return False
        return len(self.history) - 1 - best_of(self._merits) >= self.settings.patience

    def _run_epoch(self, bar: "tqdm[Any]") -> None:
        begin = time.perf_counter()
        number = len(self.history)
        bar.set_description(f"epoch {number + 1}/{self.epochs}")
        loss = self.train_epoch(number, bar)
        val_loss, top1, top3 = self._validate(self.val) if self.val else (np.nan,) * 3
        epoch = Epoch(loss, val_loss, top1, top3, seconds=time.perf_counter() - begin)
        self.history.append(epoch)
        is_kept = self.kept_epoch == number  # so far
        if is_kept:
            self._kept = _copied(self.network)
        on_val = f"val: loss {val_loss:.3f}, top-1 {top1:.3f}, top-3 {top3:.3f}; "
        bar.set_postfix_str(f"loss {loss:.3f}" + f", val top-1 {top1:.3f}" * bool(self.val))
        words = "epoch %3d: loss %.3f; %s%.1f s%s"
        mark = "  *" if self.val and is_kept else ""
        log.info(words, number + 1, loss, on_val if self.val else "", epoch.seconds, mark)

    def _validate(self, val: Examples) -> tuple[float, float, float]:
        """`val_loss`, `top1` and `top3` of an `Epoch`; its merits are noted."""
        labels = val.labels
        posteriors = self.posteriors(val.songs)
        right = np.maximum(posteriors[np.arange(len(labels)), labels], 1e-12)
        hits = scoring.ranking(posteriors) == labels[:, np.newaxis]
        top1, top3 = hits[:, 0], hits[:, :3].any(axis=1)
        self._merits = np.vstack([self._merits, (top1.astype(float) + top3) / 2])
        return float(-np.log(right).mean()), float(top1.mean()), float(top3.mean())

    def train_epoch(
        self, number: int, bar: "tqdm[Any] | None" = None, steps: int | None = None
    ) -> float:
        """Train for an epoch, or for so many of its `steps`; the mean loss of a crop, over all
        processes. Raises UserError where it is not finite."""
        rank = self.devices.rank
        draw = np.random.default_rng(seed_for(self.settings, AUGMENT, number, rank))
        total, n = torch.zeros((), device=self.devices.device), 0
        self.network.train()
        with self.devices.seeded(seed_for(self.settings, DROPOUT, number, rank)):
            for crops in self.own_batches(number)[:steps]:
                total += self._step(crops, draw) * len(crops)
                n += len(crops)
                if bar is not None:
                    bar.update(len(crops) * self.devices.n_processes)
        self.devices.agree(self.network)
        sums = self.devices.gather([(float(total), n)])
        loss = sum(total for total, _ in sums) / sum(n for _, n in sums)
        if not np.isfinite(loss):
            raise UserError(f"training diverged in epoch {number + 1}: use a smaller --lr")
        return loss

    def _step(self, crops: Excerpts, draw: Generator) -> Tensor:
        """One step of the optimizer; the loss of its crops."""
        settings, device = self.settings, self.devices.device
        heard = self.train.songs.read(crops, self.n_frames).to(device).float()
        labels = torch.from_numpy(self.train.labels[crops.songs]).to(device)
        targets = F.one_hot(labels, self.n_artists).float()
        heard, targets = mixup(self.augment(heard, draw), targets, draw, settings.mixup)
        with self.devices.autocast():
            logits = self._shared(heard)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=settings.label_smoothing)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step()
        return loss.detach()

    def own_batches(self, number: int) -> list[Excerpts]:
        """What this process trains on in an epoch. All have as many crops and batches: the first
        crops are used twice where the processes don't divide their number."""
        draw = np.random.default_rng(seed_for(self.settings, CROPS, number))
        crops = random_crops(self.train.songs.lengths, self.n_frames, draw)
        n = self.devices.n_processes
        own = np.resize(np.arange(len(crops)), -(-len(crops) // n) * n)[self.devices.rank :: n]
        n_batches = -(-len(own) // max(1, self.settings.batch_size // n))
        return [crops.take(batch) for batch in np.array_split(own, n_batches)]

    def _progress_bar(self) -> "tqdm[Any]":
        done = len(self.history) * self.n_crops
        total = self.epochs * self.n_crops
        hidden = not self.devices.is_main
        return progress.bar(total=total, initial=done, unit="crop", hidden=hidden)

    def _state(self) -> dict[str, Any]:
        return {
            "history": [asdict(epoch) for epoch in self.history],
            "network": self.network.state_dict(),
            "merits": torch.from_numpy(self._merits),
            "kept": self._kept,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.network.load_state_dict(state["network"])
        self._merits = state["merits"].numpy()
        self._kept = state["kept"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        log.info("resumed after epoch %d", len(self.history))


def initialised(
    kind: Callable[[Any], nn.Module], widths: Any, settings: TrainingSettings, devices: Devices
) -> nn.Module:
    """A new network of those widths; its weights follow from the seed."""
    with devices.seeded(seed_for(settings, INIT)):
        return kind(widths)


def resumable(settings: TrainingSettings, devices: Devices) -> dict[str, Any]:
    """The settings that make one training what it is."""
    names = {field.name for field in fields(TrainingSettings)} - {"device", "resume"}
    return {name: getattr(settings, name) for name in names} | {"precision": devices.precision}


def _copied(network: nn.Module) -> dict[str, Tensor]:
    """The weights on the CPU; training does not change them any more."""
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def seed_for(settings: TrainingSettings, purpose: int, *numbers: int) -> int:
    """A seed that shares nothing with those of other purposes and numbers."""
    sequence = np.random.SeedSequence([settings.seed, purpose, *numbers])
    return int(sequence.generate_state(1)[0])


def epochs_for(n_crops: int) -> int:
    """Epochs of so many crops each that together they are enough: small corpora are gone through
    more often than large ones."""
    return int(np.clip(round(ENOUGH_CROPS / n_crops), *EPOCHS_RANGE))


def song_posteriors(
    network: nn.Module,
    songs: Songs,
    n_frames: int,
    n_artists: int,
    batch_size: int,
    devices: Devices,
) -> Posteriors:
    """(songs, artists): the mean posterior of excerpts that cover the whole song.

    The processes share the songs; each gets the posteriors of all."""
    network.eval()
    own = np.arange(len(songs.lengths))[devices.rank :: devices.n_processes]
    within = covering(songs.lengths[own], n_frames)
    excerpts = Excerpts(own[within.songs], within.starts)
    sums = np.zeros((len(songs.lengths), n_artists))
    batches = excerpt_posteriors(network, songs, excerpts, n_frames, batch_size, devices)
    for batch, posteriors in batches:
        np.add.at(sums, batch.songs, posteriors)
    total = np.sum(devices.gather([sums]), axis=0)
    n_excerpts = np.bincount(covering(songs.lengths, n_frames).songs, minlength=len(total))
    return np.asarray(total / n_excerpts[:, np.newaxis], dtype=np.float64)


def excerpt_posteriors(
    network: nn.Module,
    songs: Songs,
    excerpts: Excerpts,
    n_frames: int,
    batch_size: int,
    devices: Devices,
) -> Iterator[tuple[Excerpts, NDArray[np.float32]]]:
    """Some of the excerpts at a time, with their posteriors, (excerpts, artists)."""
    for first in range(0, len(excerpts), batch_size):
        batch = excerpts.take(slice(first, first + batch_size))
        with torch.inference_mode(), devices.autocast():
            logits = network(songs.read(batch, n_frames).to(devices.device).float())
        yield batch, logits.float().softmax(dim=1).cpu().numpy()


@contextmanager
def _memory_named(settings: TrainingSettings) -> Iterator[None]:
    """Raise UserError with the remedy where memory runs out within the block."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"out of memory: use a smaller --batch-size (now {settings.batch_size}) or shorter "
            f"--crop-seconds (now {settings.crop_seconds:g})"
        ) from error
