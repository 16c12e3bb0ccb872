"""One process, or several started by torchrun: the same calls serve both."""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

import torch
import torch.distributed as dist

# torchrun tells each process its place among the others through the environment.
RANK = int(os.environ.get("RANK", 0))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))  # on this machine
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))
LOCAL_WORLD_SIZE = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # on this machine


class DeviceError(Exception):
    """Too few GPUs; the message is one line for the user."""


def start(device: torch.device) -> torch.device:
    """Join the processes that torchrun started, if any; returns the device of this one, a GPU with its index."""
    if device.type == "cuda":
        if (gpus := torch.cuda.device_count()) < LOCAL_WORLD_SIZE:
            raise DeviceError(
                f"{LOCAL_WORLD_SIZE} processes on this machine, but torch sees {gpus} CUDA devices; start at most one "
                f"process a device (torchrun --nproc-per-node={gpus}), or use --device cpu"
            )
        if device.index is None:
            device = torch.device("cuda", LOCAL_RANK)
        torch.cuda.set_device(device)
    if WORLD_SIZE > 1:
        on_gpu = device.type == "cuda"
        dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    return device


def wait() -> None:
    """Return when every rank has come here."""
    if dist.is_initialized():
        dist.barrier()


def leave(code: int) -> NoReturn:
    """End this process with exit code `code`.

    Among several, without Python's teardown: DistributedDataParallel keeps gloo's threads alive past
    destroy_process_group (torch 2.13), and two of about a hundred runs ended in abort().
    """
    if dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def say(text: object, file: TextIO | None = None) -> None:
    """Print on rank 0 alone; an error on each machine's first rank, as it may be that machine's own."""
    if (LOCAL_RANK if file is sys.stderr else RANK) == 0:
        print(text, file=file, flush=True)


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Add the tensors of all ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def from_rank_zero(make: Callable[[], Any]) -> Any:
    """Call `make` on rank 0 alone; every rank gets its result, or raises what it raised."""
    box: list[Any] = [None, None]
    if RANK == 0:
        try:
            box[0] = make()
        except Exception as error:
            box[1] = error
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]


def gather(value: Any) -> list[Any]:
    """The values of all ranks, in order."""
    values = [value] * WORLD_SIZE
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values
