"""The one place that chooses where work runs: local processes by joblib, or a Dask cluster."""

import logging
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import active_children, resource_tracker
from pathlib import Path
from typing import Any, Literal, TypeVar

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool
from threadpoolctl import threadpool_limits

from artistid.foundation import interrupts, progress
from artistid.foundation.errors import UserError, shown

# torchrun and accelerate start several processes of a script; this one alone writes and reports
IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"

Place = Literal["processes", "threads", "here"]
THREADS = 4  # that decode while a GPU computes
CONNECT_S = 10  # to wait for a scheduler
LOST_S = 30  # without a result, after which a cluster is asked whether it has workers
GONE = "the cluster went away; run it again (what is done is kept)"
MOST_WAITING = 1_000  # calls that a cluster has at a time, so that memory does not grow

Calls = Iterable[Any]  # joblib's: function, arguments, options
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """Who works."""

    jobs: int = -1  # local processes; -1: one a core
    dask: str | None = None  # address of a cluster's scheduler, which is used instead


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
    """`function` of each of `items` and of what all have in `common`, in their order, as they
    come, with a progress bar.

    In "processes"; numeric libraries get one thread each, so that results do not depend on how
    many there are. In "threads", for what waits for a GPU. Or "here", one after the other, for
    what uses all cores by itself. With a cluster, there in any case; `needs` are the files and
    folders that its workers must see. With `seconds`, of audio that a result took, the bar shows
    how many times faster than real time it goes. Raises UserError where workers can't be had.
    """
    if place == "processes":
        function = partial(_single_threaded, function)
    if workers.dask:
        results = _in_cluster(function, items, workers.dask, common, needs)
    else:
        calls = (delayed(function)(item, *common) for item in items)
        results = _PLACES[place](calls, workers.jobs)
    heard, begin = 0.0, time.perf_counter()
    with progress.bar(total=len(items), desc=label, unit=unit) as bar:
        for result in results:
            if seconds is not None:
                heard += seconds(result)
                speed = heard / (time.perf_counter() - begin)
                bar.set_postfix_str(f"{speed:.0f} x real time", refresh=False)
            bar.update()
            yield result


def _single_threaded(function: Callable[..., Result], *arguments: Any) -> Result:
    with threadpool_limits(1):
        return function(*arguments)


# --- on this machine -------------------------------------------------------------------------


def _in_processes(calls: Calls, jobs: int) -> Iterator[Any]:
    # a worker that has loaded more than before is renewed, which is all that loky says there
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
    resource_tracker.ensure_running()  # it would unblock what is blocked here, when it starts
    with parallel_config(backend="loky", inner_max_num_threads=1), interrupts.deferred():
        results = Parallel(n_jobs=jobs, return_as="generator")(calls)
    try:
        yield from results
    except BrokenProcessPool as error:
        raise UserError(
            "a process was killed, most likely for want of memory: use fewer --jobs, and run it "
            "again (what is done is kept)"
        ) from error


def kill_workers() -> None:
    """At once: to let them finish takes seconds, and what they are at is not kept."""
    for process in active_children():
        process.terminate()
    # the thread that fed them removes a semaphore, then says so: if this process ends between the
    # two, the resource tracker takes it for lost and complains
    for thread in threading.enumerate():
        if thread.name == "QueueFeederThread":
            thread.join(timeout=1)


def _in_threads(calls: Calls, _jobs: int) -> Iterator[Any]:
    yield from Parallel(n_jobs=THREADS, return_as="generator", backend="threading")(calls)


def _here(calls: Calls, _jobs: int) -> Iterator[Any]:
    return (function(*arguments, **options) for function, arguments, options in calls)


_PLACES = {"processes": _in_processes, "threads": _in_threads, "here": _here}


# --- on a cluster ----------------------------------------------------------------------------


def _in_cluster(
    function: Callable[..., Result],
    items: Sequence[Item],
    address: str,
    common: Sequence[Any],
    needs: Sequence[Path],
) -> Iterator[Result]:
    """By distributed itself: joblib's backend for it (of 1.6) waits forever for what has killed
    too many workers, instead of saying so."""
    with _connected(address) as client:
        from distributed import KilledWorker

        _require_access(client, address, function, needs)
        shared = client.scatter(list(common), broadcast=True) if common else ()
        calls = ((item, client.submit(function, item, *shared, pure=False)) for item in items)
        waiting = deque(islice(calls, MOST_WAITING))
        while waiting:
            item, future = waiting.popleft()
            waiting.extend(islice(calls, 1))
            try:
                yield _waited_for(future, client, address)
            except KilledWorker as error:
                words = f"workers die of {shown(item)}, one after another"
                raise UserError(f"--dask {address}: {words}") from error
            except CancelledError as error:
                raise UserError(f"--dask {address}: {GONE}") from error


def _waited_for(future: Any, client: Any, address: str) -> Any:
    """Its result. Raises UserError where there are no workers any more to make it."""
    while True:
        try:
            return future.result(timeout=LOST_S)
        except TimeoutError as error:
            if future.done():  # it is the function's own
                raise
            if not client.nthreads():
                raise UserError(f"--dask {address}: {GONE}") from error


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """A client of the scheduler at `address`. Raises UserError where there is none."""
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError("--dask needs a package: pip install 'dask[distributed]'") from error
    for name in ("distributed", "distributed.client"):  # what matters comes back as an error
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(f"--dask {address}: no scheduler answers there") from error
    with client:
        yield client


def _require_access(
    client: Any, address: str, function: Callable[..., Any], needs: Sequence[Path]
) -> None:
    """Raise UserError where a worker lacks this program, or one of the files and folders."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise UserError(f"--dask {address}: the scheduler has no workers; start some")
    one_a_machine = {worker["host"]: name for name, worker in workers.items()}
    paths = [str(path) for path in needs]
    try:
        # one loads the libraries before the others: numba's compiled files, which are made then,
        # can be spoilt by several processes that make them at once (numba's issue 10128)
        client.run(_missing, paths, function, workers=list(one_a_machine.values()))
        missing = client.run(_missing, paths, function)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--dask {address}: its workers can't run this program ({reason}); start them in the "
            "project's folder, in its environment, by python3 -m dask worker"
        ) from error
    for worker, lacking in missing.items():
        if lacking:
            raise UserError(
                f"--dask {address}: worker {worker} does not see {lacking[0]}; corpus and --cache "
                "must be in folders that all machines share, by the same names"
            )


def _missing(paths: Sequence[str], _function: Callable[..., Any]) -> list[str]:
    """Of the paths, on a worker; the function comes along to be loaded there."""
    return [path for path in paths if not Path(path).exists()]
