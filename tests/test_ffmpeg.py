"""What FFmpeg decodes: files that it has encoded from known samples, compared with these."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from numpy.random import Generator
from numpy.typing import NDArray

from artistid.audio.decode import Audio, AudioError, decode
from artistid.audio.source import to_mono

RATE = 44_100
PREFERRED = ("fltp", "s32p", "s32", "s16p", "s16")
TITLE = "caf?"
FRAME = 2_048  # samples, of the longest codec


def encode(
    samples: NDArray[np.float32], container: str, codec: str, rate: int = RATE, **options: str
) -> bytes:
    """A file of (samples, channels)."""
    layout = "stereo" if samples.shape[1] == 2 else "mono"
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options) as output:
        output.metadata["title"] = TITLE
        stream: Any = output.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 96_000
        context = stream.codec_context
        whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), "fltp", layout)
        whole.sample_rate = rate
        kind = next(f for f in PREFERRED if f in {own.name for own in context.codec.audio_formats})
        context.format = kind
        fifo = av.AudioFifo()
        for frame in av.AudioResampler(kind, layout, rate).resample(whole):
            fifo.write(frame)
        context.open()
        done = 0
        while frame := fifo.read(context.frame_size or 4_096, partial=True):
            frame.pts, frame.time_base = done, Fraction(1, rate)
            done += frame.samples
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def stereo(seconds: float = 6.0) -> NDArray[np.float32]:
    """Gliding tones: no two moments are alike."""
    at = np.arange(int(seconds * RATE)) / RATE
    left, right = (np.sin(2 * np.pi * (hz * at + 10 * np.sin(2 * at))) for hz in (400, 700))
    return np.stack([0.5 * left, 0.25 * right], axis=1).astype("f4")


def decoded(path: Path) -> Audio:
    return decode(path, lambda block: block)


KINDS = {  # container, codec, least correlation with the samples, frames that go before them
    "m4a": ("ipod", "aac", 0.98, 0),
    "alac": ("ipod", "alac", 1 - 1e-6, 0),
    "mp4": ("mp4", "aac", 0.98, 0),
    "aac": ("adts", "aac", 0.98, 1_024),  # has no place to say so
    "wma": ("asf", "wmav2", 0.98, -2_048),  # FFmpeg's own is cut short
    "wv": ("wv", "wavpack", 1 - 1e-6, 0),
    "tta": ("tta", "tta", 1 - 1e-6, 0),
    "mka": ("matroska", "aac", 0.98, 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_are_those_that_were_encoded(tmp_path: Path, kind: str) -> None:
    container, codec, correlation, before = KINDS[kind]
    samples = stereo()
    path = tmp_path / f"song.{kind}"
    path.write_bytes(encode(samples, container, codec))
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(path)
    audio = decoded(path)
    assert (audio.sample_rate, audio.channels, audio.note) == (RATE, 2, "")
    assert audio.samples.dtype == np.float32
    assert abs(len(audio.samples) - before - len(samples)) <= FRAME
    samples = samples[max(0, -before) :]
    found = audio.samples[max(0, before) :][: len(samples)]
    samples = samples[: len(found)]
    for ours, theirs in zip(found.T, samples.T, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] >= correlation
        assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.03)
    path.rename(tmp_path / "song.mp3")  # the suffix says nothing
    np.testing.assert_array_equal(decoded(tmp_path / "song.mp3").samples, audio.samples)


def test_tags_in_another_encoding_do_not_matter(tmp_path: Path) -> None:
    content = encode(stereo(), "matroska", "aac")
    (tmp_path / "song.mka").write_bytes(content)
    expected = decoded(tmp_path / "song.mka").samples
    assert TITLE.encode() in content
    (tmp_path / "song.mka").write_bytes(content.replace(TITLE.encode(), b"caf\xe9"))
    np.testing.assert_array_equal(decoded(tmp_path / "song.mka").samples, expected)


def test_one_channel_at_a_low_rate(tmp_path: Path) -> None:
    samples = stereo()[::2, :1]
    (tmp_path / "song.m4a").write_bytes(encode(samples, "ipod", "aac", rate=RATE // 2))
    audio = decode(tmp_path / "song.m4a", to_mono)
    assert (audio.sample_rate, audio.channels, audio.samples.ndim) == (RATE // 2, 1, 1)
    assert np.corrcoef(audio.samples[: len(samples)], samples[:, 0])[0, 1] > 0.98


def test_all_of_an_mp3_is_heard(tmp_path: Path) -> None:
    """Also without its length in the header, or of two in one file."""
    samples = stereo()
    headless = encode(samples, "mp3", "libmp3lame", write_xing="0")
    one = encode(samples, "mp3", "libmp3lame")
    for content, n in ((headless, 1), (one, 1), (2 * one, 2), (2 * headless, 2)):
        (tmp_path / "song.mp3").write_bytes(content)
        audio = decoded(tmp_path / "song.mp3")
        assert audio.seconds == pytest.approx(n * 6, abs=0.1)
        assert audio.note == ""


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_is_cut_off_is_heard_as_far_as_it_goes(tmp_path: Path, share: float) -> None:
    path = tmp_path / "song.wv"
    whole = encode(stereo(), "wv", "wavpack")
    path.write_bytes(whole[: int(share * len(whole))])
    audio = decoded(path)
    assert audio.seconds == pytest.approx(share * 6, abs=0.5)
    assert audio.note == f"truncated: {audio.seconds:.1f} s of the 6.0 s in its header"


def test_a_file_with_a_hole_is_refused(tmp_path: Path, rng: Generator) -> None:
    content = bytearray(encode(stereo(), "ipod", "aac"))
    middle, hole = len(content) // 2, len(content) // 5
    content[middle : middle + hole] = rng.bytes(hole)
    (tmp_path / "song.m4a").write_bytes(content)
    with pytest.raises(AudioError, match=r"^cannot be decoded: damaged stream$"):
        decoded(tmp_path / "song.m4a")


PLAYLISTS = (
    b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nPLACE\n#EXT-X-ENDLIST\n",
    b"ffconcat version 1.0\nfile 'PLACE'\n",
    b"[playlist]\nFile1=PLACE\nNumberOfEntries=1\n",
)


@pytest.mark.parametrize("playlist", PLAYLISTS)
def test_a_playlist_opens_nothing(tmp_path: Path, playlist: bytes) -> None:
    (tmp_path / "song.tta").write_bytes(encode(stereo(), "tta", "tta"))
    place = str(tmp_path / "song.tta").encode()
    for name in ("list.m3u8", "list.m4a"):
        (tmp_path / name).write_bytes(playlist.replace(b"PLACE", place))
        with pytest.raises(AudioError, match=r"^cannot be decoded: Format not recognised$"):
            decoded(tmp_path / name)


def test_a_film_without_sound_is_no_music(tmp_path: Path) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream: Any = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
        output.mux([*stream.encode(frame), *stream.encode(None)])
    (tmp_path / "film.mp4").write_bytes(file.getvalue())
    with pytest.raises(AudioError, match=r"^cannot be decoded: Format not recognised$"):
        decoded(tmp_path / "film.mp4")
