"""One run: a network with its optimizer, schedule and progress, on the processes and devices that accelerate finds."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.utils.data import DistributedSampler, TensorDataset

from examples.augment import augment
from examples.recipes import Recipe

EVALUATION_BATCH = 500


@dataclass
class Progress:
    """How far a run is and what it has seen."""

    seconds: float = 0.0
    steps: list[tuple[float, int, int]] = field(default_factory=list)  # loss, correct predictions, images of each step
    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0  # the first one with the highest validation accuracy; without validation the last one
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class Training:
    """A model with all that its next step depends on; accelerate saves and restores it."""

    def __init__(self, model: nn.Sequential, recipe: Recipe, images: int, seed: int, accelerator: Accelerator) -> None:
        self.recipe, self.images, self.seed, self.accelerator = recipe, images, seed, accelerator
        self.steps_an_epoch = len(self.batches(0))
        self.model = model.to(accelerator.device)
        optimizer = make_optimizer(self.model, recipe)
        self.scheduler = make_schedule(optimizer, recipe, recipe.epochs * self.steps_an_epoch)
        self.network, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.progress = Progress()
        # not prepared: accelerate would take a step of the schedule for each process
        accelerator.register_for_checkpointing(self.scheduler, self.progress)

    def batches(self, epoch: int) -> list[torch.Tensor]:
        """This process's share of the training images, batch by batch, in an order of the seed and the epoch alone."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        sampler: DistributedSampler[Any] = DistributedSampler(
            TensorDataset(torch.empty(self.images)), processes, rank, seed=self.seed
        )
        sampler.set_epoch(epoch)
        return list(torch.tensor(list(sampler)).split(self.recipe.batch_size // processes))

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """One step of the optimizer on images (N, 1, *size); its loss and accuracy, over all processes, are noted."""
        images = as_float(images)
        if len(self.progress.epochs) < self.recipe.epochs - self.recipe.clean_epochs:
            images = augment(images, self.recipe)
        scores = self.network(images)
        loss = cross_entropy(scores, labels)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:  # as float16's loss scale does where a gradient overflows
            self.scheduler.step()
        sums = torch.stack([loss.detach().double(), (scores.argmax(1) == labels).sum().double()])
        loss_sum, correct = self.accelerator.reduce(sums).tolist()
        processes = self.accelerator.num_processes
        self.progress.steps.append((loss_sum / processes, int(correct), len(labels) * processes))

    @torch.no_grad()
    def evaluate(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The mean loss, and the predicted labels; each image is looked at by one process."""
        self.model.eval()
        loss, predictions = torch.zeros((), dtype=torch.float64, device=labels.device), torch.zeros_like(labels)
        for batch in self._shares(len(labels)):
            scores = self.model(as_float(images[batch]))
            loss += cross_entropy(scores.double(), labels[batch], reduction="sum")
            predictions[batch] = scores.argmax(1)
        self.model.train()
        return self.accelerator.reduce(loss).item() / len(labels), self.accelerator.reduce(predictions)

    def _shares(self, count: int) -> Iterator[torch.Tensor]:
        yield from torch.arange(count)[self.accelerator.process_index :: self.accelerator.num_processes].split(
            EVALUATION_BATCH
        )


def as_float(images: torch.Tensor) -> torch.Tensor:
    """What a network reads: pixels of uint8 as shares of 255, signals as they are."""
    return images / 255 if images.dtype == torch.uint8 else images


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's; RMSprop's decay is Keras's 0.9, as its recipe is."""
    options: dict[str, float] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer in ("SGD", "RMSprop"):
        options["momentum"] = recipe.momentum
    if recipe.optimizer == "RMSprop":
        options["alpha"] = 0.9
    return getattr(torch.optim, recipe.optimizer)(model.parameters(), **options)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    """The learning rate of each of `steps` steps."""
    factors = {
        "constant": lambda step: 1.0,
        "inverse-time": lambda step: 1 / (1 + step * recipe.lr / recipe.epochs),
        "steps": lambda step: 0.1 ** ((step >= steps / 2) + (step >= steps * 3 / 4)),
    }
    if recipe.schedule == "one-cycle":
        return OneCycleLR(optimizer, recipe.lr, steps, cycle_momentum=False)
    return LambdaLR(optimizer, factors[recipe.schedule])
