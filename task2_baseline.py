"""Task 2, the baseline: which artist is it, by a frozen pretrained encoder.

The encoder (MusicFM where its weights are at hand, else musicnn and GE2E together) turns each
excerpt of a song into an embedding; an MLP classifies their mean. Trains and reports as task2.py
does. Logistic regression and shrinkage LDA on the same embeddings are scored beside it (--head).
"""

from dataclasses import asdict, dataclass, replace

from artistid import cli, experiment
from artistid.dataset.library import LibrarySettings
from artistid.encoders import registry
from artistid.encoders.base import EMBEDDINGS
from artistid.encoders.registry import AnyEncoder, EncoderSettings
from artistid.foundation.parallel import Workers
from artistid.models import devices
from artistid.models.augmentation import DrawSource, Mixup
from artistid.models.classical import embedding_families
from artistid.models.grid_search import GridSearch, SearchSettings
from artistid.models.heads import HeadLearner, HeadSettings, MeanEmbedding
from artistid.models.learner import NetworkLearner
from artistid.models.networks import EmbeddingMLP, EmbeddingMLPSettings
from artistid.models.training import Method, TrainingSettings
from artistid.results.record import Task
from artistid.vocals.heard import Source, SourceSettings

TASK = Task(
    "task2_baseline",
    log="log_task2_baseline.txt",
    confusion="confusion_matrix_task2_baseline.png",
    curves="accuracy_curve_baseline.png",
)


@dataclass(frozen=True)
class Settings:
    data: cli.DataSettings = cli.DataSettings()
    source: SourceSettings = SourceSettings()
    encoder: EncoderSettings = EncoderSettings()
    head: HeadSettings = HeadSettings()
    training: TrainingSettings = TrainingSettings()
    library: LibrarySettings = LibrarySettings()
    workers: Workers = Workers()


def mlp_on(encoder: AnyEncoder, n_artists: int, mixup: float, source: Source = "mix") -> Method:
    drawn = [DrawSource()] if source == "both" else []
    return Method(
        EmbeddingMLP,
        EmbeddingMLPSettings(n_artists, encoder.dim),
        EMBEDDINGS,
        encoder.identity,
        frames_per_second=1 / encoder.grid.hop_s,
        augmentations=(*drawn, Mixup(mixup, decibels=False)),
        enough_hours=1000,  # it takes seconds
        epochs_range=(20, 100),
    )


def main(settings: Settings) -> None:
    data, training, source = settings.data, settings.training, settings.source.source
    library, workers = settings.library, settings.workers
    with (
        devices.start(training.device, training.precision) as compute,
        experiment.started(TASK, settings, data, settings.source, library, workers) as run,
    ):
        encoder = registry.find(settings.encoder, compute.device, compute.precision)
        with compute.main_first():
            songs = experiment.extracted(run, encoder.recipe)
        method = mlp_on(encoder, len(songs.corpus.artists), settings.head.mixup, source)
        mlp = NetworkLearner(
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
        card = replace(mlp.card, network={})
        rows = MeanEmbedding(songs.entries, EMBEDDINGS)
        search = SearchSettings(repeats=1)
        others = GridSearch(card, embedding_families, rows, search, data.seed, workers)
        learner = HeadLearner(mlp, others, settings.head.head)
        extra = {"encoder": asdict(encoder.identity)}
        experiment.train_and_report(run, songs, learner, training.refit, extra)


if __name__ == "__main__":
    cli.start(Settings, main, __doc__, "--resume continues after the last finished epoch")
