"""Where work runs: local processes or threads by joblib, this process, or a Dask cluster."""

import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, resource_tracker
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool
from threadpoolctl import threadpool_limits
from tyro.conf import arg

from artistid.foundation import progress
from artistid.foundation.cluster import run_on_cluster
from artistid.foundation.errors import UserError

# torchrun and accelerate start several processes of a script; only this one writes and reports
IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"

Place = Literal["processes", "threads", "here"]
MAX_JOBS = 1024
N_THREADS = 4  # that decode while a GPU computes

Calls = Iterable[Any]  # of joblib: (function, arguments, options)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """Processes and clusters."""

    jobs: int = -1
    """Processes that run at once; -1: one per core."""
    dask: Annotated[str | None, arg(metavar="ADDRESS")] = None
    """Address of a Dask scheduler (tcp://HOST:8786) whose workers replace local processes.
    All machines must see the corpus and the cache under the same paths."""

    def __post_init__(self) -> None:
        if self.jobs == 0:
            raise UserError("--jobs 0: use a number of processes, or -1 for one per core")
        if self.jobs > MAX_JOBS:
            raise UserError(f"--jobs {self.jobs}: must be at most {MAX_JOBS}")
        if self.dask is not None and not re.search(r":\d+$", self.dask):
            raise UserError(f"--dask {self.dask}: name its port, too, as in tcp://HOST:8786")


def run(
    function: Callable[..., Result],
    items: Sequence[Item],
    *,
    workers: Workers,
    label: str,
    unit: str,
    place: Place = "processes",
    common: Sequence[Any] = (),
    needs: Sequence[Path] = (),
    seconds: Callable[[Result], float] | None = None,
) -> Iterator[Result]:
    """Yield `function(item, *common)` for each of `items`, in order, with a progress bar.

    `place` is "processes" (numeric libraries get one thread each, so that results do not depend
    on their number), "threads" (work that waits for a GPU) or "here" (one call after another, for
    work that uses all cores by itself). With a cluster, everything runs there, and its workers
    must see the files and folders in `needs`. `seconds` gives the seconds of audio in a result;
    the bar then shows the speed as a multiple of real time.
    Raises UserError where workers cannot be had or crash.
    """
    if place == "processes":
        function = partial(_single_threaded, function)
    if workers.dask:
        results = run_on_cluster(function, items, workers.dask, common, needs)
    else:
        calls = (delayed(function)(item, *common) for item in items)
        results = _PLACES[place](calls, workers.jobs)
    total_s, begin = 0.0, time.perf_counter()
    in_workers = bool(workers.dask) or (
        place == "processes" and effective_n_jobs(workers.jobs) != 1
    )
    with (
        nullcontext() if in_workers else progress.decoders_silenced(),
        progress.bar(total=len(items), desc=label, unit=unit) as bar,
    ):
        for result in results:
            if seconds is not None:
                total_s += seconds(result)
                speed = total_s / (time.perf_counter() - begin)
                bar.set_postfix_str(f"{speed:.0f} x real time", refresh=False)
            bar.update()
            yield result


def _single_threaded(function: Callable[..., Result], *arguments: Any) -> Result:
    with threadpool_limits(1):
        return function(*arguments)


def _in_processes(calls: Calls, jobs: int) -> Iterator[Any]:
    # loky warns of this, and of nothing else, when it replaces a worker that has grown
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
    resource_tracker.ensure_running()  # starting later, it would unblock SIGINT
    with parallel_config(backend="loky", inner_max_num_threads=1), _interrupts_deferred():
        results = Parallel(jobs, return_as="generator", initializer=progress.silence_decoders)(
            calls
        )
    try:
        yield from results
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, most likely because memory ran out: use fewer --jobs "
            "and run it again (finished work is kept)"
        ) from error


def _in_threads(calls: Calls, _jobs: int) -> Iterator[Any]:
    yield from Parallel(n_jobs=N_THREADS, return_as="generator", backend="threading")(calls)


def _here(calls: Calls, _jobs: int) -> Iterator[Any]:
    return (function(*arguments, **options) for function, arguments, options in calls)


_PLACES = {"processes": _in_processes, "threads": _in_threads, "here": _here}


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Deliver Ctrl-C at the end of the block, and never to processes started in it: a terminal
    sends it to all of them, and each would print a traceback.

    Blocking the signal protects the new processes; the handler is replaced as well because
    another thread may receive the signal, and Python then interrupts the main one."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    received: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    can_block = hasattr(signal, "pthread_sigmask")  # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_block else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if received:
            signal.raise_signal(signal.SIGINT)


def kill_workers() -> None:
    """End worker processes at once: waiting takes seconds, and their current work is not kept."""
    for process in active_children():
        process.terminate()
    # The thread that feeds them removes a semaphore and then reports the removal; if this process
    # ended in between, the resource tracker would complain about a leak.
    for thread in threading.enumerate():
        if thread.name == "QueueFeederThread":
            thread.join(timeout=1)
