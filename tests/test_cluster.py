"""Work on a Dask cluster: a scheduler and three workers, each a process on the loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import distributed
import numpy as np
import pytest
from conftest import PROJECT, command, make_course

from artistid.foundation import parallel
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers

N_WORKERS = 3
PATIENCE_S = 300
FAILURES = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}


@dataclass
class Cluster:
    address: str
    workers: list["subprocess.Popen[bytes]"]


def dask(folder: Path, *arguments: object) -> "subprocess.Popen[bytes]":
    """The worker's own program, where the tests' functions are found, too."""
    with (folder / f"{arguments[0]}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *map(str, arguments), "--no-dashboard"],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT / "tests"), **FAILURES},
            stdout=log,
            stderr=log,
        )


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """Ends a test that waits for a cluster for ever."""

    def give_up(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    place = ("--host", "127.0.0.1", "--port", 0)
    processes = [dask(folder, "scheduler", *place, "--scheduler-file", file)]
    try:
        wait_for(file.exists)
        address = json.loads(file.read_text())["address"]
        options = ("--nthreads", 1, "--no-nanny", "--local-directory", folder)
        workers = [dask(folder, "worker", address, *options) for _ in range(N_WORKERS)]
        processes += workers
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(N_WORKERS, timeout=60)
        yield Cluster(address, workers)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for(condition: Callable[..., Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def entries(cache: Path) -> list[Path]:
    return list(cache.glob("??/[!.]*"))


def pid_and_square(x: int) -> tuple[int, int]:
    time.sleep(0.02)
    return os.getpid(), x * x


def sum_with(x: int, weights: np.ndarray) -> float:
    return float(x * weights.sum())


def forever(_: int) -> None:
    time.sleep(1000)


def kill_the_worker(x: int) -> int:
    if x == 7:
        os._exit(1)
    return x


def no_space(x: int) -> int:
    if x == 7:
        raise OSError(28, "No space left on device", "/cache/x")
    return x


def ran(function: Callable[..., Any], cluster: Cluster, **options: object) -> list:
    workers = Workers(dask=cluster.address)
    return list(parallel.run(function, range(40), workers=workers, label="x", unit="x", **options))


@pytest.mark.slow
def test_results_come_in_order_from_all_workers(cluster: Cluster) -> None:
    results = ran(pid_and_square, cluster)
    assert [square for _, square in results] == [x * x for x in range(40)]
    assert {pid for pid, _ in results} == {worker.pid for worker in cluster.workers}
    assert ran(sum_with, cluster, common=(np.ones(1000),)) == [1000.0 * x for x in range(40)]
    with pytest.raises(OSError, match="No space left on device: '/cache/x'"):
        ran(no_space, cluster)


@pytest.mark.slow
def test_what_the_cluster_lacks_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "LOST_S", 1)
    with pytest.raises(UserError, match=r"does not see /no/such/corpus; corpus and --cache must"):
        ran(pid_and_square, cluster, needs=(PROJECT, Path("/no/such/corpus")))
    with pytest.raises(UserError, match="workers die of 7, one after another"):
        ran(kill_the_worker, cluster)
    for worker in cluster.workers:  # one of them is left
        Timer(1, worker.kill).start()
    with pytest.raises(UserError, match="the cluster went away; run it again"):
        ran(forever, cluster)
    with pytest.raises(UserError, match="the scheduler has no workers; start some"):
        ran(pid_and_square, cluster)


def addresses(cluster: Cluster) -> list[str]:
    with distributed.Client(cluster.address, set_as_default=False) as client:
        return list(client.nthreads())


@pytest.mark.slow
def test_workers_without_this_program_are_told_how_to_start(
    cluster: Cluster, tmp_path: Path
) -> None:
    elsewhere = subprocess.Popen(
        [sys.executable, "-m", "dask", "worker", cluster.address, "--no-dashboard"], cwd=tmp_path
    )
    try:
        wait_for(lambda: len(addresses(cluster)) > N_WORKERS)
        with pytest.raises(UserError, match="in the project's folder, in its environment"):
            ran(pid_and_square, cluster)
    finally:
        elsewhere.terminate()
        elsewhere.wait()


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_changes_nothing(
    cluster: Cluster, demo_corpus: Path, tmp_path: Path
) -> None:
    local, far = tmp_path / "local", tmp_path / "far"
    subprocess.run(command("task1", demo_corpus, local, "--quiet"), check=True)
    options = ("--dask", cluster.address, "--quiet")
    process = subprocess.Popen(command("task1", demo_corpus, far, *options))
    wait_for(lambda: len(entries(far / "cache")) > 60 or process.poll() is not None)
    cluster.workers[0].send_signal(signal.SIGKILL)
    assert process.wait() == 0
    assert {p.name: p.read_bytes() for p in entries(local / "cache")} == {
        p.name: p.read_bytes() for p in entries(far / "cache")
    }
    first, second = (
        json.loads((folder / "out/metrics_task1.json").read_text()) for folder in (local, far)
    )
    for key in ("models", "val", "test", "calibration"):
        assert first[key] == second[key]
    predictions = [(folder / "out/pred_task1.json").read_bytes() for folder in (local, far)]
    assert predictions[0] == predictions[1]


@pytest.mark.slow
def test_embeddings_of_a_cluster_are_those_of_this_machine(
    cluster: Cluster, tmp_path: Path
) -> None:
    course = make_course(tmp_path, seconds=4.0)
    for name, options in (("local", ()), ("far", ("--dask", cluster.address))):
        settings = ("--encoder", "musicnn", "--epochs", 1, "--quiet", *options)
        run = command("task2_baseline", course, tmp_path / name, *settings)
        subprocess.run(run, check=True)
    local, far = (
        {p.name: p.read_bytes() for p in entries(tmp_path / name / "cache")}
        for name in ("local", "far")
    )
    assert len(local) == 28
    assert local == far


def test_a_scheduler_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "CONNECT_S", 0.5)
    for address in ("tcp://127.0.0.1:1", "nonsense://x", "127.0.0.1:1"):
        with pytest.raises(UserError, match=f"^--dask {address}: no scheduler answers there$"):
            ran(pid_and_square, Cluster(address, []))


def test_without_dask_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install 'dask\[distributed\]'"):
        ran(pid_and_square, Cluster("tcp://127.0.0.1:1", []))
