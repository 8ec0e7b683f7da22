"""What the comparison page says, read by an HTML parser; see test_page_browser.py for the rest."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest

from artistid.results import page

ARTISTS = ("abba", "blur", "cher")
TASKS = ("task1", "task2", "task2_baseline")


def scores(top1: float, artists: Sequence[str] = ARTISTS) -> dict[str, Any]:
    own = {"n": 2, "recall": top1, "precision": 0.25, "f1": 0.125}
    return {
        "n": 6,
        "top1": top1,
        "top3": 0.75,
        "macro_f1": 0.625,
        "top1_interval": [0.1, 0.9],
        "top3_interval": [0.2, 0.8],
        "per_artist": dict.fromkeys(artists, own),
    }


def song(id_: str, artist: str, *guesses: str, file: str = "../song.mp3") -> dict[str, Any]:
    best = [[guess, 0.5 / (i + 1)] for i, guess in enumerate(guesses)]
    return {"id": id_, "artist": artist, "file": file, **({"best": best} if best else {})}


def write_metrics(folder: Path, task: str, /, **changes: Any) -> Path:
    """Metrics of a task that gets one of two songs right."""
    songs = [song("right.mp3", "abba", "abba", "blur"), song("wrong.mp3", "abba", "blur", "abba")]
    values = {
        "task": task,
        "corpus": "some",
        "settings": {"seed": 7, "data": None, task: "here"},
        "versions": {"numpy": "2.4.6"},
        "git_commit": "0123abc",
        "notices": [],
        "val": scores(0.5),
        "best_model": "EmbeddingMLP" if "baseline" in task else "SVM",
        "encoder": {"name": "musicnn"},
        "songs": {"val": songs, "test": songs},
        "figures": [],
        "seconds": {"total": 12.5},
        **changes,
    }
    path = page.metrics_file(folder, task)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


class Document(HTMLParser):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed((folder / page.PAGE).read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.lasttag not in ("script", "style"):
            self.texts.append(data)

    @property
    def shape(self) -> list[tuple[str, list[str]]]:
        return [(tag, list(attributes)) for tag, attributes in self.tags]

    def values(self, tag: str, attribute: str) -> list[str | None]:
        return [found.get(attribute) for name, found in self.tags if name == tag]


def show(folder: Path) -> Document:
    page.refresh(folder)
    return Document(folder)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_tasks_are_side_by_side(tmp_path: Path, n: int) -> None:
    for i, task in enumerate(TASKS[:n]):
        test = {"test": scores((3 + i) / 10)} if i else {}
        write_metrics(tmp_path, task, val=scores(0.111 * (i + 1)), **test)
    shown = show(tmp_path)
    titles = [page.TASKS[task][0] for task in TASKS]
    assert f"{', '.join(titles[:n])} on the corpus some" in shown.text
    methods = (
        "Task 1 SVM on MFCC, chroma and spectral statistics",
        "Task 2 CNN on log-mel spectrograms",
        "Baseline EmbeddingMLP on musicnn embeddings",
    )
    rest = "0.100\N{EN DASH}0.900 0.750 0.200\N{EN DASH}0.800 0.625"
    val = [f"{method} 0.{i}{i}{i} {rest}" for i, method in enumerate(methods, start=1)]
    assert [row in shown.text for row in val] == [i < n for i in range(3)]
    rows = [f"{method} 0.{3 + i}00 {rest}" for i, method in enumerate(methods)]
    assert [row in shown.text for row in rows] == [0 < i < n for i in range(3)]
    assert ("test 6 songs" in shown.text) == (n > 1)
    by_artist = "".join(f" 0.{i}{i} 0.25 0.12" for i in range(1, n + 1))
    for artist in ARTISTS:
        assert f"{artist} 2{by_artist} " in shown.text
    assert f"Songs {'every task' if n > 1 else 'Task 1'} gets wrong" in shown.text
    for name, value in (
        ("seed", "7"),
        ("data", "default"),
        ("git commit", "0123abc"),
        ("numpy", "2.4.6"),
        ("total", "12.5"),
    ):
        assert name + n * f" {value}" in shown.text
    assert {path.name for path in tmp_path.iterdir()} == {
        page.PAGE,
        *(f"metrics_{task}.json" for task in TASKS[:n]),
    }


@pytest.mark.parametrize(
    ("source", "words"),
    [("mix", ""), ("vocals", ", of the vocals"), ("both", ", of mix and vocals")],
)
def test_what_a_task_hears_is_said(tmp_path: Path, source: str, words: str) -> None:
    write_metrics(tmp_path, "task2", settings={"source": source})
    assert f"CNN on log-mel spectrograms{words} 0.500" in show(tmp_path).text


def test_the_spread_over_seeds_is_beside_the_scores_of_their_mean(tmp_path: Path) -> None:
    mean = {"top1_mean": 0.25, "top1_sd": 0.125, "top3_mean": 0.625, "top3_sd": 0.0}
    seeds = {"top1": [0.125, 0.25, 0.375], "top3": [0.625] * 3, **mean}
    write_metrics(tmp_path, "task1", val=scores(0.5) | {"seeds": None})
    write_metrics(tmp_path, "task2", val=scores(0.5) | {"seeds": seeds})
    text = show(tmp_path).text
    assert "3 seeds: 0.250 ± 0.125" in text
    assert "3 seeds: 0.625 ± 0.000" in text
    assert text.count("3 seeds") == 2  # the split is shown once


def test_missed_songs_are_those_that_no_task_gets_right(tmp_path: Path) -> None:
    guesses = {  # the first guess of each task; the artist is always cher
        "all wrong": ("abba", "blur", "blur"),
        "one right": ("abba", "cher", "blur"),
        "all right": ("cher", "cher", "cher"),
        "never predicted": ("", "", ""),
        "not always predicted": ("abba", "", "abba"),
        "predicted once, right": ("", "cher", ""),
    }
    for i, task in enumerate(TASKS):
        songs = [
            song(name, "cher", *filter(None, (first[i],)), file=f"{name}.mp3")
            for name, first in guesses.items()
        ]
        own = [song("only here", "cher", "abba")] if task != "task2" else []
        write_metrics(tmp_path, task, songs={"val": songs + own, "test": songs[:2]}, test=scores(0))
    shown = show(tmp_path)
    expected = ["all wrong", "never predicted", "not always predicted", "all wrong"]
    assert shown.values("audio", "aria-label") == expected
    assert shown.values("audio", "src") == [f"{quote(name)}.mp3" for name in expected]
    assert set(shown.values("audio", "preload")) == {"none"}
    assert "val 3 of 6 songs" in shown.text
    assert "test 1 of 2 songs" in shown.text
    assert "cher all wrong Task 1 abba 50% Task 2 blur 50% Baseline blur 50%" in shown.text
    assert "not always predicted Task 1 abba 50% Task 2 no prediction Baseline" in shown.text
    assert "the tasks differ in their val songs" in shown.text
    assert "the tasks differ in their test songs" not in shown.text


def test_guesses_are_in_order_and_the_true_artist_is_marked(tmp_path: Path) -> None:
    songs = {"val": [song("a.mp3", "cher", "abba", "cher", "blur")]}
    write_metrics(tmp_path, "task1", songs=songs)
    shown = show(tmp_path)
    assert "a.mp3 Task 1 abba 50% cher 25% blur 17%" in shown.text
    marked = [found for found in shown.values("li", "class") if found is not None]
    assert marked == ["song box", "", "true", ""]


def test_the_number_of_players_is_limited(tmp_path: Path) -> None:
    n = page.MAX_SONGS + 1
    songs = {"val": [song(f"{i}.mp3", "cher", "abba") for i in range(n)]}
    write_metrics(tmp_path, "task1", songs=songs)
    shown = show(tmp_path)
    assert len(shown.values("audio", "src")) == page.MAX_SONGS
    assert f"val {n} of {n} songs" in shown.text
    assert f"Only the first {page.MAX_SONGS} are shown." in shown.text


def show_named(folder: Path, name: str) -> Document:
    """A page that uses `name` wherever a name can occur."""
    write_metrics(
        folder,
        "task1",
        corpus=name,
        val=scores(0.5, [name]),
        songs={"val": [song(name, "blur", name, file=f"../{name}/{name}")]},
        notices=[name],
        settings={name: name},
        best_model=name,
    )
    return show(folder)


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "\"><img src=x onerror='alert(1)'>",
        "{{ 1 + 1 }} &amp; 100%25 #1? a;c=d+e",
        "周杰倫 \N{GUITAR} ü",
    ],
)
def test_names_are_escaped(tmp_path: Path, name: str) -> None:
    shown, harmless = show_named(tmp_path, name), show_named(tmp_path, "harmless")
    assert shown.shape == harmless.shape
    assert shown.text.replace(name, "harmless") == harmless.text
    assert shown.values("audio", "aria-label") == [name]
    (url,) = shown.values("audio", "src")
    assert unquote_to_bytes(str(url)) == f"../{name}/{name}".encode()
    assert re.fullmatch(r"[A-Za-z0-9._~%/-]+", str(url))


def test_file_names_need_not_be_utf_8(tmp_path: Path) -> None:
    file = os.fsdecode(b"caf\xe9.mp3")
    write_metrics(tmp_path, "task1", songs={"val": [song(file, "cher", "abba", file=file)]})
    shown = show(tmp_path)
    assert shown.values("audio", "src") == ["caf%E9.mp3"]
    assert shown.values("audio", "aria-label") == ["caf?.mp3"]


def test_tasks_on_the_corpus_of_the_latest_run_are_compared(tmp_path: Path) -> None:
    for task, corpus, seconds in (
        ("task1", "old", 100),
        ("task2", "new", 300),
        ("task2_baseline", "new", 200),
    ):
        os.utime(write_metrics(tmp_path, task, corpus=corpus), (seconds, seconds))
    shown = show(tmp_path)
    assert "Task 2, Baseline on the corpus new" in shown.text
    assert "SVM on MFCC" not in shown.text
    assert "metrics_task1.json is left out: its corpus is old, not new" in shown.text
    assert shown.values("audio", "aria-label") == ["wrong.mp3"]
    os.utime(tmp_path / "metrics_task1.json", (400, 400))
    shown = show(tmp_path)
    assert "Task 1 on the corpus old" in shown.text
    assert "metrics_task2_baseline.json is left out: its corpus is new" in shown.text


@pytest.mark.parametrize(
    "contents", ['{"task": "task2", "corpus"', "[]", '{"task": "task2"}', 80_000 * "["]
)
def test_unrecognised_metrics_are_left_out(tmp_path: Path, contents: str) -> None:
    (tmp_path / "metrics_task2.json").write_text(contents)
    remark = "metrics_task2.json is left out: unrecognised metrics format"
    shown = show(tmp_path)
    assert "No results yet." in shown.text
    assert remark in shown.text
    write_metrics(tmp_path, "task1")
    shown = show(tmp_path)
    assert "Task 1 on the corpus some" in shown.text
    assert remark in shown.text


def test_figures_are_embedded_and_nothing_else_is_loaded(tmp_path: Path) -> None:
    figures = [
        {"file": "a.png", "model": "KNN", "shows": "confusion matrix"},
        {"file": "b.png", "model": "SVM", "shows": "confusion matrix"},
        {"file": "c.png", "model": "SVM", "shows": "training curves"},
        {"file": "gone.png", "model": "SVM", "shows": "training curves"},
    ]
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    write_metrics(tmp_path, "task1", figures=figures)
    shown = show(tmp_path)
    prefix = "data:image/png;base64,"
    expected = [f"{prefix}{code}" for code in ("Yg==", "YQ==", "Yw==")]  # the best model first
    assert shown.values("img", "src") == expected
    assert shown.values("img", "alt")[0] == "Task 1: SVM, confusion matrix"
    assert "Image file missing. Task 1 SVM, training curves" in shown.text
    assert "Other models of Task 1" in shown.text
    linked = [found.get(key) for _, found in shown.tags for key in ("src", "href") if key in found]
    assert all(str(url).startswith("data:") or url == "../song.mp3" for url in linked)
    text = (tmp_path / page.PAGE).read_text(encoding="utf-8")
    for loads in ("://", "url(", "@import"):
        assert loads not in text


def test_notices_are_shown_once(tmp_path: Path) -> None:
    for task in TASKS:
        write_metrics(tmp_path, task, notices=["this is the synthetic demo corpus", task])
    shown = show(tmp_path)
    assert shown.text.count("this is the synthetic demo corpus") == 1
    assert all(f" {task} " in shown.text for task in TASKS)
