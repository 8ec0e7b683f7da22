"""Networks on disk: trained ones with their model cards, and unfinished trainings to resume.

Weights are a safetensors file with the card in a JSON file of the same name beside it. An
unfinished training is one file in torch's format, loaded as data only: neither runs code.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from artistid.audio.cache import Entries, content_digest
from artistid.dataset.corpus import Corpus, Track
from artistid.foundation.errors import UserError, first_line
from artistid.foundation.files import replacing, write_json
from artistid.models.card import ModelCard, read_card
from artistid.models.known_songs import KnownSongs

Weights = dict[str, Tensor]

KNOWN_SONGS = "known_songs"  # among the weights, (songs, dim); their names in the file's metadata


def save_network(path: Path, network: nn.Module, card: ModelCard, known: KnownSongs) -> Path:
    """Write the weights and the songs that it knows to `path`, and the card to the JSON file beside
    it; returns its path."""
    tensors = network.state_dict().items()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors}
    weights[KNOWN_SONGS] = torch.from_numpy(known.vectors)
    with replacing(path) as temporary:
        names = {KNOWN_SONGS: known.names}
        temporary.write_bytes(safetensors.torch.save(weights, names))  # save_file locks others out
    card_file = path.with_suffix(".json")
    write_json(card_file, {**card.to_json(), "weights": content_digest(path)})
    return card_file


def load_network(path: Path) -> tuple[Weights, ModelCard, KnownSongs]:
    """What `save_network` wrote.

    Raises UserError where either is missing or damaged, or they come from different runs."""
    card_file = path.with_suffix(".json")
    try:
        values = json.loads(card_file.read_text(encoding="utf-8"))
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names = file.metadata() or {}
        digest = content_digest(path)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path}: no such file; train a model first") from error
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        reason = first_line(error)
        raise UserError(f"{path}: not a network and its {card_file.name}: {reason}") from error
    expected = values.pop("weights", None) if isinstance(values, dict) else None
    card = read_card(values, path)
    if expected != digest:
        raise UserError(f"{path}: {card_file.name} is from a different run; train it again")
    try:
        known = KnownSongs.restored(weights.pop(KNOWN_SONGS).numpy(), names[KNOWN_SONGS])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged: {first_line(error)}; train it again") from error
    return weights, card, known


def corpus_digest(corpus: Corpus, entries: Mapping[Track, Entries]) -> str:
    """Identifies everything that training sees of a corpus: songs by content, artists, splits."""
    seen = [
        (track.split, track.artist, *(entry.name for entry in entries[track]))
        for track in corpus.tracks
        if track.split != "test"
    ]
    return hashlib.blake2b(json.dumps(seen).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class TrainingCheckpoint:
    """The state of a training, written after every epoch, and what identifies the training."""

    path: Path
    settings: Mapping[str, Any]  # must be the same to resume
    corpus: str  # digest

    def save(self, state: Mapping[str, Any]) -> None:
        content = {"settings": dict(self.settings), "corpus": self.corpus, "state": dict(state)}
        file = io.BytesIO()  # torch says of a full disk what nobody understands
        torch.save(content, file)
        with replacing(self.path) as temporary:
            temporary.write_bytes(file.getbuffer())

    def load(self) -> dict[str, Any]:
        """The saved state. Raises UserError where there is none, or one of another training."""
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            settings, corpus, state = (content[k] for k in ("settings", "corpus", "state"))
        except FileNotFoundError as error:
            raise UserError(
                f"--resume: no checkpoint at {self.path} (written after every epoch, removed at "
                "the end of a run); start without --resume"
            ) from error
        except Exception as error:  # torch.load raises many kinds for damaged files
            raise UserError(f"--resume: {self.path} is damaged: {first_line(error)}") from error
        remedy = "use the same again, or start over without --resume"
        if corpus != self.corpus:
            raise UserError(f"--resume: {self.path} was trained on another corpus; {remedy}")
        differences = [
            f"{name} {settings.get(name)}, now {self.settings.get(name)}"
            for name in sorted({*settings, *self.settings})
            if settings.get(name) != self.settings.get(name)
        ]
        if differences:
            raise UserError(
                f"--resume: {self.path} was started with {'; '.join(differences)}; {remedy}"
            )
        return dict(state)
