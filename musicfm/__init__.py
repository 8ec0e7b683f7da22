"""MusicFM in plain PyTorch: a pretrained music encoder, for inference."""

from musicfm.checkpoint import load_checkpoint
from musicfm.encoder import MusicFM, MusicFMConfig
from musicfm.published import CheckpointError

__all__ = ["CheckpointError", "MusicFM", "MusicFMConfig", "load_checkpoint"]
