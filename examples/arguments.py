"""The command line of train_mnist.py: what may be asked for, and what is wrong with the rest."""

import argparse
import math
from pathlib import Path

import distributed
import torch

DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64")}


def parse(argv: list[str] | None, description: str) -> argparse.Namespace:
    """Read the arguments; a bad one ends the program with exit code 2 and a message that names it."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--backend", choices=("triton", "torch"), default="triton", help="whose convolution, ReLU and pooling")
    add("--algorithm", choices=("auto", "direct", "im2col", "implicit_gemm"), default="auto", help="of our convolution")
    add(
        "--device", type=_device, default="auto", metavar="{auto,cpu,cuda,cuda:N}", help="auto: cuda where there is one"
    )
    add("--dtype", choices=tuple(DTYPES), default="float32", help="float16 and bfloat16 by autocast")
    add("--epochs", type=_positive_int, default=5, help="passes over the training digits (%(default)s)")
    add("--batch-size", type=_positive_int, default=64, help="digits a step, over all processes (%(default)s)")
    add("--lr", type=_positive_float, default=0.005, help="peak of the one-cycle schedule (%(default)s)")
    add("--seed", type=_seed, default=0, help="of the weights, the order of the digits and dropout (%(default)s)")
    add("--limit", type=_positive_int, help="train on the first LIMIT digits (all; on a CPU 4,000)")
    add("--data-dir", type=Path, help="folder with MNIST's four IDX files, gzipped or not (found or downloaded)")
    add("--target-accuracy", type=_share, help="exit with code 1 below this share of right test digits, such as 0.96")
    add("--out", type=Path, default=Path("runs/mnist"), help="folder for metrics, figures, checkpoint (%(default)s)")
    add("--resume", action="store_true", help="continue from the checkpoint in OUT")
    args = parser.parse_args(argv)
    if args.backend == "torch" and args.algorithm != "auto":
        parser.error(f"argument --algorithm: {args.algorithm!r} needs --backend triton; torch chooses for itself")
    if args.batch_size % distributed.WORLD_SIZE:
        parser.error(
            f"argument --batch-size: {args.batch_size} does not divide by the {distributed.WORLD_SIZE} processes"
        )
    if distributed.WORLD_SIZE > 1 and args.device.type == "cuda" and args.device.index is not None:
        parser.error(f"argument --device: '{args.device}' is one GPU; {distributed.WORLD_SIZE} processes take 'cuda'")
    return args


def _device(text: str) -> torch.device:
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{text!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def _positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2**32 - 1")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _positive_float(text: str) -> float:
    if not 0 < _number(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return float(text)


def _share(text: str) -> float:
    if not 0 < _number(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0 and up to 1, such as 0.96")
    return float(text)
