"""What the tasks with a network have in common: train it, save it, score it, draw it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from artistid import training
from artistid.augmentation import Augmentation
from artistid.checkpoints import FORMAT, ResumeFile, corpus_digest, save_network
from artistid.dataset import SPLITS, Track
from artistid.devices import Devices
from artistid.excerpts import open_songs
from artistid.report import Run
from artistid.training import Examples, Trainer, TrainingSettings


def train_and_report(
    run: Run,
    devices: Devices,
    network: nn.Module,
    entries: Mapping[Track, Path],
    array: str,
    settings: TrainingSettings,
    *,
    crop_frames: int,
    augment: Augmentation,
    description: Mapping[str, Any],
    curves: str,
) -> None:
    """Train `network` on the run's train and val, and leave behind all that a run leaves.

    `array` of each of the cache's `entries` is what it hears, `crop_frames` of its rows at a time.
    `description` is all that makes the network what it is besides `settings`: it goes into the
    JSON beside the weights, and a training of another one is not resumed. `curves` is the name
    of their figure."""
    tracks = {split: run.corpus.split(split) for split in SPLITS}
    songs = {
        split: open_songs([entries[track] for track in own], array, devices.device)
        for split, own in tracks.items()
    }
    train, val = (Examples(songs[split], run.labels(tracks[split])) for split in ("train", "val"))
    trainer = Trainer(network, train, val, crop_frames, settings, devices, augment)
    results, task, name = run.outputs.results, run.task, type(network).__name__
    interrupted = ResumeFile(
        results / f"model_{task}_resume.pt",
        {**training.resumable(settings, devices), **description},
        corpus_digest(run.corpus, entries),
    )
    trainer.fit(interrupted)
    on_val, on_test = (trainer.posteriors(songs[split]) for split in ("val", "test"))
    if not devices.is_main:
        return
    run.stage_done("training")

    run.draw_curves(curves, name, trainer.curves, trainer.kept_epoch)
    run.draw_confusion(f"confusion_matrix_{task}.png", name, on_val, tracks["val"])
    temperature, calibration = run.calibrate(on_val, val.labels, on_test)
    whole = {
        "format": FORMAT,
        "task": task,
        "artists": run.corpus.artists,
        **description,
        "crop_frames": crop_frames,
        "temperature": temperature,
    }
    save_network(results / f"model_{task}.safetensors", network, whole)
    val_scores = run.score(on_val, tracks["val"])
    test_scores = run.write_test(on_test)
    run.stage_done("evaluation")
    run.write_metrics(
        val_scores,
        test_scores,
        kept_epoch=trainer.kept_epoch + 1,
        curves=trainer.curves,
        device=str(devices),
        calibration=calibration,
        songs=run.songs(on_val, on_test, temperature),
        **description,
    )
    interrupted.remove()
