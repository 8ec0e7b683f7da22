"""The one place that chooses where work runs: local processes, or a Dask cluster, by joblib."""

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool
from threadpoolctl import threadpool_limits

from artistid import progress
from artistid.errors import UserError

# torchrun and accelerate start several processes of a script; this one alone writes and reports
IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"

Place = Literal["processes", "threads", "here"]
THREADS = 4  # that decode while a GPU computes
CONNECT_S = 10  # to wait for a scheduler, and for its first worker

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
        calls = (delayed(_single_threaded)(function, item, *common) for item in items)
    else:
        calls = (delayed(function)(item, *common) for item in items)
    if workers.dask:
        results = _in_cluster(calls, workers.dask, common, needs)
    else:
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
    with parallel_config(backend="loky", inner_max_num_threads=1), _interrupts_kept_from_children():
        results = Parallel(n_jobs=jobs, return_as="generator")(calls)
    try:
        yield from results
    except BrokenProcessPool as error:
        raise UserError(
            "a process was killed, most likely for want of memory: use fewer --jobs, and run it "
            "again (what is done is kept)"
        ) from error


@contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; those begun in this block leave it to this one,
    instead of each printing where it was."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_threads(calls: Calls, _jobs: int) -> Iterator[Any]:
    yield from Parallel(n_jobs=THREADS, return_as="generator", backend="threading")(calls)


def _here(calls: Calls, _jobs: int) -> Iterator[Any]:
    return (function(*arguments, **options) for function, arguments, options in calls)


_PLACES = {"processes": _in_processes, "threads": _in_threads, "here": _here}


# --- on a cluster ----------------------------------------------------------------------------


def _in_cluster(
    calls: Calls, address: str, common: Sequence[Any], needs: Sequence[Path]
) -> Iterator[Any]:
    with _connected(address) as client:
        _require_access(client, needs)
        shared = list(common)  # sent to each worker once
        with parallel_config(backend="dask", client=client, scatter=shared):
            results = Parallel(n_jobs=-1, return_as="generator")(calls)
        yield from results


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """A client of the scheduler at `address`. Raises UserError where there is none."""
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError("--dask needs a package: pip install 'dask[distributed]'") from error
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(f"--dask {address}: no scheduler answers there") from error
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise UserError(f"--dask {address}: the scheduler has no workers; start some")
        yield client


def _require_access(client: Any, needs: Sequence[Path]) -> None:
    """Raise UserError where a worker lacks this program, or one of the files and folders."""
    try:
        missing = client.run(_missing, [str(path) for path in needs])
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the cluster's workers can't run this program ({reason}); start them in the "
            "project's folder, with its environment"
        ) from error
    for worker, paths in missing.items():
        if paths:
            raise UserError(
                f"worker {worker} does not see {paths[0]}: corpus and --cache must be in folders "
                "that all machines share, by the same names"
            )


def _missing(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]
