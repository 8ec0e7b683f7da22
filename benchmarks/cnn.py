"""Training of task 2's network, against the way such homeworks train theirs.

    python3 -m benchmarks.cnn [--data gamemusic] [--songs 16] [--rounds 3]

Theirs: a Dataset that decodes the whole mp3 each time it is asked, batches of 4 padded to the
longest, mel spectrograms on the fly (16 kHz, n_fft 512, 96 bands), the five-block FCN of Choi et
al. 2016 (arXiv 1606.00298), Adam. Ours: an epoch of task 2, log-mels cached before.
Both on the same songs, device and threads, in turn, each in a process of its own as it would be,
after a warm-up.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from artistid.audio.extraction import extract
from artistid.audio.melspec import NAME, LogMel, MelSettings, recipe
from artistid.dataset.corpus import Track
from artistid.dataset.read import read_corpus
from artistid.foundation.parallel import Workers
from artistid.inference import training
from artistid.metrics import labels_of
from artistid.models.augmentation import spec_augment
from artistid.models.crops import MappedSongs, open_songs
from artistid.models.devices import Devices, Precision
from artistid.models.networks import MelCNN, MelCNNSettings
from benchmarks.measured import CACHE, GAMEMUSIC, Measured, Ratio, brief, spread
from benchmarks.ways import Way

CHANNELS = (64, 128, 128, 128, 64)
POOLS = ((4, 2), (4, 2), (4, 2), (5, 3), (4, 4))  # over frames, over bands
HOMEWORK = "homework, fp32"
HOMEWORK_MEL = MelSettings(n_fft=512, hop=256, n_mels=96)


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus."""
    songs: int = 16
    """Songs of train to use."""
    rounds: int = 3
    """Times that each way goes through all of them."""


class HomeworkDataset(Dataset[tuple[Tensor, int]]):
    def __init__(self, tracks: list[Track], labels: Any) -> None:
        self.tracks, self.labels = tracks, labels

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        samples, _ = librosa.load(self.tracks[index].path, sr=HOMEWORK_MEL.sample_rate)
        return torch.from_numpy(samples), int(self.labels[index])


def padded(batch: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    audio = nn.utils.rnn.pad_sequence([samples for samples, _ in batch], batch_first=True)
    return audio, torch.tensor([label for _, label in batch])


class HomeworkFCN(nn.Module):
    """(batch, samples) -> (batch, artists) logits."""

    def __init__(self, n_artists: int) -> None:
        super().__init__()
        self.log_mel = LogMel(HOMEWORK_MEL)
        self.normalise = nn.BatchNorm2d(1)
        blocks: list[nn.Module] = []
        for n_in, n_out, pool in zip((1, *CHANNELS), CHANNELS, POOLS, strict=False):
            conv = nn.Conv2d(n_in, n_out, 3, padding=1)
            blocks += [conv, nn.BatchNorm2d(n_out), nn.ReLU(), nn.MaxPool2d(pool)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(CHANNELS[-1], n_artists))

    def forward(self, audio: Tensor) -> Tensor:
        image = self.blocks(self.normalise(self.log_mel(audio).unsqueeze(1)))
        logits: Tensor = self.head(image.mean(dim=(2, 3)))
        return logits


def homework_epoch(tracks: list[Track], labels: Any) -> Callable[[], None]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = HomeworkFCN(int(labels.max()) + 1).to(device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    data = HomeworkDataset(tracks, labels)
    loader = DataLoader(data, batch_size=4, shuffle=True, collate_fn=padded)

    def epoch() -> None:
        for audio, target in loader:
            loss = F.cross_entropy(network(audio.to(device)), target.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def our_epoch(entries: list[Path], labels: Any, precision: Precision) -> Callable[[], None]:
    mel = MelSettings()
    devices = Devices("auto", precision)
    settings = training.TrainingSettings(epochs=100)  # so many that the schedule does not end
    songs = training.Examples(open_songs(entries, NAME, devices.device), labels)
    widths = MelCNNSettings(int(labels.max()) + 1, mel.n_mels)
    network = training.initialised(MelCNN, widths, settings, devices)
    n_frames = round(settings.crop_seconds * mel.frames_per_second)
    trainer = training.Trainer(network, songs, songs, n_frames, settings, devices, spec_augment)

    def epoch() -> None:
        trainer.train_epoch(0)

    return epoch


def measure(settings: Settings) -> Measured:
    corpus = read_corpus(settings.data)
    train = corpus.split("train")
    tracks = [train[i] for i in np.random.default_rng(0).permutation(len(train))[: settings.songs]]
    labels = labels_of([track.artist for track in tracks], corpus.artists)
    mel = MelSettings()
    extraction = extract(tracks, recipe(mel), CACHE, Workers())
    extraction.require_all()
    entries = list(extraction.entries.values())
    audio_s = MappedSongs(entries, NAME).lengths.sum() / mel.frames_per_second

    devices = Devices("auto", "auto")
    ways = {HOMEWORK: Way(homework_epoch, tracks, labels)}
    for precision in dict.fromkeys(("fp32", devices.precision)):
        ways[f"task 2, {precision}"] = Way(our_epoch, entries, labels, precision)
    for way in ways.values():  # to warm up
        way.run()
    rounds = [
        {name: way.run().seconds for name, way in ways.items()}
        for _ in tqdm(range(settings.rounds), desc="cnn", unit="round", disable=None)
    ]
    rows = [["way", "s an epoch", "s of audio a second", "homework / this", "from, to"]]
    ratios = {name: [times[HOMEWORK] / times[name] for times in rounds] for name in ways}
    for name in ways:
        median = statistics.median(times[name] for times in rounds)
        ratio = brief(statistics.median(ratios[name]))
        row = [name, brief(median), brief(audio_s / median), ratio, spread(ratios[name])]
        rows.append(row)
    return Measured(
        "Training the CNN",
        f"python3 -m benchmarks.cnn --data {settings.data}",
        f"{len(tracks)} songs, {audio_s:,.0f} s of audio an epoch, on {devices}. The homework "
        "decodes each mp3 every epoch, pads batches of 4 to the longest, and trains the network of "
        f"Choi et al. 2016. Median of {settings.rounds} rounds, each in a process of its own.",
        rows,
        [Ratio(f"training: {HOMEWORK} / {name}", ratios[name]) for name in ways][1:],
    )


if __name__ == "__main__":
    print(measure(tyro.cli(Settings, description=__doc__)))
