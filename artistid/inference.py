"""A saved model of any task: a song in, a prediction out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artistid.audio import features, melspec
from artistid.audio import source as one_channel
from artistid.audio.cache import DEFAULT_CACHE, content_digest
from artistid.audio.decode import Audio
from artistid.encoders import registry
from artistid.encoders.registry import AnyEncoder
from artistid.foundation.errors import UserError, first_line
from artistid.metrics import tempered
from artistid.models import classical
from artistid.models.card import ModelCard, parse_card, restored, restored_members
from artistid.models.checkpoint import load_network
from artistid.models.crops import ResidentSongs, covering
from artistid.models.devices import DeviceName, Devices
from artistid.models.known_songs import KnownSongs, similarity_of
from artistid.models.networks import (
    ArtistNetwork,
    EmbeddingMLP,
    EmbeddingMLPSettings,
    MelCNN,
    MelCNNSettings,
    joined,
    n_joined,
)
from artistid.models.training import crop_outputs
from artistid.results.predictions import Likeness, SongPrediction
from artistid.vocals import voice as voices
from artistid.vocals.heard import Source
from artistid.vocals.voice import Separated, Voice

BATCH_SIZE = 32  # crops at a time
MAX_CROP_FRAMES = 2**31  # in a model card; a year of log-mels

Samples = NDArray[np.float32]
Floats = NDArray[np.float64]
Song = str | Path | tuple[Samples, int]  # a file, or mono samples and their rate in Hz


@dataclass(frozen=True)
class ExcerptOutputs:
    """What a model makes of a song, first, and of its excerpts."""

    posteriors: Floats  # (1 + excerpts, artists), not calibrated
    vectors: Floats  # (1 + excerpts, dim)
    n_rows: int  # of which the song's are the means
    starts_s: Floats  # (excerpts,), seconds
    ends_s: Floats  # (excerpts,), seconds


class SongModel(Protocol):
    """What differs between kinds of models."""

    def outputs(self, audio: Audio) -> ExcerptOutputs:
        """Of mono audio at any rate. Raises AudioError if it is too short."""


@dataclass(frozen=True)
class Answer:
    """What is said of a song, first, and of its excerpts."""

    posteriors: Floats  # (1 + excerpts, artists), calibrated
    familiarity: Floats  # (1 + excerpts,), as metrics.Calibration defines it
    likeness: Likeness
    starts_s: Floats  # (excerpts,), seconds
    ends_s: Floats  # (excerpts,), seconds


@dataclass(frozen=True)
class Hearing:
    """A song, as models hear it: its mix, and its vocals if one of them asks for them."""

    mix: Audio
    file: Path | None
    voice: Voice

    @cached_property
    def vocals(self) -> Audio:
        return voices.heard(self.voice, self.file, self.mix)

    def of(self, source: Source) -> list[Audio]:
        heard = [] if source == "vocals" else [self.mix]
        if source != "mix":
            heard.append(self.vocals)
        return heard


@dataclass(frozen=True)
class Listener:
    """A model, calibrated, and what it listens to."""

    card: ModelCard
    model: SongModel
    known: KnownSongs
    source: Source

    def answer(self, song: Hearing) -> Answer:
        made = _mean([self.model.outputs(audio) for audio in song.of(self.source)])
        calibration = self.card.calibration
        posteriors = tempered(made.posteriors, calibration.temperature)
        cosines = self.known.cosines(made.vectors)
        familiarity = calibration.familiarity(similarity_of(cosines))
        own = calibration.familiarity(cosines[0]).tolist()
        likeness: Likeness = dict(zip(self.known.songs, own, strict=True))
        return Answer(posteriors, familiarity, likeness, made.starts_s, made.ends_s)


@dataclass(frozen=True)
class Ensemble:
    """Several models as one."""

    card: ModelCard
    members: Sequence[Listener]
    weights: Floats  # (members,)

    @property
    def source(self) -> Source:
        sources = {member.source for member in self.members}
        return sources.pop() if len(sources) == 1 else "both"

    def answer(self, song: Hearing) -> Answer:
        joint = _together([member.answer(song) for member in self.members], self.weights)
        calibration = self.card.calibration
        return replace(
            joint,
            posteriors=tempered(joint.posteriors, calibration.temperature),
            familiarity=calibration.familiarity(joint.familiarity),
        )


@dataclass(frozen=True)
class Predictor:
    listener: Listener | Ensemble
    voice: Voice

    @property
    def card(self) -> ModelCard:
        return self.listener.card

    @property
    def artists(self) -> tuple[str, ...]:
        return self.card.artists

    @property
    def source(self) -> Source:
        """What of a song is heard."""
        return self.listener.source

    def predict(self, song: Song, longest_s: float = math.inf) -> SongPrediction:
        """`song` is a file, or mono samples with their rate: (samples, Hz).

        Raises AudioError for a song that cannot be used or is longer than `longest_s` seconds,
        UserError if its vocals are needed and cannot be had."""
        file = None if isinstance(song, tuple) else Path(song)
        hearing = Hearing(_loaded(song, longest_s), file, self.voice)
        answer = self.listener.answer(hearing)
        shown = hearing.of(self.source)[0]
        return SongPrediction(
            self.artists,
            answer.posteriors[0],
            float(answer.familiarity[0]),
            answer.posteriors[1:],
            answer.familiarity[1:],
            answer.starts_s,
            answer.ends_s,
            shown.samples,
            shown.sample_rate,
            self.card.calibration.unknown_below,
            answer.likeness,
            hearing.mix.note,
        )


def _mean(sources: Sequence[ExcerptOutputs]) -> ExcerptOutputs:
    """Over the sources of a song, one or two, as in training. An excerpt that only the mix has,
    since the vocals are silent there, stays as it is; the others have the vocals' nearest one, as
    vocals may be longer or shorter by some samples."""
    if len(sources) == 1:
        return sources[0]
    mix, vocals = sources
    n_rows = [mix.n_rows, vocals.n_rows]
    mean, other = (np.hstack([source.posteriors, source.vectors]) for source in sources)
    mean[0] = np.average([mean[0], other[0]], axis=0, weights=n_rows)
    away_s = np.abs(mix.starts_s[:, np.newaxis] - vocals.starts_s)
    its = away_s.argmin(axis=1)
    own = np.flatnonzero(away_s.min(axis=1) < (mix.ends_s - mix.starts_s) / 2)
    mean[1 + own] = (mean[1 + own] + other[1 + its[own]]) / 2
    posteriors, vectors = np.split(mean, [mix.posteriors.shape[1]], axis=1)
    return ExcerptOutputs(posteriors, vectors, sum(n_rows), mix.starts_s, mix.ends_s)


def _together(members: Sequence[Answer], weights: Floats) -> Answer:
    """Of several models: over the song, and over each of the shortest excerpts with those of the
    other models whose middles are nearest. The songs are those that all of them know."""
    finest = max(members, key=lambda member: len(member.starts_s))
    middles = (finest.starts_s + finest.ends_s) / 2
    posteriors, familiarity = np.zeros_like(finest.posteriors), np.zeros_like(finest.familiarity)
    for member, weight in zip(members, weights, strict=True):
        away = np.abs(middles[:, np.newaxis] - (member.starts_s + member.ends_s) / 2)
        rows = np.append(0, 1 + away.argmin(axis=1))
        posteriors += weight * member.posteriors[rows]
        familiarity += weight * member.familiarity[rows]
    shared = set.intersection(*(set(member.likeness) for member in members))
    likeness: Likeness = {
        song: sum(w * member.likeness[song] for w, member in zip(weights, members, strict=True))
        for song in shared
    }
    return replace(finest, posteriors=posteriors, familiarity=familiarity, likeness=likeness)


def load_model(
    path: str | Path,
    weights: Path | str | None = None,
    device: DeviceName = "auto",
    source: Source | None = None,
    voice: Voice | None = None,
) -> Predictor:
    """The model that a task saved at `path`; `weights` are its encoder's, if they are in another
    place than usual.

    It listens to what it was trained on, or to the `source` of it if it was trained on both mix and
    vocals. `voice` is where vocals come from: by default they are separated, and cached.
    Raises UserError for a file that is missing, damaged, or of another version."""
    path, weights = Path(path), Path(weights) if weights else None
    voice = voice or Separated(DEFAULT_CACHE)
    if path.suffix == ".json":
        return Predictor(_load_ensemble(path, weights, device, source), voice)
    return Predictor(_load_listener(path, weights, device, source), voice)


def _load_ensemble(
    path: Path, weights: Path | None, device: DeviceName, source: Source | None
) -> Ensemble:
    if (network := path.with_suffix(".safetensors")).exists():
        raise UserError(f"{path}: the card of a model; name the model itself, {network.name}")
    try:
        card = parse_card(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; make it with ensemble.py") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a model card: {first_line(error)}") from error
    members = restored_members(card, path)
    listeners = []
    for member in members:
        file = path.parent / member.file
        remedy = f"run {member.task}.py again, then ensemble.py"
        if not file.exists():
            raise UserError(f"{file}: a member of {path}, is missing; {remedy}")
        if content_digest(file) != member.digest:
            raise UserError(f"{file}: not the one that {path} was made of; run ensemble.py again")
        listeners.append(_load_listener(file, weights, device, source))
        if listeners[-1].card.artists != card.artists:
            raise UserError(f"{path}: damaged, its artists are not those of {file}; {remedy}")
    return Ensemble(card, listeners, np.array([member.weight for member in members]))


def _load_listener(
    path: Path, weights: Path | None, device: DeviceName, source: Source | None
) -> Listener:
    model, card, known = _load(path, weights, device)
    if source not in (None, card.source) and card.source != "both":
        raise UserError(f"{path}: trained on {card.source}, so it cannot listen to {source}")
    heard: Any = source or card.source
    return Listener(card, model, known, heard)


def _load(
    path: Path, weights: Path | None, device: DeviceName
) -> tuple[SongModel, ModelCard, KnownSongs]:
    if path.suffix not in (".skops", ".safetensors"):
        raise UserError(f"{path}: not a model; their names end in .skops, .safetensors or .json")
    try:
        if path.suffix == ".skops":
            classifier, card, known = classical.load_model(path)
            n_artists = len(classifier.classes_)
            _require_usable(card, path, n_artists)
            _require_width(known.vectors.shape[1], n_artists)
            if card.task == "task1":
                settings = restored(features.FeatureSettings, card.input)
                width = 2 * len(features.frame_feature_names(settings))
                _require_width(width, classifier.n_features_in_)
                return StatisticsModel(classifier, settings), card, known
            encoder = registry.restore(card.input, weights, Devices(device, "auto").device)
            _require_width(encoder.dim, classifier.n_features_in_)
            return MeanEmbeddingModel(classifier, card.crop_frames, encoder), card, known
        state, card, known = load_network(path)
        _require_usable(card, path, card.network["n_artists"])
        n_networks, devices = n_joined(state), Devices(device, "auto")
        _require_width(known.vectors.shape[1], n_networks * card.network["hidden"])
        if card.task == "task2":
            widths = restored(MelCNNSettings, card.network)
            mel = restored(melspec.MelSettings, card.input)
            _require_width(mel.n_mels, widths.n_mels)
            network = joined([MelCNN(widths) for _ in range(n_networks)])
            model: SongModel = MelModel(CropClassifier(network, card.crop_frames, devices), mel)
        elif card.task == "task2_baseline":
            widths = restored(EmbeddingMLPSettings, card.network)
            encoder = registry.restore(card.input, weights, devices.device)
            _require_width(encoder.dim, widths.dim)
            network = joined([EmbeddingMLP(widths) for _ in range(n_networks)])
            model = EmbeddingModel(CropClassifier(network, card.crop_frames, devices), encoder)
        else:
            raise UserError(f"{path}: a model of {card.task}, which this version does not have")
        network.load_state_dict(state)
        network.to(devices.device).eval()
        return model, card, known
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{path}: the card does not fit the weights ({reason})") from error


def _require_usable(card: ModelCard, path: Path, n_outputs: int) -> None:
    if card.source not in get_args(Source):
        raise UserError(f"{path}: listens to {card.source}, which this version cannot provide")
    if n_outputs != len(card.artists):
        raise UserError(f"{path}: {len(card.artists)} artists for a model of {n_outputs}")
    if card.task != "task1" and not 1 <= card.crop_frames <= MAX_CROP_FRAMES:
        raise UserError(f"{path}: damaged model card: crop_frames")


def _require_width(made: int, expected: int) -> None:
    if made != expected:
        raise ValueError(f"input of width {made} for a network of {expected}")


def newest_models(*folders: Path) -> list[Path]:
    """The models in the first of `folders` that has any, the latest first. Raises UserError."""
    for folder in folders:
        names = ("model_*.skops", "model_*.safetensors", "model_ensemble.json")
        models = [path for name in names for path in folder.glob(name)]
        if models:
            return sorted(models, key=lambda path: path.stat().st_mtime, reverse=True)
    raise UserError(
        f"no model in {' or '.join(map(str, folders))}: train one with task1.py, task2.py or "
        "task2_baseline.py"
    )


def embed(
    song: Song,
    encoder: str = "auto",
    weights: Path | str | None = None,
    layer: int = registry.DEFAULT_LAYER,
    device: DeviceName = "auto",
) -> NDArray[np.float32]:
    """The embeddings of a song by a pretrained encoder: (excerpts, dim).

    Raises AudioError for a song that cannot be used, UserError for missing weights."""
    devices = Devices(device, "auto")
    choice = registry.EncoderSettings(encoder, Path(weights) if weights else None, layer)
    found = registry.find(choice, devices.device, devices.precision)
    return found.embeddings(_loaded(song))


def _loaded(song: Song, longest_s: float = math.inf) -> Audio:
    """At its own rate."""
    if isinstance(song, tuple):
        samples, own_rate = song
        return one_channel.from_samples(samples, own_rate, None)
    return one_channel.load(Path(song), None, longest_s=longest_s)


# --- the kinds of models -----------------------------------------------------------------------


@dataclass(frozen=True)
class StatisticsModel:
    """Task 1: statistics of excerpts, and of the song as a whole."""

    classifier: classical.SongClassifier
    settings: features.FeatureSettings

    def outputs(self, audio: Audio) -> ExcerptOutputs:
        rate = self.settings.sample_rate
        samples = one_channel.at_rate(audio, rate).samples
        found = features.song_features(samples, self.settings)
        rows = self.classifier.outputs(np.vstack([found.excerpts, found.song]))
        starts_s, ends_s = found.spans.T * self.settings.hop / rate
        ends_s = np.minimum(ends_s, len(samples) / rate)
        posteriors, vectors = (np.vstack([own.mean(axis=0), own[:-1]]) for own in rows)
        return ExcerptOutputs(posteriors, vectors, len(rows[0]), starts_s, ends_s)


@dataclass(frozen=True)
class CropClassifier:
    """Classifies the crops that cover a (frames, features) array."""

    network: ArtistNetwork
    crop_frames: int
    devices: Devices

    def outputs(self, frames: Tensor) -> tuple[Floats, Floats, NDArray[np.intp]]:
        """Posteriors, (1 + crops, artists), and vectors, (1 + crops, hidden units), of the song,
        first, and of each crop; and the first frame of each crop."""
        song = ResidentSongs(frames, np.array([len(frames)]))
        crops = covering(song.lengths, self.crop_frames)
        batches = crop_outputs(
            self.network, song, crops, self.crop_frames, BATCH_SIZE, self.devices
        )
        _, *outputs = zip(*batches, strict=True)
        rows = [np.vstack(own).astype(np.float64) for own in outputs]
        posteriors, vectors = (np.vstack([own.mean(axis=0), own]) for own in rows)
        return posteriors, vectors, crops.starts


@dataclass(frozen=True)
class MelModel:
    """Task 2: crops of the log-mel spectrogram."""

    classifier: CropClassifier
    settings: melspec.MelSettings

    def outputs(self, audio: Audio) -> ExcerptOutputs:
        samples = one_channel.at_rate(audio, self.settings.sample_rate).samples
        log_mel = torch.from_numpy(melspec.song_log_mel(samples, self.settings))
        posteriors, vectors, first = self.classifier.outputs(log_mel)
        rate = self.settings.frames_per_second
        ends = np.minimum(first + self.classifier.crop_frames, len(log_mel))
        ends_s = np.minimum(ends / rate, audio.seconds)
        return ExcerptOutputs(posteriors, vectors, len(first), first / rate, ends_s)


@dataclass(frozen=True)
class EmbeddingModel:
    """The baseline of task 2: crops of a pretrained encoder's embeddings."""

    classifier: CropClassifier
    encoder: AnyEncoder

    def outputs(self, audio: Audio) -> ExcerptOutputs:
        embeddings = torch.from_numpy(self.encoder.embeddings(audio))
        posteriors, vectors, first = self.classifier.outputs(embeddings)
        spans = _spans_s(first, self.classifier.crop_frames, len(embeddings), self.encoder, audio)
        return ExcerptOutputs(posteriors, vectors, len(first), *spans)


@dataclass(frozen=True)
class MeanEmbeddingModel:
    """The same with a classical classifier: the mean embedding of the song, and of each crop."""

    classifier: classical.SongClassifier
    crop_frames: int
    encoder: AnyEncoder

    def outputs(self, audio: Audio) -> ExcerptOutputs:
        embeddings = self.encoder.embeddings(audio)
        first = covering(np.array([len(embeddings)]), self.crop_frames).starts
        crops = [embeddings[start : start + self.crop_frames].mean(axis=0) for start in first]
        rows = self.classifier.outputs(np.stack([embeddings.mean(axis=0), *crops]))
        spans = _spans_s(first, self.crop_frames, len(embeddings), self.encoder, audio)
        return ExcerptOutputs(*rows, 1, *spans)


def _spans_s(
    first: NDArray[np.intp], crop_frames: int, n: int, encoder: AnyEncoder, audio: Audio
) -> tuple[Floats, Floats]:
    """Where crops of a song's `n` embeddings begin and end, in seconds."""
    starts_s = encoder.grid.starts_s(n, audio.seconds)
    last = np.minimum(first + crop_frames, n) - 1
    ends_s = np.minimum(starts_s[last] + encoder.grid.excerpt_s, audio.seconds)
    return starts_s[first], ends_s
