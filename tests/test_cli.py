"""The scripts as command-line programs: settings, help, errors, Ctrl-C, pipes, terminals."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import PROJECT, TASKS, Call, Finish, command

import ensemble
import predict
import task1
import task2
import task2_baseline
from artistid import cli
from artistid.cli import DataSettings
from artistid.encoders.registry import EncoderSettings
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers
from artistid.models.grid_search import SearchSettings
from artistid.models.training import TrainingSettings
from task2 import NetworkSettings

SCRIPTS = (task1, task2, task2_baseline, ensemble, predict)
BAR = re.compile(r"\d+%\|")
ESCAPE = "\x1b"
SONGS = ["001.mp3", "002.mp3", "003.mp3", "004.mp3"]


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "values", "reason"),
    [
        (DataSettings, {"seed": -1}, "--seed -1: must be from 0 to 4294967295"),
        (DataSettings, {"seed": 2**32}, "--seed 4294967296: must be from 0"),
        (Workers, {"jobs": 0}, "--jobs 0: use a number of processes"),
        (Workers, {"jobs": 10**12}, "--jobs 1000000000000: must be at most 1024"),
        (Workers, {"dask": "localhost"}, "--dask localhost: name its port, too"),
        (Workers, {"dask": ""}, "--dask : name its port, too"),
        (SearchSettings, {"excerpt_seconds": 0.1}, "--excerpt-seconds 0.1: must be at least 0.128"),
        (SearchSettings, {"folds": 1}, "--folds 1: must be at least 2"),
        (SearchSettings, {"repeats": 0}, "--repeats 0: must be at least 1"),
        (SearchSettings, {"max_excerpts": 0}, "--max-excerpts 0: must be at least 1"),
        (NetworkSettings, {"masks": -1}, "--masks -1: must be at least 0"),
        (NetworkSettings, {"mixup": -0.1}, "--mixup -0.1: must be at least 0"),
        (NetworkSettings, {"mixup": float("inf")}, "--mixup inf: must be finite"),
        (TrainingSettings, {"epochs": 0}, "--epochs 0: must be at least 1"),  # test_training.py
        (EncoderSettings, {"layer": -1}, "--layer -1: must be at least 0"),
        (EncoderSettings, {"encoder": "x"}, "--encoder x: choose from auto, musicfm"),
        (predict.Settings, {}, "which songs\\? Name files, folders or patterns"),
    ],
)
def test_settings_check_themselves(group: Any, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=f"^{reason}"):
        group(**values)


def test_settings_are_recorded_flat_with_paths_inside_the_project_relative() -> None:
    data = DataSettings(data=cli.HOME / "hw1", cache=Path("/elsewhere"), seed=4)
    values = cli.flat(task2.Settings(data=data, training=TrainingSettings(lr=0.5)))
    assert {name: values[name] for name in ("data", "cache", "out", "seed", "lr", "masks")} == {
        "data": "hw1",
        "cache": "/elsewhere",
        "out": None,
        "seed": 4,
        "lr": 0.5,
        "masks": 2,
    }


GROUPS = {
    task1: ["data", "source", "search", "library", "workers"],
    task2: ["data", "source", "network", "training", "library", "workers"],
    task2_baseline: ["data", "source", "encoder", "head", "training", "library", "workers"],
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_lists_every_option_in_groups_without_twins(
    script: ModuleType, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    status, text, errors = call(script, "--help")
    assert (status, errors) == (0, "")
    assert ESCAPE not in text  # colours are for terminals
    names: list[str] = re.findall(r"^  --([a-z][a-z-]*)", text, re.MULTILINE)
    if script in GROUPS:
        order = re.findall(r"^ (\w+) options *$", text, re.MULTILINE)
        assert order == GROUPS[script]
        own = cli.flat(script.Settings())
    else:
        own = {field.name: None for field in fields(script.Settings) if field.name != "songs"}
    expected = [name.replace("_", "-").replace("refit", "no-refit") for name in own]
    assert names == expected
    assert "{None}" not in text
    assert "None|" not in text
    for option in ("--seed INT", "--data FOLDER", "--quiet", "--model FILE"):
        assert (option in text) == (option.split()[0][2:] in own)


# --- how a script ends -------------------------------------------------------------------------


@dataclass(frozen=True)
class Quiet:
    quiet: bool = True


@pytest.fixture
def ending(call: Call) -> Any:
    """How a script ends whose main raises `error`."""

    def end(error: BaseException) -> tuple[int, str, str]:
        def main(_: Quiet) -> None:
            raise error

        script: Any = SimpleNamespace(__name__="script", __doc__="", Settings=Quiet, main=main)
        return call(script)

    return end


def test_errors_a_user_can_fix_are_one_line_and_status_2(ending: Any) -> None:
    assert ending(UserError("x: no audio")) == (2, "", "script.py: x: no audio\n")
    denied = PermissionError(13, "Permission denied", "/x")
    assert ending(denied) == (2, "", "script.py: /x: Permission denied\n")
    assert ending(OSError(28, "No space left"))[2] == "script.py: file system: No space left\n"


def test_ctrl_c_is_one_line_with_advice_and_status_130(ending: Any) -> None:
    assert ending(KeyboardInterrupt()) == (130, "", "\nscript.py: interrupted; run it again\n")


def test_an_error_of_ours_keeps_its_traceback(ending: Any) -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        ending(ValueError("shapes differ"))


def test_a_second_ctrl_c_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # restored at the end
    try:
        with pytest.raises(KeyboardInterrupt):
            cli._interrupt(signal.SIGINT, None)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--gpu",), "Unrecognized options: --gpu"),
        (("--seed", "x"), "seed"),
        (("--seed", "-1"), "task1.py: --seed -1: must be from 0"),  # passes through the parser
        (("--data", "nowhere"), "task1.py: nowhere: no such folder; name one with --data"),
        (("--data", "COURSE", "--out", "/proc/none"), "task1.py: /proc/none: No such file"),
        (("--data", "COURSE", "--excerpt-seconds", "0.01"), "--excerpt-seconds 0.01: must be at"),
        (("--data", "COURSE", "--excerpt-seconds", "nan"), "--excerpt-seconds nan: must be at"),
        (("--data", "COURSE", "--excerpt-seconds", "inf"), "--excerpt-seconds inf: must be at"),
    ],
)
def test_mistakes_on_the_command_line(
    call: Call, shared_course: Path, arguments: tuple[str, ...], reason: str
) -> None:
    places = (shared_course if word == "COURSE" else word for word in arguments)
    status, _, errors = call(task1, *places)
    assert status == 2
    assert reason in errors
    assert ESCAPE not in errors
    if errors.startswith("task1.py: "):
        assert len(errors.splitlines()) == 1


def test_a_refusal_from_the_shell_leaves_nothing_behind(tmp_path: Path) -> None:
    """--quiet keeps errors. The `finished` fixture runs the other scripts from the shell."""
    wrong = {"task1": ("--data", "nowhere"), "predict": ("nowhere.mp3",)}
    started = {
        name: subprocess.Popen(
            [sys.executable, PROJECT / f"{name}.py", *arguments, "--quiet"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, arguments in wrong.items()
    }
    for name, process in started.items():
        printed, errors = process.communicate(timeout=120)
        assert (process.returncode, printed) == (2, "")
        assert errors.startswith(f"{name}.py: nowhere")
        assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# --- pipes and terminals -----------------------------------------------------------------------


def test_the_reader_of_the_results_may_leave(
    shared_course: Path, shared_cache: Path, tmp_path: Path
) -> None:
    run = command("task1", shared_course, tmp_path, "--jobs", 1, "--cache", shared_cache)
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_are_for_terminals_and_not_for_quiet_runs(
    finished: Finish, shared_course: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = finished("task1").model
    assert not BAR.search(finished("task1").screen)  # piped
    assert "\r" not in finished("task1").screen
    songs = shared_course / "artist20/test"
    for option, expected in ((), True), (("--quiet",), False):
        monkeypatch.setattr(sys, "stderr", Terminal())
        status, printed, _ = call(predict, songs, "--model", model, *option)
        assert status == 0
        assert [line.split()[0] for line in printed.splitlines()] == SONGS
        assert bool(BAR.search(sys.stderr.getvalue())) is expected


# --- Ctrl-C during work ------------------------------------------------------------------------

MOMENTS = [  # task, a line on its screen, and seconds after it
    ("task1", "corpus tiny", 1.0, "what was extracted is cached; run it again to continue"),
    ("task1", "KNN: ", 0.0, "what was extracted is cached; run it again to continue"),
    ("task2", "epoch   2", 0.0, "--resume continues after the last finished epoch"),
]


def interrupted(run: list[str], line: str, after_s: float) -> tuple[int, str, float]:
    """Press Ctrl-C, which reaches all processes of a terminal, so many seconds after `line` is on
    the screen: exit status, errors, and the seconds until all processes have ended."""
    process = subprocess.Popen(
        run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout
    while line not in process.stdout.readline():
        assert process.poll() is None, process.communicate()
    time.sleep(after_s)
    begin = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    while any(alive(process.pid)) and time.monotonic() < begin + 30:
        time.sleep(0.02)
    return process.returncode, errors, time.monotonic() - begin


def alive(group: int) -> Iterator[str]:
    """Processes of a process group that still run."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(") ")[2].split()[:3]
        except OSError:  # ended meanwhile
            continue
        if int(its_group) == group and state != "Z":
            yield stat.parent.name


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_with_one_line(shared_course: Path, tmp_path: Path) -> None:
    def run(number: int) -> None:
        task, line, after_s, kept = MOMENTS[number]
        place = tmp_path / str(number)
        options = (*TASKS[task], "--jobs", 2)
        status, errors, seconds = interrupted(
            command(task, shared_course, place, *options), line, after_s
        )
        assert (status, errors) == (130, f"\n{task}.py: interrupted; {kept}\n"), MOMENTS[number]
        assert seconds < 10
        log = next((place / "out").glob("log*.txt")).read_text()
        assert log.endswith("interrupted\n")

    with ThreadPoolExecutor(2) as two:
        list(two.map(run, range(len(MOMENTS))))
