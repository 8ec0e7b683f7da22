"""How the comparison page behaves in Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.image
import numpy as np
import pytest
import soundfile
from conftest import Windows
from test_page import ARTISTS, TASKS, scores, song, write_metrics

from artistid.results import page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SONGS = (
    'the "best" of 100% #1? été & \N{GUITAR}.wav',
    b"caf\xe9.wav".decode(errors="surrogateescape"),
)
LOST = "it is lost.wav"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three tasks with figures, a long name, and songs to play; one file is missing."""
    place = tmp_path_factory.mktemp("page")
    results = place / "some results"
    music = place / "music"
    results.mkdir()
    music.mkdir()
    artists = [*ARTISTS, "Everything_But_the_Girl_" * 4]
    for name in ("matrix.png", "curves.png"):
        matplotlib.image.imsave(results / name, np.eye(600))
    figures = [
        {"file": "matrix.png", "model": "SVM", "shows": "confusion matrix"},
        {"file": "matrix.png", "model": "KNN", "shows": "confusion matrix"},
        {"file": "curves.png", "model": "SVM", "shows": "training curves"},
    ]
    soundfile.write(place / "tone.wav", np.sin(np.arange(4_000) / 4), 8_000)
    for name in SONGS:
        shutil.copy(place / "tone.wav", music / name)
    val, test = (
        [song(name, artists[3], artists[0], file=f"../music/{name}") for name in names]
        for names in (SONGS, [LOST])
    )
    for i, task in enumerate(TASKS):
        own = scores(0.5, artists)
        for artist, value in zip(artists, (0.25, 1.0, 0.0, 0.5), strict=True):
            own["per_artist"][artist] = {**own["per_artist"][artist], "recall": value / (i + 1)}
        songs = {"val": val, "test": test}
        write_metrics(results, task, val=own, test=own, songs=songs, figures=figures)
    page.refresh(results)
    return results / page.PAGE


@pytest.fixture
def windows(browser: "Browser", shown: Path) -> Iterator[Windows]:
    windows = Windows(browser, shown.as_uri())
    yield windows
    windows.close()


def test_only_the_page_itself_is_loaded(windows: Windows, shown: Path) -> None:
    window = windows.open()
    is_drawn = "[...document.images].map(i => i.complete && i.naturalWidth > 0)"
    assert window.evaluate(is_drawn) == 9 * [True]
    assert [url for url in windows.loaded if not url.startswith("data:")] == [shown.as_uri()]


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(windows: Windows, width: int) -> None:
    window = windows.open(width)
    for state in ("false", "true"):
        window.evaluate(f"document.querySelectorAll('details').forEach(d => d.open = {state})")
        assert window.evaluate("document.scrollingElement.scrollWidth") <= width
    tables = window.locator(".wide:has(.headline)")  # they need no scrolling either
    assert tables.count() == 2
    for table in tables.all():
        assert table.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_it_follows_dark_mode(windows: Windows) -> None:
    colours = "(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))"
    for dark in (False, True):
        text, ground = (
            sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))
            for colour in windows.open(color_scheme="dark" if dark else "light").evaluate(colours)
        )
        assert (text > 600, ground < 100) == (dark, dark)


def test_headers_sort_by_mouse_and_keyboard(windows: Windows) -> None:
    window = windows.open()
    table = window.locator(".sortable").first
    headers = table.locator("thead tr").nth(1).locator("th")

    def column(index: int) -> list[str]:
        return table.locator(f"tbody tr > :nth-child({index + 1})").all_inner_texts()

    for index, ascending in (
        (2, ["0.00", "0.25", "0.50", "1.00"]),
        (0, sorted(column(0), key=str.lower)),
    ):
        headers.nth(index).get_by_role("button").click()
        assert column(index) == ascending
        assert headers.nth(index).get_attribute("aria-sort") == "ascending"
        window.keyboard.press("Space")  # the button has the focus
        assert column(index) == ascending[::-1]
        assert headers.nth(index).get_attribute("aria-sort") == "descending"
    assert window.locator("[aria-sort]").count() == 1


def test_a_figure_is_enlarged_and_closed(windows: Windows) -> None:
    window = windows.open()
    small = window.locator(".enlarge img").first
    large = window.locator("dialog img")
    width = "image => image.clientWidth"
    small.click()
    assert large.evaluate(width) == 600 > 1.5 * small.evaluate(width)
    large.click()
    assert not large.is_visible()
    small.click()
    assert large.is_visible()
    window.keyboard.press("Escape")
    assert not large.is_visible()


def test_songs_can_be_played(windows: Windows) -> None:
    window = windows.open(390)
    players = f"[...document.querySelectorAll('audio')].filter(a => a.ariaLabel !== '{LOST}')"
    window.evaluate(f"{players}.forEach(a => a.preload = 'auto')")
    window.wait_for_function(f"{players}.every(a => a.duration > 0)")
    assert window.evaluate(f"{players}.map(a => a.duration)") == pytest.approx([0.5, 0.5])


def test_a_missing_song_is_reported(windows: Windows) -> None:
    window = windows.open(390)
    window.evaluate("document.querySelectorAll('audio').forEach(a => a.preload = 'auto')")
    window.locator(".song .gone").wait_for()
    assert window.locator(".song .gone").all_inner_texts() == [
        "Cannot play ../music/it%20is%20lost.wav"
    ]
    windows.complaints.clear()  # Chromium reports the missing file, too
