"""The published weights: their names and digests, where to look for them, how to download them.

Sizes and digests refer to REVISION of the hub repository minzwon/MusicFM.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from musicfm import hub
from musicfm.hub import HubFile

REPOSITORY = "minzwon/MusicFM"
REVISION = "4513b38bc25ad1d227b1980819b9691ba97f4d87"
DATA = Path(__file__).parent / "data"

Name = Literal["msd", "fma"]


@dataclass(frozen=True)
class Published:
    """A checkpoint: weights and the statistics that belong to them."""

    weights: HubFile
    stats: HubFile


PUBLISHED: dict[Name, Published] = {
    "msd": Published(
        HubFile(
            REPOSITORY,
            REVISION,
            "pretrained_msd.pt",
            1_316_802_088,
            "218b483a0256ddef736267425fabb166fd97008983696bb9270def464b47bded",
        ),
        HubFile(
            REPOSITORY,
            REVISION,
            "msd_stats.json",
            2_277,
            "c36c61ab10ca4d2e7fdfefc3fcc15205316bec276a06a47baa3641a62c546f22",
        ),
    ),
    "fma": Published(
        HubFile(
            REPOSITORY,
            REVISION,
            "pretrained_fma.pt",
            1_316_802_154,
            "68392eee13d34c2941b3761934abb6b1e67b2e9df498695bda2ea5c1087d4b96",
        ),
        HubFile(
            REPOSITORY,
            REVISION,
            "fma_stats.json",
            2_281,
            "5416e468018bae68c6231d4cbb2b11f0d11c04e6437881505ae427a3f8344904",
        ),
    ),
}
FILES = {file.name: file for pair in PUBLISHED.values() for file in (pair.weights, pair.stats)}


class CheckpointError(ValueError):
    """A damaged or wrong file; the message names it and says what to do."""


def find(name: Name) -> tuple[Path, Path] | None:
    """Weights and statistics, if both are in musicfm/data or both in the hub's local cache."""
    pair = PUBLISHED[name]
    in_cache = hub.cached(pair.weights)
    for folder in (DATA, in_cache.parent if in_cache else None):
        if folder and all((folder / file.name).is_file() for file in (pair.weights, pair.stats)):
            return folder / pair.weights.name, folder / pair.stats.name
    return None


def stats_beside(weights: Path) -> Path:
    """The statistics that belong to `weights`: X_stats.json beside pretrained_X.pt."""
    return weights.with_name(weights.stem.removeprefix("pretrained_") + "_stats.json")


def require_whole(path: Path) -> None:
    """Raise CheckpointError if `path` has the name of a published file, but is shorter."""
    published = FILES.get(path.name)
    size = path.stat().st_size
    if published and size < published.size:
        raise CheckpointError(
            f"{path}: truncated, {size:,} of {published.size:,} bytes; download it again "
            "(python3 -m musicfm download)"
        )


def known_as(digest: str) -> str | None:
    """Name of the published file with this SHA-256, if any."""
    return next((file.name for file in FILES.values() if file.sha256 == digest), None)


def download(name: Name, folder: Path = DATA) -> tuple[Path, Path]:
    """Download weights and statistics into `folder`, or the rest of them, and check their digests.
    Returns their paths. Raises DownloadError."""
    pair = PUBLISHED[name]
    return hub.fetch(pair.weights, folder), hub.fetch(pair.stats, folder)
