"""Our log-mel against torchaudio's, where torchaudio can be imported beside the torch in use."""

import warnings
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import tone
from numpy.random import Generator

from artistid.audio.melspec import FLOOR_DB, LogMel, MelSettings
from artistid.foundation.errors import first_line

HIGHEST_DIFFERENCE_DB = 2e-4  # 8e-5 with torch and torchaudio 2.9.1 on a CPU


@pytest.fixture(scope="module")
def torchaudio() -> ModuleType:
    """Beside a torch it was not built for, importing it raises an error of any of these kinds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchaudio
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(
            f"torchaudio cannot be imported ({first_line(error)}); "
            'a pair that works: pip install ".[torchaudio]"'
        )
    return torchaudio


@pytest.mark.parametrize("seconds", [2.0, 10.3])
@pytest.mark.parametrize("n_fft", [1_024, 2_048])
def test_log_mel_is_that_of_torchaudio(
    torchaudio: ModuleType, rng: Generator, n_fft: int, seconds: float
) -> None:
    settings = MelSettings(n_fft=n_fft)
    audio = 0.5 * tone(440, seconds) + 0.5 * tone(3_520, seconds)
    audio += rng.normal(0, 0.01, len(audio)).astype(np.float32)
    batch = torch.from_numpy(np.stack([audio, 1e-3 * audio]))  # (2, samples): loud and faint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transform = torchaudio.transforms.MelSpectrogram(
            settings.sample_rate,
            n_fft=settings.n_fft,
            hop_length=settings.hop,
            f_min=settings.fmin_hz,
            f_max=settings.fmax_hz,
            n_mels=settings.n_mels,
            power=2.0,
            center=True,
            pad_mode="constant",
            norm="slaney",
            mel_scale="slaney",
        )
        power = transform(batch).transpose(1, 2)  # (2, mels, frames) -> (2, frames, mels)
    theirs = 10 * torch.log10(power.clamp(min=10 ** (FLOOR_DB / 10)))
    ours = LogMel(settings)(batch)
    assert ours.shape == theirs.shape
    assert (theirs > FLOOR_DB + 10).float().mean() > 0.5  # not a comparison of floors
    worst = (ours - theirs).abs().max().item()
    print(f"largest difference: {worst:.1e} dB")
    assert worst < HIGHEST_DIFFERENCE_DB
