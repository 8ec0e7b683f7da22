"""Task 1's grids by repeated stratified 5-fold cross-validation over train and val together.

    python3 -m benchmarks.cross_validation [--data gamemusic] [--repeats 3]

A check on the choices made on train alone, with more songs and so less noise; test is not touched.
Each family shows its best grid point, which is a little optimistic, and the spread over repeats.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from artistid.audio.decode import features
from artistid.audio.extraction import extract
from artistid.dataset.read import read_corpus
from artistid.foundation.parallel import Workers
from artistid.inference import classical
from benchmarks.measured import CACHE, GAMEMUSIC, Measured

N_FOLDS = 5
MAX_EXCERPTS = 10_000  # to train on, task 1's default


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus."""
    repeats: int = 3
    """Times that the 5 folds are drawn anew."""


def folds_of(labels: NDArray[np.intp], repeats: int, albums: Any = None) -> list[classical.Folds]:
    kind: Any = StratifiedKFold if albums is None else StratifiedGroupKFold
    drawn = (kind(N_FOLDS, shuffle=True, random_state=seed) for seed in range(repeats))
    return [classical.Folds(list(split.split(labels, labels, albums)), "") for split in drawn]


def best_of(drawn: list[list[classical.Candidate]]) -> list[classical.Candidate]:
    """In each draw of the folds, the grid point that is best over all draws."""
    merits = np.mean([[candidate.merit for candidate in grid] for grid in drawn], axis=0)
    return [grid[int(merits.argmax())] for grid in drawn]


def measure(settings: Settings) -> Measured:
    corpus = read_corpus(settings.data)
    tracks = corpus.split("train") + corpus.split("val")
    recipe = features.recipe(features.FeatureSettings())
    extraction = extract(tracks, recipe, CACHE, Workers())
    extraction.require_all()
    songs, labels = classical.training_songs(
        tracks, corpus.artists, features.SongLoader(extraction.entries), MAX_EXCERPTS
    )
    results: dict[str, list[list[classical.Candidate]]] = {}
    for folds in folds_of(labels, settings.repeats):
        for family in classical.families_for(songs, folds, seed=0):
            candidates = classical.cross_validate(family, songs, labels, folds, Workers())
            results.setdefault(family.name, []).append(candidates)
    rows = [["model", "top-1", "from, to", "top-3", "from, to", "settings"]]
    for name, by_repeat in results.items():
        best = best_of(by_repeat)
        rows.append([name, *_words([c.top1 for c in best]), *_words([c.top3 for c in best])])
        rows[-1].append(classical.describe(best[0].parameters))
    return Measured(
        "Task 1's classifiers",
        f"python3 -m benchmarks.cross_validation --data {settings.data}",
        f"{len(tracks)} songs of train and val, 5 folds, drawn {settings.repeats} times.",
        rows,
    )


def _words(values: list[float]) -> list[str]:
    return [f"{np.mean(values):.3f}", f"{min(values):.3f} to {max(values):.3f}"]


if __name__ == "__main__":
    print(measure(tyro.cli(Settings, description=__doc__)))
