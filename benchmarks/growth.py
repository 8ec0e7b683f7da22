"""Time and peak memory by the number of songs: time should grow linearly, memory hardly at all.

    python3 -m benchmarks.growth [--songs 100 1000 10000]

Songs are 2 s of noise, so the cost per song shows rather than the cost per second. Every stage of
tasks 1 and 2 runs in a new process: from files to the cache, from the cache to what a model is
trained on (rows; an epoch of crops), and predictions by LDA and by an untrained network.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from artistid.audio import features, melspec
from artistid.audio.cache import Entries
from artistid.audio.extraction import Recipe, extract, require_usable
from artistid.audio.features import FeatureSettings, SongLoader
from artistid.audio.melspec import LOG_MEL, MelSettings
from artistid.dataset.corpus import Track
from artistid.foundation import progress
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers
from artistid.metrics import CVScores
from artistid.models.card import ModelCard
from artistid.models.classical import Family, SongClassifier, families
from artistid.models.crops import open_songs, random_crops
from artistid.models.devices import Devices
from artistid.models.grid_search import Candidate, GridSearch, SearchSettings, Trial, known_by
from artistid.models.networks import MelCNN, MelCNNSettings
from artistid.models.training import initialised, song_outputs
from benchmarks import measured
from benchmarks.measured import Cost, Measured, Ratio, alone, brief

SAMPLE_RATE, SONG_S = 16_000, 2.0
CROP_FRAMES = round(SONG_S / 2 * MelSettings().frames_per_second)
BATCH_SIZE = 32
ARTISTS = [f"artist_{number:02}" for number in range(20)]


@dataclass(frozen=True)
class Settings:
    songs: tuple[int, ...] = (100, 1_000, 10_000)
    """Numbers of songs, two at least."""

    def __post_init__(self) -> None:
        if len(self.songs) < 2:
            raise UserError("--songs: name two numbers at least")


def make_songs(folder: Path, n_songs: int) -> list[Track]:
    """Different songs by the artists in turn."""
    draw = np.random.default_rng(0)
    tracks = []
    for number in progress.bar(range(n_songs), desc="songs", unit="song", leave=False):
        path = folder / f"{number}.wav"
        noise = draw.standard_normal(round(SONG_S * SAMPLE_RATE), dtype=np.float32)
        soundfile.write(path, 0.1 * noise, SAMPLE_RATE)
        tracks.append(Track(path, path.name, "train", ARTISTS[number % len(ARTISTS)]))
    return tracks


# --- the stages --------------------------------------------------------------------------------


def extraction(tracks: list[Track], recipe: Recipe, cache: Path) -> None:
    require_usable(tracks, extract(tracks, recipe, cache, Workers()).refused)


def rows_to_train_on(tracks: list[Track], load: SongLoader) -> None:
    _search(load).training_songs(tracks)


def lda_predictions(tracks: list[Track], load: SongLoader) -> None:
    search = _search(load)
    trained_on = tracks[:100]
    songs, labels = search.training_songs(trained_on)
    lda = SongClassifier().fit(songs, labels)
    family, point = Family("LDA", lda, []), Candidate({}, CVScores(0, 0))
    Trial(search, family, point, lda, known_by(lda, songs, trained_on)).answers(tracks)


def _search(load: SongLoader) -> GridSearch:
    card = ModelCard("task1", tuple(ARTISTS), asdict(FeatureSettings()))
    return GridSearch(card, families, load, SearchSettings(), 0, Workers())


def epoch_of_crops(entries: list[Entries]) -> None:
    songs = open_songs(entries, LOG_MEL, Devices("auto", "auto").device)
    crops = random_crops(songs.lengths, CROP_FRAMES, np.random.default_rng(0))
    for first in range(0, len(crops), BATCH_SIZE):
        songs.read(crops.take(slice(first, first + BATCH_SIZE)), CROP_FRAMES)


def network_predictions(entries: list[Entries]) -> None:
    devices = Devices("auto", "auto")
    songs = open_songs(entries, LOG_MEL, devices.device)
    widths = MelCNNSettings(len(ARTISTS), MelSettings().n_mels)
    network = initialised(MelCNN, widths, 0, devices).to(devices.device)
    song_outputs(network, songs, CROP_FRAMES, widths, BATCH_SIZE, devices)


def costs(tracks: list[Track], folder: Path) -> Iterator[tuple[str, Cost]]:
    """Each stage and what it costs."""
    cache, workers = folder / "cache", Workers()
    recipes = {
        "task 1": features.recipe(FeatureSettings()),
        "task 2": melspec.recipe(MelSettings()),
    }
    for task, recipe in recipes.items():
        yield f"{task}: extraction", alone(extraction, tracks, recipe, cache)
        yield f"{task}: again, cached", alone(extraction, tracks, recipe, cache)
    rows, log_mels = (
        {track: (entry,) for track, entry in extract(tracks, r, cache, workers).entries.items()}
        for r in recipes.values()
    )
    load, entries = SongLoader(rows), list(log_mels.values())
    yield "task 1: rows to train on", alone(rows_to_train_on, tracks, load)
    yield "task 1: prediction", alone(lda_predictions, tracks, load)
    yield "task 2: an epoch of crops", alone(epoch_of_crops, entries)
    yield "task 2: prediction", alone(network_predictions, entries)


# --- measuring ---------------------------------------------------------------------------------


def measure(settings: Settings) -> Measured:
    found: dict[str, list[Cost]] = {}
    for n_songs in settings.songs:
        with tempfile.TemporaryDirectory() as folder:
            for stage, cost in costs(make_songs(Path(folder), n_songs), Path(folder)):
                found.setdefault(stage, []).append(cost)
    return table(settings.songs, found)


def table(sizes: Sequence[int], found: dict[str, list[Cost]]) -> Measured:
    """`found` has each stage's costs, one per number of songs."""
    *_, fewer, most = sizes
    header = ["stage", *(f"{n:,} songs, s" for n in sizes)]
    header += [f"ms per song of {most:,}", *(f"{n:,} songs, MiB" for n in sizes)]
    rows, ratios = [header], []
    for stage, by_size in found.items():
        row = [stage, *(brief(cost.seconds) for cost in by_size)]
        row += [brief(1_000 * by_size[-1].seconds / most)]
        rows.append([*row, *(f"{cost.mib:,.0f}" for cost in by_size)])
        growth = by_size[-1].seconds / by_size[-2].seconds
        ratios.append(Ratio(f"{stage}: time of {most:,} songs / of {fewer:,}", [growth]))
    growths = [by_size[-1].mib / by_size[-2].mib for by_size in found.values()]
    ratios.append(Ratio(f"every stage: memory of {most:,} songs / of {fewer:,}", growths))
    return Measured(
        "Growth",
        f"python3 -m benchmarks.growth --songs {' '.join(map(str, sizes))}",
        f"Songs are {SONG_S:g} s of noise. Each stage runs once, in a new process, with its "
        "libraries loaded beforehand. Memory is the peak of the process or of its largest worker, "
        "libraries included.",
        rows,
        ratios,
    )


if __name__ == "__main__":
    measured.run(Settings, measure, __doc__)
