from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import tone, write_audio
from numpy.random import Generator

from artistid.audio.decode import Audio, AudioError, decode
from artistid.audio.source import to_mono

RATE = 16_000


def decoded(path: Path) -> Audio:
    return decode(path, to_mono)


def test_all_channels_are_handed_out(tmp_path: Path) -> None:
    stereo = np.stack([tone(300, 1, 44_100), 0.5 * tone(500, 1, 44_100)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 44_100, subtype="FLOAT")
    audio = decode(tmp_path / "a.wav", lambda block: block)
    np.testing.assert_array_equal(audio.samples, stereo)
    assert (audio.sample_rate, audio.seconds, audio.note) == (44_100, 1.0, "")
    assert (audio.format, audio.channels) == ("WAV", 2)


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
        decoded(tmp_path / name).samples, decoded(tmp_path / "plain.mp3").samples
    )


def test_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", tone(440, 1), RATE)
    (tmp_path / "a.flac").rename(tmp_path / "a.mp3")
    audio = decoded(tmp_path / "a.mp3")
    assert audio.format == "FLAC"
    np.testing.assert_allclose(audio.samples, tone(440, 1), atol=2**-15)


def empty_wav() -> bytes:
    path = Path("empty.wav")
    soundfile.write(path, np.zeros(0), RATE)
    return path.read_bytes()


BAD = {
    "empty": (lambda _: b"", r"^empty file \(0 bytes\)$"),
    "text": (lambda _: b"these are words\n" * 500, "^cannot be decoded: "),
    "noise": (lambda rng: rng.bytes(50_000), "^cannot be decoded: "),
    "zeros": (lambda _: bytes(50_000), "^cannot be decoded: "),
    "header only": (lambda _: empty_wav(), "^no samples in the file$"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_without_audio_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: Generator, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, reason = BAD[kind]
    (tmp_path / "song.mp3").write_bytes(make(rng))
    with pytest.raises(AudioError, match=reason):
        decoded(tmp_path / "song.mp3")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.mp3"):
        with pytest.raises(AudioError, match=r"^not a file$"):
            decoded(path)


def test_half_an_mp3_is_read_as_far_as_it_goes_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    write_audio(path, tone(440, 10))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    audio = decoded(path)
    assert audio.seconds == pytest.approx(5, abs=0.3)
    assert audio.note == "truncated: 4.8 s of the 10.0 s in its header"


def test_an_mp3_with_a_hole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    write_audio(path, tone(440, 10))
    data = bytearray(path.read_bytes())
    data[8_000:28_000] = bytes(20_000)
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"^cannot be decoded: damaged stream$"):
        decoded(path)
