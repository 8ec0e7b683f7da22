"""What the tasks with a network have in common: train it, save it, score it, draw it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from artistid.dataset.corpus import Split, Track
from artistid.inference import training
from artistid.models.augmentation import Augmentation
from artistid.models.checkpoint import FORMAT, ResumeFile, corpus_digest, save_network
from artistid.models.crops import open_songs
from artistid.models.devices import Devices
from artistid.models.training import Examples, Posteriors, Trainer, TrainingSettings
from artistid.results.record import Run

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class Method:
    """What a task trains, and on what."""

    make_network: Callable[[], nn.Module]  # the same weights each time
    array: str  # of a cache entry: what the network hears
    crop_frames: int  # of its rows at a time
    augment: Augmentation
    description: Mapping[str, Any]  # all that makes the network what it is besides the settings
    curves: str  # name of their figure


def train_and_report(
    run: Run,
    devices: Devices,
    method: Method,
    entries: Mapping[Track, Path],
    settings: TrainingSettings,
) -> None:
    """Train on the run's train and val, and leave behind all that a run leaves.

    The description goes into the JSON beside the weights, and a training of another one is not
    resumed."""
    whole = {**training.resumable(settings, devices), **method.description}
    corpus = corpus_digest(run.corpus, entries)
    first, second = (
        ResumeFile(run.outputs.results / f"model_{run.task}_{name}.pt", whole, corpus)
        for name in ("resume", "resume_refit")
    )

    def examples(*splits: Split) -> Examples:
        own = [track for split in splits for track in run.corpus.split(split)]
        songs = open_songs([entries[track] for track in own], method.array, devices.device)
        return Examples(songs, run.labels(own))

    val = examples("val")
    test = [entries[track] for track in run.corpus.split("test")]
    validated = _trainer(method, examples("train"), val, settings, devices)
    if devices.is_main and not settings.resume:
        second.remove()  # it is of another training
    validated.fit(first)
    on_val, final = validated.posteriors(val.songs), validated
    if settings.refit:
        log.info("now on train and val together; that network predicts test and is saved")
        as_long = replace(settings, epochs=len(validated.history))
        final = _trainer(method, examples("train", "val"), None, as_long, devices)
        final.fit(second, may_be_new=True)
    on_test = final.posteriors(open_songs(test, method.array, devices.device))
    if devices.is_main:
        run.stage_done("training")
        _report(run, method, validated, final.network, on_val, on_test)
        first.remove()
        second.remove()


def _trainer(
    method: Method,
    train: Examples,
    val: Examples | None,
    settings: TrainingSettings,
    devices: Devices,
) -> Trainer:
    network = method.make_network()
    return Trainer(network, train, val, method.crop_frames, settings, devices, method.augment)


def _report(
    run: Run,
    method: Method,
    validated: Trainer,
    network: nn.Module,
    on_val: Posteriors,
    on_test: Posteriors,
) -> None:
    name, task, val = type(network).__name__, run.task, run.corpus.split("val")
    run.draw_curves(method.curves, name, validated.curves, validated.kept_epoch)
    run.draw_confusion(f"confusion_matrix_{task}.png", name, on_val, val)
    temperature, calibration = run.calibrate(on_val, on_test)
    description = {
        "format": FORMAT,
        "task": task,
        "artists": run.corpus.artists,
        **method.description,
        "crop_frames": method.crop_frames,
        "temperature": temperature,
    }
    save_network(run.outputs.results / f"model_{task}.safetensors", network, description)
    val_scores = run.score(on_val, val)
    test_scores = run.write_test(on_test)
    run.stage_done("evaluation")
    run.write_metrics(
        val_scores,
        test_scores,
        kept_epoch=validated.kept_epoch + 1,
        curves=validated.curves,
        device=str(validated.devices),
        calibration=calibration,
        songs=run.songs(on_val, on_test, temperature),
        **method.description,
    )
