"""The notebook runs from top to bottom."""

from typing import Any

import pytest
from conftest import PROJECT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq")
def test_the_notebook_runs_and_shows_what_it_says() -> None:
    nbformat = pytest.importorskip("nbformat", reason="no nbclient: pip install nbclient ipykernel")
    client = pytest.importorskip("nbclient", reason="no nbclient: pip install nbclient ipykernel")
    path = PROJECT / "docs/tour.ipynb"
    assert path.stat().st_size < 200_000
    committed, ran = (nbformat.read(path, as_version=4) for _ in range(2))
    place = {"metadata": {"path": str(path.parent)}}
    client.NotebookClient(ran, timeout=300, kernel_name="python3", resources=place).execute()
    for before, after in zip(committed.cells, ran.cells, strict=True):
        assert kinds(before) == kinds(after), after.source


def kinds(cell: Any) -> list[str]:
    """What a cell shows: text or a picture."""
    shown = [o for o in cell.get("outputs", []) if o.get("name") != "stderr"]
    return [max(output.get("data", {"text": ""})) for output in shown]
