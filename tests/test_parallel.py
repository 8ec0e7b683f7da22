import io
import os
import signal
import threading
from functools import partial

import pytest
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
def test_what_has_a_gpu_or_all_cores_stays_in_this_process(place: parallel.Place) -> None:
    options = {"workers": Workers(2), "label": "x", "unit": "x", "place": place}
    results = list(parallel.run(pid_and_square, range(40), **options))
    assert results == [(os.getpid(), x * x) for x in range(40)]


def test_threads_work_at_the_same_time() -> None:
    barrier = threading.Barrier(parallel.THREADS, timeout=20)
    options = {"workers": Workers(1), "label": "x", "unit": "x", "place": "threads"}
    waited = list(parallel.run(lambda _: barrier.wait(), range(parallel.THREADS), **options))
    assert sorted(waited) == list(range(parallel.THREADS))


def test_the_bar_says_how_much_faster_than_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_process_that_is_killed_is_one_line() -> None:
    with pytest.raises(UserError, match=r"a process was killed, .* use fewer --jobs"):
        list(parallel.run(die, range(4), workers=Workers(2), label="x", unit="x"))


def interrupts_are_blocked(_: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_only_the_process_that_the_user_started_hears_ctrl_c() -> None:
    """So that workers don't print where they were; the first one is begun for this."""
    get_reusable_executor().shutdown(wait=True)
    blocked = parallel.run(
        interrupts_are_blocked, range(4), workers=Workers(2), label="x", unit="x"
    )
    assert set(blocked) == {True}
    assert not interrupts_are_blocked(0)
