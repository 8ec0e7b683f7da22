"""Read, check and split a corpus, before any audio is decoded.

Two layouts are supported: the course's, and a plain library `<artist>/<album>/<track>`.
"""

from pathlib import Path

from artistid.dataset.corpus import Corpus, CorpusError
from artistid.dataset.course import read_course
from artistid.dataset.library import LibrarySettings, read_library
from artistid.foundation.errors import printable

_DEFAULTS = LibrarySettings()


def read_corpus(folder: Path, seed: int = 0, settings: LibrarySettings = _DEFAULTS) -> Corpus:
    """The corpus in `folder`, which holds `artist20/`, or is that folder, or is a plain library.

    `settings` and `seed`, which draws the split, apply to libraries only.
    Raises CorpusError with every problem found.
    """
    if not folder.is_dir():
        raise CorpusError(f"{printable(folder)}: no such folder; name one with --data")
    if (folder / "artist20").exists():  # no library, whatever else is there
        return read_course(folder / "artist20")
    if any((folder / name).exists() for name in ("train.json", "val.json", "train_val")):
        return read_course(folder)
    return read_library(folder, settings, seed)
