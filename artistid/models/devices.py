"""Where networks compute: this process's device and precision, and the processes beside it.

One process is the usual case. `torchrun` or `accelerate launch` start several, on one machine or
many, each with its own GPU or on the CPU; accelerate finds out which of them this is.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed.nn  # before there is a process group, which it would keep alive
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from artistid.foundation.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]
Item = TypeVar("Item")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
MAX_WAIT = timedelta(weeks=1)  # for the first process, which extracts while the others wait


class Devices:
    """The device and precision of this process, and what the processes exchange."""

    def __init__(self, device: DeviceName, precision: Precision) -> None:
        """Raises UserError for a device that this machine does not have."""
        kind = _choose(device)
        self._state = PartialState(cpu=kind == "cpu", timeout=MAX_WAIT)
        own: torch.device = self._state.device
        # accelerate's state is that of the process, with the device that was asked for first
        self.device = own if own.type == kind else torch.device(kind)
        if kind == "cpu":
            _keep_freed_memory()
        self.precision = _best_precision(self.device) if precision == "auto" else precision

    @property
    def n_processes(self) -> int:
        return int(self._state.num_processes)

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return int(self._state.process_index)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def __str__(self) -> str:
        name = f"{torch.get_num_threads()} threads"
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        processes = f", {self.n_processes} processes" if self.n_processes > 1 else ""
        return f"{self.device.type} ({name}), {self.precision}{processes}"

    def autocast(self) -> AbstractContextManager[Any]:
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def main_first(self) -> AbstractContextManager[Any]:
        """The first process of each machine runs the block before the others."""
        block: AbstractContextManager[Any] = self._state.local_main_process_first()
        return block

    def share(self, network: nn.Module) -> nn.Module:
        """`network`, with gradients averaged over all processes from now on."""
        if self.n_processes == 1:
            return network
        own = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=own)

    def synchronise_buffers(self, network: nn.Module) -> None:
        """Give all processes the first one's running statistics, which have no gradients."""
        if self.n_processes > 1:
            for buffer in network.buffers():
                broadcast(buffer)

    def gather(self, own: list[Item]) -> list[Item]:
        """The items of all processes, in the order of the processes."""
        return list(gather_object(own))

    def from_main(self, value: Item) -> Item:
        """The first process's `value`."""
        values = [value]
        broadcast_object_list(values)
        return values[0]

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Torch draws from `seed` in the block; its state outside is left as it was."""
        is_cuda = self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if is_cuda else []):
            torch.manual_seed(seed)
            yield


@contextmanager
def start(device: DeviceName = "auto", precision: Precision = "auto") -> Iterator[Devices]:
    """Join the other processes, if there are any, for the length of the block."""
    devices = Devices(device, precision)
    try:
        yield devices
    finally:
        if devices.n_processes > 1:
            gc.collect()  # networks that share gradients keep threads of the group alive
            devices._state.destroy_process_group()


def _choose(device: DeviceName) -> str:
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, is_available in available.items() if is_available)
    if not available[device]:
        raise UserError(
            f"--device {device}: not available to this PyTorch ({torch.__version__}); "
            "--device auto takes what is"
        )
    return device


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step: by default it returns large blocks to the
    system and gets them back page by page, which takes a third of the training time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def _best_precision(device: torch.device) -> Precision:
    """bf16 where the hardware computes in it; elsewhere it is emulated and slower."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # since torch 2.12
        able = torch.cpu.get_capabilities()
        return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"
    return "fp32"
