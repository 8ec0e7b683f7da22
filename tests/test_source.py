from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import tone, write_audio
from numpy.typing import NDArray

from artistid.audio.decode import AudioError
from artistid.audio.source import from_samples, load, require_frame

RATE = 16_000


def peak_hz(samples: NDArray[np.float32]) -> float:
    """Frequency of the strongest bin in the spectrum of all samples."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_any_rate_and_format_keeps_pitch_and_length(tmp_path: Path, rate: int, suffix: str) -> None:
    path = tmp_path / f"song.{suffix}"
    write_audio(path, tone(440, 2, rate), rate)
    audio = load(path, RATE)
    assert audio.sample_rate == RATE
    assert audio.samples.dtype == np.float32
    assert audio.seconds == pytest.approx(2, abs=0.15)  # mp3 pads to whole frames
    assert peak_hz(audio.samples) == pytest.approx(440, abs=1)
    assert audio.note == ""


def test_without_a_rate_the_file_keeps_its_own(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(440, 1, 22_050), 22_050, subtype="FLOAT")
    audio = load(tmp_path / "a.wav", None)
    assert audio.sample_rate == 22_050
    np.testing.assert_array_equal(audio.samples, tone(440, 1, 22_050))


def test_stereo_becomes_the_mean_of_its_channels(tmp_path: Path) -> None:
    left, right = tone(300, 1), 0.5 * tone(500, 1)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    audio = load(tmp_path / "a.wav", RATE)
    assert audio.channels == 2
    np.testing.assert_allclose(audio.samples, (left + right) / 2, atol=1e-7)


BAD = {
    "one sample": (np.ones(1), "^silent from start to end$"),
    "silence": (np.zeros(RATE), "^silent from start to end$"),
    "direct current": (np.full(RATE, 0.5), "^silent from start to end$"),
    "not a number": (np.append(tone(440, 1), np.nan), "not numbers"),
    "absurd": (np.append(tone(440, 1), 8e37), "^damaged: a sample of 8e[+]37, where 1 is full"),
    "infinite": (np.append(tone(440, 1), np.inf), "not numbers"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_music_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    samples, reason = BAD[kind]
    soundfile.write(tmp_path / "song.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=reason):
        load(tmp_path / "song.wav", RATE)


def test_a_rate_that_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", tone(440, 1), 68)
    with pytest.raises(AudioError, match=r"^damaged: its sample rate is 68 Hz$"):
        load(tmp_path / "song.wav", RATE)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 68])
def test_a_rate_that_cannot_be_meant_is_refused_from_memory_too(rate: Any) -> None:
    with pytest.raises(AudioError, match=rf"^damaged: its sample rate is {rate} Hz$"):
        from_samples(tone(440, 1), rate, None)  # with a rate to convert to, soxr would hang


def test_channels_that_cancel_each_other_are_silent(tmp_path: Path) -> None:
    left = tone(300, 1)
    soundfile.write(tmp_path / "song.wav", np.stack([left, -left], axis=1), RATE)
    with pytest.raises(AudioError, match=r"^silent from start to end when mixed to mono$"):
        load(tmp_path / "song.wav", RATE)


def test_less_than_a_frame_is_refused() -> None:
    require_frame(tone(440, 1), RATE, RATE)
    with pytest.raises(AudioError, match=r"^too short: 16000 samples at 16000 Hz, one frame"):
        require_frame(tone(440, 1), RATE + 1, RATE)


def test_samples_from_memory_equal_the_same_samples_from_a_file(tmp_path: Path) -> None:
    stereo = np.stack([tone(300, 1, 44_100), tone(500, 1, 44_100)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 44_100, subtype="FLOAT")
    ours, from_file = from_samples(stereo, 44_100, RATE), load(tmp_path / "a.wav", RATE)
    np.testing.assert_array_equal(ours.samples, from_file.samples)
    assert (ours.sample_rate, ours.channels) == (from_file.sample_rate, from_file.channels)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.ones(RATE, dtype=np.int16), r"not int16 \(16000,\)"),
        (np.ones((1, 2, RATE)), r"not float64 \(1, 2, 16000\)"),
        (np.zeros(0), "^no samples$"),
        (np.zeros(RATE), "^silent from start to end$"),
    ],
)
def test_unusable_samples_from_memory_are_refused(samples: NDArray[Any], reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        from_samples(samples, RATE, RATE)
