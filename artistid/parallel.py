"""The one place that chooses where work runs: here, local processes by joblib."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_limits
from tqdm import tqdm

# torchrun and accelerate start several processes of a script; this one alone writes and reports
IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int,
    label: str,
    unit: str,
) -> Iterator[Result]:
    """`function` of each of `items`, in their order, as they come, with a progress bar.

    `jobs` processes, -1 for one a core; numeric libraries get one thread each, so that results
    do not depend on how many there are.
    """
    # a worker that has loaded more than before is renewed, which is all that loky says there
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
    calls = (delayed(_single_threaded)(function, item) for item in items)
    with parallel_config(backend="loky", inner_max_num_threads=1):
        results = Parallel(n_jobs=jobs, return_as="generator")(calls)
        yield from tqdm(results, total=len(items), desc=label, unit=unit, disable=None)


def _single_threaded(function: Callable[[Item], Result], item: Item) -> Result:
    with threadpool_limits(1):
        return function(item)
