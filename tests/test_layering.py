"""Imports go down only, the package itself is lazy, and task 1 starts without torch."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import PROJECT

ROOMS = [  # lowest first; a module imports from its own room and from rooms below it
    {"foundation"},
    {"metrics"},
    {"dataset"},
    {"audio"},
    {"results", "models", "encoders", "vocals"},
    {"inference"},
    {"cli"},
    {"experiment", "ensemble"},
]
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
SCRIPTS = [*PROJECT.glob("*.py"), *(PROJECT / "artistid").rglob("__main__.py")]
MODULES = [p for p in (PROJECT / "artistid").rglob("*.py") if p not in SCRIPTS]


@cache
def imported(path: Path) -> set[str]:
    """Full names of everything that a file imports, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(path: Path) -> set[str]:
    """What a file imports of the project: names such as artistid.audio.cache.opened."""
    return {name for name in imported(path) if name.startswith("artistid.")}


def parents(names: set[str]) -> set[str]:
    """The modules that the names are in, if they are not modules themselves."""
    return {name.rpartition(".")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_imports_go_down(path: Path) -> None:
    if path.name == "__init__.py":
        assert path.parent.name == "artistid" or not imported(path)
        return
    room = path.relative_to(PROJECT / "artistid").with_suffix("").parts[0]
    for name in own(path):
        other = name.split(".")[1]
        assert other == room or RANK[other] < RANK[room], f"{path} imports {name}"


def test_no_imports_run_in_a_circle() -> None:
    modules = {".".join(p.relative_to(PROJECT).with_suffix("").parts): p for p in MODULES}
    graph = {
        module: {name for name in (*own(path), *parents(own(path))) if name in modules}
        for module, path in modules.items()
        if path.name != "__init__.py"
    }
    order = tuple(TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("artistid.foundation.errors") < order.index("artistid.experiment")


def test_scripts_are_imported_by_nobody_and_musicfm_knows_nothing_of_artistid() -> None:
    scripts = {path.stem for path in SCRIPTS}
    for path in MODULES:
        assert not {name.split(".")[0] for name in imported(path)} & scripts
        assert not any(".__main__" in name for name in imported(path))
    for path in (PROJECT / "musicfm").rglob("*.py"):
        assert not {name for name in imported(path) if name.startswith("artistid")}


def test_task_1_starts_without_torch_and_the_package_without_anything() -> None:
    code = (
        "import sys, artistid; assert 'numpy' not in sys.modules; "
        "import task1; assert 'sklearn' in sys.modules; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, timeout=60)
