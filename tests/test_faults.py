"""Faults from outside: killed at any moment, two runs at once, nowhere to write, a full disk."""

import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from conftest import MODELS, PNG_END, PROJECT, TASKS, Call, Finish, read
from safetensors import safe_open

import task1
import task2
import task2_baseline
from artistid.audio.extraction import Extraction, Recipe, extract
from artistid.audio.features import FeatureSettings
from artistid.dataset.read import read_corpus
from artistid.foundation.files import TEMPORARY
from artistid.foundation.parallel import Workers
from artistid.models.classical import TRUSTED_TYPES

SCRIPTS = {"task1": task1, "task2": task2, "task2_baseline": task2_baseline}
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # each of two at once


def results(task: str, texts: Path, folder: Path) -> Any:
    """All that must be the same in two runs."""
    metrics = read(folder / f"metrics_{task}.json")
    metrics.get("curves", {}).pop("seconds", None)
    kept = ("val", "test", "calibration", "models", "curves", "kept_epoch")
    return {key: metrics.get(key) for key in kept}, (texts / f"pred_{task}.json").read_bytes()


def require_whole_files(folder: Path) -> int:
    """Every file with a final name can be read; how many there are."""
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
            assert path.read_bytes().endswith(PNG_END)
    return len(named)


# --- killed before each rename -----------------------------------------------------------------


class Killed(BaseException):
    """As SIGKILL: nobody handles it."""


@contextmanager
def killed_before_rename(number: int) -> Iterator[None]:
    """End the block before its rename of this number, from 1. Nothing is tidied up after that."""
    n = 0
    replace, unlink = Path.replace, Path.unlink

    def counted_replace(self: Path, target: Path) -> Path:
        nonlocal n
        n += 1
        if n >= number:
            raise Killed
        return replace(self, target)

    def unlink_while_alive(self: Path, missing_ok: bool = False) -> None:
        if n < number:
            unlink(self, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", counted_replace)
        patch.setattr(Path, "unlink", unlink_while_alive)
        yield


def test_killed_while_extracting_the_next_run_ends_the_work(
    shared_course: Path, tmp_path: Path
) -> None:
    tracks = read_corpus(shared_course).tracks[:9]
    recipe = Recipe("peak", 1, FeatureSettings(), lambda s, _: {"peak": np.array([s.max()])})

    def run(number: int) -> Extraction:
        return extract(tracks, recipe, tmp_path / str(number), Workers(1))

    expected = [path.read_bytes() for path in run(0).entries.values()]
    for number in range(1, len(tracks) + 1):
        with pytest.raises(Killed), killed_before_rename(number):
            run(number)
        assert require_whole_files(tmp_path / str(number)) == number - 1
        assert [path.read_bytes() for path in run(number).entries.values()] == expected


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("task", "n_renames", "options"),
    [
        ("task1", 8, ("--repeats", 1)),
        ("task2", 12, ("--epochs", 2, "--batch-size", 8)),
        ("task2_baseline", 11, ("--epochs", 1, "--encoder", "musicnn")),
    ],
)
def test_killed_before_any_rename_the_next_run_ends_as_usual(
    shared_course: Path,
    shared_cache: Path,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    n_renames: int,
    options: tuple[object, ...],
) -> None:
    families, heads = task1.families, task2_baseline.embedding_families
    monkeypatch.setattr(task1, "families", lambda *sizes: families(*sizes)[::3])  # two
    monkeypatch.setattr(task2_baseline, "embedding_families", lambda *sizes: heads(*sizes)[:1])
    metrics, predictions = f"metrics_{task}.json", f"pred_{task}.json"
    exact = [predictions, MODELS[task]]
    if task == "task1":
        exact.remove(MODELS[task])  # its file numbers objects by their addresses

    def run(folder: Path, *more: object) -> None:
        places = ("--data", shared_course, "--cache", shared_cache, "--out", folder)
        assert call(SCRIPTS[task], *places, "--jobs", 1, *options, *more)[0] == 0

    old, new = tmp_path / "old", tmp_path / "new"
    run(old, "--seed", 1)
    run(new)
    expected = results(task, new, new)
    assert (old / predictions).read_bytes() != (new / predictions).read_bytes()
    for number in itertools.count(1):
        folder = Path(shutil.copytree(old, tmp_path / str(number)))
        try:
            with killed_before_rename(number):
                run(folder)
            break  # it has fewer renames
        except Killed:
            pass
        require_whole_files(folder)
        for name in exact:
            content = (folder / name).read_bytes()
            assert content in ((old / name).read_bytes(), (new / name).read_bytes())
        if (folder / metrics).read_bytes() != (old / metrics).read_bytes():  # renamed after these
            assert results(task, folder, folder) == expected
        resume = ("--resume",) * (folder / f"model_{task}_resume.pt").exists()
        run(folder, *resume)
        assert results(task, folder, folder) == expected
        assert [(folder / name).read_bytes() for name in exact] == [
            (new / name).read_bytes() for name in exact
        ]
        assert not list(folder.glob("*resume*"))
    assert number == n_renames + 1


# --- killed in earnest, and two at once --------------------------------------------------------


def command(task: str, data: Path, cache: Path, out: Path, *more: object) -> list[str]:
    places = ("--data", data, "--cache", cache, "--out", out)
    options = (*places, *TASKS[task], "--jobs", 1, *more)
    return [sys.executable, *map(str, (PROJECT / f"{task}.py", *options))]


def has_entries(folder: Path) -> bool:
    return len(list((folder / "cache").rglob("*.safetensors"))) >= 10


def has_results(folder: Path) -> bool:
    """A checkpoint of a training, or the model of task 1."""
    return any(folder.glob("out/model_*"))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["task1", "task2"])
def test_killed_while_extracting_and_while_training_the_next_run_ends_as_usual(
    finished: Finish, shared_course: Path, tmp_path: Path, task: str
) -> None:
    folder = tmp_path / task
    out = folder / "out"
    run = command(task, shared_course, folder / "cache", out, "--quiet")
    for reached in (has_entries, has_results):
        process = subprocess.Popen(run, start_new_session=True)
        while not reached(folder):
            assert process.poll() is None
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        require_whole_files(folder)
        assert not (out / f"metrics_{task}.json").exists()
    resume = [] if task == "task1" else ["--resume"]
    subprocess.run([*run, *resume], check=True)
    require_whole_files(folder)
    whole = finished(task).folder
    assert results(task, out, out) == results(task, whole, whole / "result")


@pytest.mark.slow
def test_two_runs_at_once_share_a_cache(
    finished: Finish, shared_course: Path, tmp_path: Path
) -> None:
    expected = results("task1", finished("task1").folder, finished("task1").folder / "result")
    outs = [tmp_path / name for name in ("first", "second")]
    runs = [command("task1", shared_course, tmp_path / "cache", out, "--quiet") for out in outs]
    both = [subprocess.Popen(run, env=ONE_THREAD) for run in runs]
    assert [process.wait() for process in both] == [0, 0]
    assert require_whole_files(tmp_path / "cache") == 28
    assert list(tmp_path.rglob(f"{TEMPORARY}*")) == []
    assert all(results("task1", out, out) == expected for out in outs)


# --- nowhere to write --------------------------------------------------------------------------

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
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
        pytest.skip("unshare cannot mount file systems here")
    return run


def read_only(folder: Path) -> str:
    return f"mount --bind {folder} {folder}; mount -o remount,ro,bind {folder}"


@pytest.mark.slow
def test_a_complete_cache_may_be_read_only(
    own_mounts: Shell, finished: Finish, shared_course: Path, shared_cache: Path, tmp_path: Path
) -> None:
    expected = results("task1", finished("task1").folder, finished("task1").folder / "result")
    run = command("task1", shared_course, shared_cache, tmp_path / "out")
    done = own_mounts(read_only(shared_cache), run)
    assert done.returncode == 0, done.stderr
    assert results("task1", tmp_path / "out", tmp_path / "out") == expected


@pytest.mark.slow
def test_a_disk_too_small_for_the_cache_is_one_line(
    own_mounts: Shell, shared_course: Path, tmp_path: Path
) -> None:
    cache, kept = tmp_path / "cache", tmp_path / "kept"
    cache.mkdir()
    program = command("task1", shared_course, cache, tmp_path / "out")
    small = f"mount -t tmpfs -o size=64k tmpfs {cache}"
    script = f"{shlex.join(program)}; code=$?; cp -r {cache} {kept}; exit $code"
    done = own_mounts(f"{small}; set +e", ["sh", "-c", script])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"task1.py: {cache}")
    assert "No space left on device; make room there, or name a folder" in line
    assert require_whole_files(kept) > 0
    assert list(kept.rglob(f"{TEMPORARY}*")) == []
    assert line in (tmp_path / "out/log.txt").read_text().replace("stopped: ", "task1.py: ")
    assert not (tmp_path / "out/pred_task1.json").exists()


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_results(
    own_mounts: Shell, finished: Finish, shared_course: Path, shared_cache: Path, tmp_path: Path
) -> None:
    """All but the log, which is written from the start."""
    out, kept, old = tmp_path / "out", tmp_path / "kept", finished("task1").folder / "result"
    out.mkdir()
    program = command("task1", shared_course, shared_cache, out, "--seed", 1)
    full = (
        f"mount -t tmpfs -o size=64m tmpfs {out}; cp -rp {old}/* {out}; "
        f"dd if=/dev/zero of={out}/filler bs=1k 2>/dev/null; truncate -s -16K {out}/filler"
    )
    script = f"{shlex.join(program)}; code=$?; cp -rp {out} {kept}; exit $code"
    done = own_mounts(f"set +e; {full}", ["sh", "-c", script])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"task1.py: {out}/")
    assert line.endswith(": No space left on device")
    assert "corpus tiny" in (kept / "log.txt").read_text()
    for name in ("filler", "log.txt"):
        (kept / name).unlink()
    files = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in (kept, old)
    ]
    assert files[0] == files[1]
