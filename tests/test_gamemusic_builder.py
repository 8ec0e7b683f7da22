"""The corpus gamemusic is built from Debian packages: whole or not at all, as published."""

import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import GAMEMUSIC, RATE, Call
from numpy.typing import NDArray

from artistid.foundation.errors import UserError
from benchmarks import gamemusic as builder

SOURCE_RATE = 44_100
LONG_S, SHORT_S = 70, 5
TERMS = b"by all means"


def warble(seconds: float, rate: int, pitch_hz: float) -> NDArray[np.float64]:
    """A rising tone, so that no two moments are alike; the same at every rate."""
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * (pitch_hz * time + 5 * time**2))


def ogg(seconds: int, pitch_hz: float) -> bytes:
    """A song in two channels, one of them silent."""
    song = warble(seconds, SOURCE_RATE, pitch_hz)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", SOURCE_RATE, channels=2, format="OGG") as sound:
        for part in np.array_split(song, seconds):  # libsndfile crashes on long blocks
            sound.write(np.stack([part, 0 * part], axis=1))
    return file.getvalue()


def write_deb(path: Path, files: dict[str, bytes], compression: str) -> None:
    """A Debian package as in deb(5), with an odd number of bytes before its data."""
    tar_file = io.BytesIO()
    with tarfile.open(fileobj=tar_file, mode=f"w:{compression}") as tar:
        for name, content in {"./usr/share/other.ogg": b"no song", **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar": tar_file.getvalue()}
    deb = b"!<arch>\n"
    for name, content in parts.items():
        deb += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        deb += content + b"\n" * (len(content) % 2)
    path.write_bytes(deb)


def write_small_debs(folder: Path) -> list[dict[str, Any]]:
    """Two packages, one with its song in a zip file, and their table."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("music/Long-One.ogg", ogg(LONG_S, 200))
        archive.writestr("music/unwanted.ogg", b"no song")
    contents = {
        "plain-music": ({"./usr/share/plain/sub/short.ogg": ogg(SHORT_S, 400)}, "gz"),
        "zip-music": ({"./usr/share/zip/0music.pk3": zipped.getvalue()}, "xz"),
    }
    songs = [
        {"file": "sub/short.ogg", "artist": "Ann", "split": "test", "number": 1},
        {"file": "music/Long-One.ogg", "artist": "Bob", "split": "train"},
    ]
    folders = ["usr/share/plain", "usr/share/zip/0music.pk3"]
    table = []
    for (name, (files, compression)), song, inside in zip(
        contents.items(), songs, folders, strict=True
    ):
        path = folder / f"{name}_1%3a2-3_all.deb"
        write_deb(path, {**files, f"./usr/share/doc/{name}/copyright": TERMS}, compression)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entry = {"name": name, "version": "1:2-3", "size": path.stat().st_size, "sha256": digest}
        table.append({**entry, "album": name[:-6], "folder": inside, "songs": [song]})
    return table


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with packages and their table."""
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "table.json").write_text(json.dumps(write_small_debs(folder)))
    return folder


@pytest.fixture
def mirror(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for apt-get that serves `small`, and half a file for any other package."""
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1" = download ] && cp "{small}/${{2%=1:2-3}}"_*.deb . && exit\n'
        'echo half > "${2%=*}_half.deb"\necho "E: Version not found" >&2\nexit 100\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(builder, "TABLE", small / "table.json")
    return small


@pytest.fixture
def no_apt_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


# --- the corpus -------------------------------------------------------------------------------


def read(path: Path) -> NDArray[np.float64]:
    samples, rate = soundfile.read(path)
    assert (rate, samples.ndim) == (RATE, 1)
    return samples


@pytest.mark.usefixtures("mirror")
def test_the_middle_of_each_song_in_the_course_layout(call: Call, tmp_path: Path) -> None:
    status, printed, errors = call(builder, "new/corpus", "--jobs", 1)
    assert (status, errors) == (0, "")
    folder = tmp_path / "new" / "corpus"
    assert printed == f"{folder}: 2 songs by 2 artists\n"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == [
        "artist20/test/001.mp3",
        "artist20/train.json",
        "artist20/train_val/Bob/zip/Long_One.mp3",
        "artist20/val.json",
        "copyright/plain-music.txt",
        "copyright/zip-music.txt",
        "test_ans.json",
    ]
    train = json.loads((folder / "artist20/train.json").read_text())
    assert train == ["./train_val/Bob/zip/Long_One.mp3"]
    assert json.loads((folder / "artist20/val.json").read_text()) == []
    assert json.loads((folder / "test_ans.json").read_text()) == ["Ann"]
    long = read(folder / "artist20/train_val/Bob/zip/Long_One.mp3")
    short = read(folder / "artist20/test/001.mp3")
    for built, seconds, pitch_hz, start_s in ((long, LONG_S, 200, 5), (short, SHORT_S, 400, 0)):
        wanted = warble(seconds, RATE, pitch_hz)[start_s * RATE :][: 60 * RATE]
        assert len(built) == len(wanted)
        for part in (slice(0, RATE), slice(-RATE, None), slice(None)):
            assert np.corrcoef(built[part], wanted[part])[0, 1] > 0.995
        source, rate = soundfile.read(io.BytesIO(ogg(seconds, pitch_hz)))
        mono = source[start_s * rate :][: 60 * rate] @ [0.5**0.5, 0.5**0.5]  # as FFmpeg mixes
        # at 32 kbit/s LAME lowers the level by 5%, in FFmpeg as well
        assert built.std() == pytest.approx(0.95 * mono.std(), rel=0.01)
    assert (folder / "artist20/train_val/Bob/zip/Long_One.mp3").stat().st_size == pytest.approx(
        60 * 32_000 / 8, rel=0.005
    )
    assert (folder / "copyright/zip-music.txt").read_bytes() == TERMS
    assert [p.name for p in folder.parent.iterdir()] == ["corpus"]


@pytest.mark.usefixtures("mirror")
def test_the_corpus_is_there_whole_or_not_at_all(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = builder.write_mp3, []

    def stop(path: Path, samples: NDArray[np.float32]) -> None:
        if written:
            raise KeyboardInterrupt
        write(path, samples)
        written.append(path)

    monkeypatch.setattr(builder, "write_mp3", stop)
    before = set(tmp_path.iterdir())
    status, *_ = call(builder, "corpus", "--jobs", 1)
    assert (status, len(written)) == (130, 1)
    assert set(tmp_path.iterdir()) == before


# --- packages --------------------------------------------------------------------------------


def test_packages_are_downloaded_once_and_kept_in_debs(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debs = tmp_path / "debs"
    debs.mkdir()
    (debs / "plain-music_1%3a2-3_all.deb").write_bytes(
        (mirror / "plain-music_1%3a2-3_all.deb").read_bytes()
    )
    packages = builder.read_table(builder.TABLE)
    builder.unpack_all(packages, debs, tmp_path / "one")
    assert sorted(path.name for path in debs.iterdir()) == [
        "plain-music_1%3a2-3_all.deb",
        "zip-music_1%3a2-3_all.deb",
    ]
    monkeypatch.setenv("PATH", "nothing")
    builder.unpack_all(packages, debs, tmp_path / "two")


@pytest.mark.usefixtures("mirror", "no_apt_get")
def test_without_apt_get_it_lists_the_packages_to_download(call: Call, tmp_path: Path) -> None:
    (tmp_path / "zip-music_9_all.deb").touch()
    status, _, errors = call(builder, "corpus", "--debs", tmp_path)
    assert status == 2
    assert errors == (
        "benchmarks.gamemusic.py: no apt-get to download Debian packages with. Download "
        "plain-music=1:2-3 from a Debian 12 mirror or Debian's snapshot archive into a folder, "
        "and pass it as --debs\n"
    )
    assert not (tmp_path / "corpus").exists()


@pytest.mark.usefixtures("mirror")
def test_errors_of_apt_get_are_passed_on(
    call: Call, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table.json").write_text(
        (small / "table.json").read_text().replace("1:2-3", "1:2-4")
    )
    monkeypatch.setattr(builder, "TABLE", tmp_path / "table.json")
    status, _, errors = call(builder, "corpus", "--debs", "debs")
    assert status == 2
    assert "apt-get cannot download plain-music=1:2-4 (E: Version not found). Download" in errors
    assert errors.count("\n") == 1
    assert list((tmp_path / "debs").iterdir()) == []


@pytest.mark.usefixtures("mirror")
def test_another_version_is_refused(call: Call, small: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain-music_2_all.deb"
    path.write_bytes((small / "zip-music_1%3a2-3_all.deb").read_bytes())
    status, _, errors = call(builder, "corpus", "--debs", tmp_path)
    assert status == 2
    assert f"{path}: SHA-256 differs from that of plain-music=1:2-3. Delete it" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "corpus").exists()


@pytest.mark.usefixtures("mirror", "no_apt_get")
def test_an_existing_folder_is_left_alone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    status, _, errors = call(builder, "corpus")
    assert (status, errors.count("\n")) == (2, 1)
    assert "corpus already exists: delete it or name another folder" in errors
    status, _, errors = call(builder, "other", "--jobs", 0)
    assert status == 2
    assert "--jobs 0: use a number of processes" in errors


# --- the table -------------------------------------------------------------------------------

SIZES = {  # train, val, test
    "crystan": (8, 3, 3),
    "daniel_roux": (6, 2, 2),
    "doug_kaufman": (4, 1, 1),
    "emilio_de_paz": (8, 3, 3),
    "emxx52": (5, 1, 1),
    "marine": (4, 2, 2),
    "mattias_westlund": (4, 2, 2),
    "maxstack": (8, 3, 3),
    "neoncorridor": (7, 2, 2),
    "psymong": (8, 3, 3),
    "wansti": (8, 2, 2),
}


def test_the_table_has_every_song_once() -> None:
    packages = builder.read_table(builder.TABLE)
    songs = [song for package in packages for song in package.songs]
    sizes = Counter((song.artist, song.split) for song in songs)
    assert {
        artist: tuple(sizes[artist, split] for split in ("train", "val", "test"))
        for artist, _ in sizes
    } == SIZES
    assert len(songs) == len({song.path for song in songs}) == 118
    assert len({(p.name, song.file) for p in packages for song in p.songs}) == 118
    tests = sorted(song.path for song in songs if song.split == "test")
    assert tests == [f"test/{number:03d}.mp3" for number in range(1, 25)]
    assert len({package.name for package in packages}) == 7
    assert all(re.fullmatch("[0-9a-f]{64}", package.sha256) for package in packages)
    assert all(song.file.endswith(".ogg") and song.artist.islower() for song in songs)


def test_the_lists_are_those_of_the_published_results(gamemusic: Path) -> None:
    for name, entries in builder.lists(builder.read_table(builder.TABLE)).items():
        assert entries == json.loads((gamemusic / name).read_text()), name


# --- the real packages -----------------------------------------------------------------------

MIN_CORRELATION = 0.95  # between two encoders; observed: 0.973 to 0.9999
MAX_SHIFT = RATE // 20  # 50 ms: FFmpeg cut some songs slightly elsewhere


@pytest.mark.slow
def test_debian_packages_give_the_published_audio(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the smallest of seven packages, 36 MB, to keep the download short."""
    packages = sorted(builder.read_table(builder.TABLE), key=lambda package: package.size)[:1]
    monkeypatch.setattr(builder, "read_table", lambda _: packages)
    debs = tmp_path / "debs"
    try:
        for package in packages:
            builder.fetch(package, debs)
    except (UserError, FileNotFoundError) as error:
        pytest.skip(f"no Debian 12 packages to download here: {error}")
    folder = tmp_path / "gamemusic"
    status, _, errors = call(builder, folder, "--debs", debs)
    assert status == 0, errors
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.mp3"))
    assert len(paths) == 14
    if not GAMEMUSIC.is_dir():
        pytest.skip(f"built, but not compared: no real music in {GAMEMUSIC}")
    for path in paths:
        ours, theirs = read(folder / path), read(GAMEMUSIC / path)
        assert abs(len(ours) - len(theirs)) < 0.1 * RATE, path
        assert correlation(ours, theirs) > MIN_CORRELATION, path
        assert ours.std() / theirs.std() == pytest.approx(1, abs=0.01), path


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of two signals of nearly equal length, at their best alignment within MAX_SHIFT."""
    size = len(a) + len(b)
    products = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    near = np.concatenate([products[-MAX_SHIFT:], products[: MAX_SHIFT + 1]])
    return float(near.max() / np.linalg.norm(a) / np.linalg.norm(b))
