"""Task 1's grids by repeated stratified 5-fold cross-validation over train and val together.

    python3 -m benchmarks.cross_validation --data CORPUS [--repeats 3]

A check on the choices made on train alone, with more songs and so less noise; test is not touched.
Each family shows its best grid point, which is a little optimistic, and the spread over repeats.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from sklearn.model_selection import StratifiedKFold

from artistid import classical, features
from artistid.cli import CommonSettings
from artistid.dataset import read_corpus
from artistid.extraction import extract
from artistid.report import table


@dataclass(frozen=True)
class Settings(CommonSettings):
    repeats: int = 3
    """Times that the 5 folds are drawn anew."""
    excerpt_seconds: float = 5.0
    """Length of the excerpts that are classified, in seconds."""
    max_excerpts: int = 10_000
    """Excerpts to train on, in all."""


def main(settings: Settings) -> None:
    corpus = read_corpus(settings.data or Path("hw1"), settings.seed, settings)
    tracks = corpus.split("train") + corpus.split("val")
    recipe = features.recipe(features.FeatureSettings(excerpt_s=settings.excerpt_seconds))
    extraction = extract(tracks, recipe, settings.cache, settings.workers)
    extraction.require_all()
    songs, labels = classical.training_songs(
        tracks, corpus.artists, features.SongLoader(extraction.entries), settings.max_excerpts
    )
    results: dict[str, list[list[classical.Candidate]]] = {}
    for repeat in range(settings.repeats):
        split = StratifiedKFold(5, shuffle=True, random_state=settings.seed + repeat)
        folds = classical.Folds(list(split.split(labels, labels)), "")
        for family in classical.families_for(songs, folds, settings.seed):
            candidates = classical.cross_validate(family, songs, labels, folds, settings.workers)
            results.setdefault(family.name, []).append(candidates)
    rows = [["model", "top-1", "range", "top-3", "range", "settings"]]
    for name, by_repeat in results.items():
        merits = np.mean([[c.merit for c in candidates] for candidates in by_repeat], axis=0)
        best = [candidates[int(np.argmax(merits))] for candidates in by_repeat]
        rows.append([name, *_words([c.top1 for c in best]), *_words([c.top3 for c in best])])
        rows[-1].append(classical.describe(best[0].parameters))
    print(f"{corpus.name}: {len(tracks)} songs of train and val, 5 folds x {settings.repeats}")
    print(table(rows))


def _words(values: list[float]) -> list[str]:
    return [f"{np.mean(values):.3f}", f"{min(values):.3f}-{max(values):.3f}"]


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
