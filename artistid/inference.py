"""A saved model of any task: a song in, a prediction out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artistid.audio import features, melspec, source
from artistid.audio.decode import Audio
from artistid.encoders import registry
from artistid.encoders.base import Encoder
from artistid.foundation.errors import UserError, first_line
from artistid.metrics import tempered
from artistid.models import classical
from artistid.models.card import ModelCard, restored
from artistid.models.checkpoint import load_network
from artistid.models.crops import ResidentSongs, covering
from artistid.models.devices import DeviceName, Devices
from artistid.models.networks import (
    EmbeddingMLP,
    EmbeddingMLPSettings,
    MelCNN,
    MelCNNSettings,
    joined,
    n_joined,
)
from artistid.models.training import crop_posteriors
from artistid.results.predictions import SongPrediction

BATCH_SIZE = 32  # crops at a time

Samples = NDArray[np.float32]
Floats = NDArray[np.float64]
Song = str | Path | tuple[Samples, int]  # a file, or mono samples and their rate in Hz


@dataclass(frozen=True)
class ExcerptPosteriors:
    """Not calibrated. A song's posterior is the mean over all rows."""

    excerpts: Floats  # (excerpts, artists)
    starts_s: Floats  # (excerpts,), seconds
    ends_s: Floats  # (excerpts,), seconds
    whole: Floats  # (rows, artists): rows about the song as a whole, if the model has any


class SongModel(Protocol):
    """What differs between kinds of models."""

    @property
    def sample_rate(self) -> int:
        """Hz"""

    def posteriors(self, samples: Samples) -> ExcerptPosteriors:
        """Of mono samples at `sample_rate`. Raises AudioError if they are too few."""


@dataclass(frozen=True)
class Predictor:
    card: ModelCard
    model: SongModel

    @property
    def artists(self) -> tuple[str, ...]:
        return self.card.artists

    def predict(self, song: Song) -> SongPrediction:
        """`song` is a file, or mono samples with their rate: (samples, Hz).

        Raises AudioError for a song that cannot be used."""
        audio = _loaded(song, self.model.sample_rate)
        rows = self.model.posteriors(audio.samples)
        mean = np.vstack([rows.excerpts, rows.whole]).mean(axis=0, keepdims=True)
        return SongPrediction(
            self.artists,
            tempered(mean, self.card.temperature)[0],
            tempered(rows.excerpts, self.card.temperature),
            rows.starts_s,
            rows.ends_s,
            audio.samples,
            audio.sample_rate,
            audio.note,
        )


def load_model(
    path: str | Path, weights: Path | None = None, device: DeviceName = "auto"
) -> Predictor:
    """The model that a task saved at `path`; `weights` are MusicFM's, for a model that needs them
    from another place than usual.

    Raises UserError for a file that is missing, damaged, or of another version."""
    path = Path(path)
    if path.suffix not in (".skops", ".safetensors"):
        raise UserError(f"{path}: not a model; their names end in .skops or .safetensors")
    try:
        if path.suffix == ".skops":
            classifier, card = classical.load_model(path)
            _require_usable(card, path, n_outputs=len(classifier.classes_))
            settings = restored(features.FeatureSettings, card.input)
            return Predictor(card, StatisticsModel(classifier, settings))
        state, card = load_network(path)
        _require_usable(card, path, n_outputs=card.network["n_artists"])
        devices = Devices(device, "auto")
        if card.task == "task2":
            widths = restored(MelCNNSettings, card.network)
            mel = restored(melspec.MelSettings, card.input)
            _require_width(mel.n_mels, widths.n_mels)
            network = joined([MelCNN(widths) for _ in range(n_joined(state))])
            model: SongModel = MelModel(CropClassifier(network, card.crop_frames, devices), mel)
        elif card.task == "task2_baseline":
            widths = restored(EmbeddingMLPSettings, card.network)
            encoder = registry.restore(card.input, weights, devices.device)
            _require_width(encoder.dim, widths.dim)
            network = joined([EmbeddingMLP(widths) for _ in range(n_joined(state))])
            model = EmbeddingModel(CropClassifier(network, card.crop_frames, devices), encoder)
        else:
            raise UserError(f"{path}: a model of {card.task}, which this version does not have")
        network.load_state_dict(state)
        network.to(devices.device).eval()
        return Predictor(card, model)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{path}: the card does not fit the weights ({reason})") from error


def _require_usable(card: ModelCard, path: Path, n_outputs: int) -> None:
    if card.source != "mix":
        raise UserError(f"{path}: listens to {card.source}, which this version cannot provide")
    if n_outputs != len(card.artists):
        raise UserError(f"{path}: {len(card.artists)} artists for a model of {n_outputs}")


def _require_width(made: int, expected: int) -> None:
    if made != expected:
        raise ValueError(f"input of width {made} for a network of {expected}")


def newest_model(*folders: Path) -> Path:
    """The latest model in the first of `folders` that has one. Raises UserError."""
    for folder in folders:
        models = [*folder.glob("model_*.skops"), *folder.glob("model_*.safetensors")]
        if models:
            return max(models, key=lambda path: path.stat().st_mtime)
    raise UserError(
        f"no model in {' or '.join(map(str, folders))}: train one with task1.py, task2.py or "
        "task2_baseline.py, or name one with --model"
    )


def embed(
    song: Song,
    encoder: str = "auto",
    weights: Path | None = None,
    layer: int = 7,
    device: DeviceName = "auto",
) -> NDArray[np.float32]:
    """The embeddings of a song by a pretrained encoder: (excerpts, dim).

    Raises AudioError for a song that cannot be used, UserError for missing weights."""
    devices = Devices(device, "auto")
    choice = registry.EncoderSettings(encoder, weights, layer)
    found = registry.find(choice, devices.device, devices.precision)
    return found.song_embeddings(_loaded(song, found.sample_rate).samples)


def _loaded(song: Song, sample_rate: int) -> Audio:
    if isinstance(song, tuple):
        samples, own_rate = song
        return source.from_samples(samples, own_rate, sample_rate)
    return source.load(Path(song), sample_rate)


# --- the kinds of models -----------------------------------------------------------------------


@dataclass(frozen=True)
class StatisticsModel:
    """Task 1: statistics of excerpts, and of the song as a whole."""

    classifier: classical.SongClassifier
    settings: features.FeatureSettings

    @property
    def sample_rate(self) -> int:
        return self.settings.sample_rate

    def posteriors(self, samples: Samples) -> ExcerptPosteriors:
        found = features.song_features(samples, self.settings)
        rows = self.classifier.predict_proba(np.vstack([found.excerpts, found.song]))
        starts_s, ends_s = found.spans.T * self.settings.hop / self.sample_rate
        ends_s = np.minimum(ends_s, len(samples) / self.sample_rate)
        return ExcerptPosteriors(rows[:-1], starts_s, ends_s, whole=rows[-1:])


@dataclass(frozen=True)
class CropClassifier:
    """Classifies the crops that cover a (frames, features) array."""

    network: nn.Module
    crop_frames: int
    devices: Devices

    def posteriors(self, frames: Tensor) -> tuple[Floats, NDArray[np.intp]]:
        """(crops, artists), and the first frame of each crop."""
        song = ResidentSongs(frames, np.array([len(frames)]))
        crops = covering(song.lengths, self.crop_frames)
        batches = crop_posteriors(
            self.network, song, crops, self.crop_frames, BATCH_SIZE, self.devices
        )
        return np.vstack([rows for _, rows in batches]).astype(np.float64), crops.starts


@dataclass(frozen=True)
class MelModel:
    """Task 2: crops of the log-mel spectrogram."""

    classifier: CropClassifier
    settings: melspec.MelSettings

    @property
    def sample_rate(self) -> int:
        return self.settings.sample_rate

    def posteriors(self, samples: Samples) -> ExcerptPosteriors:
        log_mel = torch.from_numpy(melspec.song_log_mel(samples, self.settings))
        rows, starts = self.classifier.posteriors(log_mel)
        rate = self.settings.frames_per_second
        ends = np.minimum(starts + self.classifier.crop_frames, len(log_mel))
        ends_s = np.minimum(ends / rate, len(samples) / self.sample_rate)
        return ExcerptPosteriors(rows, starts / rate, ends_s, whole=rows[:0])


@dataclass(frozen=True)
class EmbeddingModel:
    """The baseline of task 2: runs of embeddings of a pretrained encoder."""

    classifier: CropClassifier
    encoder: Encoder

    @property
    def sample_rate(self) -> int:
        return self.encoder.sample_rate

    def posteriors(self, samples: Samples) -> ExcerptPosteriors:
        embeddings = torch.from_numpy(self.encoder.song_embeddings(samples))
        rows, first = self.classifier.posteriors(embeddings)
        starts = covering(np.array([len(samples)]), self.encoder.excerpt).starts
        last = np.minimum(first + self.classifier.crop_frames, len(starts)) - 1
        ends = np.minimum(starts[last] + self.encoder.excerpt, len(samples))
        rate = self.sample_rate
        return ExcerptPosteriors(rows, starts[first] / rate, ends / rate, whole=rows[:0])
