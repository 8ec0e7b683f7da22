"""Files of the Hugging Face hub: where they are, and how they get here whole."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.utils.tqdm import disable_progress_bars

ARRIVING = ".arriving"  # folder of downloads that are not complete, beside their targets


@dataclass(frozen=True)
class HubFile:
    repository: str
    revision: str
    name: str
    size: int  # bytes
    sha256: str


class DownloadError(Exception):
    """A failed download; the message says why and what to do."""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached(file: HubFile) -> Path | None:
    """Where the hub's own cache on this machine has the file, if it does."""
    found = huggingface_hub.try_to_load_from_cache(
        file.repository, file.name, revision=file.revision
    )
    return Path(found) if isinstance(found, str) else None


def fetch(file: HubFile, folder: Path, bars: bool = True) -> Path:
    """Download a file into `folder`, unless it is there. It gets its name once its digest is right.
    Returns its path. Raises DownloadError. Without `bars` nothing is shown."""
    path, arriving = folder / file.name, folder / ARRIVING
    if _is_good(path, file):
        return path
    huggingface_hub.logging.set_verbosity_error()  # no line for every attempt
    if not bars:
        disable_progress_bars()
    try:
        huggingface_hub.hf_hub_download(
            file.repository, file.name, revision=file.revision, local_dir=arriving
        )
    except Exception as error:  # also those of whichever HTTP library the hub's library uses
        strerror = error.strerror if isinstance(error, OSError) else None  # of a full disk
        reason = strerror or type(error).__name__
        raise DownloadError(
            f"{file.name} cannot be downloaded ({reason}); try again, or on a machine with a "
            f"network get it from the hub repository {file.repository} and copy it into {folder}"
        ) from error
    arrived = arriving / file.name
    if not _is_good(arrived, file):
        size = arrived.stat().st_size
        shutil.rmtree(arriving)
        raise DownloadError(
            f"{file.name}: what the hub sent differs from the published file ({size:,} of "
            f"{file.size:,} bytes) and was deleted; try again"
        )
    arrived.replace(path)
    shutil.rmtree(arriving)
    return path


def _is_good(path: Path, file: HubFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256(path) == file.sha256
