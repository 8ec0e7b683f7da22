import io
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import PROJECT, tone, write_audio
from joblib.externals.loky import get_reusable_executor
from threadpoolctl import threadpool_info
from tqdm import tqdm

from artistid.foundation import parallel, progress
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers


def pid_and_square(x: int) -> tuple[int, int]:
    return os.getpid(), x * x


def threads(_: int) -> list[int]:
    import numpy as np

    np.ones((2, 2)) @ np.ones((2, 2))
    return [pool["num_threads"] for pool in threadpool_info()]


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_from_that_many_processes(jobs: int) -> None:
    results = list(
        parallel.run(pid_and_square, range(40), workers=Workers(jobs), label="x", unit="x")
    )
    assert [square for _, square in results] == [x * x for x in range(40)]
    pids = {pid for pid, _ in results}
    assert len(pids) <= jobs
    assert (os.getpid() in pids) == (jobs == 1)


@pytest.mark.parametrize("jobs", [1, 2])
def test_numeric_libraries_get_one_thread(jobs: int) -> None:
    for counts in parallel.run(threads, [0, 1], workers=Workers(jobs), label="x", unit="x"):
        assert counts
        assert set(counts) == {1}


@pytest.mark.parametrize("place", ["threads", "here"])
def test_work_for_a_gpu_or_for_all_cores_stays_in_this_process(place: parallel.Place) -> None:
    options = {"workers": Workers(2), "label": "x", "unit": "x", "place": place}
    results = list(parallel.run(pid_and_square, range(40), **options))
    assert results == [(os.getpid(), x * x) for x in range(40)]


def test_threads_work_at_the_same_time() -> None:
    barrier = threading.Barrier(parallel.N_THREADS, timeout=20)
    options = {"workers": Workers(1), "label": "x", "unit": "x", "place": "threads"}
    waited = list(parallel.run(lambda _: barrier.wait(), range(parallel.N_THREADS), **options))
    assert sorted(waited) == list(range(parallel.N_THREADS))


def test_no_jobs_are_refused() -> None:
    with pytest.raises(UserError, match=r"^--jobs 0: use a number of processes, or -1"):
        Workers(jobs=0)


def test_the_bar_shows_a_multiple_of_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock = io.StringIO(), iter([0.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "tqdm", partial(tqdm, file=screen, mininterval=0, miniters=1))
    monkeypatch.setattr(parallel.time, "perf_counter", lambda: next(clock))
    options = {"workers": Workers(1), "label": "musicnn", "unit": "song", "place": "here"}
    list(parallel.run(float, ["60", "0", "100"], seconds=lambda s: s, **options))
    last = screen.getvalue().split("\r")[-1]
    assert "musicnn: 100%" in last
    assert "40 x real time" in last
    assert "3/3" in last


def die(_: int) -> None:
    os._exit(1)


def test_a_killed_process_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^a worker process was killed, .* use fewer --jobs"):
        list(parallel.run(die, range(4), workers=Workers(2), label="x", unit="x"))


# --- what workers write on the screen ----------------------------------------------------------

DECODE_IN_WORKERS = """
import sys, warnings
from multiprocessing import active_children
from pathlib import Path
from artistid.audio.decode import AudioError
from artistid.audio.source import load
from artistid.foundation import parallel

def work(path):
    try:
        load(path, 16_000)
    except AudioError as error:
        warnings.warn(str(error))

paths = [Path(sys.argv[1])] * 2
for _ in range(2):
    options = {"workers": parallel.Workers(-1), "label": "x", "unit": "x"}
    list(parallel.run(work, paths, **options))
    print(sorted(process.pid for process in active_children()))
"""


@pytest.mark.parametrize("cores", ["2", "1"])  # on one, this process works by itself
def test_decoders_keep_quiet_in_workers_and_python_does_not(tmp_path: Path, cores: str) -> None:
    path = tmp_path / "song.mp3"
    write_audio(path, tone(440, 10))
    data = bytearray(path.read_bytes())
    data[8_000:28_000] = bytes(20_000)  # on which libmpg123 comments at length
    path.write_bytes(data)
    (tmp_path / "run.py").write_text(DECODE_IN_WORKERS)
    command = [sys.executable, str(tmp_path / "run.py"), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "LOKY_MAX_CPU_COUNT": cores}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "UserWarning: cannot be decoded: damaged stream" in done.stderr
    assert "mpg123" not in done.stderr
    assert "Illegal Audio-MPEG-Header" not in done.stderr
    first, second = done.stdout.splitlines()
    assert first == second  # the same processes


# --- Ctrl-C ------------------------------------------------------------------------------------


def interrupts_are_blocked(_: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_only_the_main_process_receives_ctrl_c() -> None:
    """Each worker would print a traceback otherwise; new workers are started for this test."""
    get_reusable_executor().shutdown(wait=True)
    blocked = parallel.run(
        interrupts_are_blocked, range(4), workers=Workers(2), label="x", unit="x"
    )
    assert set(blocked) == {True}
    assert not interrupts_are_blocked(0)


def test_ctrl_c_while_processes_start_is_delivered_once_they_have() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    go = threading.Event()

    def press() -> None:
        go.wait()
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=press)  # started before, so that it does not block the signal
    other.start()
    finished = False

    def start() -> None:
        nonlocal finished
        with parallel._interrupts_deferred():
            go.set()
            other.join()
            time.sleep(0.01)
            finished = True

    with pytest.raises(KeyboardInterrupt):
        start()
    assert finished
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
