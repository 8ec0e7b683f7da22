"""The page that compares the tasks: index.html, of all that they left in a results folder.

It is made of the metrics files and the figures that these name. It has all in itself but the
songs, which it plays from where they are.
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
from artistid.metrics import ArtistScore, Scores

NAME = "index.html"
TASKS = {  # title, and what it is; names in braces are of the metrics
    "task1": ("Task 1", "{best_model} on statistics of the sound"),
    "task2": ("Task 2", "CNN on mel spectrograms"),
    "task2_baseline": ("Baseline", "MLP on embeddings of {encoder[name]}"),
}
SPLITS = ("val", "test")
MEASURES = {"top1": "top-1", "top3": "top-3", "macro_f1": "macro-F1"}
MOST_SONGS = 200  # to listen to, of a split: browsers hold some hundred players
UNEXPECTED = (  # what comes of JSON with other contents than ours
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Song:
    id: str
    artist: str
    url: str  # relative to the page
    best: list[tuple[str, float]]  # artists and their probabilities; empty: no prediction

    @property
    def is_right(self) -> bool:
        return bool(self.best) and self.best[0][0] == self.artist


@dataclass(frozen=True)
class Figure:
    caption: str
    url: str  # the picture itself; empty where it is gone
    is_curves: bool
    is_chosen: bool  # of the model that predicts, not of one tried besides


@dataclass(frozen=True)
class Result:
    """What the page shows of a metrics file, all of it checked."""

    task: str
    method: str
    corpus: str
    written: float  # seconds since the epoch
    scores: dict[str, Scores]  # by split
    songs: dict[str, list[Song]]  # by split
    figures: list[Figure]
    notices: list[str]
    details: dict[str, dict[str, str]]  # names and values, by heading

    @property
    def title(self) -> str:
        return TASKS[self.task][0]


@dataclass(frozen=True)
class Split:
    """What the page shows of a split."""

    name: str
    results: list[Result]  # that have scores of it
    judges: list[Result]  # that name its songs
    missed: list[list[Song]]  # songs that all judges have wrong, as each has them

    def best(self, measure: str) -> float:
        return max(getattr(result.scores[self.name], measure) for result in self.results)

    @property
    def artists(self) -> dict[str, list[ArtistScore | None]]:
        """A score for each result."""
        per_artist = [result.scores[self.name].per_artist for result in self.results]
        names = sorted(set().union(*per_artist))
        return {name: [scores.get(name) for scores in per_artist] for name in names}


def refresh(results: Path) -> None:
    """Write the page of a results folder anew. Metrics that can't be read are named on it."""
    read = {task: _read(results, task) for task in TASKS if metrics_file(results, task).exists()}
    usable = [result for result in read.values() if isinstance(result, Result)]
    newest = max(usable, key=lambda result: result.written, default=None)
    corpus = newest.corpus if newest else "none"
    compared = [result for result in usable if result.corpus == corpus]
    splits = [_split(name, compared) for name in SPLITS if any(name in r.scores for r in compared)]
    text = _template().render(
        corpus=corpus,
        results=compared,
        splits=splits,
        measures=MEASURES,
        most_songs=MOST_SONGS,
        notices=list(dict.fromkeys(notice for r in compared for notice in r.notices)),
        remarks=[*_not_compared(read, corpus), *_differences(splits)],
        details=_side_by_side([result.details for result in compared]),
    )
    with replacing(results / NAME) as temporary:
        # names of files that are no UTF-8 have what can't be written: "?" stands for it
        temporary.write_text(text, encoding="utf-8", errors="replace")


def _template() -> jinja2.Template:
    template = (Path(__file__).parent / "data" / "page.html").read_text(encoding="utf-8")
    return jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(template)


def metrics_file(results: Path, task: str) -> Path:
    """Where in a results folder a task's metrics are."""
    return results / f"metrics_{task}.json"


# --- what there is ---------------------------------------------------------------------------


def _read(results: Path, task: str) -> Result | str:
    """A task's metrics, or what is wrong with their file."""
    path = metrics_file(results, task)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return _result(task, values, path)
    except OSError as error:
        return (error.strerror or "unreadable").lower()
    except UNEXPECTED as error:
        return f"it is not as this program writes it ({type(error).__name__}: {error})"


def _result(task: str, values: Mapping[str, Any], path: Path) -> Result:
    if values["task"] != task:
        raise ValueError(f"it is of {values['task']}")
    versions = {"git commit": values["git_commit"], **values["versions"]}
    details = {"Settings": values["settings"], "Versions": versions, "Seconds": values["seconds"]}
    return Result(
        task=task,
        method=TASKS[task][1].format_map(values),
        corpus=str(values["corpus"]),
        written=path.stat().st_mtime,
        scores={split: _scores(values[split]) for split in SPLITS if split in values},
        songs={
            split: [_song(song) for song in songs]
            for split, songs in values.get("songs", {}).items()
        },
        figures=[
            _figure(figure, values.get("best_model"), path.parent)
            for figure in values.get("figures", [])
        ],
        notices=[str(notice) for notice in values["notices"]],
        details={
            heading: {str(name): _plain(value) for name, value in rows.items()}
            for heading, rows in details.items()
        },
    )


def _scores(value: Mapping[str, Any]) -> Scores:
    per_artist = {
        artist: ArtistScore(int(s["n"]), float(s["recall"]), float(s["precision"]), float(s["f1"]))
        for artist, s in value["per_artist"].items()
    }
    top1, top3, macro_f1 = (float(value[measure]) for measure in MEASURES)
    return Scores(int(value["n"]), top1, top3, macro_f1, per_artist)


def _song(value: Mapping[str, Any]) -> Song:
    best = [(str(artist), float(probability)) for artist, probability in value.get("best", [])]
    return Song(str(value["id"]), str(value["artist"]), _url(str(value["file"])), best)


def _url(file: str) -> str:
    """Of a relative path, with the bytes that the file system knows it by."""
    try:
        return quote(os.fsencode(file))
    except UnicodeEncodeError:  # no file is called so
        return quote(file, errors="replace")


def _figure(value: Mapping[str, str], chosen: str | None, folder: Path) -> Figure:
    """`chosen` is the model that predicts, of several; None: there is but one."""
    name = value["file"]
    if Path(name).name != name:
        raise ValueError(f"figure {name} is not beside it")
    try:
        picture = base64.b64encode((folder / name).read_bytes()).decode()
    except OSError:
        picture = ""
    return Figure(
        caption=f"{value['model']}, {value['shows']}",
        url=picture and f"data:image/png;base64,{picture}",
        is_curves="curves" in value["shows"],
        is_chosen=chosen in (None, value["model"]),
    )


def _plain(value: Any) -> str:
    if value is None:
        return "default"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- compared --------------------------------------------------------------------------------


def _split(name: str, compared: Sequence[Result]) -> Split:
    results = [result for result in compared if name in result.scores]
    judges = [result for result in results if name in result.songs]
    return Split(name, results, judges, missed_by_all([judge.songs[name] for judge in judges]))


def missed_by_all(lists: Sequence[Sequence[Song]]) -> list[list[Song]]:
    """The songs that are in every list and right in none, as each list has them."""
    by_id = [{song.id: song for song in songs} for songs in lists]
    ids = [song.id for song in lists[0] if all(song.id in own for own in by_id)] if lists else []
    shared = [[own[id_] for own in by_id] for id_ in ids]
    return [song for song in shared if not any(opinion.is_right for opinion in song)]


def _not_compared(read: Mapping[str, Result | str], corpus: str) -> list[str]:
    """The metrics files that the page makes nothing of, and why."""
    remarks = []
    for task, result in read.items():
        name = metrics_file(Path(), task).name
        if isinstance(result, str):
            remarks.append(f"{name} is left out: {result}.")
        elif result.corpus != corpus:
            remarks.append(f"{name} is of another corpus, {result.corpus}, and is not compared.")
    return remarks


def _differences(splits: Sequence[Split]) -> list[str]:
    """What keeps the tasks from being compared song by song."""
    remarks = []
    for split in splits:
        songs = [{song.id for song in judge.songs[split.name]} for judge in split.judges]
        if any(own != songs[0] for own in songs):
            remarks.append(
                f"The tasks were scored on different songs of {split.name}: compare their scores "
                "with care."
            )
        for result in split.results:
            if result not in split.judges:
                remarks.append(
                    f"The metrics of {result.title} do not name the songs of {split.name}; those "
                    "of a new run do."
                )
    return remarks


def _side_by_side(
    columns: Sequence[Mapping[str, Mapping[str, str]]],
) -> dict[str, dict[str, list[str]]]:
    """By heading and name, the value of each column; empty where it has none."""
    headings = dict.fromkeys(heading for column in columns for heading in column)
    table: dict[str, dict[str, list[str]]] = {}
    for heading in headings:
        names = dict.fromkeys(name for column in columns for name in column[heading])
        table[heading] = {name: [c[heading].get(name, "") for c in columns] for name in names}
    return table
