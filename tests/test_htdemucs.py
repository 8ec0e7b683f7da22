"""Separation by HTDemucs, with a small network of random weights in its file format."""

import errno
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import PROJECT, RATE, Call, hum, read, tone, write_audio
from numpy.random import Generator
from safetensors.torch import save_file

demucs = pytest.importorskip("demucs", reason="pip install 'artistid[vocals]'")
from demucs.api import Separator as Official  # noqa: E402
from demucs.htdemucs import HTDemucs  # noqa: E402

import task1  # noqa: E402
import task2  # noqa: E402
from artistid.audio import source  # noqa: E402
from artistid.audio.decode import Audio, AudioError  # noqa: E402
from artistid.dataset.finding import audio_files  # noqa: E402
from artistid.foundation import progress  # noqa: E402
from artistid.foundation.errors import UserError  # noqa: E402
from artistid.foundation.parallel import Workers  # noqa: E402
from artistid.vocals import htdemucs, separation  # noqa: E402
from artistid.vocals.voice import Separated, heard  # noqa: E402
from musicfm import hub  # noqa: E402

SOURCES = ["drums", "bass", "other", "vocals"]
WIDTHS = {"channels": 8, "t_layers": 1, "t_heads": 2, "bottom_channels": 16, "segment": 1}
KLASS = "demucs.htdemucs.HTDemucs"


def write_network(path: Path, network: torch.nn.Module, klass: str = KLASS, **more: str) -> Path:
    words = {"klass": klass, "args": json.dumps([SOURCES]), "kwargs": json.dumps(WIDTHS), **more}
    save_file(network.state_dict(), path, metadata=words)
    return path


def tiny_network() -> HTDemucs:
    torch.manual_seed(5)
    return HTDemucs(SOURCES, **WIDTHS).eval()


@pytest.fixture(scope="module")
def network() -> HTDemucs:
    return tiny_network()


@pytest.fixture(scope="module")
def weights(network: HTDemucs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("htdemucs") / "tiny.safetensors", network)


# --- separation --------------------------------------------------------------------------------


def test_the_vocals_are_those_of_the_official_separator(
    network: HTDemucs, weights: Path, rng: Generator
) -> None:
    class Tiny(Official):  # type: ignore[misc]
        def _load_model(self) -> None:
            self._model, self._samplerate, self._audio_channels = network, network.samplerate, 2

    song = rng.normal(0, 0.1, (3 * 44_100, 2)).astype("f4") + 0.01
    _, stems = Tiny(device="cpu", shifts=0).separate_tensor(torch.from_numpy(song.T.copy()))
    expected = stems["vocals"].mean(dim=0).numpy()
    found = htdemucs.find(weights).separate(Audio(song, 44_100, "", "WAV", 2))
    assert (found.samples.shape, found.sample_rate) == ((3 * 44_100,), 44_100)
    np.testing.assert_allclose(found.samples, expected, atol=1e-5 * np.abs(expected).max())


def test_a_long_song_is_separated_block_by_block(
    weights: Path, rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = []

    def as_it_is(_network: object, mix: torch.Tensor, *_: object) -> torch.Tensor:
        pieces.append(mix.shape[1] / 44_100)
        return mix

    monkeypatch.setattr(htdemucs, "BLOCK_S", 2)
    monkeypatch.setattr(htdemucs, "CONTEXT_S", 1)
    monkeypatch.setattr(htdemucs, "_apply", as_it_is)
    song = rng.normal(0.1, 0.1, (5 * 44_100, 2)).astype("f4")
    found = htdemucs.find(weights).separate(Audio(song, 44_100, "", "WAV", 2))
    np.testing.assert_allclose(found.samples, song.mean(axis=1), atol=1e-6)
    assert pieces == [3, 4, 2]


@pytest.mark.parametrize(("rate", "kept"), [(16_000, 16_000), (48_000, 24_000)])
def test_vocals_are_cached_as_flac_at_the_rate_of_the_song(
    weights: Path, tmp_path: Path, rate: int, kept: int
) -> None:
    song = tmp_path / "song.wav"
    write_audio(song, np.stack([tone(220, 1.5, rate), tone(330, 1.5, rate)], axis=1), rate)
    separator = htdemucs.find(weights)
    path = separation.separated(song, separator, tmp_path / "cache")
    made = soundfile.info(path)
    assert (made.format, made.channels, made.samplerate) == ("FLAC", 1, kept)
    assert made.frames == 1.5 * kept
    before = path.stat().st_mtime_ns
    assert separation.separated(song, separator, tmp_path / "cache") == path
    assert path.stat().st_mtime_ns == before


def test_loud_vocals_do_not_clip(tmp_path: Path) -> None:
    loud = Audio(3 * tone(220, 1), RATE, "", "", 1)
    separation.write_flac(tmp_path / "v.flac", loud)
    samples, _ = soundfile.read(tmp_path / "v.flac", dtype="float32")
    np.testing.assert_allclose(samples, tone(220, 1) / np.abs(tone(220, 1)).max(), atol=1e-4)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OneSong:
        def vocals_of(self, _song: Path) -> Audio:
            return Audio(tone(220, 1), RATE, "", "", 1)

    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    entry = tmp_path / "ab/1.vocals"
    with pytest.raises(UserError, match=r"1\.vocals: No space left on device; make room there"):
        separation._write_vocals(tmp_path / "song.mp3", entry, OneSong())  # type: ignore[arg-type]
    assert list(entry.parent.iterdir()) == []


def test_a_full_gpu_is_one_line(
    weights: Path, monkeypatch: pytest.MonkeyPatch, rng: Generator
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("demucs.apply.apply_model", full)
    song = rng.normal(0, 0.1, (44_100, 2)).astype("f4")
    with pytest.raises(UserError, match="out of GPU memory while vocals are separated"):
        htdemucs.find(weights).separate(Audio(song, 44_100, "", "WAV", 2))


def test_vocals_in_the_cache_are_no_songs_of_a_library(weights: Path, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    write_audio(song, tone(220, 1.5))
    path = separation.separated(song, htdemucs.find(weights), tmp_path / "music/cache")
    assert path.is_relative_to(tmp_path / "music/cache")
    assert audio_files(tmp_path / "music", follow_links=False).files == []


def test_of_a_single_sample_nothing_is_left(tmp_path: Path) -> None:
    """At a lower rate: it is refused where it is read."""
    separation.write_flac(tmp_path / "v.vocals", Audio(np.ones(1, "f4"), 192_000, "", "", 1))
    with pytest.raises(AudioError, match="empty file"):
        source.load(tmp_path / "v.vocals", None, may_be_silent=True)


def test_files_and_samples_have_the_same_vocals(weights: Path, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    write_audio(song, hum(1, np.random.default_rng(0)))
    samples, _ = soundfile.read(song, dtype="float32")
    mix = Audio(samples, RATE, "", "WAV", 1)
    voice = Separated(tmp_path / "cache", weights)
    file, memory = (voice.vocals(where, mix).samples for where in (song, None))
    scale = max(1, np.abs(memory).max())
    np.testing.assert_allclose(file, memory / scale, atol=1e-4)
    assert heard(voice, song, mix).samples.shape == mix.samples.shape


def test_songs_that_cannot_be_separated_are_named(weights: Path, tmp_path: Path) -> None:
    good, bad, odd = (tmp_path / name for name in ("good.wav", "bad.wav", "odd.wav"))
    write_audio(good, hum(1, np.random.default_rng(0), 1.0))
    bad.write_text("no music")
    soundfile.write(odd, np.full(8_000, np.nan), RATE, subtype="FLOAT")
    songs = dict.fromkeys((good, bad, odd), 1.0)
    separator = htdemucs.find(weights)
    found, refused = separation.separate(songs, separator, tmp_path / "c", Workers())
    assert list(found) == [good]
    assert refused[bad] == "cannot be decoded: Format not recognised"
    assert "not numbers" in refused[odd]
    with pytest.raises(AudioError, match="Format not recognised"):
        separation.separated(bad, separator, tmp_path / "c")


# --- the file ----------------------------------------------------------------------------------


def test_a_file_cannot_name_what_is_called(network: HTDemucs, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    evil = tmp_path / "evil.safetensors"
    args = json.dumps([f"touch {ran}"])
    save_file({}, evil, metadata={"klass": "os.system", "args": args, "kwargs": "{}"})
    structured = write_network(tmp_path / "s.safetensors", network, structure="{}")
    other = write_network(tmp_path / "o.safetensors", network, klass="demucs.demucs.Demucs")
    for path in (evil, structured, other):
        with pytest.raises(UserError, match="not the weights of an HTDemucs"):
            htdemucs.find(path)
    assert not ran.exists()


def test_damaged_missing_and_other_files_are_one_line(
    network: HTDemucs, weights: Path, tmp_path: Path, rng: Generator
) -> None:
    with pytest.raises(UserError, match="no such file"):
        htdemucs.find(tmp_path / "none.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cut\.safetensors: damaged, or not safetensors"):
        htdemucs.find(cut)
    wider = write_network(tmp_path / "w.safetensors", network, kwargs='{"channels": 12}')
    song = Audio(rng.normal(0, 0.1, RATE).astype("f4"), RATE, "", "WAV", 1)
    with pytest.raises(UserError, match=r"w\.safetensors: weights of another network"):
        htdemucs.find(wider).separate(song)


def test_the_published_file_is_downloaded_once_and_checked(
    network: HTDemucs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(htdemucs, "FOLDER", tmp_path)
    monkeypatch.setattr(hub, "cached", lambda _: None)

    def fail(file: hub.HubFile, _folder: Path, bars: bool) -> Path:
        assert not bars  # with --quiet
        raise hub.DownloadError(f"{file.name} cannot be downloaded; try again")

    monkeypatch.setattr(progress, "_bars_wanted", False)
    monkeypatch.setattr(hub, "fetch", fail)
    with pytest.raises(UserError, match=r"955717e8\.safetensors cannot be downloaded; try again"):
        htdemucs.find(None)
    monkeypatch.setattr(
        hub, "fetch", lambda file, folder, _: write_network(folder / file.name, network)
    )
    with caplog.at_level("INFO", "artistid"):
        found = htdemucs.find(None)
        monkeypatch.setattr(hub, "fetch", fail)
        assert htdemucs.find(None) == found
    assert "downloading HTDemucs, 84 MB" in caplog.text
    assert "is not the published HTDemucs; used as it is" in caplog.text


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "demucs", None)
    with pytest.raises(UserError, match=r"pip install .*demucs.*--vocals FOLDER"):
        htdemucs.find(None)


# --- a task ------------------------------------------------------------------------------------


def test_a_broken_song_is_named_before_anything_is_separated(
    course: Path, weights: Path, tmp_path: Path, call: Call
) -> None:
    (course / "artist20/test/002.mp3").write_text("no music")
    places = ("--data", course, "--cache", tmp_path / "cache", "--source", "vocals")
    status, _, errors = call(task1, *places, "--separator", weights)
    assert status == 2
    assert re.search(r"1 of 28 files cannot be used.*\n.*002\.mp3: cannot be decoded", errors)
    assert not list((tmp_path / "cache").rglob("*.vocals"))


@pytest.mark.slow
def test_real_songs_are_separated_once_and_a_kill_costs_one_of_them(
    gamemusic: Path, weights: Path, tmp_path: Path, call: Call
) -> None:
    """Five songs of 8 s by two composers."""
    source, root = gamemusic / "artist20", tmp_path / "some/artist20"
    entries = {name: read(source / f"{name}.json") for name in ("train", "val")}
    artists = sorted({Path(entry).parts[1] for entry in entries["val"]})[:2]
    chosen = {
        name: [e for artist in artists for e in own if Path(e).parts[1] == artist][:n]
        for name, own, n in (("train", entries["train"], 99), ("val", entries["val"], 1))
    }
    by_artist = [[e for e in chosen["train"] if Path(e).parts[1] == artist] for artist in artists]
    chosen["train"] = [*by_artist[0][:2], *by_artist[1][:2]]
    for name, own in chosen.items():
        for entry in own:
            rate = soundfile.info(source / entry).samplerate
            samples, _ = soundfile.read(source / entry, stop=8 * rate)
            (root / entry).parent.mkdir(parents=True, exist_ok=True)
            with (root / entry).open("wb") as file:
                soundfile.write(file, samples, rate, format="FLAC")
        (root / f"{name}.json").write_text(json.dumps(own))

    def options(name: str) -> tuple[object, ...]:
        places = ("--data", tmp_path / "some", "--cache", tmp_path / name, "--out", tmp_path / "o")
        return *places, "--source", "vocals", "--separator", weights, "--epochs", 1, "--jobs", 1

    def files(name: str) -> list[Path]:  # complete ones
        return [path for path in (tmp_path / name).rglob("*.vocals") if path.name[0] != "."]

    def separated(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in files(name)}

    command = [sys.executable, PROJECT / "task2.py", *options("killed")]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    while len(separated("killed")) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    left = separated("killed")
    assert 2 <= len(left) < 5
    times = {path: path.stat().st_mtime_ns for path in files("killed")}
    for name in ("killed", "whole"):
        status, _, errors = call(task2, *options(name))
        assert (status, errors) == (0, "")
    assert len(separated("whole")) == 5
    assert separated("killed") == separated("whole")
    assert left.items() <= separated("whole").items()
    assert {path: path.stat().st_mtime_ns for path in times} == times
