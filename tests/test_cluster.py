"""Work on a Dask cluster: a scheduler and three worker processes on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Timer
from typing import Any

import distributed
import numpy as np
import pytest
from conftest import PROJECT, hum, write_audio

from artistid.audio import features
from artistid.audio.extraction import extract
from artistid.audio.features import FeatureSettings
from artistid.dataset.read import read_corpus
from artistid.foundation import cluster as clusters
from artistid.foundation import parallel
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers

N_WORKERS = 3
PATIENCE_S = 240
FAILURES = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}


@dataclass
class Cluster:
    address: str
    workers: list["subprocess.Popen[bytes]"]


def dask(folder: Path, *arguments: object) -> "subprocess.Popen[bytes]":
    """Start one of dask's programs, which can import the functions of these tests."""
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
    """End a test that would wait for a cluster forever."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no end within {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    file = folder / "scheduler.json"
    place = ("--host", "127.0.0.1", "--port", 0)
    processes = [dask(folder, "scheduler", *place, "--scheduler-file", file)]
    try:
        wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"))  # all of it
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


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """For tests that kill no worker."""
    with started(tmp_path_factory.mktemp("dask")) as cluster:
        yield cluster


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """For tests that kill workers."""
    with started(tmp_path_factory.mktemp("dask")) as cluster:
        yield cluster


def wait_for(condition: Callable[..., Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def entries(folder: Path) -> list[Path]:
    return list(folder.glob("??/[!.]*"))


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
def test_results_come_in_order_from_all_workers(shared_cluster: Cluster) -> None:
    results = ran(pid_and_square, shared_cluster)
    assert [square for _, square in results] == [x * x for x in range(40)]
    assert {pid for pid, _ in results} == {worker.pid for worker in shared_cluster.workers}
    weights = np.ones(1000)
    assert ran(sum_with, shared_cluster, common=(weights,)) == [1000.0 * x for x in range(40)]
    with pytest.raises(OSError, match="No space left on device: '/cache/x'"):
        ran(no_space, shared_cluster)
    with pytest.raises(
        UserError, match=r"does not see /no/such/corpus; corpus, --cache and weights must"
    ):
        ran(pid_and_square, shared_cluster, needs=(PROJECT, Path("/no/such/corpus")))


@pytest.mark.slow
def test_workers_in_the_wrong_environment_are_explained(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    options = ("--no-dashboard", "--local-directory", tmp_path)
    elsewhere = subprocess.Popen(
        [sys.executable, "-m", "dask", "worker", shared_cluster.address, *map(str, options)],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    with distributed.Client(shared_cluster.address, set_as_default=False) as client:
        try:
            wait_for(lambda: len(client.nthreads()) > N_WORKERS)
            with pytest.raises(UserError, match="in the project's folder and environment"):
                ran(pid_and_square, shared_cluster)
        finally:
            elsewhere.terminate()
            elsewhere.wait()
        wait_for(lambda: len(client.nthreads()) == N_WORKERS)


@pytest.mark.slow
def test_crashes_are_explained(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "SILENCE_S", 1)
    with pytest.raises(UserError, match=r": 7 keeps crashing workers$"):
        ran(kill_the_worker, cluster)
    for worker in cluster.workers:  # one of them is left
        Timer(1, worker.kill).start()
    with pytest.raises(UserError, match="the cluster is gone; run it again"):
        ran(forever, cluster)
    with pytest.raises(UserError, match="the scheduler has no workers; start some"):
        ran(pid_and_square, cluster)


class Late:
    """A future that is done just after the wait for it is over."""

    def result(self, timeout: float | None = None) -> int:
        if timeout is not None:
            raise TimeoutError
        return 7

    def done(self) -> bool:
        return True


def test_a_result_that_comes_as_the_wait_ends_is_taken() -> None:
    assert clusters._result(Late(), None, "tcp://") == 7


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_changes_no_features(
    cluster: Cluster, shared_course: Path, tmp_path: Path
) -> None:
    tracks, recipe = read_corpus(shared_course).tracks, features.recipe(FeatureSettings())
    local = extract(tracks, recipe, tmp_path / "local", Workers(jobs=1))

    def kill_one() -> None:
        wait_for(lambda: len(entries(tmp_path / "far")) > 5)
        cluster.workers[0].send_signal(signal.SIGKILL)

    with ThreadPoolExecutor(1) as killer:
        killed = killer.submit(kill_one)
        far = extract(tracks, recipe, tmp_path / "far", Workers(dask=cluster.address))
        killed.result()
    assert list(local.entries) == list(far.entries) == list(tracks)
    for track in tracks:
        assert local.entries[track].read_bytes() == far.entries[track].read_bytes()


@pytest.mark.slow
def test_vocals_are_separated_on_the_workers(
    shared_cluster: Cluster, tmp_path: Path, rng: np.random.Generator
) -> None:
    pytest.importorskip("demucs", reason="pip install 'artistid[vocals]'")
    from test_htdemucs import tiny_network, write_network

    from artistid.vocals import htdemucs, separation

    songs = {tmp_path / f"{i}.wav": 1.0 for i in range(4)}
    for song in songs:
        write_audio(song, hum(1, rng))
    separator = htdemucs.find(write_network(tmp_path / "tiny.safetensors", tiny_network()))
    dask = Workers(dask=shared_cluster.address)
    local, _ = separation.separate(songs, separator, tmp_path / "local", Workers())
    (tmp_path / "far").mkdir()
    far, refused = separation.separate(songs, separator, tmp_path / "far", dask)
    assert not refused
    for song in songs:
        assert far[song].read_bytes() == local[song].read_bytes()
    separator.weights.unlink()
    with pytest.raises(UserError, match=r"does not see .*/tiny.safetensors; corpus, --cache and"):
        separation.separate(songs, replace(separator, digest="other"), tmp_path / "far", dask)


def test_a_missing_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "CONNECT_S", 0.5)
    for address in ("tcp://127.0.0.1:1", "nonsense://x:1", "tls://127.0.0.1:1", "127.0.0.1:1"):
        with pytest.raises(UserError, match=f"^--dask {address}: no scheduler answers there$"):
            ran(pid_and_square, Cluster(address, []))


def test_without_dask_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install 'dask\[distributed\]'"):
        ran(pid_and_square, Cluster("tcp://127.0.0.1:1", []))
