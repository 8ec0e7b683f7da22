"""Work on a Dask cluster, in order, with bounded memory, and with faults named in words.

It uses distributed directly: joblib's Dask backend (1.6) waits forever for a call that keeps
crashing workers.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from artistid.foundation.errors import UserError, first_line, printable

CONNECT_S = 10  # how long to wait for a scheduler
SILENCE_S = 30  # without a result, after which to check that there are workers
MAX_PENDING = 1_000  # calls submitted at a time, so that memory does not grow
GONE = "the cluster is gone; run it again (finished work is kept)"

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_on_cluster(
    function: Callable[..., Result],
    items: Sequence[Item],
    address: str,
    common: Sequence[Any],
    needs: Sequence[Path],
) -> Iterator[Result]:
    """Yield `function(item, *common)` for each of `items`, in order, from the workers of the
    scheduler at `address`, which must see the paths in `needs`.

    A call whose worker dies is repeated on others. Raises UserError where there is no scheduler,
    where workers cannot run this program, and where one call keeps crashing workers.
    """
    with _connected(address) as client:
        from distributed import KilledWorker

        _require_access(client, address, function, needs)
        shared = client.scatter(list(common), broadcast=True) if common else ()
        calls = ((item, client.submit(function, item, *shared, pure=False)) for item in items)
        pending = deque(islice(calls, MAX_PENDING))
        while pending:
            item, future = pending.popleft()
            pending.extend(islice(calls, 1))
            try:
                yield _result(future, client, address)
            except KilledWorker as error:
                words = f"{printable(item)} keeps crashing workers"
                raise UserError(f"--dask {address}: {words}") from error
            except CancelledError as error:
                raise UserError(f"--dask {address}: {GONE}") from error


def _result(future: Any, client: Any, address: str) -> Any:
    """The future's result. Raises UserError once there are no workers left to compute it."""
    while True:
        try:
            return future.result(timeout=SILENCE_S)
        except TimeoutError as error:
            if future.done():  # just now; or the function itself raised it, and does so again
                return future.result()
            if not client.nthreads():
                raise UserError(f"--dask {address}: {GONE}") from error


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """A client of the scheduler at `address`. Raises UserError if none answers."""
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError("--dask needs a package: pip install 'dask[distributed]'") from error
    for name in ("distributed", "distributed.client"):  # errors come back as exceptions
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TypeError, ValueError, TimeoutError) as error:  # tls:// without a set-up, too
        raise UserError(f"--dask {address}: no scheduler answers there") from error
    with client:
        yield client


def _require_access(
    client: Any, address: str, function: Callable[..., Any], needs: Sequence[Path]
) -> None:
    """Raise UserError if a worker lacks this program or one of the paths."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise UserError(f"--dask {address}: the scheduler has no workers; start some")
    try:
        missing = client.run(_missing, [str(path) for path in needs], function)
    except Exception as error:
        raise UserError(
            f"--dask {address}: its workers cannot run this program ({first_line(error)}); start "
            "them in the project's folder and environment with python3 -m dask worker"
        ) from error
    for worker, lacking in missing.items():
        if lacking:
            raise UserError(
                f"--dask {address}: worker {worker} does not see {lacking[0]}; corpus, --cache "
                "and weights must be in folders that all machines share under the same paths"
            )


def _missing(paths: Sequence[str], _function: Callable[..., Any]) -> list[str]:
    """Which paths a worker does not see; sending the function loads its module there."""
    return [path for path in paths if not Path(path).exists()]
