"""The comparison page: index.html in a results folder, built from the metrics of all tasks.

The page holds its figures and styles itself. Only songs are linked, and play from where they lie.
"""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from artistid.foundation.files import replacing
from artistid.metrics import ArtistScore, Scores, SeedScores

PAGE = "index.html"
TASKS = {  # title and method; braces refer to the metrics
    "ensemble": ("Ensemble", "mean of {members}"),
    "task1": ("Task 1", "{best_model} on MFCC, chroma and spectral statistics"),
    "task2": ("Task 2", "CNN on log-mel spectrograms"),
    "task2_baseline": ("Baseline", "{best_model} on {encoder[name]} embeddings"),
}
HEARD = {"vocals": ", of the vocals", "both": ", of mix and vocals"}
SPLITS = ("val", "test")
MEASURES = {"top1": "Top-1", "top3": "Top-3", "macro_f1": "Macro-F1"}
MAX_SONGS = 200  # audio players per split; browsers struggle with many more


@dataclass(frozen=True)
class Song:
    id: str
    artist: str
    url: str  # relative to the page
    best: list[tuple[str, float]]  # top artists with probabilities; empty without a prediction

    @property
    def is_right(self) -> bool:
        return bool(self.best) and self.best[0][0] == self.artist


@dataclass(frozen=True)
class Figure:
    caption: str
    url: str  # data URL of the image; empty if the file is missing
    is_curves: bool
    is_final: bool  # shows the model that predicts, not another candidate


@dataclass(frozen=True)
class Result:
    """The metrics of one task, as the page shows them."""

    task: str
    title: str
    method: str
    corpus: str
    modified: float  # seconds since the epoch
    scores: dict[str, Scores]  # by split
    songs: dict[str, dict[str, Song]]  # by split and ID
    figures: list[Figure]
    notices: list[str]
    details: dict[str, dict[str, str]]  # heading -> name -> value


@dataclass(frozen=True)
class Split:
    """All results on one split."""

    name: str
    results: list[Result]

    @property
    def shared(self) -> list[list[Song]]:
        """Songs that all tasks were scored on, each as a list with one entry per result."""
        songs = [result.songs[self.name] for result in self.results]
        return [[own[id_] for own in songs] for id_ in songs[0] if all(id_ in own for own in songs)]

    @property
    def missed(self) -> list[list[Song]]:
        """The shared songs that no task gets right."""
        return [song for song in self.shared if not any(own.is_right for own in song)]

    @property
    def artists(self) -> dict[str, list[ArtistScore | None]]:
        """Artist -> one score per result."""
        per_artist = [result.scores[self.name].per_artist for result in self.results]
        return {
            name: [s.get(name) for s in per_artist] for name in sorted(set().union(*per_artist))
        }

    def best(self, measure: str) -> float:
        return max(getattr(result.scores[self.name], measure) for result in self.results)


def metrics_file(folder: Path, task: str) -> Path:
    """Path of a task's metrics in a results folder."""
    return folder / f"metrics_{task}.json"


def refresh(folder: Path) -> None:
    """Write the comparison page of a results folder.

    It compares all tasks on the corpus of the latest run, and names the files it leaves out."""
    results, remarks = [], []
    for task in TASKS:
        path = metrics_file(folder, task)
        if not path.exists():
            continue
        try:
            results.append(_read(path, task))
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
            remarks.append(f"{path.name} is left out: unrecognised metrics format")
    corpus = max(results, key=lambda result: result.modified).corpus if results else ""
    for result in results:
        if result.corpus != corpus:
            name = metrics_file(folder, result.task).name
            remarks.append(f"{name} is left out: its corpus is {result.corpus}, not {corpus}")
    results = [result for result in results if result.corpus == corpus]
    splits = [
        Split(name, [result for result in results if name in result.scores])
        for name in SPLITS
        if any(name in result.scores for result in results)
    ]
    for split in splits:
        if len({frozenset(result.songs[split.name]) for result in split.results}) > 1:
            remarks.append(
                f"the tasks differ in their {split.name} songs: compare scores with care"
            )
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = templates.get_template("page.html").render(
        corpus=corpus,
        results=results,
        splits=splits,
        measures=MEASURES,
        max_songs=MAX_SONGS,
        notices=list(dict.fromkeys(notice for result in results for notice in result.notices)),
        remarks=remarks,
        details=_side_by_side(results),
    )
    with replacing(folder / PAGE) as temporary:
        # file names need not be valid UTF-8: "?" replaces what cannot be encoded
        temporary.write_text(text, encoding="utf-8", errors="replace")


def _read(path: Path, task: str) -> Result:
    metrics = json.loads(path.read_text(encoding="utf-8"))
    title, method = TASKS[task]
    models = {
        name: f"{own['val']['top1']:.3f} / {own['val']['top3']:.3f}"
        for name, own in metrics.get("models", {}).items()
    }
    details = {
        "Top-1 / top-3 on val": models,
        "Settings": metrics["settings"],
        "Versions": {"git commit": metrics["git_commit"], **metrics["versions"]},
        "Wall time (s)": metrics["seconds"],
    }
    return Result(
        task=task,
        title=title,
        method=method.format_map({**metrics, "members": _listed(metrics.get("members", []))})
        + HEARD.get(metrics["settings"].get("source"), ""),
        corpus=metrics["corpus"],
        modified=path.stat().st_mtime,
        scores={split: _scores(metrics[split]) for split in SPLITS if split in metrics},
        songs={
            split: {song["id"]: _song(song) for song in metrics["songs"][split]}
            for split in SPLITS
            if split in metrics
        },
        figures=[
            Figure(
                caption=f"{figure['model']}, {figure['shows']}",
                url=_data_url(path.parent / figure["file"]),
                is_curves="curves" in figure["shows"],
                is_final="curves" in figure["shows"]
                or metrics.get("best_model") in (None, figure["model"]),
            )
            for figure in metrics["figures"]
        ],
        notices=metrics["notices"],
        details={
            heading: {name: _plain(value) for name, value in rows.items()}
            for heading, rows in details.items()
        },
    )


def _listed(members: Sequence[Mapping[str, Any]]) -> str:
    *names, last = [member["model"] for member in members] or [""]
    return f"{', '.join(names)} and {last}"


def _scores(values: dict[str, Any]) -> Scores:
    per_artist = {artist: ArtistScore(**own) for artist, own in values["per_artist"].items()}
    seeds = SeedScores(**values["seeds"]) if values.get("seeds") else None
    return Scores(**{**values, "per_artist": per_artist, "seeds": seeds})


def _song(values: dict[str, Any]) -> Song:
    url = quote(os.fsencode(values["file"]))
    return Song(values["id"], values["artist"], url, values.get("best", []))


def _data_url(image: Path) -> str:
    if not image.exists():
        return ""
    return f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"


def _plain(value: Any) -> str:
    if value is None:
        return "default"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _side_by_side(results: Sequence[Result]) -> dict[str, dict[str, list[str]]]:
    """Heading -> name -> one value per result, or "" without one. Shared names come first."""
    table: dict[str, dict[str, list[str]]] = {}
    for i, result in enumerate(results):
        for heading, rows in result.details.items():
            for name, value in rows.items():
                row = table.setdefault(heading, {}).setdefault(name, [""] * len(results))
                row[i] = value
    return {
        heading: dict(sorted(rows.items(), key=lambda row: "" in row[1]))
        for heading, rows in table.items()
    }
