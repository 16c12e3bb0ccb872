"""The state of a training run: what one step reads and changes, and what a checkpoint holds of it."""

from dataclasses import asdict, dataclass, field
from typing import Any

import checkpoint
import torch
from distributed import RANK, WORLD_SIZE, gather
from torch import nn


@dataclass
class Progress:
    """How far a run is and what it has seen, in plain values."""

    epoch: int = 0
    step: int = 0  # within the epoch
    seconds: float = 0.0
    steps: list[tuple[float, int, int]] = field(default_factory=list)  # loss, right answers, pictures of each step
    epochs: list[dict[str, float]] = field(default_factory=list)
    predictions: list[int] = field(default_factory=list)  # of the test pictures, after the last whole epoch


class Training:
    """A model with its optimizer (Adam), schedule (one cycle), loss scale (float16 alone) and progress."""

    def __init__(self, model: nn.Sequential, total_steps: int, lr: float, device: torch.device, dtype: torch.dtype):
        self.device, self.compute_dtype = device, dtype
        self.dtype = torch.float32 if dtype.itemsize < 4 else dtype  # of the weights; half precision comes by autocast
        self.model = model.to(device, self.dtype)
        self.network = nn.parallel.DistributedDataParallel(self.model) if WORLD_SIZE > 1 else self.model
        # eps over Adam's 1e-8: what has hardly a gradient does not move by the sign of its rounding error
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr, eps=1e-4)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, lr, total_steps, pct_start=0.3)
        # 1024: small enough that the first step is never skipped, which the schedule would warn about.
        self.scaler = torch.amp.GradScaler(device.type, init_scale=1024.0, enabled=dtype == torch.float16)
        self.progress = Progress()

    def scores(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """What `network` answers to `images` (N, C, H, W) of uint8: a score for each class."""
        with torch.autocast(self.device.type, self.compute_dtype, enabled=self.compute_dtype != self.dtype):
            return network(images.to(self.dtype) / 255).to(self.dtype)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scheduler", "scaler")}
        return parts | {"progress": asdict(self.progress), "rng": gather(checkpoint.rng_state())}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `state` gave."""
        for name in ("model", "optimizer", "scheduler", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        self.progress = Progress(**state["progress"])
        checkpoint.set_rng_state(state["rng"][RANK])
