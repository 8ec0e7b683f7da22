"""Imports go down only, and the classical task never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

LAYERS = [  # a module imports from the layers below its own
    {"errors", "musicnn", "calibration", "progress", "interrupts"},
    {"files", "audio", "corpus"},
    {"parallel", "cache", "scoring", "finding"},
    {"course", "library"},
    {"dataset", "predictions", "page"},
    {"survey"},
    {"extraction", "demo", "excerpts", "networks", "augmentation", "devices", "checkpoints"},
    {"features", "melspec", "encoders", "training"},
    {"classical", "report"},
    {"cli", "experiment", "models"},
    {"timeline"},
    {"task1", "task2", "task2_baseline", "predict", "__main__"},
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
MODULES = [*(PROJECT / "artistid").rglob("*.py"), *PROJECT.glob("*.py")]


def imported(path: Path) -> set[str]:
    """All modules named by import statements, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module(path: Path) -> str:
    """Its name in LAYERS; a package's own is that of its folder."""
    return path.parent.name if path.stem == "__init__" else path.stem


def imported_module(name: str) -> str:
    """The module in LAYERS that "artistid.a.b.c" is of."""
    parts = name.split(".")[1:3]
    return (
        parts[-1] if (PROJECT / "artistid" / Path(*parts).with_suffix(".py")).exists() else parts[0]
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_imports_go_down(path: Path) -> None:
    if path == PROJECT / "artistid/__init__.py":
        assert imported(path) == set()
        return
    assert module(path) in RANK, f"{path} has no layer"
    for name in imported(path):
        if name.startswith("artistid."):
            below = imported_module(name)
            assert RANK[below] < RANK[module(path)], f"{path} imports {below}"


def test_task_1_never_loads_torch() -> None:
    code = "import sys, task1; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0
