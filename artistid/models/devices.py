"""Where networks compute: the device of this process, and the other processes beside it.

One process is the usual case. `torchrun` or `accelerate launch` start several, on one machine or
many, each with its own GPU or on the CPU; accelerate finds out which of them this is.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from artistid.foundation.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]
Item = TypeVar("Item")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
PATIENCE = timedelta(days=1)  # for the first process, which extracts while the others wait


class Devices:
    """The device of this process and its precision; what the processes tell each other."""

    def __init__(self, device: DeviceName, precision: Precision) -> None:
        """Raises UserError for a device that is not there."""
        kind = _choose(device)
        self._state = PartialState(cpu=kind == "cpu", timeout=PATIENCE)
        self.device: torch.device = self._state.device
        if kind == "cpu":
            _keep_freed_memory()
        self.precision = _precision(self.device) if precision == "auto" else precision

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
        return f"{self.device.type} ({name}), {self.precision}, {self.n_processes} process(es)"

    def autocast(self) -> AbstractContextManager[Any]:
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def main_first(self) -> AbstractContextManager[Any]:
        """The first process of each machine goes through the block before the others."""
        block: AbstractContextManager[Any] = self._state.local_main_process_first()
        return block

    def share(self, network: nn.Module) -> nn.Module:
        """`network`, whose gradients are from now on the mean over all processes."""
        if self.n_processes == 1:
            return network
        own = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=own)

    def agree(self, network: nn.Module) -> None:
        """Give all processes the first one's running statistics, which gradients don't unite."""
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
        """Within it, torch draws from `seed`; after it, as if nothing had been drawn."""
        is_cuda = self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if is_cuda else []):
            torch.manual_seed(seed)
            yield


@contextmanager
def start(device: DeviceName, precision: Precision) -> Iterator[Devices]:
    """Join the other processes, if there are any, for the length of the block."""
    devices = Devices(device, precision)
    try:
        yield devices
    finally:
        if devices.n_processes > 1:
            devices._state.destroy_process_group()


def _choose(device: DeviceName) -> str:
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not there[device]:
        raise UserError(
            f"--device {device}: this PyTorch ({torch.__version__}) sees no such device; "
            "use --device auto to take what there is"
        )
    return device


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next step: by default it hands large blocks back to
    the system and gets them again, page by page, which takes a third of the time of training."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def _precision(device: torch.device) -> Precision:
    """bf16 where the hardware computes in it; elsewhere it is emulated, and slower."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"
    return "fp32"
