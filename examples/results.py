"""The files that a run leaves for people to look at."""

import json
import math
import platform
from argparse import Namespace
from typing import Any

import atomic
import figures
import numpy as np
import torch
import triton
from distributed import WORLD_SIZE
from mnist_data import Digits
from training import Training

import tritonconv


def write(args: Namespace, training: Training, digits: Digits) -> None:
    """Put metrics.json and the five figures into `args.out`."""
    labels, predictions = digits.test_labels.cpu(), torch.tensor(training.progress.predictions)
    losses = [loss for loss, _, _ in training.progress.steps]
    training.model.eval()
    with torch.no_grad():
        drawings = {
            "curves": figures.curves(losses, training.progress.epochs),
            "filters": figures.filters(training.model.get_parameter("0.weight").cpu()),
            "feature_maps": figures.feature_maps(training.model, digits.test_images[:1].to(training.dtype) / 255),
            "wrong": figures.wrong(digits.test_images.cpu(), labels, predictions),
            "confusion": figures.confusion(labels, predictions),
        }
    for name, drawing in drawings.items():
        figures.save(args.out / f"{name}.png", drawing)
    metrics = {
        "args": {name: _plain(value) for name, value in vars(args).items()},
        "seed": args.seed,
        "versions": {module.__name__: module.__version__ for module in (tritonconv, torch, triton, np)}
        | {"python": platform.python_version()},
        "device": _device_name(training.device),
        "processes": WORLD_SIZE,
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "digits": {"source": digits.source, "train": len(digits.train_labels), "test": len(labels)},
        "epochs": [{name: _plain(value) for name, value in row.items()} for row in training.progress.epochs],
        "step_losses": [_plain(loss) for loss in losses],
        "test_accuracy": training.progress.epochs[-1]["test_accuracy"],
        "seconds": training.progress.seconds,
    }
    atomic.write(args.out / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False).encode())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def _plain(value: Any) -> str | int | float | None:
    """`value` as strict JSON has it: no NaN, no infinity, no path."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, int | float) else str(value)
