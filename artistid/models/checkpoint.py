"""Networks on disk: trained ones to use, and half-trained ones to go on with.

Weights are a safetensors file; a JSON of the same name beside it has all that is needed to use
them. A training in the making is one file of torch, read as data only: neither runs code.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from artistid.audio.cache import content_digest
from artistid.dataset.corpus import Corpus, Track
from artistid.foundation.errors import UserError
from artistid.foundation.files import replacing, write_json

FORMAT = 1  # of what the JSON beside a task's weights holds; raised when it changes

Weights = dict[str, Tensor]


def save_network(path: Path, network: nn.Module, description: Mapping[str, Any]) -> None:
    """Write the weights to `path`, and `description` to the JSON beside it."""
    tensors = network.state_dict().items()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors}
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(weights))  # save_file locks others out
    write_json(path.with_suffix(".json"), {**description, "weights": content_digest(path)})


def load_network(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Weights and description from `save_network`.

    Raises UserError where either is missing or damaged, or they are not of one run."""
    beside = path.with_suffix(".json")
    try:
        description = json.loads(beside.read_text(encoding="utf-8"))
        weights = safetensors.torch.load_file(path)
        is_pair = description.pop("weights") == content_digest(path)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path}: no such file; train a model first") from error
    except Exception as error:  # whatever files of other content make of the loaders
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a network with its {beside.name}: {reason}") from error
    if not is_pair:
        raise UserError(f"{path}: {beside.name} beside it is of another run; train again")
    return weights, description


def corpus_digest(corpus: Corpus, entries: Mapping[Track, Path]) -> str:
    """Of all that training sees of a corpus: which songs, by their content, by whom, for what."""
    seen = [
        (track.split, track.artist, entries[track].name)
        for track in corpus.tracks
        if track.split != "test"
    ]
    return hashlib.blake2b(json.dumps(seen).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class ResumeFile:
    """The state of a training, written after every epoch, and what it is a training of."""

    path: Path
    settings: Mapping[str, Any]  # that must be the same to go on
    corpus: str  # its digest

    def save(self, state: Mapping[str, Any]) -> None:
        content = {"settings": dict(self.settings), "corpus": self.corpus, "state": dict(state)}
        with replacing(self.path) as temporary:
            torch.save(content, temporary)

    def load(self) -> dict[str, Any]:
        """The state that was saved. Raises UserError where there is none that fits."""
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            settings, corpus, state = (content[k] for k in ("settings", "corpus", "state"))
        except FileNotFoundError as error:
            raise UserError(
                f"--resume: nothing to go on with, there is no {self.path} (it is written after "
                "every epoch and removed at the end); start without --resume"
            ) from error
        except Exception as error:  # whatever a file of other content makes of the loader
            reason = str(error).partition("\n")[0]
            raise UserError(f"--resume: {self.path} can't be read: {reason}") from error
        self._refuse_others(settings, corpus)
        return dict(state)

    def _refuse_others(self, settings: Mapping[str, Any], corpus: str) -> None:
        remedy = "use what it was begun with, or start anew without --resume"
        if corpus != self.corpus:
            raise UserError(f"--resume: {self.path} is of another corpus; {remedy}")
        differing = [
            f"{name} {settings.get(name)}, now {self.settings.get(name)}"
            for name in sorted({*settings, *self.settings})
            if settings.get(name) != self.settings.get(name)
        ]
        if differing:
            was = "; ".join(differing)
            raise UserError(f"--resume: {self.path} was begun with {was}; {remedy}")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
