"""A trained model of any task, from its file: a song in, posteriors out, over time and in all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artistid.audio.decode import decode as audio
from artistid.audio.decode import features, melspec
from artistid.calibration import tempered
from artistid.encoders.registry import registry as encoders
from artistid.foundation.errors import UserError
from artistid.inference import classical
from artistid.models.checkpoint import FORMAT, load_network
from artistid.models.crops import ResidentSongs, covering
from artistid.models.devices import Devices
from artistid.models.networks import EmbeddingMLP, EmbeddingMLPSettings, MelCNN, MelCNNSettings
from artistid.models.training import excerpt_posteriors

BATCH = 32  # excerpts at once

Samples = NDArray[np.float32]
Floats = NDArray[np.float64]
Rows = tuple[Floats, Floats, Floats]  # what `Ear.hear` returns


@dataclass(frozen=True)
class Heard:
    """What a model makes of a song. All posteriors are calibrated."""

    song: Floats  # (artists,)
    excerpts: Floats  # (excerpts, artists)
    starts_s: Floats  # (excerpts,), and where each ends
    ends_s: Floats
    samples: Samples  # what was heard
    sample_rate: int  # Hz
    note: str  # what to know about the file, else empty


class Ear(Protocol):
    """What differs between the kinds of model."""

    sample_rate: int  # Hz

    def hear(self, samples: Samples) -> Rows:
        """Rows of posteriors, of which the mean is the song's, (rows, artists); starts and ends,
        in seconds, of the first ones: rows that have none are of the whole song."""


@dataclass(frozen=True)
class Model:
    artists: list[str]
    temperature: float
    ear: Ear

    def predict(self, path: Path) -> Heard:
        """Raises AudioError for a file that can't be used."""
        sound = audio.load(path, self.ear.sample_rate)
        rows, starts_s, ends_s = self.ear.hear(sound.samples)
        song = tempered(rows.mean(axis=0, keepdims=True), self.temperature)[0]
        excerpts = tempered(rows[: len(starts_s)], self.temperature)
        return Heard(song, excerpts, starts_s, ends_s, sound.samples, sound.sample_rate, sound.note)


def load(path: Path, weights: Path | None, devices: Devices) -> Model:
    """The model in `path`; `weights` are MusicFM's, for a model that needs them.

    Raises UserError for a file that is none, or of another version."""
    if path.suffix == ".skops":
        return _classical(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: not a model; their names end in .skops or .safetensors")
    state, description = load_network(path)
    task = str(description.get("task"))
    if description.get("format") != FORMAT or task not in _NETWORKS:
        raise UserError(
            f"{path}: of another version of this program (format {description.get('format')}, not "
            f"{FORMAT}); train it again"
        )
    try:
        network, ear = _NETWORKS[task](description, weights, devices)
        network.load_state_dict(state)
        network.to(devices.device).eval()
        return Model(list(description["artists"]), float(description["temperature"]), ear)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a model of this program: {_reason(error)}") from error


def newest(*folders: Path) -> Path:
    """The model written last in the first of `folders` that has one. Raises UserError."""
    for folder in folders:
        kinds = [*folder.glob("model_*.skops"), *folder.glob("model_*.safetensors")]
        if kinds:
            return max(kinds, key=lambda path: path.stat().st_mtime)
    raise UserError(
        f"no model in {' or '.join(map(str, folders))}: train one with task1.py, task2.py or "
        "task2_baseline.py, or name one with --model"
    )


def _classical(path: Path) -> Model:
    model = classical.load_model(path)
    try:
        settings = _restored(features.FeatureSettings, model.features)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: of features that this program does not have: {error}") from error
    return Model(model.artists, model.temperature, _StatisticsEar(model.classifier, settings))


def _restored(kind: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """A settings dataclass from JSON, where tuples are lists."""
    unknown = values.keys() - {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"unknown setting {', '.join(sorted(unknown))}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _reason(error: Exception) -> str:
    return f"{type(error).__name__} {str(error).partition(chr(10))[0]}"


# --- the three kinds -------------------------------------------------------------------------


class _StatisticsEar:
    """Task 1: statistics of excerpts, and of the whole song."""

    def __init__(
        self, classifier: classical.SongClassifier, settings: features.FeatureSettings
    ) -> None:
        self._classifier, self._settings = classifier, settings
        self.sample_rate = settings.sample_rate

    def hear(self, samples: Samples) -> Rows:
        found = features.song_features(samples, self._settings)
        rows = np.vstack([found.excerpts, found.song])
        posteriors = self._classifier.predict_proba(rows)
        starts_s, ends_s = found.spans.T * self._settings.hop / self.sample_rate
        return posteriors, starts_s, np.minimum(ends_s, len(samples) / self.sample_rate)


class _NetworkEar:
    """Tasks with a network: excerpts of frames that cover the song."""

    sample_rate: int

    def __init__(
        self, network: nn.Module, description: Mapping[str, Any], devices: Devices
    ) -> None:
        self._network, self._devices = network, devices
        self._crop = int(description["crop_frames"])

    def _classify(self, frames: Tensor) -> tuple[Floats, NDArray[np.intp]]:
        """Posteriors and first frames of excerpts that cover `frames`, (frames, features)."""
        song = ResidentSongs(frames, np.array([len(frames)]))
        excerpts = covering(song.lengths, self._crop)
        batches = excerpt_posteriors(
            self._network, song, excerpts, self._crop, BATCH, self._devices
        )
        posteriors = np.vstack([rows for _, rows in batches]).astype(np.float64)
        return posteriors, excerpts.starts


class _MelEar(_NetworkEar):
    """Task 2."""

    def __init__(
        self,
        network: MelCNN,
        settings: melspec.MelSettings,
        description: Mapping[str, Any],
        devices: Devices,
    ) -> None:
        super().__init__(network, description, devices)
        if settings.n_mels != network.settings.n_mels:
            raise ValueError(f"log-mels of {settings.n_mels} bands, not {network.settings.n_mels}")
        self._settings, self.sample_rate = settings, settings.sample_rate

    def hear(self, samples: Samples) -> Rows:
        log_mel = torch.from_numpy(melspec.song_log_mel(samples, self._settings))
        posteriors, starts = self._classify(log_mel)
        rate = self._settings.frames_per_second
        ends = np.minimum(starts + self._crop, len(log_mel))
        return posteriors, starts / rate, np.minimum(ends / rate, len(samples) / self.sample_rate)


class _EmbeddingEar(_NetworkEar):
    """Task 2's baseline."""

    def __init__(
        self,
        network: nn.Module,
        description: Mapping[str, Any],
        weights: Path | None,
        devices: Devices,
    ) -> None:
        super().__init__(network, description, devices)
        wanted = encoders.EncoderSettings(**description["encoder"])
        found = encoders.find(
            wanted.name,  # type: ignore[arg-type]
            weights if wanted.name == "musicfm" else None,
            wanted.layer,
            devices.device,
            wanted.precision,
        )
        if found.settings != wanted:
            raise UserError(
                f"the model was trained on embeddings of {wanted.name} with weights of SHA-256 "
                f"{wanted.weights[:12]}…, here are {found.settings.weights[:12]}…; use those, or "
                "train it again"
            )
        self._encoder = encoders.encoder(found.settings, found.source)
        self.sample_rate = wanted.sample_rate

    def hear(self, samples: Samples) -> Rows:
        encoder, n = self._encoder, len(samples)
        embeddings = encoders.song_embeddings(samples, encoder, self._devices.device)
        posteriors, first = self._classify(torch.from_numpy(embeddings))
        starts = np.array(encoders.excerpt_starts(n, encoder.excerpt))
        last = np.minimum(first + self._crop, len(starts)) - 1
        ends = np.minimum(starts[last] + encoder.excerpt, n)
        return posteriors, starts[first] / self.sample_rate, ends / self.sample_rate


def _mel_cnn(
    description: Mapping[str, Any], _weights: Path | None, devices: Devices
) -> tuple[nn.Module, Ear]:
    network = MelCNN(_restored(MelCNNSettings, description["network"]))
    settings = _restored(melspec.MelSettings, description["mel"])
    return network, _MelEar(network, settings, description, devices)


def _embedding_mlp(
    description: Mapping[str, Any], weights: Path | None, devices: Devices
) -> tuple[nn.Module, Ear]:
    network = EmbeddingMLP(_restored(EmbeddingMLPSettings, description["network"]))
    return network, _EmbeddingEar(network, description, weights, devices)


_NETWORKS = {"task2": _mel_cnn, "task2_baseline": _embedding_mlp}
