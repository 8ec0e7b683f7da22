"""The posteriors of a run: what each of its models says of val and test, for an ensemble."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artistid.dataset.corpus import Split, Track
from artistid.foundation.errors import UserError, first_line
from artistid.metrics import Posteriors

SCORED: tuple[Split, ...] = ("val", "test")


@dataclass(frozen=True)
class SavedModel:
    name: str
    file: str  # relative to the folder of the posteriors
    digest: str  # of the file
    # of SCORED
    posteriors: Mapping[Split, Posteriors]  # (songs, artists), calibrated
    familiarity: Mapping[Split, NDArray[np.float64]]  # (songs,)


@dataclass(frozen=True)
class RunPosteriors:
    """Of val by models that were trained on train, of test by those that are saved."""

    task: str
    corpus: str
    split: str  # digest: which songs of which artists are in train, val and test
    notices: Sequence[str]
    artists: Sequence[str]
    tracks: Mapping[Split, Sequence[Track]]  # of SCORED
    models: Sequence[SavedModel]
    chosen: int  # number of the model that predicts

    def model(self, name: str) -> SavedModel:
        """The model called `name`. Raises UserError if the task has no such model."""
        for model in self.models:
            if model.name == name:
                return model
        names = ", ".join(model.name for model in self.models)
        raise UserError(f"{self.task} has no model {name}; it has {names}")


def posteriors_file(folder: Path, task: str) -> Path:
    """Path of a task's posteriors in a folder of results."""
    return folder / f"posteriors_{task}.npz"


def to_npz(run: RunPosteriors, folder: Path) -> bytes:
    """`run` as a file in `folder`: arrays that NumPy reads as they are, the rest as JSON.

    artists; models; and of each split, for example val: val, (models, songs, artists),
    val_familiarity, (models, songs), val_ids, val_artists ("" where unknown) and val_files."""
    about = {
        "task": run.task,
        "corpus": run.corpus,
        "split": run.split,
        "notices": list(run.notices),
        "chosen": run.chosen,
        "models": [{"file": model.file, "digest": model.digest} for model in run.models],
    }
    arrays = {
        "about": np.array(json.dumps(about)),
        "artists": np.array(run.artists),
        "models": np.array([model.name for model in run.models]),
    }
    for split in SCORED:
        tracks = run.tracks[split]
        files = [Path(os.path.relpath(track.path, folder)).as_posix() for track in tracks]
        arrays[split] = np.stack([model.posteriors[split] for model in run.models])
        arrays[f"{split}_familiarity"] = np.stack(
            [model.familiarity[split] for model in run.models]
        )
        arrays[f"{split}_ids"] = np.array([track.id for track in tracks], dtype=np.str_)
        arrays[f"{split}_artists"] = np.array([t.artist or "" for t in tracks], dtype=np.str_)
        arrays[f"{split}_files"] = np.array(files, dtype=np.str_)
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return content.getvalue()


def read_posteriors(path: Path) -> RunPosteriors:
    """What `to_npz` has written to `path`. Raises UserError for a file that is damaged."""
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays["about"]))
        tracks: dict[Split, list[Track]] = {}
        for split in SCORED:
            columns = (arrays[f"{split}_{name}"].tolist() for name in ("files", "ids", "artists"))
            tracks[split] = [
                Track(path.parent / file, id_, split, artist or None)
                for file, id_, artist in zip(*columns, strict=True)
            ]
        models = [
            SavedModel(
                name,
                **own,
                posteriors={split: arrays[split][i] for split in SCORED},
                familiarity={split: arrays[f"{split}_familiarity"][i] for split in SCORED},
            )
            for i, (name, own) in enumerate(
                zip(arrays["models"].tolist(), about.pop("models"), strict=True)
            )
        ]
        return RunPosteriors(
            **about, artists=tuple(arrays["artists"].tolist()), tracks=tracks, models=models
        )
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy raises many kinds for damaged files
        raise UserError(f"{path}: damaged, run its task again ({first_line(error)})") from error
