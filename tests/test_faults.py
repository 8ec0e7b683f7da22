"""Faults from outside: killed at any moment, two runs at once, nowhere to write, a full disk."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import skops.io
from conftest import PROJECT, make_course
from safetensors import safe_open

from artistid.foundation.files import TEMPORARY
from artistid.models.classical import TRUSTED_TYPES

pytestmark = pytest.mark.slow

OPTIONS = {
    "task1": ["--repeats", "1"],
    "task2": ["--epochs", "3", "--batch-size", "8"],
    "task2_baseline": ["--epochs", "6", "--encoder", "musicnn"],
}
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # each of two at once


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_course(tmp_path_factory.mktemp("course"), seconds=4.0)


def command(task: str, data: Path, cache: Path, out: Path, *more: object) -> list[str]:
    places = ["--data", data, "--cache", cache, "--out", out, "--jobs", 1, *more]
    return [sys.executable, str(PROJECT / f"{task}.py"), *map(str, places), *OPTIONS[task]]


def results(task: str, out: Path) -> Any:
    """All that must be the same in two runs."""
    metrics = json.loads((out / f"metrics_{task}.json").read_text())
    metrics.get("curves", {}).pop("seconds", None)
    kept = ("val", "test", "calibration", "models", "curves", "kept_epoch")
    return {key: metrics.get(key) for key in kept}, (out / f"pred_{task}.json").read_bytes()


def n_files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def require_whole_files(folder: Path) -> int:
    """Every file that has its name can be read; how many there are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    named = [path for path in files if not path.name.startswith(TEMPORARY)]
    for path in named:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                assert list(file.keys())
        elif path.suffix == ".skops":
            skops.io.load(path, trusted=TRUSTED_TYPES)
        elif path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    return len(named)


@pytest.mark.parametrize(("task", "kills"), [("task1", 7), ("task2", 7), ("task2_baseline", 6)])
def test_killed_at_any_moment_the_next_run_ends_as_if_nothing_had_been(
    course: Path, tmp_path: Path, task: str, kills: int
) -> None:
    whole = tmp_path / "whole"
    run = command(task, course, whole / "cache", whole, "--quiet")
    subprocess.run(run, env=ONE_THREAD, check=True)
    expected = results(task, whole)
    n_whole = require_whole_files(whole)
    draw = random.Random(task)

    def kill(number: int) -> int:
        """Soon after there are so many of the files that it writes; how many there were."""
        folder = tmp_path / str(number)
        run = command(task, course, folder / "cache", folder, "--quiet")
        process = subprocess.Popen(run, env=ONE_THREAD, start_new_session=True)
        while n_files(folder) < number * n_whole // kills and process.poll() is None:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.2))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        n_killed = require_whole_files(folder)
        resume = ["--resume"] * (folder / f"model_{task}_resume.pt").exists()
        subprocess.run([*run, *resume], env=ONE_THREAD, check=True)
        assert results(task, folder) == expected
        require_whole_files(folder)
        return n_killed

    with ThreadPoolExecutor(2) as two:
        assert len(set(two.map(kill, range(kills)))) > 2  # they were different moments


def test_two_runs_at_once_share_a_cache(course: Path, tmp_path: Path) -> None:
    runs = {
        name: command("task1", course, tmp_path / "cache", tmp_path / name, "--quiet")
        for name in ("first", "second", "alone")
    }
    both = [subprocess.Popen(runs[name]) for name in ("first", "second")]
    assert [process.wait() for process in both] == [0, 0]
    assert require_whole_files(tmp_path / "cache") == 28
    assert list(tmp_path.rglob(f"{TEMPORARY}*")) == []
    runs["alone"][runs["alone"].index(str(tmp_path / "cache"))] = str(tmp_path / "other")
    subprocess.run(runs["alone"], check=True)
    expected = results("task1", tmp_path / "alone")
    assert all(results("task1", tmp_path / name) == expected for name in ("first", "second"))


# --- nowhere to write --------------------------------------------------------------------------

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def own_mounts() -> Shell:
    """Runs shell commands, then a program, where file systems can be mounted for it alone."""

    def run(prepare: str, program: list[str]) -> "subprocess.CompletedProcess[str]":
        script = f"set -e; {prepare}\nexec {shlex.join(program)}"
        namespace = ["unshare", "--mount", "--map-root-user", "sh", "-c", script]
        return subprocess.run(namespace, capture_output=True, text=True, check=False)

    try:
        able = run("mount -t tmpfs tmpfs /mnt", ["true"]).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("file systems can't be mounted here by unshare")
    return run


@pytest.fixture(scope="module")
def finished(course: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Cache and results of an undisturbed run of task 1."""
    folder = tmp_path_factory.mktemp("finished")
    places = {"cache": folder / "cache", "out": folder / "out"}
    subprocess.run(command("task1", course, *places.values(), "--quiet"), check=True)
    return places


def test_a_full_cache_may_be_read_only(
    own_mounts: Shell, course: Path, finished: Mapping[str, Path], tmp_path: Path
) -> None:
    cache = finished["cache"]
    read_only = f"mount --bind {cache} {cache}; mount -o remount,ro,bind {cache}"
    done = own_mounts(read_only, command("task1", course, cache, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert results("task1", tmp_path / "out") == results("task1", finished["out"])


def test_a_read_only_cache_that_lacks_something_is_one_line(
    own_mounts: Shell, course: Path, finished: Mapping[str, Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(finished["cache"], cache)
    shutil.rmtree(next(path for path in sorted(cache.iterdir()) if path.is_dir()))
    read_only = f"mount --bind {cache} {cache}; mount -o remount,ro,bind {cache}"
    done = own_mounts(read_only, command("task1", course, cache, tmp_path / "out"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"task1.py: {cache}/")
    assert "Read-only file system; make room there, or name a folder that can be" in line


@pytest.mark.parametrize("task", OPTIONS)
def test_a_disk_that_is_full_for_the_cache_is_one_line(
    own_mounts: Shell, course: Path, tmp_path: Path, task: str
) -> None:
    cache, kept = tmp_path / "cache", tmp_path / "kept"
    cache.mkdir()
    program = command(task, course, cache, tmp_path / "out")
    small = f"mount -t tmpfs -o size=64k tmpfs {cache}"
    script = f"{shlex.join(program)}; code=$?; cp -r {cache} {kept}; exit $code"
    done = own_mounts(f"{small}; set +e", ["sh", "-c", script])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{task}.py: {cache}")
    assert "No space left on device; make room there, or name a folder" in line
    require_whole_files(kept)
    assert list(kept.rglob(f"{TEMPORARY}*")) == []
    assert not (tmp_path / "out" / f"pred_{task}.json").exists()


@pytest.mark.parametrize(("free", "file"), [("0", "log.txt"), ("16K", "_confusion_matrix.png")])
def test_a_disk_that_is_full_for_the_results_leaves_the_old_ones(
    own_mounts: Shell,
    course: Path,
    finished: Mapping[str, Path],
    tmp_path: Path,
    free: str,
    file: str,
) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    out.mkdir()
    program = command("task1", course, finished["cache"], out, "--seed", 1)
    full = (
        f"mount -t tmpfs -o size=64m tmpfs {out}; cp -p {finished['out']}/* {out}; "
        f"dd if=/dev/zero of={out}/filler bs=1k 2>/dev/null; truncate -s -{free} {out}/filler"
    )
    script = f"{shlex.join(program)}; code=$?; cp -rp {out} {kept}; exit $code"
    done = own_mounts(f"set +e; {full}", ["sh", "-c", script])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"{file}: No space left on device")
    (kept / "filler").unlink()
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        path.name: path.read_bytes() for path in finished["out"].iterdir()
    }
