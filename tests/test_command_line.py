"""The scripts as people expect command-line programs to be: interrupted, piped, quiet."""

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from conftest import PROJECT, Call, Script, command, make_course

import predict
import task1
from artistid.foundation import interrupts

SCRIPTS = ("task1", "task2", "task2_baseline", "predict")
BAR = re.compile(r"\d+%\|")
ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_course(tmp_path_factory.mktemp("course"), seconds=4.0)


def interrupted(run: list[str], after_s: float, line: str = "") -> tuple[int, str, float]:
    """Ctrl-C, which reaches all processes of a terminal, so many seconds after `line` is on the
    screen: exit status, errors, and the seconds until the end."""
    process = subprocess.Popen(
        run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout
    while line and line not in process.stdout.readline():
        assert process.poll() is None, process.communicate()
    time.sleep(after_s)
    begin = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors, time.monotonic() - begin


@pytest.mark.parametrize("name", SCRIPTS)
def test_ctrl_c_while_a_script_is_loading(name: str) -> None:
    status, errors, _ = interrupted([sys.executable, str(PROJECT / f"{name}.py")], 0.3)
    assert (status, errors) == (130, f"\n{name}.py: stopped; nothing was begun\n")


def test_ctrl_c_while_a_module_is_loading() -> None:
    run = [sys.executable, "-X", "importtime", "-m", "artistid.dataset"]
    process = subprocess.Popen(
        run, cwd=PROJECT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr
    while "matplotlib" not in process.stderr.readline():  # which only the module itself loads
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "\npython3 -m artistid.dataset: stopped; nothing was begun\n" in errors
    assert "Traceback" not in errors


def test_ctrl_c_while_processes_begin_is_heard_when_they_have() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # not so in a background
    go = threading.Event()

    def press() -> None:
        go.wait()
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=press)  # which does not block it: begun before
    other.start()
    whole = False

    @interrupts.deferred()
    def begin() -> None:
        nonlocal whole
        go.set()
        other.join()
        time.sleep(0.01)
        whole = True

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert whole
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line", "kept"),
    [
        ("task1", "corpus tiny", "what was extracted is cached; run it again to go on"),
        ("task1", "KNN: ", "what was extracted is cached; run it again to go on"),
        ("task2", "epoch   2", "run it with --resume to go on after its last whole epoch"),
        ("task2_baseline", "corpus tiny", "run it with --resume to go on"),
    ],
)
def test_ctrl_c_ends_at_once_and_says_what_is_kept(
    course: Path, tmp_path: Path, name: str, line: str, kept: str
) -> None:
    def run(after_s: float) -> tuple[int, str, float]:
        return interrupted(command(name, course, tmp_path / str(after_s)), after_s, line)

    with ThreadPoolExecutor(2) as two:
        for status, errors, seconds in two.map(run, [0, 0.2, 0.5, 1.0]):
            assert status == 130
            assert re.fullmatch(rf"\n{name}\.py: stopped; .*{re.escape(kept)}.*\n", errors)
            assert seconds < 3


def run_on_terminal(run: list[str]) -> str:
    """All that it writes to the screen."""
    screen, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (40, 120))
    process = subprocess.Popen(run, stdout=its_end, stderr=its_end, stdin=its_end)
    os.close(its_end)
    written = b""
    while True:
        try:
            block = os.read(screen, 65536)
        except OSError:  # the end, on Linux
            block = b""
        if not block:
            break
        written += block
    assert process.wait() == 0, written
    os.close(screen)
    return written.decode()


@pytest.mark.slow
def test_bars_on_a_terminal_only_and_nothing_when_quiet(course: Path, tmp_path: Path) -> None:
    run = command("task1", course, tmp_path, "--jobs", 1)
    on_terminal = run_on_terminal(run)
    assert BAR.search(on_terminal)
    assert "best by cross-validation" in on_terminal
    piped = subprocess.run(run, capture_output=True, text=True, check=True)
    assert not BAR.search(piped.stdout + piped.stderr)
    assert "\r" not in piped.stdout
    assert piped.stderr == ""
    assert run_on_terminal([*run, "--quiet"]) == ""
    assert "best by cross-validation" in (tmp_path / "out/log.txt").read_text()


def test_quiet_keeps_errors(run_script: Script) -> None:
    done = run_script("task1.py", "--data", "nowhere", "--quiet")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere: no such folder" in done.stderr


@pytest.mark.parametrize("script", [task1, predict])
def test_colours_on_a_terminal_only(call: Call, script: ModuleType) -> None:
    status, printed, errors = call(script, "--help")
    assert (status, errors) == (0, "")
    assert "--quiet" in printed
    assert ESCAPE not in printed
    status, _, errors = call(script, "--no-such-option")
    assert status == 2
    assert ESCAPE not in errors


def test_whoever_reads_the_results_may_stop_reading(course: Path, tmp_path: Path) -> None:
    run = command("task1", course, tmp_path, "--jobs", 1)
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
