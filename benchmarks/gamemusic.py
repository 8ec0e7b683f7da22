"""Build the corpus `gamemusic`, source of the README's results, from Debian 12 packages.

    python3 -m benchmarks.gamemusic FOLDER [--debs DIR]

118 tracks by 11 composers in the course's layout: the middle 60 s of each (or all of a shorter one)
as mono mp3, 16 kHz, 32 kbit/s. `gamemusic.json` lists the packages (740 MB), pinned by SHA-256, and
the split of their tracks. The published results come from audio encoded by FFmpeg; this build
sounds the same, and its scores differ slightly. Needs 1.3 GB next to FOLDER while it works.

Licences are in the packages' copyright files, copied to FOLDER/copyright: GPL-2+, GPL-3+,
CC-BY-SA-3.0, public domain, and Drascula's own, under which modified versions must say so.
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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Annotated

import soxr
from tyro.conf import Positional, arg

from artistid import cli
from artistid.audio.decode import decode
from artistid.audio.source import to_mono
from artistid.dataset.demo import RATE, write_mp3
from artistid.foundation import parallel, progress
from artistid.foundation.errors import UserError
from artistid.foundation.files import folder_beside, write_json
from artistid.foundation.parallel import Workers

TABLE = Path(__file__).with_suffix(".json")
EXCERPT_S = 60
AR_MAGIC = b"!<arch>\n"
AR_HEADER_BYTES = 60  # the name is in bytes 0 to 15, the size in 48 to 57
DOWNMIX = 2**0.5  # FFmpeg weighs each channel by 1 / sqrt(2), our down-mix by 1 / 2

# MPEG-2 layer III, mono, 16 kHz: a frame is 36 ms
FRAME = 576  # samples; also LAME's delay before the first sample
FRAME_BYTES = 144  # at 32 kbit/s
INFO_HEADER, INFO_BYTES = bytes.fromhex("fff358c4"), 180  # of a frame at 40 kbit/s
INFO_SIDE = bytes(9)  # side information of an empty frame


@dataclass(frozen=True)
class Settings:
    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Where to build the corpus; must not exist yet."""
    debs: Annotated[
        Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: a temporary folder)")
    ] = None
    """Folder with the packages; missing ones are downloaded to it and kept."""
    quiet: bool = False
    """Show no progress bars."""
    workers: Workers = Workers()

    def __post_init__(self) -> None:
        if self.folder.exists():
            raise UserError(f"{self.folder} already exists: delete it or name another folder")


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
    folder: str  # of all its songs; may lead into a zip file
    songs: tuple[Song, ...]

    @property
    def pinned(self) -> str:
        return f"{self.name}={self.version}"  # apt-get's notation

    def unpacked(self, song: Song) -> str:
        """Where a song lies in the folder of unpacked files."""
        return f"{self.name}/{song.file}"


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
    """Test songs are named by `number`, so that their names do not give the artist away."""
    if split == "test":
        return Song(file, artist, split, f"test/{number:03d}.mp3")
    title = re.sub(r"\W", "_", PurePosixPath(file).stem)
    return Song(file, artist, split, f"train_val/{artist}/{album}/{title}.mp3")


# --- packages --------------------------------------------------------------------------------


def unpack_all(packages: Sequence[Package], debs: Path, place: Path) -> None:
    """Write songs and licences of `packages` to `place`, after downloading those not in `debs`."""
    missing = [package for package in packages if not _named(package, debs)]
    if missing and not shutil.which("apt-get"):
        names = ", ".join(package.pinned for package in missing)
        raise UserError(f"no apt-get to download Debian packages with. {_remedy(names)}")
    size = sum(package.size for package in packages)
    with progress.bar(total=size, desc="packages", unit="B", unit_scale=True) as bar:
        for package in packages:
            if package in missing:
                fetch(package, debs)
            unpack(find(package, debs), package, place)
            bar.update(package.size)


def _remedy(names: str) -> str:
    return (
        f"Download {names} from a Debian 12 mirror or Debian's snapshot archive into a folder, "
        "and pass it as --debs"
    )


def _named(package: Package, debs: Path) -> list[Path]:
    return sorted(debs.glob(f"{package.name}_*.deb"))


def find(package: Package, debs: Path) -> Path:
    """The file of `package` in `debs`. Raises UserError if only other versions are there."""
    files = _named(package, debs)
    for path in files:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == package.sha256:
                return path
    raise UserError(
        f"{files[-1]}: SHA-256 differs from that of {package.pinned}. Delete it, or: "
        f"{_remedy(package.pinned)}"
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
            reason = (run.stderr.strip() or "no error message").splitlines()[-1]
            raise UserError(
                f"apt-get cannot download {package.pinned} ({reason}). {_remedy(package.pinned)}"
            )
        files[0].rename(debs / files[0].name)


def unpack(deb: Path, package: Package, place: Path) -> None:
    """Write songs and licence of `package` to `place`."""
    targets = {f"{package.folder}/{song.file}": package.unpacked(song) for song in package.songs}
    targets[f"usr/share/doc/{package.name}/copyright"] = f"copyright/{package.name}.txt"
    for name, content in _contents(deb):
        if name in targets:
            path = place / targets[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(content, file)


def _contents(deb: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file in a package, and in the zip files (.pk3) in it.

    A package is an ar archive that ends with a tar (deb(5)); only Debian has dpkg to read it.
    """
    with deb.open("rb") as file:
        file.seek(len(AR_MAGIC))
        while not (header := file.read(AR_HEADER_BYTES)).startswith(b"data.tar"):
            size = int(header[48:58])
            file.seek(size + size % 2, os.SEEK_CUR)
        with tarfile.open(fileobj=file, mode="r|*") as tar:
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
                        with archive.open(inner) as unzipped:
                            yield f"{name}/{inner}", unzipped


# --- corpus ----------------------------------------------------------------------------------


def make_corpus(packages: Sequence[Package], place: Path, folder: Path, workers: Workers) -> None:
    """Write audio, lists, answers and licences into `folder`, from what `place` holds unpacked."""
    root = folder / "artist20"
    places = [
        (place / package.unpacked(song), root / song.path)
        for package in packages
        for song in package.songs
    ]
    for _ in parallel.run(
        convert, places, workers=workers, label="songs", unit="song", needs=[place]
    ):
        pass
    for name, entries in lists(packages).items():
        write_json(folder / name, entries)
    (place / "copyright").rename(folder / "copyright")


def lists(packages: Sequence[Package]) -> dict[str, list[str]]:
    """File name -> entries, of the corpus' JSON files: train, val and answers."""
    songs = sorted(
        (song for package in packages for song in package.songs), key=lambda song: song.path
    )
    return {
        "artist20/train.json": [f"./{song.path}" for song in songs if song.split == "train"],
        "artist20/val.json": [f"./{song.path}" for song in songs if song.split == "val"],
        "test_ans.json": [song.artist for song in songs if song.split == "test"],
    }


def convert(places: tuple[Path, Path]) -> None:
    """Encode the middle EXCERPT_S of a song, or all of a shorter one."""
    source, target = places
    audio = decode(source, to_mono)
    length = EXCERPT_S * audio.sample_rate
    start = max(0, (len(audio.samples) - length) // 2)
    excerpt = soxr.resample(audio.samples[start : start + length], audio.sample_rate, RATE)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_mp3(target, DOWNMIX * excerpt)
    mp3 = target.read_bytes()
    target.write_bytes(info_frame(len(excerpt), len(mp3)) + mp3)


def info_frame(n_samples: int, n_bytes: int) -> bytes:
    """A first frame that says where the samples begin and end (Xing's header, LAME's extension).

    LAME writes it only if the frame has room for all of it. Without it decoders start with 69 ms
    of silence, which the original corpus does not have.
    """
    n_frames = n_bytes // FRAME_BYTES
    padding = n_frames * FRAME - FRAME - n_samples
    info = INFO_HEADER + INFO_SIDE + b"Info" + (0b11).to_bytes(4)  # frames and bytes follow
    info += n_frames.to_bytes(4) + (INFO_BYTES + n_bytes).to_bytes(4)
    info += b"LAME3.100" + bytes(12)  # no replay gain etc.
    info += (FRAME << 12 | padding).to_bytes(3)
    return info.ljust(INFO_BYTES, b"\0")


if __name__ == "__main__":
    cli.start(Settings, main, __doc__, after_interrupt="with --debs, downloaded packages are kept")
