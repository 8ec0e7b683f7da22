"""Big libraries with broken files in them, left alone: all that is good is used, all that is not is
named, in bounded memory and time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import PROJECT, hum, tone, write_audio
from numpy.random import Generator
from numpy.typing import NDArray

from artistid.foundation.files import TEMPORARY


def save_as(path: Path, samples: NDArray[Any], rate: int = 16_000, **kind: str) -> None:
    """In the format of `kind`, whatever the name says."""
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


# what is made, and what extraction must say of it: why it is refused, or "" for used
BROKEN = {
    "zero": (lambda path, _: path.write_bytes(b""), "is empty (0 bytes)"),
    "text": (lambda path, _: path.write_text("no music\n" * 99), "can't be decoded"),
    "header": (bad_header, "can't be decoded"),
    "sample": (lambda path, _: save_as(path, np.ones(1)), "is silent"),
    "short": (lambda path, draw: save_as(path, song(draw)[:100]), "is shorter than a frame"),
    "silent": (lambda path, _: save_as(path, np.zeros(16_000)), "is silent"),
    "constant": (lambda path, _: save_as(path, np.full(16_000, 0.5)), "is silent"),
    "nan": (lambda path, draw: save_as(path, nan_within(draw), subtype="FLOAT"), "not numbers"),
    "cut": (truncated, ""),
    "wrong-suffix": (lambda path, draw: save_as(path, song(draw), format="FLAC"), ""),
    "192khz": (lambda path, draw: save_as(path, np.tile(song(draw), 6), 192_000), ""),
    "8-channels": (lambda path, draw: save_as(path, np.stack([song(draw)] * 8, axis=1)), ""),
}

EXTRACT = """
import json, os, sys
from multiprocessing import active_children
from pathlib import Path
from artistid.audio.decode import features
from artistid.dataset.read import read_corpus
from artistid.audio.extraction import extract
from artistid.foundation.parallel import Workers
from benchmarks.ways import peak_mib
tracks = read_corpus(Path(sys.argv[1])).tracks
recipe = features.recipe(features.FeatureSettings())
found = extract(tracks, recipe, Path(sys.argv[2]), Workers(int(sys.argv[3])))
peak = [peak_mib(pid) for pid in (os.getpid(), *(worker.pid for worker in active_children()))]
print(json.dumps({
    "used": sorted(track.path.name for track in found.entries),
    "refused": {track.path.name: why for track, why in found.refused.items()},
    "notes": {track.path.name: note for track, note in found.notes.items()},
    "peak_mib": sum(peak),
}))
"""


def extracted(folder: Path, n_good: int, n_of_a_kind: int, jobs: int) -> Any:
    """What the extraction of a library with so many files says, in processes of its own."""
    draw = np.random.default_rng(4)
    library = folder / "library"
    for artist in range(3):
        for album in range(3):
            (library / f"artist {artist}/album {album}").mkdir(parents=True)
    for i in range(n_good):
        save_as(library / f"artist {i % 3}/album {i // 3 % 3}/good-{i}.wav", song(draw))
    for kind, (make, _) in BROKEN.items():
        for i in range(n_of_a_kind):
            make(library / f"artist {i % 3}/album {i // 3 % 3}/{kind}-{i}.mp3", draw)
    command = [sys.executable, "-c", EXTRACT, str(library), str(folder / "cache"), str(jobs)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(folder.rglob(f"{TEMPORARY}*")) == []
    return json.loads(done.stdout)


@pytest.mark.slow
def test_1500_files_of_which_156_are_odd_or_broken(tmp_path: Path) -> None:
    found = extracted(tmp_path / "large", 1344, 13, jobs=2)
    used = {f"good-{i}.wav" for i in range(1344)}
    used |= {f"{kind}-{i}.mp3" for kind, (_, why) in BROKEN.items() if not why for i in range(13)}
    assert set(found["used"]) == used
    assert len(found["refused"]) == 1500 - len(used) == 8 * 13
    for name, said in found["refused"].items():
        assert BROKEN[name.rpartition("-")[0]][1] in said, name
    assert set(found["notes"]) == {f"cut-{i}.mp3" for i in range(13)}
    small = extracted(tmp_path / "small", 270, 2, jobs=2)
    assert found["peak_mib"] < 1.2 * small["peak_mib"]
    print(f"peak memory: {small['peak_mib']:.0f} and {found['peak_mib']:.0f} MiB")


def test_every_kind_of_broken_file_is_used_or_named(tmp_path: Path) -> None:
    found = extracted(tmp_path, 18, 1, jobs=1)
    refused = {kind: why for kind, (_, why) in BROKEN.items() if why}
    assert {name.rpartition("-")[0] for name in found["refused"]} == set(refused)
    assert all(refused[name.rpartition("-")[0]] in why for name, why in found["refused"].items())
    assert len(found["used"]) == 18 + len(BROKEN) - len(refused)


# --- mutated mp3s ------------------------------------------------------------------------------

N_MUTATED = 500
DECODE = """
import json, sys, time
from pathlib import Path
from artistid.audio.decode import decode as audio
for path in sorted(Path(sys.argv[1]).iterdir()):
    begin = time.perf_counter()
    try:
        sound = audio.load(path, 16_000)
        said = f"read {sound.seconds:.1f} s {sound.note}"
    except audio.AudioError as error:
        said = f"refused: {error}"
    print(json.dumps([path.name, time.perf_counter() - begin, said]), flush=True)
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


def test_500_mutated_mp3s_are_read_or_refused_in_time(tmp_path: Path) -> None:
    draw = np.random.default_rng(11)
    folder = tmp_path / "mutated"
    folder.mkdir()
    originals = []
    for i, rate in enumerate((16_000, 22_050, 44_100, 48_000)):
        path = tmp_path / f"{rate}.mp3"
        mono = 0.5 * hum(i, draw, 10.0)
        write_audio(path, mono if i % 2 else np.stack([mono, mono[::-1]], axis=1), rate)
        originals.append(path.read_bytes())
    originals.append(b"ID3\x04\x00\x00\x00\x00\x07\x76" + bytes(1014) + originals[0])
    for i in range(N_MUTATED):
        content = mutated(originals[i % len(originals)], draw)
        (folder / f"{i:03d}.mp3").write_bytes(content)
    command = [sys.executable, "-c", DECODE, str(folder)]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=N_MUTATED, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == N_MUTATED
    assert max(seconds for _, seconds, _ in outcomes) < 1
    n_read = sum(said.startswith("read") for _, _, said in outcomes)
    assert 100 < n_read < N_MUTATED  # the mutations are neither harmless nor fatal
    print(f"{n_read} read, {N_MUTATED - n_read} refused")


def test_the_screen_is_there_again_after_threads_have_decoded(tmp_path: Path) -> None:
    """libmpg123's chatter is kept from file descriptor 2, which all threads share."""
    path = tmp_path / "a.mp3"
    write_audio(path, tone(440, 5.0))
    code = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from artistid.audio.decode import decode as audio
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda _: audio.load(Path(sys.argv[1]), 16_000), range(200)))
os.write(2, b"still here")
"""
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stderr == "still here"
