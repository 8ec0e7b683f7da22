"""Libraries with broken files in them: everything usable is used, everything else is named, in
bounded memory and time."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import PROJECT, hum, write_audio
from numpy.random import Generator
from numpy.typing import NDArray
from test_ffmpeg import KINDS, encode

from artistid.audio import features
from artistid.audio.extraction import extract
from artistid.dataset.corpus import Track
from artistid.dataset.read import read_corpus
from artistid.foundation.files import TEMPORARY
from artistid.foundation.parallel import Workers


def save_as(path: Path, samples: NDArray[Any], rate: int = 16_000, **kind: str) -> None:
    """In the format of `kind`, whatever the suffix."""
    with path.open("wb") as file:
        soundfile.write(file, samples, rate, **{"format": "WAV", **kind})


def song(draw: Generator) -> NDArray[np.float32]:
    return (0.3 * draw.standard_normal(16_000)).astype("f4")


def nan_within(draw: Generator) -> NDArray[np.float32]:
    samples = song(draw)
    samples[5000] = np.nan
    return samples


def truncated(path: Path, draw: Generator) -> None:
    write_audio(path, np.tile(song(draw), 10))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bad_header(path: Path, draw: Generator) -> None:
    save_as(path, song(draw))
    path.write_bytes(b"RIFF\xff\xff\xff\xffJUNK" + path.read_bytes()[12:])


# how to make a file of each kind, and why it is refused, or "" if it can be used
BROKEN = {
    "zero": (lambda path, _: path.write_bytes(b""), "empty file (0 bytes)"),
    "text": (lambda path, _: path.write_text("no music\n" * 99), "cannot be decoded"),
    "header": (bad_header, "cannot be decoded"),
    "sample": (lambda path, _: save_as(path, np.ones(1)), "silent"),
    "short": (lambda path, draw: save_as(path, song(draw)[:100]), "too short"),
    "silent": (lambda path, _: save_as(path, np.zeros(16_000)), "silent"),
    "constant": (lambda path, _: save_as(path, np.full(16_000, 0.5)), "silent"),
    "nan": (lambda path, draw: save_as(path, nan_within(draw), subtype="FLOAT"), "not numbers"),
    "cut": (truncated, ""),
    "wrong-suffix": (lambda path, draw: save_as(path, song(draw), format="FLAC"), ""),
    "192khz": (lambda path, draw: save_as(path, np.tile(song(draw), 6), 192_000), ""),
    "8-channels": (lambda path, draw: save_as(path, np.stack([song(draw)] * 8, axis=1)), ""),
}


def make_library(folder: Path, n_good: int, n_of_a_kind: int) -> Path:
    draw = np.random.default_rng(4)
    for artist in range(3):
        for album in range(3):
            (folder / f"artist {artist}/album {album}").mkdir(parents=True)
    for i in range(n_good):
        save_as(folder / f"artist {i % 3}/album {i // 3 % 3}/good-{i}.wav", song(draw))
    for kind, (make, _) in BROKEN.items():
        for i in range(n_of_a_kind):
            make(folder / f"artist {i % 3}/album {i // 3 % 3}/{kind}-{i}.mp3", draw)
    return folder


def test_every_kind_of_broken_file_is_used_or_named(tmp_path: Path) -> None:
    tracks = read_corpus(make_library(tmp_path / "library", 18, 2)).tracks
    recipe = features.recipe(features.FeatureSettings())
    found = extract(tracks, recipe, tmp_path / "cache", Workers(jobs=1))

    def said(by_track: Mapping[Track, str]) -> dict[str, str]:
        return {track.path.name: text for track, text in by_track.items()}

    expected = {f"{kind}-{i}.mp3": why for kind, (_, why) in BROKEN.items() for i in range(2)}
    refused = said(found.refused)
    assert set(refused) == {name for name, why in expected.items() if why}
    assert all(expected[name] in why for name, why in refused.items())
    used = {track.path.name for track in found.entries}
    assert used == {name for name, why in expected.items() if not why} | {
        f"good-{i}.wav" for i in range(18)
    }
    notes = said(found.notes)
    assert set(notes) == {"cut-0.mp3", "cut-1.mp3"}
    assert all(note.startswith("truncated: ") for note in notes.values())
    assert list(tmp_path.rglob(f"{TEMPORARY}*")) == []


# --- memory ------------------------------------------------------------------------------------

EXTRACT = """
import json, os, sys
from multiprocessing import active_children
from pathlib import Path
import numpy as np
from artistid.audio import features
from artistid.audio.extraction import Recipe, extract
from artistid.dataset.read import read_corpus
from artistid.foundation.parallel import Workers

def compute(samples, settings):
    features.song_features(samples, settings)
    return {"large": np.ones(2**18, dtype=np.float32)}  # 1 MiB

def peak_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

tracks = read_corpus(Path(sys.argv[1])).tracks
found = extract(tracks, Recipe("large", 1, features.FeatureSettings(), compute),
                Path(sys.argv[2]), Workers(2))
pids = [os.getpid(), *(worker.pid for worker in active_children())]
print(json.dumps([len(found.entries), len(found.refused), len(pids), sum(map(peak_mib, pids))]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_songs(tmp_path: Path) -> None:
    def peak_mib(n_good: int, n_of_a_kind: int) -> float:
        library = make_library(tmp_path / f"library {n_good}", n_good, n_of_a_kind)
        command = [sys.executable, "-c", EXTRACT, str(library), str(tmp_path / f"cache {n_good}")]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        n_used, n_refused, n_processes, peak = json.loads(done.stdout)
        n_bad_kinds = sum(why != "" for _, why in BROKEN.values())
        assert n_refused == n_bad_kinds * n_of_a_kind
        assert n_used == n_good + (len(BROKEN) - n_bad_kinds) * n_of_a_kind
        assert n_processes == 3
        return float(peak)

    small, large = peak_mib(48, 1), peak_mib(240, 5)  # files; the results are 1 MiB each
    assert large < small + 60


# --- mutated files -----------------------------------------------------------------------------

N_MUTATED = 100
DECODE = """
import json, sys, time
from pathlib import Path
from artistid.audio.decode import AudioError
from artistid.audio.source import load
for path in sorted(Path(sys.argv[1]).iterdir()):
    begin = time.perf_counter()
    try:
        load(path, 16_000)
        was_read = True
    except AudioError:
        was_read = False
    print(json.dumps([time.perf_counter() - begin, was_read]), flush=True)
"""


def mutated(content: bytes, draw: Generator) -> bytes:
    """Bits flipped, or blocks cut, repeated, swapped, or overwritten with noise."""
    data = bytearray(content)
    for _ in range(draw.integers(1, 6)):
        begin, other = sorted(draw.integers(0, len(data), 2))
        size = int(draw.integers(1, 3000))
        match draw.integers(5):
            case 0:
                for place in draw.integers(0, len(data), 200):
                    data[place] ^= 1 << int(draw.integers(8))
            case 1:
                del data[begin : begin + size]
            case 2:
                data[begin:begin] = data[other : other + size] * int(draw.integers(1, 20))
            case 3:
                data[begin:other] = data[begin:other][::-1]
            case _:
                data[begin : begin + size] = draw.bytes(size)
        data = data or bytearray(b"\0")
    return bytes(data)


def mp3s(tmp_path: Path, draw: Generator) -> list[bytes]:
    originals = []
    for i, rate in enumerate((16_000, 22_050, 44_100, 48_000)):
        path = tmp_path / f"{rate}.mp3"
        mono = 0.5 * hum(i, draw, 10.0)
        write_audio(path, mono if i % 2 else np.stack([mono, mono[::-1]], axis=1), rate)
        originals.append(path.read_bytes())
    return [*originals, b"ID3\x04\x00\x00\x00\x00\x07\x76" + bytes(1014) + originals[0]]


def for_ffmpeg(_: Path, draw: Generator) -> list[bytes]:
    samples = hum(0, draw, 5.0)[:, np.newaxis]
    return [encode(samples, container, codec) for container, codec, *_ in KINDS.values()]


@pytest.mark.parametrize(("files", "least"), [(mp3s, 20), (for_ffmpeg, 10)])
def test_mutated_files_are_read_or_refused_in_time(
    tmp_path: Path, files: Callable[[Path, Generator], list[bytes]], least: int
) -> None:
    draw = np.random.default_rng(11)
    originals = files(tmp_path, draw)
    folder = tmp_path / "mutated"
    folder.mkdir()
    for i in range(N_MUTATED):
        content = mutated(originals[i % len(originals)], draw)
        (folder / f"{i:03d}.mp3").write_bytes(content)
    # in a process of its own, which a fault in the decoder may crash
    command = [sys.executable, "-c", DECODE, str(folder)]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=N_MUTATED, check=False
    )
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == N_MUTATED
    assert max(seconds for seconds, _ in outcomes) < 1
    n_read = sum(was_read for _, was_read in outcomes)
    assert least < n_read < N_MUTATED  # the mutations are neither harmless nor all fatal
