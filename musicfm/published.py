"""The published weights: which files there are, where they are found, and how to get them.

Sizes and digests are of the hub repository minzwon/MusicFM at REVISION.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

REPOSITORY = "minzwon/MusicFM"
REVISION = "4513b38bc25ad1d227b1980819b9691ba97f4d87"
DATA = Path(__file__).parent / "data"

Name = Literal["msd", "fma"]


@dataclass(frozen=True)
class PublishedFile:
    name: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Published:
    """Weights and the statistics that belong to them."""

    weights: PublishedFile
    stats: PublishedFile


PUBLISHED: dict[Name, Published] = {
    "msd": Published(
        PublishedFile(
            "pretrained_msd.pt",
            1_316_802_088,
            "218b483a0256ddef736267425fabb166fd97008983696bb9270def464b47bded",
        ),
        PublishedFile(
            "msd_stats.json",
            2_277,
            "c36c61ab10ca4d2e7fdfefc3fcc15205316bec276a06a47baa3641a62c546f22",
        ),
    ),
    "fma": Published(
        PublishedFile(
            "pretrained_fma.pt",
            1_316_802_154,
            "68392eee13d34c2941b3761934abb6b1e67b2e9df498695bda2ea5c1087d4b96",
        ),
        PublishedFile(
            "fma_stats.json",
            2_281,
            "5416e468018bae68c6231d4cbb2b11f0d11c04e6437881505ae427a3f8344904",
        ),
    ),
}
FILES = {file.name: file for pair in PUBLISHED.values() for file in (pair.weights, pair.stats)}


class CheckpointError(ValueError):
    """A file that is not what it should be; the message names it, and what to do."""


class DownloadError(Exception):
    """What stood in the way of a download, and what to do."""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(name: Name) -> tuple[Path, Path] | None:
    """Weights and statistics, where both are in musicfm/data or in the hub's local cache."""
    pair = PUBLISHED[name]
    for folder in (DATA, _hub_folder(pair.weights.name)):
        if folder and all((folder / file.name).is_file() for file in (pair.weights, pair.stats)):
            return folder / pair.weights.name, folder / pair.stats.name
    return None


def _hub_folder(file: str) -> Path | None:
    found = huggingface_hub.try_to_load_from_cache(REPOSITORY, file, revision=REVISION)
    return Path(found).parent if isinstance(found, str) else None


def stats_beside(weights: Path) -> Path:
    """Where the statistics of a file of weights are: pretrained_X.pt has X_stats.json beside it."""
    return weights.with_name(weights.stem.removeprefix("pretrained_") + "_stats.json")


def require_whole(path: Path) -> None:
    """Raise CheckpointError for a published file that is shorter than it should be."""
    published = FILES.get(path.name)
    size = path.stat().st_size
    if published and size < published.size:
        raise CheckpointError(
            f"{path}: truncated, {size:,} of {published.size:,} bytes; download it again "
            "(python3 -m musicfm download)"
        )


def known_as(digest: str) -> str | None:
    """Name of the published file with that SHA-256."""
    return next((file.name for file in FILES.values() if file.sha256 == digest), None)


def download(name: Name, folder: Path = DATA) -> tuple[Path, Path]:
    """Fetch weights and statistics into `folder`, going on where an earlier download stopped, and
    check them. Raises DownloadError."""
    pair = PUBLISHED[name]
    weights, stats = (_fetch(file, folder) for file in (pair.weights, pair.stats))
    return weights, stats


def _fetch(file: PublishedFile, folder: Path) -> Path:
    path = folder / file.name
    if _is_good(path, file):
        return path
    path.unlink(missing_ok=True)
    huggingface_hub.logging.set_verbosity_error()  # it counts its attempts
    try:
        huggingface_hub.hf_hub_download(REPOSITORY, file.name, revision=REVISION, local_dir=folder)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DownloadError(
            f"{file.name} can't be downloaded ({type(error).__name__}): get it where there is a "
            f"network, from the hub repository {REPOSITORY}, and its stats, and put both into "
            f"{folder}"
        ) from error
    if not _is_good(path, file):
        raise DownloadError(
            f"{path}: not the published file ({path.stat().st_size:,} of {file.size:,} bytes, or "
            "other content); delete it and download it again"
        )
    return path


def _is_good(path: Path, file: PublishedFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256(path) == file.sha256
