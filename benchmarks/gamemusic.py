"""The corpus `gamemusic`, on which the README's figures are, from packages of Debian 12.

    python3 -m benchmarks.gamemusic FOLDER [--debs DIR]

118 songs by 11 composers in the course's layout: of each the middle 60 s, or all of a shorter one,
as mono mp3 of 16 kHz and 32 kbit/s. `gamemusic.json` has the packages (740 MB), pinned by SHA-256,
and which song in them is in which split. What was measured was encoded by FFmpeg: it sounds the
same, and the scores differ a little. Until all is made, 1.3 GB are needed beside FOLDER.

The packages' copyright files have the terms: GPL-2+, GPL-3+, CC-BY-SA-3.0, public domain, and for
Drascula its own, by which modified versions must say so. They are put into FOLDER/copyright.
"""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, ClassVar

import numpy as np
import soxr
from numpy.typing import NDArray
from tyro.conf import Positional

from artistid import cli
from artistid.audio.decode import decode
from artistid.dataset.demo import RATE, write_mp3
from artistid.foundation import parallel, progress
from artistid.foundation.errors import UserError
from artistid.foundation.files import folder_beside, write_json
from artistid.foundation.parallel import Workers

TABLE = Path(__file__).with_suffix(".json")
CUT_S = 60
AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60  # bytes; the name is in the first 16, the size in 48 to 57
DOWNMIX = 2**0.5  # FFmpeg's: a channel's share of mono is 1 / sqrt(2), not 1 / 2

# MPEG-2 layer III, mono, 16 kHz: a frame is 36 ms
FRAME = 576  # samples; also how many LAME puts before the first one
FRAME_BYTES = 144  # at 32 kbit/s
INFO_HEADER, INFO_BYTES = bytes.fromhex("fff358c4"), 180  # of a frame at 40 kbit/s
INFO_SIDE = bytes(9)  # side information of an empty frame


@dataclass(frozen=True, kw_only=True)
class Settings(cli.SharedSettings):
    how_to_go_on: ClassVar[str] = "with --debs DIR it keeps the packages that it has fetched"

    folder: Annotated[Path, Positional]
    """Where to make the corpus; must not be there yet."""
    debs: Path | None = None
    """Folder of the packages; what is missing there is fetched into it and kept. Default: a
    temporary one."""

    def check(self) -> None:
        """Raise UserError for a value that can't be used."""
        super().check()
        if self.folder.exists():
            raise UserError(f"{self.folder} is there already: delete it or name another folder")


@dataclass(frozen=True)
class Song:
    file: str  # within the package's folder
    artist: str
    split: str
    path: str  # within artist20/


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    size: int  # bytes
    sha256: str
    folder: str  # of all its songs; may lead into a zip
    songs: tuple[Song, ...]

    @property
    def pinned(self) -> str:
        return f"{self.name}={self.version}"  # as apt-get wants it


def main(settings: Settings) -> None:
    packages = read_table(TABLE)
    folder = settings.folder.resolve()
    with folder_beside(folder) as temporary:
        debs, unpacked, made = (temporary / name for name in ("debs", "unpacked", "made"))
        unpack_all(packages, settings.debs or debs, unpacked)
        make_corpus(packages, unpacked, made, settings.workers)
        made.rename(folder)
    songs = [song for package in packages for song in package.songs]
    print(f"{folder}: {len(songs)} songs by {len({song.artist for song in songs})} artists")


def read_table(path: Path) -> list[Package]:
    packages = []
    for entry in json.loads(path.read_text(encoding="utf-8")):
        album = entry.pop("album")
        songs = tuple(_song(album, **song) for song in entry.pop("songs"))
        packages.append(Package(**entry, songs=songs))
    return packages


def _song(album: str, file: str, artist: str, split: str, number: int = 0) -> Song:
    """`number` is that of a test song, whose name says nothing."""
    if split == "test":
        return Song(file, artist, split, f"test/{number:03d}.mp3")
    title = re.sub(r"\W", "_", PurePosixPath(file).stem)
    return Song(file, artist, split, f"train_val/{artist}/{album}/{title}.mp3")


# --- packages --------------------------------------------------------------------------------


def unpack_all(packages: Sequence[Package], debs: Path, place: Path) -> None:
    """Write songs and terms of `packages` to `place`, fetching those that `debs` lacks."""
    missing = [package for package in packages if not _named(package, debs)]
    if missing and not shutil.which("apt-get"):
        names = ", ".join(package.pinned for package in missing)
        raise UserError(f"no apt-get here, which fetches packages of Debian. {_remedy(names)}")
    size = sum(package.size for package in packages)
    with progress.bar(total=size, desc="packages", unit="B", unit_scale=True) as bar:
        for package in packages:
            if package in missing:
                fetch(package, debs)
            unpack(find(package, debs), package, place)
            bar.update(package.size)


def _remedy(names: str) -> str:
    return (
        f"Download {names} from a mirror of Debian 12, or from Debian's snapshot archive, into a "
        "folder, and name it with --debs"
    )


def _named(package: Package, debs: Path) -> list[Path]:
    return sorted(debs.glob(f"{package.name}_*.deb"))


def find(package: Package, debs: Path) -> Path:
    """The file of `package` in `debs`. Raises UserError where all of its name are others."""
    files = _named(package, debs)
    for path in files:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == package.sha256:
                return path
    raise UserError(
        f"{files[-1]} is not the package that was measured, {package.pinned}: its SHA-256 differs. "
        f"Delete it, or: {_remedy(package.pinned)}"
    )


def fetch(package: Package, debs: Path) -> None:
    """Download `package` into `debs`, whole or not at all."""
    with folder_beside(debs / package.name) as place:
        run = subprocess.run(
            ["apt-get", "download", package.pinned],
            cwd=place,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
        )
        files = _named(package, place)
        if run.returncode or not files:
            reason = (run.stderr.strip() or "it says nothing").splitlines()[-1]
            raise UserError(
                f"apt-get can't fetch {package.pinned} ({reason}). {_remedy(package.pinned)}"
            )
        files[0].rename(debs / files[0].name)


def unpack(deb: Path, package: Package, place: Path) -> None:
    """Write songs and terms of `package` to `place`, under the names that `unpacked` gives."""
    targets = {f"{package.folder}/{song.file}": unpacked(package, song) for song in package.songs}
    targets[f"usr/share/doc/{package.name}/copyright"] = f"copyright/{package.name}.txt"
    for name, content in _contents(deb):
        if name in targets:
            path = place / targets[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(content, file)


def unpacked(package: Package, song: Song) -> str:
    return f"{package.name}/{song.file}"


def _contents(deb: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file in a package, and of those in its zips."""
    with _open_data(deb) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            name = member.name.removeprefix("./")
            if content is None:
                continue
            if not name.endswith(".pk3"):
                yield name, content
                continue
            with zipfile.ZipFile(io.BytesIO(content.read())) as archive:
                for inner in archive.namelist():
                    with archive.open(inner) as file:
                        yield f"{name}/{inner}", file


@contextmanager
def _open_data(deb: Path) -> Iterator[tarfile.TarFile]:
    """The files in a package, which is an ar archive with a tar at its end (deb(5)). Read without
    dpkg, which only Debian has."""
    with deb.open("rb") as file:
        file.seek(len(AR_MAGIC))
        while not (header := file.read(AR_HEADER)).startswith(b"data.tar"):
            size = int(header[48:58])
            file.seek(size + size % 2, os.SEEK_CUR)
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            yield tar


# --- corpus ----------------------------------------------------------------------------------


def make_corpus(packages: Sequence[Package], place: Path, folder: Path, workers: Workers) -> None:
    """Write audio, lists, answers and terms into `folder`, of what is unpacked in `place`."""
    root = folder / "artist20"
    places = [
        (place / unpacked(package, song), root / song.path)
        for package in packages
        for song in package.songs
    ]
    for _ in parallel.run(
        _convert, places, workers=workers, label="songs", unit="song", needs=[place]
    ):
        pass
    for name, entries in lists(packages).items():
        write_json(folder / name, entries)
    (place / "copyright").rename(folder / "copyright")


def lists(packages: Sequence[Package]) -> dict[str, list[str]]:
    """Train, val and answers: what the corpus has in its JSON files, by their names."""
    songs = sorted(
        (song for package in packages for song in package.songs), key=lambda song: song.path
    )
    return {
        "artist20/train.json": [f"./{song.path}" for song in songs if song.split == "train"],
        "artist20/val.json": [f"./{song.path}" for song in songs if song.split == "val"],
        "test_ans.json": [song.artist for song in songs if song.split == "test"],
    }


def _convert(places: tuple[Path, Path]) -> None:
    source, target = places
    audio = decode(source)
    samples = DOWNMIX * middle(audio.samples, audio.sample_rate)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_mp3(target, samples)
    mp3 = target.read_bytes()
    target.write_bytes(info_frame(len(samples), len(mp3)) + mp3)


def middle(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """The middle CUT_S of (samples,), at RATE; all of a shorter song."""
    length = CUT_S * sample_rate
    begin = max(0, (len(samples) - length) // 2)
    return soxr.resample(samples[begin : begin + length], sample_rate, RATE)


def info_frame(n_samples: int, n_bytes: int) -> bytes:
    """A first frame that says where the samples begin and end (Xing's header, LAME's extension).

    LAME writes it only where a frame has room for all of it. Without it decoders begin with 69 ms
    of silence, which no song of the measured corpus does.
    """
    n_frames = n_bytes // FRAME_BYTES
    padding = n_frames * FRAME - FRAME - n_samples
    info = INFO_HEADER + INFO_SIDE + b"Info" + (0b11).to_bytes(4)  # frames and bytes follow
    info += n_frames.to_bytes(4) + (INFO_BYTES + n_bytes).to_bytes(4)
    info += b"LAME3.100" + bytes(12)  # no replay gain and the like
    info += (FRAME << 12 | padding).to_bytes(3)
    return info.ljust(INFO_BYTES, b"\0")


if __name__ == "__main__":
    cli.start(Settings, main, __doc__)
