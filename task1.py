"""Task 1: which artist is it, by classical machine learning on statistics of the audio.

Extracts features of every song, tries KNN, random forest, SVM, LDA and logistic regression by
cross-validation on train, scores the best of each on val, and predicts test with the best of all.
"""

if __name__ == "__main__":
    from artistid.foundation import interrupts

    interrupts.end_at_once()  # the imports below take seconds

import logging
from dataclasses import asdict, dataclass

from artistid import cli
from artistid.audio.decode import features
from artistid.dataset.corpus import SPLITS
from artistid.foundation.errors import require_at_least
from artistid.inference import classical
from artistid.results import record as report

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class Settings(cli.CommonSettings):
    excerpt_seconds: float = 5.0
    """Length of the excerpts that are classified, in seconds."""
    max_excerpts: int = 10_000
    """Excerpts to train on, in all; every song gives at most its share, evenly spread."""
    folds: int = 5
    """Folds of the cross-validation; fewer where an artist has fewer albums."""
    repeats: int = 2
    """Times to cross-validate, each with other folds."""
    refit: bool = True
    """Train on train and val together before predicting test. Scores on val stay those of train."""

    def check(self) -> None:
        super().check()
        require_at_least(self, max_excerpts=1, folds=2, repeats=1)


def main(settings: Settings) -> None:
    with cli.open_run("task1", "log.txt", settings) as run:
        feature_settings = features.FeatureSettings(excerpt_s=settings.excerpt_seconds)
        load = features.SongLoader(run.extract(features.recipe(feature_settings)))
        artists = run.corpus.artists
        train, val, test = (run.corpus.split(split) for split in SPLITS)
        folds = classical.make_folds(train, settings.folds, settings.repeats, settings.seed)
        songs, labels = classical.training_songs(train, artists, load, settings.max_excerpts)
        trials = classical.grid_search(songs, labels, folds, settings.seed, settings.workers)
        run.stage_done("grid search")

        val_scores, on_val = {}, {}
        for trial in trials:
            posteriors = on_val[trial.name] = classical.posteriors(trial.classifier, val, load)
            val_scores[trial.name] = run.score(posteriors, val)
            run.draw_confusion(f"{trial.name}_confusion_matrix.png", trial.name, posteriors, val)
        best = max(trials, key=lambda trial: trial.best.merit)
        log.info("%s", report.table(classical.results_table(trials, val_scores)))
        log.info("best by cross-validation, which predicts test: %s", best.name)

        if settings.refit:
            songs, labels = classical.training_songs(
                train + val, artists, load, settings.max_excerpts
            )
            best = best.trained_on(songs, labels)
        on_test = classical.posteriors(best.classifier, test, load)
        temperature, calibration = run.calibrate(on_val[best.name], on_test)
        model = classical.ArtistModel(
            best.classifier, artists, asdict(feature_settings), temperature
        )
        classical.save_model(run.outputs.results / "model_task1.skops", model)
        test_scores = run.write_test(on_test)
        run.stage_done("evaluation")
        models = classical.results_by_model(trials, val_scores)
        chosen = {"best_model": best.name, "models": models, "calibration": calibration}
        by_song = run.songs(on_val[best.name], on_test, temperature)
        run.write_metrics(val_scores[best.name], test_scores, **chosen, songs=by_song)


if __name__ == "__main__":
    cli.start(Settings, main, __doc__)
