"""Task 2: which artist is it, by a convolutional network on mel spectrograms, from scratch.

Trains on random crops of train and keeps the latest epoch that val can't tell from the best; then
trains on train and val for as many epochs, and predicts test. A song gets the mean posterior of
excerpts that cover it. For several GPUs or machines: torchrun task2.py.
"""

if __name__ == "__main__":
    from artistid.foundation import interrupts

    interrupts.end_at_once()  # the imports below take seconds

from dataclasses import asdict, dataclass
from functools import partial

from artistid import cli
from artistid.audio.decode import melspec
from artistid.experiment import Method, train_and_report
from artistid.foundation.errors import require_at_least
from artistid.inference import devices, networks, training
from artistid.models.augmentation import spec_augment


@dataclass(frozen=True)
class Settings(training.TrainingSettings, cli.CommonSettings):
    masks: int = 2
    """SpecAugment: masks of time, and as many of frequency, in each crop; 0: none."""

    def check(self) -> None:
        cli.CommonSettings.check(self)
        training.TrainingSettings.check(self)
        require_at_least(self, masks=0)


def main(settings: Settings) -> None:
    with (
        devices.start(settings.device, settings.precision) as compute,
        cli.open_run("task2", "log_task2.txt", settings) as run,
    ):
        mel = melspec.MelSettings()
        with compute.main_first():
            entries = run.extract(melspec.recipe(mel))
        widths = networks.MelCNNSettings(len(run.corpus.artists), mel.n_mels)
        method = Method(
            partial(training.initialised, networks.MelCNN, widths, settings, compute),
            melspec.NAME,
            crop_frames=round(settings.crop_seconds * mel.frames_per_second),
            augment=partial(spec_augment, n_masks=settings.masks),
            description={"network": asdict(widths), "mel": asdict(mel), "masks": settings.masks},
            curves="accuracy_curve.png",
        )
        train_and_report(run, compute, method, entries, settings)


if __name__ == "__main__":
    cli.start(Settings, main, __doc__)
