"""Every kind of file is read rightly, or refused with the reason."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import tone, write_audio
from numpy.random import Generator

from artistid.audio.decode import decode as audio

RATE = 16_000


def peak_hz(samples: np.ndarray) -> float:
    """Frequency of the strongest bin of the whole file's spectrum."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_any_rate_and_format_keeps_pitch_and_length(tmp_path: Path, rate: int, suffix: str) -> None:
    path = tmp_path / f"song.{suffix}"
    write_audio(path, tone(440, 2, rate), rate)
    sound = audio.load(path, RATE)
    assert sound.sample_rate == RATE
    assert sound.samples.dtype == np.float32
    assert sound.seconds == pytest.approx(2, abs=0.15)  # mp3 pads to whole frames
    assert peak_hz(sound.samples) == pytest.approx(440, abs=1)
    assert sound.note == ""


def test_stereo_is_the_mean_of_its_channels(tmp_path: Path) -> None:
    left, right = tone(300, 1), 0.5 * tone(500, 1)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    sound = audio.load(tmp_path / "a.wav", RATE)
    np.testing.assert_allclose(sound.samples, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize(
    "name",
    [
        "周杰倫 稻香.mp3",
        "🎵🎶.mp3",
        "-leading dash.mp3",
        "quo\"tes'.mp3",
        "a" * 200 + ".mp3",
        "x.wav",
    ],
)
def test_names_do_not_matter(tmp_path: Path, name: str) -> None:
    write_audio(tmp_path / "plain.mp3", tone(440, 1))
    (tmp_path / name).write_bytes((tmp_path / "plain.mp3").read_bytes())
    np.testing.assert_array_equal(
        audio.load(tmp_path / name, RATE).samples, audio.load(tmp_path / "plain.mp3", RATE).samples
    )


def test_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    stereo = np.stack([tone(440, 2, 48_000)] * 2, axis=1)
    soundfile.write(tmp_path / "a.flac", stereo, 48_000)
    (tmp_path / "a.flac").rename(tmp_path / "a.mp3")
    assert peak_hz(audio.load(tmp_path / "a.mp3", RATE).samples) == pytest.approx(440, abs=1)


def wav_of(samples: np.ndarray) -> bytes:
    path = Path("made.wav")
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return path.read_bytes()


BAD = {
    "empty": (lambda _: b"", r"is empty \(0 bytes\)"),
    "text": (lambda _: b"these are words\n" * 500, "can't be decoded"),
    "noise": (lambda rng: rng.bytes(50_000), "can't be decoded"),
    "zeros": (lambda _: bytes(50_000), "can't be decoded"),
    "header only": (lambda _: wav_of(np.zeros(0)), "holds no samples"),
    "one sample": (lambda _: wav_of(np.ones(1)), "is silent"),
    "silence": (lambda _: wav_of(np.zeros(RATE)), "is silent"),
    "direct current": (lambda _: wav_of(np.full(RATE, 0.5)), "is silent"),
    "not a number": (lambda _: wav_of(np.append(tone(440, 1), np.nan)), "not numbers"),
    "infinite": (lambda _: wav_of(np.append(tone(440, 1), np.inf)), "not numbers"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_music_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: Generator, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, reason = BAD[kind]
    (tmp_path / "song.mp3").write_bytes(make(rng))
    with pytest.raises(audio.AudioError, match=reason):
        audio.load(tmp_path / "song.mp3", RATE)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.mp3"):
        with pytest.raises(audio.AudioError, match="is not a file"):
            audio.load(path, RATE)


def test_half_an_mp3_is_read_as_far_as_it_goes_and_said(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    write_audio(path, tone(440, 10))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    sound = audio.load(path, RATE)
    assert sound.seconds == pytest.approx(5, abs=0.3)
    assert sound.note == "is cut short: 4.8 s of the 10.0 s that it announces"


def test_two_mp3s_in_one_file_are_not_taken_for_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    write_audio(path, tone(440, 5))
    path.write_bytes(path.read_bytes() * 2)
    assert "was not heard" in audio.load(path, RATE).note


def test_a_hole_in_an_mp3_is_refused_and_the_decoder_keeps_quiet(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "song.mp3"
    write_audio(path, tone(440, 10))
    data = bytearray(path.read_bytes())
    data[8_000:28_000] = bytes(20_000)
    path.write_bytes(data)
    with pytest.raises(audio.AudioError, match="the stream is damaged"):
        audio.load(path, RATE)
    assert capfd.readouterr().err == ""
