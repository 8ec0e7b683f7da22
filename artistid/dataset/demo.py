"""A synthetic corpus in the course's layout, to try and test the tasks without music.

A singer is a voice: a glottal source (Rosenberg 1971) through formants (means of Peterson and
Barney 1952, scaled by vocal tract length), with its own register, vibrato, breath and melodic
habits. An album is a production that its songs share: equalisation, reverberation, noise, level and
accompaniment. Albums of one singer differ, so recognising the album solves a split by song, but
not a split by album. Beside the corpus lie songs by singers that it does not have.

The same seed and VERSION give the same bytes. Scores on this corpus say nothing about music.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import scipy.signal
import soundfile
from numpy.random import Generator
from numpy.typing import NDArray

from artistid.dataset.finding import STAMP
from artistid.foundation import parallel
from artistid.foundation.errors import UserError
from artistid.foundation.files import folder_beside, write_json
from artistid.foundation.parallel import Workers

VERSION = 2  # increment when the audio changes

N_SINGERS = 20
N_STRANGERS = 2  # further singers, whom the corpus does not have; one song each
N_ALBUMS = 6
VAL_ALBUM, TEST_ALBUM = 4, 5  # counted from 0; the others are for training
N_SONGS = 2  # per album
SONG_S = 10.0
RATE = 16_000  # Hz
MP3_LEVEL = 0.85  # libsndfile's compression level: 32 kbit/s at 16 kHz, as in the course's files

# F1 to F3 of male vowels in Hz (Peterson and Barney 1952, table II); F4 and F5 are typical values
VOWELS_HZ = np.array(
    [
        [270, 2290, 3010, 3500, 4500],  # heed
        [530, 1840, 2480, 3500, 4500],  # head
        [730, 1090, 2440, 3500, 4500],  # hod
        [570, 840, 2410, 3500, 4500],  # hawed
        [300, 870, 2240, 3500, 4500],  # who'd
    ],
    dtype=float,
)
BANDWIDTHS_HZ = np.array([70.0, 90.0, 120.0, 180.0, 250.0])
SCALES = np.array([[0, 2, 4, 5, 7, 9, 11], [0, 2, 3, 5, 7, 8, 10]])  # major, minor; semitones
CHORD_DEGREES = (0, 2, 4)
EQ_POINTS_HZ = np.geomspace(60, 8_000, 8)

Signal = NDArray[np.float64]


@dataclass(frozen=True)
class Singer:
    tonic_hz: float
    formants_hz: NDArray[np.float64]  # (vowels, formants)
    open_share: float  # of the glottal cycle
    breath: float  # relative level of noise in the source
    vibrato_hz: float
    vibrato_cents: float
    glide_s: float  # between notes
    leap: float  # standard deviation of melodic steps, scale degrees
    note_s: float  # length of a typical note
    vowel_weights: NDArray[np.float64]


@dataclass(frozen=True)
class Album:
    gains_db: NDArray[np.float64]  # at EQ_POINTS_HZ
    room: Signal  # impulse response
    noise_db: float  # below the music
    peak: float  # of full scale
    drive: float  # saturation
    voice_share: float  # of the mix
    harmonics: NDArray[np.float64]  # amplitudes, of the accompanying instrument
    pluck_s: float  # decay time of its notes
    scale: int  # index into SCALES
    transpose: float  # semitones


def ensure_demo_corpus(folder: Path, seed: int = 0, jobs: int = -1) -> bool:
    """Make the corpus in `folder` unless this version is there. Returns whether it was made.

    It is made beside `folder` and then renamed, so it is never incomplete.
    """
    stamp = {"version": VERSION, "seed": seed}
    if _has_stamp(folder, stamp):
        return False
    if folder.exists() and not is_demo_corpus(folder) and any(folder.iterdir()):
        raise UserError(f"{folder}: the demo corpus belongs there; move what is in it")
    with folder_beside(folder) as temporary:
        made = temporary / folder.name
        make_demo_corpus(made, seed, jobs)
        write_json(made / STAMP, stamp)
        if _has_stamp(folder, stamp):  # another run was faster, and may be reading from it
            return False
        if folder.exists():
            folder.rename(temporary / "old")
        made.rename(folder)
    return True


def _has_stamp(folder: Path, stamp: Mapping[str, int]) -> bool:
    try:
        return bool(json.loads((folder / STAMP).read_text()) == stamp)
    except (OSError, ValueError, RecursionError):
        return False


def is_demo_corpus(folder: Path) -> bool:
    """Whether a demo corpus is in `folder`, or `folder` is the artist20/ of one."""
    whole = folder.resolve()
    return any((place / STAMP).is_file() for place in (whole, whole.parent))


def make_demo_corpus(folder: Path, seed: int = 0, jobs: int = -1) -> None:
    """Write the audio, lists and answers into `folder`."""
    songs = list(_songs(folder / "artist20", seed))
    strangers = [
        (folder / "strangers" / f"{i + 1}.mp3", N_SINGERS + i, 0, 0) for i in range(N_STRANGERS)
    ]
    everything = [*songs, *strangers]
    for path, *_ in everything:
        path.parent.mkdir(parents=True, exist_ok=True)
    write = partial(_write_song, seed=seed)
    for _ in parallel.run(write, everything, workers=Workers(jobs), label="demo", unit="song"):
        pass
    for split, albums in (("train", range(VAL_ALBUM)), ("val", [VAL_ALBUM])):
        names = [
            "./" + path.relative_to(folder / "artist20").as_posix()
            for path, _, album, _ in songs
            if album in albums
        ]
        write_json(folder / "artist20" / f"{split}.json", names)
    tests = sorted((path.stem, singer) for path, singer, album, _ in songs if album == TEST_ALBUM)
    write_json(folder / "test_ans.json", [singer_name(singer) for _, singer in tests])


def singer_name(singer: int) -> str:
    return f"singer_{singer + 1:02d}"


def synthesize(singer: int, album: int, song: int, seed: int = 0) -> NDArray[np.float32]:
    """One song, (samples,) at RATE; singer, album and song are counted from 0."""
    voice = _draw_singer(np.random.default_rng([seed, 1, singer]))
    production = _draw_album(np.random.default_rng([seed, 2, singer, album]))
    draw = np.random.default_rng([seed, 3, singer, album, song])
    sung = _sing(voice, production, draw)
    played = _accompany(voice, production, draw)
    share = production.voice_share
    mix = share * sung / _rms(sung) + (1 - share) * played / _rms(played)
    return _produce(mix, production, draw).astype(np.float32)


def _songs(root: Path, seed: int) -> Iterator[tuple[Path, int, int, int]]:
    """(path, singer, album, song) of every song; test files are numbered at random."""
    n_tests = N_SINGERS * N_SONGS
    test_numbers = iter(np.random.default_rng([seed, 0]).permutation(n_tests) + 1)
    for singer in range(N_SINGERS):
        for album in range(N_ALBUMS):
            for song in range(N_SONGS):
                if album == TEST_ALBUM:
                    path = root / "test" / f"{next(test_numbers):03d}.mp3"
                else:
                    own = root / "train_val" / singer_name(singer) / f"album_{album + 1}"
                    path = own / f"song_{song + 1}.mp3"
                yield path, singer, album, song


def _write_song(place: tuple[Path, int, int, int], seed: int) -> None:
    path, singer, album, song = place
    write_mp3(path, synthesize(singer, album, song, seed))


def write_mp3(path: Path, samples: NDArray[np.float32]) -> None:
    """Encode (samples,) at RATE like the course's files: mono mp3 at 32 kbit/s."""
    mp3 = io.BytesIO()  # libsndfile does not say that a disk is full
    soundfile.write(
        mp3,
        samples,
        RATE,
        format="MP3",
        bitrate_mode="CONSTANT",
        compression_level=MP3_LEVEL,
    )
    path.write_bytes(mp3.getvalue())


# --- singer and album ------------------------------------------------------------------------


def _draw_singer(draw: Generator) -> Singer:
    tract = draw.uniform(0.92, 1.22)  # the shorter the tract, the higher its formants
    own = draw.normal(1, 0.04, VOWELS_HZ.shape)
    return Singer(
        tonic_hz=np.exp(draw.uniform(np.log(110), np.log(260))),
        formants_hz=np.minimum(VOWELS_HZ * tract * own, 0.46 * RATE),
        open_share=draw.uniform(0.45, 0.8),
        breath=10 ** draw.uniform(-2.2, -0.9),
        vibrato_hz=draw.uniform(4.5, 7),
        vibrato_cents=draw.uniform(5, 70),
        glide_s=draw.uniform(0.02, 0.12),
        leap=draw.uniform(0.8, 2.5),
        note_s=draw.uniform(0.22, 0.6),
        vowel_weights=draw.dirichlet(np.full(len(VOWELS_HZ), 4.0)),
    )


def _draw_album(draw: Generator) -> Album:
    return Album(
        gains_db=draw.normal(0, 5, len(EQ_POINTS_HZ)),
        room=_draw_room(draw),
        noise_db=draw.uniform(30, 60),
        peak=draw.uniform(0.3, 0.95),
        drive=draw.uniform(0.2, 2.5),
        voice_share=draw.uniform(0.5, 0.75),
        harmonics=draw.uniform(0, 1, 8) / np.arange(1, 9),
        pluck_s=draw.uniform(0.15, 1.5),
        scale=int(draw.integers(len(SCALES))),
        transpose=draw.uniform(-3, 3),
    )


def _draw_room(draw: Generator) -> Signal:
    """Impulse response: direct sound, then noise that decays by 60 dB in the reverberation time."""
    reverb_s, share = draw.uniform(0.2, 1.6), draw.uniform(0.05, 0.4)
    time = np.arange(int(reverb_s * RATE)) / RATE
    room = draw.normal(size=len(time)) * 10 ** (-3 * time / reverb_s)
    room *= share / np.sqrt(np.sum(room**2))
    room[0] += 1 - share
    return room


# --- the song --------------------------------------------------------------------------------


def _sing(voice: Singer, album: Album, draw: Generator) -> Signal:
    starts, degrees = _melody(voice, draw)
    pitch = voice.tonic_hz * 2 ** ((_semitones(degrees, album.scale) + album.transpose) / 12)
    source = _glottal_source(voice, np.repeat(pitch, np.diff(starts)), draw)
    return _through_vocal_tract(source, starts, voice, draw)


def _melody(voice: Singer, draw: Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Note boundaries in samples, (notes + 1,), and scale degrees, (notes,)."""
    most = int(4 * SONG_S / voice.note_s)
    lengths = voice.note_s * draw.choice([0.5, 1, 1, 2], most)
    starts = np.append(0, np.cumsum((lengths * RATE).astype(int)))
    starts = np.append(starts[starts < SONG_S * RATE], int(SONG_S * RATE))
    steps = np.rint(draw.normal(0, voice.leap, len(starts) - 1)).astype(int)
    degrees = np.empty_like(steps)
    degree = 0
    for i, step in enumerate(steps):
        degree = step if abs(degree + step) > 7 else degree + step  # stay within an octave
        degrees[i] = degree
    return starts, degrees


def _semitones(degrees: Any, scale: int) -> Any:
    """Semitones above the tonic, for one scale degree or an array."""
    octave, step = np.divmod(degrees, 7)
    return 12 * octave + SCALES[scale][step]


def _glottal_source(voice: Singer, pitch_hz: Signal, draw: Generator) -> Signal:
    """Derivative of Rosenberg's pulse (type C) at a gliding pitch with vibrato, plus breath."""
    glide = np.exp(-1 / (voice.glide_s * RATE / 3))
    smooth = scipy.signal.lfilter([1 - glide], [1, -glide], np.log2(pitch_hz / pitch_hz[0]))
    time = np.arange(len(pitch_hz)) / RATE
    vibrato = voice.vibrato_cents / 1200 * np.sin(2 * np.pi * voice.vibrato_hz * time)
    phase = np.cumsum(pitch_hz[0] * 2 ** (smooth + vibrato) / RATE) % 1
    rise, fall = voice.open_share * 2 / 3, voice.open_share / 3
    opening = np.sin(np.pi * phase / rise) / rise
    closing = -np.sin(np.pi / 2 * (phase - rise) / fall) / fall
    flow = np.where(phase < rise, opening, np.where(phase < rise + fall, closing, 0))
    return flow + voice.breath * draw.normal(size=len(flow)) * (phase < voice.open_share) * 3


def _through_vocal_tract(
    source: Signal, starts: NDArray[np.intp], voice: Singer, draw: Generator
) -> Signal:
    """One vowel per note: a cascade of five resonators, with attack and release."""
    vowels = draw.choice(len(VOWELS_HZ), size=len(starts) - 1, p=voice.vowel_weights)
    loudness = draw.uniform(0.4, 1, len(vowels))
    sung = np.empty_like(source)
    state = np.zeros((len(BANDWIDTHS_HZ), 2))
    for start, stop, vowel, level in zip(starts[:-1], starts[1:], vowels, loudness, strict=True):
        resonators = _resonators(voice.formants_hz[vowel])
        note = source[start:stop] * level * _envelope(stop - start)
        sung[start:stop], state = scipy.signal.sosfilt(resonators, note, zi=state)
    return sung


def _envelope(length: int) -> Signal:
    ramp = min(length // 2, int(0.03 * RATE))
    envelope = np.ones(length)
    envelope[:ramp] = np.linspace(0, 1, ramp)
    envelope[length - ramp :] = np.linspace(1, 0, ramp)
    return envelope


def _resonators(formants_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Second-order sections with unit gain at 0 Hz (Klatt 1980, equation 2)."""
    radius = np.exp(-np.pi * BANDWIDTHS_HZ / RATE)
    a1 = -2 * radius * np.cos(2 * np.pi * formants_hz / RATE)
    a2 = radius**2
    zero, one = np.zeros_like(a1), np.ones_like(a1)
    return np.stack([1 + a1 + a2, zero, zero, one, a1, a2], axis=-1)


def _accompany(voice: Singer, album: Album, draw: Generator) -> Signal:
    """Broken chords on one instrument, with a noise burst on each beat."""
    beat = int(RATE * draw.uniform(0.3, 0.6))
    roots = draw.integers(0, 7, size=int(SONG_S * RATE) // (4 * beat) + 1)
    played = np.zeros(int(SONG_S * RATE))
    for number, start in enumerate(range(0, len(played), beat)):
        time = np.arange(min(2 * beat, len(played) - start)) / RATE
        decay = np.exp(-time / album.pluck_s)
        degree = roots[number // 4] + CHORD_DEGREES[number % 3] - 7
        note = _semitones(degree, album.scale) + album.transpose
        pitch = voice.tonic_hz * 2 ** (note / 12)
        tone = sum(
            level * np.sin(2 * np.pi * pitch * (k + 1) * time)
            for k, level in enumerate(album.harmonics)
        )
        noise = draw.normal(size=len(time)) * np.exp(-time / 0.03)
        played[start : start + len(time)] += decay * tone + 0.3 * noise
    return played


def _produce(mix: Signal, album: Album, draw: Generator) -> Signal:
    """Equalise, reverberate, add noise, saturate, set the level."""
    size = scipy.fft.next_fast_len(len(mix) + len(album.room), real=True)
    hz = np.fft.rfftfreq(size, 1 / RATE)
    gain = 10 ** (np.interp(np.log(np.maximum(hz, 1)), np.log(EQ_POINTS_HZ), album.gains_db) / 20)
    spectrum = np.fft.rfft(mix, size) * np.fft.rfft(album.room, size) * gain
    wet = np.fft.irfft(spectrum, size)[: len(mix)]
    wet += _rms(wet) * 10 ** (-album.noise_db / 20) * draw.normal(size=len(wet))
    saturated = np.tanh(album.drive * wet / _rms(wet) / 3)
    return album.peak * saturated / np.max(np.abs(saturated))


def _rms(signal: Signal) -> float:
    return float(np.sqrt(np.mean(signal**2)))
