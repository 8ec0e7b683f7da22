import os

import pytest
from threadpoolctl import threadpool_info

from artistid import parallel


def pid_and_square(x: int) -> tuple[int, int]:
    return os.getpid(), x * x


def threads(_: int) -> list[int]:
    import numpy as np

    np.ones((2, 2)) @ np.ones((2, 2))
    return [pool["num_threads"] for pool in threadpool_info()]


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_from_that_many_processes(jobs: int) -> None:
    results = list(parallel.run(pid_and_square, range(40), jobs=jobs, label="x", unit="x"))
    assert [square for _, square in results] == [x * x for x in range(40)]
    pids = {pid for pid, _ in results}
    assert len(pids) <= jobs
    assert (os.getpid() in pids) == (jobs == 1)


@pytest.mark.parametrize("jobs", [1, 2])
def test_numeric_libraries_get_one_thread(jobs: int) -> None:
    for counts in parallel.run(threads, [0, 1], jobs=jobs, label="x", unit="x"):
        assert counts
        assert set(counts) == {1}
