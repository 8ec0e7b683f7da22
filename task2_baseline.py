"""Task 2, the baseline: which artist is it, by a pretrained encoder that is left as it is.

The encoder (MusicFM where its weights are at hand, else musicnn) turns each excerpt of a song into
an embedding; an MLP learns to tell artists by their mean. Trains and reports as task2.py does.
"""

if __name__ == "__main__":
    from artistid.foundation import interrupts

    interrupts.end_at_once()  # the imports below take seconds

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from artistid import cli
from artistid.encoders.registry import registry as encoders
from artistid.experiment import Method, train_and_report
from artistid.foundation.errors import require_at_least
from artistid.inference import devices, networks, training


@dataclass(frozen=True)
class Settings(training.TrainingSettings, cli.CommonSettings):
    encoder: encoders.EncoderName = "auto"
    """auto: musicfm where its weights are found, else musicnn, which comes with the project."""
    weights: Path | None = None
    """MusicFM's weights, pretrained_X.pt, with their statistics, X_stats.json, beside them.
    Default: those in musicfm/data, else in the hub's local cache."""
    layer: int = 7
    """Layer of MusicFM that the embeddings are from, 0 to 12."""
    lr: float = 1e-3
    """Highest learning rate of the one-cycle schedule."""
    crop_seconds: float = 15.0
    """Length of the excerpts that are classified, in seconds."""

    def check(self) -> None:
        cli.CommonSettings.check(self)
        training.TrainingSettings.check(self)
        require_at_least(self, layer=0)


def main(settings: Settings) -> None:
    with (
        devices.start(settings.device, settings.precision) as compute,
        cli.open_run("task2_baseline", "log_task2_baseline.txt", settings) as run,
    ):
        found = encoders.find(
            settings.encoder, settings.weights, settings.layer, compute.device, compute.precision
        )
        with compute.main_first():
            entries = run.extract(found.recipe)
        widths = networks.EmbeddingMLPSettings(len(run.corpus.artists), found.dim)
        method = Method(
            partial(training.initialised, networks.EmbeddingMLP, widths, settings, compute),
            encoders.NAME,
            crop_frames=max(1, round(settings.crop_seconds / found.excerpt_seconds)),
            augment=lambda embeddings, _: embeddings,
            description={"network": asdict(widths), "encoder": asdict(found.settings)},
            curves="accuracy_curve_baseline.png",
        )
        train_and_report(run, compute, method, entries, settings)


if __name__ == "__main__":
    cli.start(Settings, main, __doc__)
