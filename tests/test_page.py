"""What the page says, as an HTML parser reads it; how it behaves is in test_page_browser.py."""

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
TASKS = tuple(page.TASKS)


def scores(top1: float, artists: Sequence[str] = ARTISTS) -> dict[str, Any]:
    own = {"n": 2, "recall": top1, "precision": 0.25, "f1": 0.125}
    per_artist = dict.fromkeys(artists, own)
    return {"n": 6, "top1": top1, "top3": 0.75, "macro_f1": 0.625, "per_artist": per_artist}


def song(id_: str, artist: str, *guesses: str, file: str = "../song.mp3") -> dict[str, Any]:
    best = [[guess, 0.5 / (i + 1)] for i, guess in enumerate(guesses)]
    return {"id": id_, "artist": artist, "file": file, **({"best": best} if best else {})}


def write_metrics(folder: Path, task: str, /, **changes: Any) -> Path:
    """Metrics as a task writes them, with a song that it has right and one that it has wrong."""
    songs = [song("right.mp3", "abba", "abba", "blur"), song("wrong.mp3", "abba", "blur", "abba")]
    values = {
        "task": task,
        "corpus": "some",
        "settings": {"seed": 7, "data": None, task: "here"},
        "versions": {"numpy": "2.4.6"},
        "git_commit": "0123abc",
        "notices": [],
        "val": scores(0.5),
        "best_model": "SVM",
        "encoder": {"name": "musicnn"},
        "songs": {"val": songs},
        "figures": [],
        "seconds": {"total": 12.5},
        **changes,
    }
    path = folder / f"metrics_{task}.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


class Document(HTMLParser):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed((folder / page.NAME).read_text(encoding="utf-8"))
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
def test_it_has_the_tasks_side_by_side(tmp_path: Path, n: int) -> None:
    for i, task in enumerate(TASKS[:n]):
        test = {"test": scores(0.31 + i)} if i else {}
        write_metrics(tmp_path, task, val=scores(0.111 * (i + 1)), **test)
    shown = show(tmp_path)
    titles = [page.TASKS[task][0] for task in TASKS]
    assert f"{', '.join(titles[:n])} on the corpus some" in shown.text
    rows = [
        "Task 1 SVM on statistics of the sound 0.111 0.750 0.625",
        "Task 2 CNN on mel spectrograms 0.222 0.750 0.625 1.310 0.750 0.625",
        "Baseline MLP on embeddings of musicnn 0.333 0.750 0.625 2.310 0.750 0.625",
    ]
    assert [row in shown.text for row in rows] == [i < n for i in range(3)]
    assert ("test, 6 songs" in shown.text) == (n > 1)
    by_artist = "".join(f" 0.{i}{i} 0.25 0.12" for i in range(1, n + 1))
    for artist in ARTISTS:
        assert f"{artist} 2{by_artist} " in shown.text
    who = "all tasks get" if n > 1 else "Task 1 gets"
    assert f"Songs that {who} wrong" in shown.text
    assert "seed" + n * " 7" in shown.text
    assert "data" + n * " default" in shown.text
    assert "git commit" + n * " 0123abc" in shown.text
    assert "numpy" + n * " 2.4.6" in shown.text
    assert "total" + n * " 12.5" in shown.text
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [page.NAME, *(f"metrics_{task}.json" for task in TASKS[:n])]
    )


def test_the_songs_that_all_get_wrong_are_those_and_no_others(tmp_path: Path) -> None:
    guesses = {  # the first guess of each task; all are by cher
        "all wrong": ("abba", "blur", "blur"),
        "one right": ("abba", "cher", "blur"),
        "all right": ("cher", "cher", "cher"),
        "not usable": ("", "", ""),
        "not usable, once": ("abba", "", "abba"),
        "not usable, but known": ("", "cher", ""),
    }
    for i, task in enumerate(TASKS):
        songs = [
            song(name, "cher", *filter(None, (first[i],)), file=f"{name}.mp3")
            for name, first in guesses.items()
        ]
        own = [song("only here", "cher", "abba")] if task != "task2" else []
        write_metrics(tmp_path, task, songs={"val": songs + own, "test": songs[:2]}, test=scores(0))
    shown = show(tmp_path)
    expected = ["all wrong", "not usable", "not usable, once", "all wrong"]
    assert shown.values("audio", "aria-label") == expected
    assert shown.values("audio", "src") == [f"{quote(name)}.mp3" for name in expected]
    assert set(shown.values("audio", "preload")) == {"none"}
    assert "val: 3 of 7" in shown.text
    assert "test: 1 of 2" in shown.text
    assert "cher all wrong Task 1 abba 50% Task 2 blur 50% Baseline blur 50%" in shown.text
    assert (
        "not usable, once Task 1 abba 50% Task 2 could not be used Baseline abba 50%" in shown.text
    )
    assert "The tasks were scored on different songs of val" in shown.text
    assert "different songs of test" not in shown.text


def test_the_three_guesses_are_in_order_and_the_right_one_is_marked(tmp_path: Path) -> None:
    songs = {"val": [song("a.mp3", "cher", "abba", "cher", "blur")]}
    write_metrics(tmp_path, "task1", songs=songs)
    shown = show(tmp_path)
    assert "a.mp3 Task 1 abba 50% cher 25% blur 17%" in shown.text
    marked = [found for found in shown.values("li", "class") if found is not None]
    assert marked == ["song box", "", "true", ""]


def test_of_very_many_songs_the_first_are_to_be_heard(tmp_path: Path) -> None:
    n = page.MOST_SONGS + 1
    songs = {"val": [song(f"{i}.mp3", "cher", "abba") for i in range(n)]}
    write_metrics(tmp_path, "task1", songs=songs)
    shown = show(tmp_path)
    assert len(shown.values("audio", "src")) == page.MOST_SONGS
    assert f"val: {n} of {n}" in shown.text
    assert f"The first {page.MOST_SONGS} are shown." in shown.text


HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "{{ 1 + 1 }} ${x} &amp; %s",
    "100%25 #1? a&b;c=d+e",
    "javascript:alert(1)",
    "line\nbreak\ttab\\back",
    "周杰倫 \N{GUITAR} ü",
]


def show_named(folder: Path, name: str) -> Document:
    """A page with a name wherever one can be."""
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


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_as_they_are_and_do_nothing(tmp_path: Path, name: str) -> None:
    shown, harmless = show_named(tmp_path, name), show_named(tmp_path, "harmless")
    assert shown.shape == harmless.shape
    once = " ".join(name.split())
    assert shown.text.replace(once, "harmless") == harmless.text
    assert shown.values("audio", "aria-label") == [name]
    (url,) = shown.values("audio", "src")
    assert unquote_to_bytes(str(url)) == f"../{name}/{name}".encode()
    assert re.fullmatch(r"[A-Za-z0-9._~%/-]+", str(url))


@pytest.mark.parametrize(
    ("file", "url"),
    [(os.fsdecode(b"caf\xe9.mp3"), "caf%E9.mp3"), ("\ud800.mp3", "%3F.mp3")],
)
def test_names_that_are_no_utf_8_can_be_written(tmp_path: Path, file: str, url: str) -> None:
    songs = {"val": [song(file, "cher\udcff", "abba\udcff", file=file)]}
    write_metrics(tmp_path, "task1", songs=songs, notices=["\udcff"])
    assert show(tmp_path).values("audio", "src") == [url]


def test_only_tasks_of_the_corpus_of_the_newest_are_compared(tmp_path: Path) -> None:
    for task, corpus, seconds in (
        ("task1", "old", 100),
        ("task2", "new", 300),
        ("task2_baseline", "new", 200),
    ):
        os.utime(write_metrics(tmp_path, task, corpus=corpus), (seconds, seconds))
    shown = show(tmp_path)
    assert "Task 2, Baseline on the corpus new" in shown.text
    assert "SVM on statistics" not in shown.text
    assert "metrics_task1.json is of another corpus, old, and is not compared." in shown.text
    assert shown.values("audio", "aria-label") == ["wrong.mp3"]
    os.utime(tmp_path / "metrics_task1.json", (400, 400))
    shown = show(tmp_path)
    assert "Task 1 on the corpus old" in shown.text
    assert "metrics_task2_baseline.json is of another corpus, new" in shown.text


DAMAGED = {
    "empty": b"",
    "cut": b'{"task": "task2", "corpus"',
    "a list": b"[]",
    "nothing": b"null",
    "foreign": b"{}",
    "not UTF-8": b"\xff",
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("contents", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_and_the_others_are_compared(
    tmp_path: Path, contents: bytes
) -> None:
    write_metrics(tmp_path, "task1")
    (tmp_path / "metrics_task2.json").write_bytes(contents)
    shown = show(tmp_path)
    assert "metrics_task2.json is left out: it is not as this program writes it (" in shown.text
    assert "Task 1 on the corpus some" in shown.text


WRONG = {
    "task": {"task": "task1"},
    "score": {"val": {**scores(0), "top1": "high"}},
    "no score": {"val": {**scores(0), "top3": None}},
    "too large": {"val": {**scores(0), "top1": 10**400}},
    "artists": {"val": {**scores(0), "per_artist": ["abba"]}},
    "songs": {"songs": {"val": [{"id": "a"}]}},
    "guesses": {"songs": {"val": [song("a", "b") | {"best": [["abba"]]}]}},
    "settings": {"settings": 3},
    "figures": {"figures": [{"file": "../elsewhere.png", "model": "m", "shows": "s"}]},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_so_is_one_with_other_contents(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_metrics(tmp_path, "task1")
    write_metrics(tmp_path, "task2", **changes)
    shown = show(tmp_path)
    assert "metrics_task2.json is left out: it is not as this program writes it (" in shown.text
    assert "Task 1 on the corpus some" in shown.text


def test_it_is_written_even_if_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "metrics_task1.json").mkdir()
    shown = show(tmp_path)
    assert "There is nothing to compare yet." in shown.text
    assert "metrics_task1.json is left out: is a directory." in shown.text


def test_metrics_of_an_earlier_version_are_compared_as_far_as_they_go(tmp_path: Path) -> None:
    path = write_metrics(tmp_path, "task1")
    values = json.loads(path.read_text())
    del values["songs"], values["figures"]
    path.write_text(json.dumps(values))
    write_metrics(tmp_path, "task2")
    shown = show(tmp_path)
    assert "The metrics of Task 1 do not name the songs of val" in shown.text
    assert "Task 1 SVM on statistics of the sound 0.500" in shown.text
    assert shown.values("audio", "aria-label") == ["wrong.mp3"]


def test_figures_are_in_the_page_and_nothing_else_is_fetched(tmp_path: Path) -> None:
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
    expected = [f"{prefix}{code}" for code in ("Yg==", "YQ==", "Yw==")]  # the chosen model first
    assert shown.values("img", "src") == expected
    assert shown.values("img", "alt")[0] == "Task 1: SVM, confusion matrix"
    assert "The file of this figure is gone. Task 1 SVM, training curves" in shown.text
    assert "The other models of Task 1" in shown.text
    linked = [found.get(key) for _, found in shown.tags for key in ("src", "href") if key in found]
    assert all(str(url).startswith("data:") or url == "../song.mp3" for url in linked)
    text = (tmp_path / page.NAME).read_text()
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_notices_are_shown_once(tmp_path: Path) -> None:
    for task in TASKS:
        write_metrics(tmp_path, task, notices=["this is the synthetic demo corpus", task])
    shown = show(tmp_path)
    assert shown.text.count("this is the synthetic demo corpus") == 1
    assert all(f" {task} " in shown.text for task in TASKS)
