"""What predicts from embeddings: the MLP, or a classical classifier of a song's mean embedding.

All are trained and scored; which of them predicts is the user's choice, or that of
cross-validation on train.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from artistid.audio.cache import Entries, opened
from artistid.dataset.corpus import Track
from artistid.foundation.errors import require_at_least
from artistid.models.grid_search import GridSearch, Trial, make_folds
from artistid.models.learner import NetworkLearner, TrainedNetworks

Head = Literal["mlp", "logistic", "lda", "auto"]
NAMES = {"mlp": "EmbeddingMLP", "logistic": "LogisticRegression", "lda": "LDA"}


@dataclass(frozen=True)
class HeadSettings:
    """Head."""

    head: Head = "mlp"
    """Which of the models on the embeddings predicts; all are scored on val. auto: the best by
    cross-validation on train."""
    mixup: float = 1.0
    """The MLP is trained on mixtures of two crops: parameter of the beta distribution of their
    shares; 0: none."""

    def __post_init__(self) -> None:
        require_at_least(self, mixup=0)


@dataclass(frozen=True)
class MeanEmbedding:
    """Loads a song as one row for each source that is heard of it, (sources, dim)."""

    entries: Mapping[Track, Entries]
    array: str

    def __call__(self, track: Track, _n_rows: int | None = None) -> NDArray[np.float32]:
        rows = []
        for entry in self.entries[track]:
            with opened(entry) as file:
                rows.append(file.get_tensor(self.array).mean(axis=0))
        return np.stack(rows)


@dataclass(frozen=True)
class HeadLearner:
    mlp: NetworkLearner
    others: GridSearch
    head: Head

    @property
    def chosen_by(self) -> str:
        return self.others.chosen_by if self.head == "auto" else f"chosen by --head {self.head}"

    def choose(self, models: Sequence[TrainedNetworks | Trial]) -> int:
        names = [model.name for model in models]
        if self.head != "auto":
            return names.index(NAMES[self.head])
        merits = [model.cv.merit for model in models if model.cv]
        return int(np.argmax(merits))

    def fit(self, train: Sequence[Track], val: Sequence[Track]) -> list[TrainedNetworks | Trial]:
        (mlp,) = self.mlp.fit(train, val)
        trials = self.others.fit(train, val)
        if self.head == "auto":
            search = self.others.settings
            folds = make_folds(train, search.folds, search.repeats, self.others.seed)
            mlp = replace(mlp, cv=self.mlp.cross_validated(train, folds.pairs))
        return [mlp, *trials]

    def refit(
        self, models: Sequence[TrainedNetworks | Trial], tracks: Sequence[Track]
    ) -> list[TrainedNetworks | Trial]:
        mlp = [model for model in models if isinstance(model, TrainedNetworks)]
        trials = [model for model in models if isinstance(model, Trial)]
        return [*self.mlp.refit(mlp, tracks), *self.others.refit(trials, tracks)]

    def clean_up(self) -> None:
        self.mlp.clean_up()
