"""Time of whole tasks, against the usual way to write them.

    python3 -m benchmarks.tasks [--data gamemusic] [--rounds 3]

The usual task 1 calls librosa song by song, takes mean and standard deviation over each song, and
searches grids of KNN, random forest and SVM with GridSearchCV on all cores. The usual task 2
decodes every mp3 in every epoch, pads batches of 4 to the longest song, and trains the five-block
FCN of Choi et al. 2016 (arXiv 1606.00298) on mel spectrograms computed on the fly; one epoch is
timed and multiplied by the number of our epochs. All run in turn, each in a new process.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn

import task2
from artistid.audio import melspec
from artistid.audio.extraction import extract
from artistid.audio.melspec import LogMel, MelSettings
from artistid.dataset.read import read_corpus
from artistid.foundation import progress
from artistid.foundation.errors import require_at_least
from artistid.foundation.parallel import Workers
from artistid.metrics import labels_of
from artistid.models.crops import MappedSongs, frames_of
from artistid.models.devices import Devices, Precision
from artistid.models.networks import Size
from artistid.models.training import Examples, Trainer
from benchmarks import measured
from benchmarks.cross_validation import cnn
from benchmarks.features import FEATURES, librosa_one_by_one
from benchmarks.measured import GAMEMUSIC, Measured, Ratio, alone, brief, seconds_of, spread

HOMEWORK, FIRST, AGAIN = "homework", "first run", "second run"  # AGAIN: with a full cache
EPOCH = "an epoch of task2.py"
EPOCHS: tuple[tuple[Size, Precision], ...] = (("small", "fp32"), ("large", "fp32"))
RATIOS = (
    ("task1.py", HOMEWORK, FIRST),
    ("task2.py", HOMEWORK, FIRST),
    (EPOCH, HOMEWORK, "small, fp32"),
    (EPOCH, HOMEWORK, "large, fp32"),
    ("task2_baseline.py", FIRST, AGAIN),
)
GRIDS = (
    (KNeighborsClassifier(), {"n_neighbors": [3, 5, 7, 9], "weights": ["uniform", "distance"]}),
    (RandomForestClassifier(random_state=0), {"n_estimators": [100, 300], "max_depth": [None, 20]}),
    (SVC(), {"C": [0.1, 1, 10, 100], "gamma": ["scale", 0.01, 0.001]}),
)
MEL = MelSettings(n_fft=512, hop=256, n_mels=96)  # of the homework's network
CHANNELS = (64, 128, 128, 128, 64)
POOLS = ((4, 2), (4, 2), (4, 2), (5, 3), (4, 4))  # (frames, bands)


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus."""
    rounds: int = 3
    """Times that each task is run."""

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1)


# --- the usual ways ----------------------------------------------------------------------------


def homework_task1(data: Path) -> list[NDArray[np.intp]]:
    """Each classifier's labels for the songs of val, then test."""
    corpus = read_corpus(data)
    train, val, test = (corpus.split(split) for split in ("train", "val", "test"))
    known = np.array([statistics_of(track.path) for track in train])
    labels = labels_of([track.artist for track in train], corpus.artists)
    unknown = np.array([statistics_of(track.path) for track in val + test])
    predictions = []
    for classifier, grid in GRIDS:
        step = type(classifier).__name__.lower()
        search = GridSearchCV(
            make_pipeline(StandardScaler(), classifier),
            {f"{step}__{name}": values for name, values in grid.items()},
            cv=min(5, int(np.bincount(labels).min())),
            n_jobs=-1,
        )
        predictions.append(search.fit(known, labels).predict(unknown))
    return predictions


def statistics_of(path: Path) -> NDArray[np.float32]:
    """(columns,): means and standard deviations over a song."""
    samples, _ = librosa.load(path, sr=FEATURES.sample_rate)
    rows = librosa_one_by_one(samples)
    return np.concatenate([rows.mean(axis=1), rows.std(axis=1)])


class HomeworkFCN(nn.Module):
    """(batch, samples) -> (batch, artists) logits."""

    def __init__(self, n_artists: int) -> None:
        super().__init__()
        self.log_mel = LogMel(MEL)
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


def homework_epoch(data: Path) -> None:
    """Train a new network for one epoch."""
    corpus = read_corpus(data)
    train = corpus.split("train")
    labels = labels_of([track.artist for track in train], corpus.artists)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = HomeworkFCN(len(corpus.artists)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    order = np.random.default_rng(0).permutation(len(train))
    for batch in np.array_split(order, -(-len(train) // 4)):
        songs = [librosa.load(train[i].path, sr=MEL.sample_rate)[0] for i in batch]
        audio = nn.utils.rnn.pad_sequence([torch.from_numpy(song) for song in songs], True)
        target = torch.from_numpy(labels[batch])
        loss = F.cross_entropy(network(audio.to(device)), target.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# --- measuring ---------------------------------------------------------------------------------


def log_mels_of_train(data: Path, cache: Path) -> Examples:
    corpus = read_corpus(data)
    train = corpus.split("train")
    found = extract(train, melspec.recipe(MelSettings()), cache, Workers())
    songs = MappedSongs([(entry,) for entry in found.entries.values()], melspec.LOG_MEL)
    return Examples(songs, labels_of([track.artist for track in train], corpus.artists))


def epoch_of_task2(train: Examples, size: Size, precision: Precision) -> float:
    """Seconds of an epoch of task 2's network, after one step to warm up."""
    settings = task2.Settings().training
    crop_frames = frames_of(settings.crop_seconds, MelSettings().frames_per_second, train.songs)
    method = cnn(size, int(train.labels.max()) + 1)
    trainer = Trainer(method, train, crop_frames, settings, 0, Devices("auto", precision))
    trainer.train_epoch(0, steps=1)
    return seconds_of(trainer.train_epoch, 1)


def run_task(task: str, data: Path, cache: Path, out: Path) -> None:
    places = ("--data", data.resolve(), "--cache", cache, "--out", out)
    command = [sys.executable, measured.PROJECT / f"{task}.py", "--quiet", *places]
    subprocess.run(list(map(str, command)), check=True)


def measure(settings: Settings) -> Measured:
    data = settings.data
    read_corpus(data)  # refused here, or its remedy would end in a traceback of ours
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in progress.bar(range(settings.rounds), desc="tasks", unit="round"):
        with tempfile.TemporaryDirectory() as folder:
            places = data, Path(folder) / "cache", Path(folder)
            times["task1.py", FIRST].append(seconds_of(run_task, "task1", *places))
            times["task1.py", HOMEWORK].append(seconds_of(alone, homework_task1, data))
            times["task2.py", FIRST].append(seconds_of(run_task, "task2", *places))
            curves = json.loads((Path(folder) / "metrics_task2.json").read_bytes())["curves"]
            epoch = alone(homework_epoch, data).seconds
            times["task2.py", HOMEWORK].append(len(curves["loss"]) * epoch)
            times[EPOCH, HOMEWORK].append(epoch)
            train = log_mels_of_train(data, Path(folder) / "cache")
            for size, precision in EPOCHS:
                seconds = epoch_of_task2(train, size, precision)
                times[EPOCH, f"{size}, {precision}"].append(seconds)
            for run in (FIRST, AGAIN):
                seconds = seconds_of(run_task, "task2_baseline", *places)
                times["task2_baseline.py", run].append(seconds)
    rows = [["task", "run", "s", "from, to"]]
    for (task, run), values in times.items():
        rows.append([task, run, brief(statistics.median(values)), spread(values)])
    ratios = []
    for task, slow, fast in RATIOS:
        pairs = zip(times[task, slow], times[task, fast], strict=True)
        ratios.append(Ratio(f"{task}: {slow} / {fast}", [a / b for a, b in pairs]))
    return Measured(
        "Whole tasks",
        measured.command_of("benchmarks.tasks", settings),
        f"Default settings, imports included, median of {settings.rounds} rounds. The homework of "
        "task 2 is one epoch, multiplied by the number of ours. Neither homework validates or is "
        "trained again on train and val, as our tasks do.",
        rows,
        ratios,
    )


if __name__ == "__main__":
    measured.run(Settings, measure, __doc__)
