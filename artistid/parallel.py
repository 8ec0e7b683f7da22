"""The one place that chooses where work runs: here, local processes by joblib."""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_limits
from tqdm import tqdm

# torchrun and accelerate start several processes of a script; this one alone writes and reports
IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"

Place = Literal["processes", "threads", "here"]
THREADS = 4  # that decode while a GPU computes

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int,
    label: str,
    unit: str,
    place: Place = "processes",
    seconds: Callable[[Result], float] | None = None,
) -> Iterator[Result]:
    """`function` of each of `items`, in their order, as they come, with a progress bar.

    In "processes", `jobs` of them, -1 for one a core; numeric libraries get one thread each, so
    that results do not depend on how many there are. In "threads", for what waits for a GPU. Or
    "here", one after the other, for what uses all cores by itself. With `seconds`, of audio that
    a result took, the bar shows how many times faster than real time it goes.
    """
    results = _PLACES[place](function, items, jobs)
    heard, begin = 0.0, time.perf_counter()
    with tqdm(total=len(items), desc=label, unit=unit, disable=None) as bar:
        for result in results:
            if seconds is not None:
                heard += seconds(result)
                speed = heard / (time.perf_counter() - begin)
                bar.set_postfix_str(f"{speed:.0f} x real time", refresh=False)
            bar.update()
            yield result


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int
) -> Iterator[Result]:
    # a worker that has loaded more than before is renewed, which is all that loky says there
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
    calls = (delayed(_single_threaded)(function, item) for item in items)
    with parallel_config(backend="loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=jobs, return_as="generator")(calls)


def _in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], _jobs: int
) -> Iterator[Result]:
    calls = (delayed(function)(item) for item in items)
    yield from Parallel(n_jobs=THREADS, return_as="generator", backend="threading")(calls)


def _here(
    function: Callable[[Item], Result], items: Sequence[Item], _jobs: int
) -> Iterator[Result]:
    return map(function, items)


_PLACES = {"processes": _in_processes, "threads": _in_threads, "here": _here}


def _single_threaded(function: Callable[[Item], Result], item: Item) -> Result:
    with threadpool_limits(1):
        return function(item)
