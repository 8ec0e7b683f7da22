"""Speed and agreement of our ECAPA-TDNN, against SpeechBrain's.

    pip install --no-deps speechbrain hyperpyyaml ruamel.yaml
    python3 -m benchmarks.ecapa [--batches 1 4 16]

Random weights of full size. SpeechBrain cannot be imported without torchaudio, which it does not
need here: a stand-in takes its place. All run in turn on the same excerpts of noise.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from artistid.encoders import ecapa
from artistid.foundation import progress
from artistid.foundation.errors import require_at_least
from benchmarks import measured
from benchmarks.measured import Measured, brief, seconds_of, spread

Embed = Callable[[Tensor], Tensor]  # (batch, samples) -> (batch, dim)


@dataclass(frozen=True)
class Settings:
    batches: tuple[int, ...] = (1, 4, 16)
    """Excerpts at a time."""
    rounds: int = 7
    """Times that each is run."""

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1)


def official(weights: Path) -> Embed:
    """SpeechBrain's network and front end; writes its weights, drawn at random."""
    torchaudio = mock.MagicMock(__version__="2.9.1", __path__=[])
    torchaudio.__spec__ = ModuleSpec("torchaudio", None)
    torchaudio.list_audio_backends.return_value = ["soundfile"]
    with mock.patch.dict(sys.modules, {"torchaudio": torchaudio}):
        networks: Any = import_module("speechbrain.lobes.models.ECAPA_TDNN")
        features: Any = import_module("speechbrain.lobes.features")
    torch.manual_seed(0)
    channels = [1024, 1024, 1024, 1024, 3072]
    network = networks.ECAPA_TDNN(80, channels=channels, lin_neurons=192).eval()
    torch.save(network.state_dict(), weights)
    fbank = features.Fbank(n_mels=80)

    def embed(waveform: Tensor) -> Tensor:
        bands = fbank(waveform)
        embedding: Tensor = network(bands - bands.mean(dim=1, keepdim=True)).squeeze(1)
        return embedding

    return embed


def measure(settings: Settings) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.ckpt"
        models = {"SpeechBrain, fp32": official(weights)}
        for name, dtype in (("ours, fp32", torch.float32), ("ours, bf16", torch.bfloat16)):
            models[name] = ecapa.load_checkpoint(weights).to(dtype).embed
    rows = [["excerpts", "model", "ms per s of audio", "faster", "from, to", "cosine"]]
    basis = next(iter(models))
    for n in settings.batches:
        draw = torch.Generator().manual_seed(n)
        audio = 0.1 * torch.randn(n, ecapa.EXCERPT_S * ecapa.SAMPLE_RATE, generator=draw)
        times: dict[str, list[float]] = {name: [] for name in models}
        with torch.inference_mode():
            found = {name: embed(audio) for name, embed in models.items()}  # warms up, too
            for _ in progress.bar(range(settings.rounds), desc=f"{n} excerpts", unit="round"):
                for name, embed in models.items():
                    times[name].append(seconds_of(embed, audio))
        faster = {
            name: [a / b for a, b in zip(times[basis], own, strict=True)]
            for name, own in times.items()
        }
        for name, embeddings in found.items():
            ms = 1000 * statistics.median(times[name]) / (n * ecapa.EXCERPT_S)
            cosine = torch.cosine_similarity(embeddings, found[basis]).min()
            row = [str(n), name, brief(ms), brief(statistics.median(faster[name]))]
            rows.append([*row, spread(faster[name]), f"{cosine:.6f}"])
    return Measured(
        "ECAPA-TDNN",
        measured.command_of("benchmarks.ecapa", settings),
        f"Excerpts of {ecapa.EXCERPT_S} s on the CPU, {torch.get_num_threads()} threads, random "
        f"weights of full size, median of {settings.rounds} rounds. Relative to SpeechBrain: "
        "speed, and the lowest cosine similarity of an embedding.",
        rows,
    )


if __name__ == "__main__":
    measured.run(Settings, measure, __doc__)
