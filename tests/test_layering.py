"""Imports go down only, and the classical task never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

LAYERS = [  # a module imports from the layers below its own
    {"errors", "musicnn", "calibration"},
    {"files", "audio"},
    {"parallel", "cache", "scoring"},
    {"dataset", "predictions", "page"},
    {"extraction", "demo", "excerpts", "networks", "augmentation", "devices", "checkpoints"},
    {"features", "melspec", "encoders", "training"},
    {"classical", "report"},
    {"cli", "experiment", "models"},
    {"timeline"},
    {"task1", "task2", "task2_baseline", "predict"},
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
MODULES = [*(PROJECT / "artistid").glob("*.py"), *PROJECT.glob("*.py")]


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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_down(path: Path) -> None:
    if path.stem == "__init__":
        assert imported(path) == set()
        return
    assert path.stem in RANK, f"{path.stem} has no layer"
    for name in imported(path):
        if name.startswith("artistid."):
            below = name.split(".")[1]
            assert RANK[below] < RANK[path.stem], f"{path.stem} imports {below}"


def test_task_1_never_loads_torch() -> None:
    code = "import sys, task1; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0
