"""Task 1: which artist is it, by classical machine learning on statistics of the audio.

Extracts features of every song, searches the grids of KNN, random forest, SVM, LDA and logistic
regression by cross-validation on train, scores the best of each on val, and predicts test with
the best of all.
"""

from dataclasses import asdict, dataclass

from artistid import cli, experiment
from artistid.audio.features import FeatureSettings, SongLoader, recipe
from artistid.dataset.library import LibrarySettings
from artistid.foundation.parallel import Workers
from artistid.models.card import ModelCard
from artistid.models.classical import families
from artistid.models.grid_search import GridSearch, SearchSettings
from artistid.results.record import Task
from artistid.vocals.heard import SourceSettings

TASK = Task("task1", log="log.txt", confusion="{model}_confusion_matrix.png")


@dataclass(frozen=True)
class Settings:
    data: cli.DataSettings = cli.DataSettings()
    source: SourceSettings = SourceSettings()
    search: SearchSettings = SearchSettings()
    library: LibrarySettings = LibrarySettings()
    workers: Workers = Workers()


def main(settings: Settings) -> None:
    data, source, search = settings.data, settings.source, settings.search
    library, workers = settings.library, settings.workers
    with experiment.started(TASK, settings, data, source, library, workers) as run:
        features = FeatureSettings(excerpt_s=search.excerpt_seconds)
        songs = experiment.extracted(run, recipe(features))
        load = SongLoader(songs.entries)
        artists = tuple(songs.corpus.artists)
        card = ModelCard(TASK.name, artists, asdict(features), source=source.source)
        learner = GridSearch(card, families, load, search, data.seed, workers)
        experiment.train_and_report(run, songs, learner, search.refit)


if __name__ == "__main__":
    cli.start(Settings, main, __doc__, "what was extracted is cached; run it again to continue")
