"""How the network tasks train: on train, with val to choose the epoch; then on both together."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from artistid import metrics
from artistid.dataset.corpus import Corpus, Track
from artistid.metrics import Posteriors
from artistid.models.card import ModelCard
from artistid.models.checkpoint import TrainingCheckpoint, corpus_digest, save_network
from artistid.models.crops import open_songs
from artistid.models.devices import Devices
from artistid.models.training import (
    Examples,
    Method,
    Trainer,
    TrainingSettings,
    identity_of,
)

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class NetworkLearner:
    task: str
    method: Method
    corpus: Corpus
    entries: Mapping[Track, Path]  # of the cache, for every track of the corpus
    settings: TrainingSettings
    seed: int
    devices: Devices
    folder: Path  # for checkpoints

    @cached_property
    def card(self) -> ModelCard:
        method = self.method
        return ModelCard(
            task=self.task,
            artists=tuple(self.corpus.artists),
            input=asdict(method.input),
            network=asdict(method.widths),
            crop_frames=method.crop_frames,
        )

    def fit(self, train: Sequence[Track], val: Sequence[Track]) -> list["TrainedNetwork"]:
        checkpoint, refit_checkpoint = self._checkpoint("resume"), self._checkpoint("resume_refit")
        if self.devices.is_main and not self.settings.resume:
            refit_checkpoint.remove()  # it belongs to another training
            if checkpoint.path.exists():
                words = "notice: replacing %s of an interrupted run (--resume continues it)"
                log.info(words, checkpoint.path)
        trainer = self._trainer(train, self.settings)
        trainer.fit(self.examples(val), checkpoint, self.settings.resume)
        return [TrainedNetwork(self, trainer)]

    def refit(self, best: "TrainedNetwork", tracks: Sequence[Track]) -> "TrainedNetwork":
        checkpoint = self._checkpoint("resume_refit")
        exists = self.devices.from_main(checkpoint.path.exists())
        trainer = self._trainer(tracks, replace(self.settings, epochs=len(best.trainer.history)))
        trainer.fit(None, checkpoint, resume=self.settings.resume and exists)
        return TrainedNetwork(self, trainer)

    def clean_up(self) -> None:
        """Delete the checkpoints, once the results are written."""
        self._checkpoint("resume").remove()
        self._checkpoint("resume_refit").remove()

    def examples(self, tracks: Sequence[Track]) -> Examples:
        labels = metrics.labels_of([track.artist for track in tracks], self.card.artists)
        return Examples(self.songs(tracks), labels)

    def songs(self, tracks: Sequence[Track]) -> Any:
        entries = [self.entries[track] for track in tracks]
        return open_songs(entries, self.method.array, self.devices.device)

    def _trainer(self, tracks: Sequence[Track], settings: TrainingSettings) -> Trainer:
        return Trainer(self.method, self.examples(tracks), settings, self.seed, self.devices)

    def _checkpoint(self, name: str) -> TrainingCheckpoint:
        identity = {
            **identity_of(self.settings, self.seed, self.devices),
            **{f"input {name}": value for name, value in self.card.input.items()},
            **{f"network {name}": value for name, value in self.card.network.items()},
            "crop_frames": self.card.crop_frames,
            "augment": str(self.method.augment),
        }
        path = self.folder / f"model_{self.task}_{name}.pt"
        return TrainingCheckpoint(path, identity, corpus_digest(self.corpus, self.entries))


@dataclass(frozen=True)
class TrainedNetwork:
    learner: NetworkLearner
    trainer: Trainer
    merit: float = 0.0  # it is the only candidate

    @property
    def name(self) -> str:
        return type(self.trainer.network).__name__

    @property
    def summary(self) -> dict[str, str]:
        kept, of = self.trainer.kept_epoch + 1, len(self.trainer.history)
        return {"kept": f"epoch {kept} of {of}"}

    @property
    def details(self) -> dict[str, Any]:
        """For the metrics."""
        return {
            "kept_epoch": self.trainer.kept_epoch + 1,
            "curves": self.trainer.curves,
            "device": str(self.learner.devices),
        }

    def posteriors(self, tracks: Sequence[Track]) -> Posteriors:
        """(tracks, artists)"""
        return self.trainer.posteriors(self.learner.songs(tracks))

    def save(self, path: Path, card: ModelCard) -> None:
        save_network(path.with_suffix(".safetensors"), self.trainer.network, card)
