"""Read, check and split a corpus: which tracks there are, by whom, on which album, for what use.

Two layouts are known: the course's, and a plain library `<artist>/<album>/<track>`. All checks are
done before any audio is decoded, and all problems are reported at once.
"""

from pathlib import Path

from artistid.dataset.corpus import SPLITS, Corpus, CorpusError, Split, Track
from artistid.dataset.course import read_course
from artistid.dataset.finding import find_songs
from artistid.dataset.library import LibrarySettings, read_library, split_lists
from artistid.foundation.errors import printable

__all__ = [
    "SPLITS",
    "Corpus",
    "CorpusError",
    "LibrarySettings",
    "Split",
    "Track",
    "find_songs",
    "read_corpus",
    "split_lists",
]


_USUAL = LibrarySettings()


def read_corpus(folder: Path, seed: int = 0, settings: LibrarySettings = _USUAL) -> Corpus:
    """The corpus in `folder`; `settings` are for a plain library, of which `seed` draws the split.

    `folder` holds `artist20/`, or is that folder itself, or is a plain library.
    Raises CorpusError with every problem found.
    """
    if not folder.is_dir():
        raise CorpusError(f"{printable(folder)}: no such folder; name one with --data")
    for root in (folder / "artist20", folder):
        if any((root / name).exists() for name in ("train.json", "val.json", "train_val")):
            return read_course(root)
    return read_library(folder, settings, seed)
