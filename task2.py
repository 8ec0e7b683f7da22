"""Task 2: which artist is it, by a convolutional network on mel spectrograms, from scratch.

Trains on random crops of train and keeps the latest epoch that val cannot tell from the best; then
trains on train and val for as many epochs, and predicts test. A song gets the mean posterior of
crops that cover it. For several GPUs or machines: torchrun task2.py.
"""

import logging
from dataclasses import dataclass, replace
from typing import Literal

from artistid import cli, experiment
from artistid.audio import melspec
from artistid.dataset.library import LibrarySettings
from artistid.foundation.errors import require_at_least
from artistid.foundation.parallel import Workers
from artistid.models import devices
from artistid.models.augmentation import DrawSource, Mixup, SpecAugment
from artistid.models.learner import NetworkLearner
from artistid.models.networks import MelCNN, Size, mel_cnn_of
from artistid.models.training import Method, TrainingSettings
from artistid.results.record import Task
from artistid.vocals.heard import Source, SourceSettings

TASK = Task(
    "task2",
    log="log_task2.txt",
    confusion="confusion_matrix_task2.png",
    curves="accuracy_curve.png",
)

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class NetworkSettings:
    """Network and augmentation."""

    size: Literal["auto"] | Size = "auto"
    """Width of the network; auto: large on a GPU, small on a CPU."""
    masks: int = 2
    """SpecAugment: time masks, and as many frequency masks, per crop; 0: none."""
    mixup: float = 0.3
    """Two crops are mixed, but for the last fifth of the epochs: parameter of the beta distribution
    of their shares; 0: none."""

    def __post_init__(self) -> None:
        require_at_least(self, masks=0, mixup=0)

    def chosen(self, has_gpu: bool) -> Size:
        usual: Size = "large" if has_gpu else "small"
        size = usual if self.size == "auto" else self.size
        log.info("network: %s; on a CPU, large takes twice as long as small (--size)", size)
        return size


@dataclass(frozen=True)
class Settings:
    data: cli.DataSettings = cli.DataSettings()
    source: SourceSettings = SourceSettings()
    network: NetworkSettings = NetworkSettings()
    training: TrainingSettings = TrainingSettings(batch_size=16, crop_seconds=7.5)
    library: LibrarySettings = LibrarySettings()
    workers: Workers = Workers()


def cnn_on(
    mel: melspec.MelSettings, n_artists: int, network: NetworkSettings, size: Size, source: Source
) -> Method:
    method = Method(
        MelCNN,
        mel_cnn_of(size, n_artists, mel.n_mels),
        melspec.LOG_MEL,
        mel,
        frames_per_second=mel.frames_per_second,
        augmentations=(SpecAugment(network.masks),),
        early_augmentations=(Mixup(network.mixup),),
    )
    if source != "both":
        return method
    fewest, most = method.epochs_range
    return replace(  # an epoch hears of each crop the mix, the vocals or a remix
        method,
        augmentations=(DrawSource(vocals=1 / 3, remixes=1 / 3), *method.augmentations),
        enough_hours=2 * method.enough_hours,
        epochs_range=(2 * fewest, 2 * most),
    )


def main(settings: Settings) -> None:
    data, training, source = settings.data, settings.training, settings.source.source
    library, workers = settings.library, settings.workers
    with (
        devices.start(training.device, training.precision) as compute,
        experiment.started(TASK, settings, data, settings.source, library, workers) as run,
    ):
        size = settings.network.chosen(has_gpu=compute.device.type != "cpu")
        mel = melspec.MelSettings()
        with compute.main_first():
            songs = experiment.extracted(run, melspec.recipe(mel))
        n_artists = len(songs.corpus.artists)
        method = cnn_on(mel, n_artists, settings.network, size, source)
        learner = NetworkLearner(
            TASK.name,
            method,
            songs.corpus,
            songs.entries,
            source,
            training,
            data.seed,
            compute,
            run.outputs.results,
        )
        experiment.train_and_report(run, songs, learner, training.refit)


if __name__ == "__main__":
    cli.start(Settings, main, __doc__, "--resume continues after the last finished epoch")
