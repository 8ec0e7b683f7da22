"""How the network tasks train: on train, with val to choose the epoch; then on both together."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artistid import metrics
from artistid.audio.cache import Entries
from artistid.dataset.corpus import Corpus, Track
from artistid.metrics import CVScores
from artistid.models.card import ModelCard
from artistid.models.checkpoint import TrainingCheckpoint, corpus_digest, save_network
from artistid.models.crops import MappedSongs, frames_of, open_songs
from artistid.models.devices import Devices
from artistid.models.known_songs import Answers, KnownSongs
from artistid.models.networks import joined
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
    entries: Mapping[Track, Entries]  # of the cache, for every track of the corpus
    source: str  # what of a song is heard, for the model card
    settings: TrainingSettings
    seed: int
    devices: Devices
    folder: Path  # for checkpoints
    chosen_by = "the only one"

    def choose(self, _models: Sequence["TrainedNetworks"]) -> int:
        return 0

    @cached_property
    def card(self) -> ModelCard:
        method = self.method
        return ModelCard(
            task=self.task,
            artists=tuple(self.corpus.artists),
            input=asdict(method.input),
            network=asdict(method.widths),
            crop_frames=self.crop_frames,
            source=self.source,
        )

    @cached_property
    def crop_frames(self) -> int:
        songs = MappedSongs(list(self.entries.values()), self.method.array)
        return frames_of(self.settings.crop_seconds, self.method.frames_per_second, songs)

    def fit(self, train: Sequence[Track], val: Sequence[Track]) -> list["TrainedNetworks"]:
        path = self._checkpoint("resume", self.seed).path
        if self.devices.is_main and not self.settings.resume:
            if path.exists():
                words = "notice: replacing %s of an interrupted run (--resume continues it)"
                log.info(words, path)
            self._remove_checkpoints(but=path)  # they belong to another training
        return [self._trained(train, val, "resume", self.settings)]

    def refit(
        self, models: Sequence["TrainedNetworks"], tracks: Sequence[Track]
    ) -> list["TrainedNetworks"]:
        (model,) = models
        settings = replace(self.settings, epochs=model.trainers[0].epochs)
        return [self._trained(tracks, None, "resume_refit", settings)]

    def cross_validated(
        self,
        tracks: Sequence[Track],
        folds: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]],
    ) -> CVScores:
        """Scores on songs that were not trained on; `folds` are of the `tracks`' indices."""
        posteriors, labels = [], []
        for number, (trained, scored) in enumerate(folds, start=1):
            log.info("cross-validation, fold %d of %d", number, len(folds))
            known, unknown = ([tracks[i] for i in own] for own in (trained, scored))
            fitted = self._trained(known, None, f"resume_fold_{number}", self.settings)
            posteriors.append(fitted.answers(unknown).runs.mean(axis=0))
            labels.append(self.examples(unknown).labels)
        return metrics.cv_scores(np.vstack(posteriors), np.concatenate(labels))

    def clean_up(self) -> None:
        """Delete all checkpoints, once the results are written."""
        self._remove_checkpoints()

    def examples(self, tracks: Sequence[Track]) -> Examples:
        labels = metrics.labels_of([track.artist for track in tracks], self.card.artists)
        return Examples(self.songs(tracks), labels)

    def songs(self, tracks: Sequence[Track]) -> Any:
        entries = [self.entries[track] for track in tracks]
        return open_songs(entries, self.method.array, self.devices.device)

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.settings.seeds)

    def _trained(
        self,
        train: Sequence[Track],
        val: Sequence[Track] | None,
        name: str,
        settings: TrainingSettings,
    ) -> "TrainedNetworks":
        """One network for each seed; `name` is of their checkpoints."""
        known, unknown = self.examples(train), self.examples(val) if val else None
        trainers: list[Trainer] = []
        for seed in self.seeds:
            if len(self.seeds) > 1:
                log.info("seed %d of %d", len(trainers) + 1, len(self.seeds))
            checkpoint = self._checkpoint(name, seed)
            must_exist = name == "resume" and seed == self.seed
            exists = must_exist or self.devices.from_main(checkpoint.path.exists())
            trainers.append(
                Trainer(self.method, known, self.crop_frames, settings, seed, self.devices)
            )
            trainers[-1].fit(unknown, checkpoint, resume=settings.resume and exists)
        vectors = [trainer.outputs(known.songs).vectors for trainer in trainers]
        return TrainedNetworks(self, trainers, KnownSongs.of(np.hstack(vectors), train))

    def _remove_checkpoints(self, but: Path | None = None) -> None:
        for path in self.folder.glob(f"model_{self.task}_resume*.pt"):
            if path != but:
                path.unlink()

    def _checkpoint(self, name: str, seed: int) -> TrainingCheckpoint:
        identity = {
            **identity_of(self.settings, seed, self.devices),
            **{f"input {name}": value for name, value in self.card.input.items()},
            **{f"network {name}": value for name, value in self.card.network.items()},
            "crop_frames": self.crop_frames,
            "augmentations": str(self.method.augmentations + self.method.early_augmentations),
        }
        number = "" if seed == self.seed else f"_{seed}"
        path = self.folder / f"model_{self.task}_{name}{number}.pt"
        return TrainingCheckpoint(path, identity, corpus_digest(self.corpus, self.entries))


@dataclass(frozen=True)
class TrainedNetworks:
    """One network for each seed."""

    learner: NetworkLearner
    trainers: Sequence[Trainer]
    known: KnownSongs
    cv: CVScores | None = None  # where it was cross-validated

    @property
    def card(self) -> ModelCard:
        return self.learner.card

    @property
    def name(self) -> str:
        return type(self.trainers[0].network).__name__

    @property
    def summary(self) -> dict[str, str]:
        kept = ", ".join(str(trainer.kept_epoch + 1) for trainer in self.trainers)
        scores = self.cv.summary if self.cv else {}
        return {**scores, "kept": f"epoch {kept} of {self.trainers[0].epochs}"}

    @property
    def details(self) -> dict[str, Any]:
        """For the metrics; of the first seed, and of the further ones apart."""
        runs = [
            {"kept_epoch": trainer.kept_epoch + 1, "curves": trainer.curves}
            for trainer in self.trainers
        ]
        further = {"further_seeds": runs[1:]} if len(runs) > 1 else {}
        scores = {"cv": self.cv._asdict()} if self.cv else {}
        return {**runs[0], **further, **scores, "device": str(self.learner.devices)}

    def answers(self, tracks: Sequence[Track]) -> Answers:
        songs = self.learner.songs(tracks)
        outputs = [trainer.outputs(songs) for trainer in self.trainers]
        runs = np.stack([own.posteriors for own in outputs])
        return Answers(runs, np.hstack([own.vectors for own in outputs]))

    def save(self, path: Path, card: ModelCard) -> set[Path]:
        network = joined([trainer.network for trainer in self.trainers])
        weights = path.with_suffix(".safetensors")
        return {weights, save_network(weights, network, card, self.known)}
