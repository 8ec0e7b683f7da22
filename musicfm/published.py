"""The published weights: their names and digests, where to look for them, how to download them.

Sizes and digests refer to REVISION of the hub repository minzwon/MusicFM.
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
    """A checkpoint: weights and the statistics that belong to them."""

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
    """A damaged or wrong file; the message names it and says what to do."""


class DownloadError(Exception):
    """A failed download; the message says why and what to do."""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(name: Name) -> tuple[Path, Path] | None:
    """Weights and statistics, if both are in musicfm/data or both in the hub's local cache."""
    pair = PUBLISHED[name]
    for folder in (DATA, _hub_folder(pair.weights.name)):
        if folder and all((folder / file.name).is_file() for file in (pair.weights, pair.stats)):
            return folder / pair.weights.name, folder / pair.stats.name
    return None


def _hub_folder(file: str) -> Path | None:
    found = huggingface_hub.try_to_load_from_cache(REPOSITORY, file, revision=REVISION)
    return Path(found).parent if isinstance(found, str) else None


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
    weights, stats = (_fetch(file, folder) for file in (pair.weights, pair.stats))
    return weights, stats


def _fetch(file: PublishedFile, folder: Path) -> Path:
    path = folder / file.name
    if _is_good(path, file):
        return path
    path.unlink(missing_ok=True)
    huggingface_hub.logging.set_verbosity_error()  # no line for every attempt
    try:
        huggingface_hub.hf_hub_download(REPOSITORY, file.name, revision=REVISION, local_dir=folder)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DownloadError(
            f"{file.name} cannot be downloaded ({type(error).__name__}): on a machine with a "
            f"network, get weights and statistics from the hub repository {REPOSITORY}, then copy "
            f"both into {folder}"
        ) from error
    if not _is_good(path, file):
        raise DownloadError(
            f"{path}: differs from the published file ({path.stat().st_size:,} of {file.size:,} "
            "bytes); delete it and download it again"
        )
    return path


def _is_good(path: Path, file: PublishedFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256(path) == file.sha256
