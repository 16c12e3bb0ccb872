"""Train one of the classic networks on small images, with tritonconv's own kernels.

    python -m examples.train mnist-cnn3                  # on this machine, with or without a GPU
    python -m examples.train mnist-cnn3 --layers torch   # the same run on torch's layers, to compare
    python -m examples.train nielsen-2 --seeds 3         # three runs, their mean and spread
    torchrun --nproc-per-node=2 -m examples.train fashion-cnn

The networks are in networks.py, how each is trained in recipes.py; every field of a recipe is an option here. What a
run found lands in OUT/seed-SEED: metrics.json, the weights, figures, a checkpoint.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is there: its threads would keep the cores busy

import numpy as np
import torch
import triton
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import save as to_safetensors
from torch import nn
from tqdm import tqdm

import tritonconv
from examples import atomic, checkpoint, data, figures
from examples.networks import NETWORKS
from examples.recipes import CHOICES, RECIPES, Recipe
from examples.training import Training

CPU_TRAIN, CPU_TEST = 4000, 1000  # images by default on a CPU, where kernels are interpreted: minutes, not hours
STEPS_A_CHECKPOINT = 100
PRECISIONS = {"float32": "no", "float16": "fp16", "bfloat16": "bf16"}
PROCESSES, LOCAL_PROCESSES, LOCAL_RANK = (
    int(os.environ.get(name, default))
    for name, default in (("WORLD_SIZE", 1), ("LOCAL_WORLD_SIZE", 1), ("LOCAL_RANK", 0))
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the arguments; a bad one ends the program with exit code 2 and a message that names it."""
    text, _, usage = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(
        *("python -m examples.train", None, text), epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("network", choices=RECIPES, metavar="NETWORK", help=", ".join(RECIPES))
    add("--layers", choices=("ours", "torch"), default="ours", help="whose convolution, activation and pooling")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda where there is one")
    add("--dtype", choices=PRECISIONS, default="float32", help="float16 and bfloat16 by autocast")
    add("--seed", type=int, default=0, help="of weights, order, dropout and augmentation (%(default)s)")
    add("--seeds", type=int, default=1, help="runs, from SEED on, of which mean and spread are told (%(default)s)")
    add("--limit", type=int, help="take the first LIMIT training images (all; on a CPU 4,000)")
    add("--data-dir", type=Path, help="folder with the data set's four IDX files, gzipped or not (found or downloaded)")
    add("--target-accuracy", type=float, help="exit with code 1 below this share of correct test images, such as 0.96")
    add("--out", type=Path, help="folder for what the runs find (runs/NETWORK)")
    add("--resume", action="store_true", help="continue from the checkpoints in OUT")
    add("--tensorboard", action="store_true", help="write each epoch's figures for TensorBoard, too")
    recipe = parser.add_argument_group("the recipe; by default the network's own")
    options = [option for option in dataclasses.fields(Recipe) if "help" in option.metadata]
    for option in options:
        name = f"--{option.name.replace('_', '-')}"
        kind = option.type if isinstance(option.type, type) else float  # None is no argument
        recipe.add_argument(name, type=kind, choices=CHOICES.get(option.name), help=option.metadata["help"])
    args = parser.parse_args(argv)
    given = {name: value for option in options if (value := vars(args).pop(name := option.name)) is not None}
    try:
        args.recipe = dataclasses.replace(RECIPES[args.network], **given)
        _check(args)
    except ValueError as error:
        parser.error(str(error))
    args.out = args.out or Path("runs") / args.network
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    return args


def _check(args: argparse.Namespace) -> None:
    """Raise ValueError for an argument that cannot be, or cannot be together with the others."""
    for name, least, most in (("seed", 0, 2**32 - 1), ("seeds", 1, math.inf), ("limit", 2, math.inf)):
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise ValueError(f"argument --{name}: {value} is not a whole number from {least} to {most}")
    if args.target_accuracy is not None and not 0 < args.target_accuracy <= 1:
        raise ValueError(f"argument --target-accuracy: {args.target_accuracy} is not a share above 0, such as 0.96")
    if (args.recipe.data == "mnist1d") != args.network.startswith("mnist1d"):
        wanted = "signals, which mnist1d has" if args.network.startswith("mnist1d") else "images, not signals"
        raise ValueError(f"argument --data: {args.recipe.data!r} does not go into {args.network}: it takes {wanted}")
    if args.recipe.batch_size % PROCESSES:
        raise ValueError(
            f"argument --batch-size: {args.recipe.batch_size} does not divide by the {PROCESSES} processes"
        )
    gpus = torch.cuda.device_count()
    if args.device == "cuda" and not gpus:
        raise ValueError("argument --device: 'cuda' is not here: torch sees no CUDA device")
    if args.device != "cpu" and 0 < gpus < LOCAL_PROCESSES:
        raise ValueError(
            f"argument --device: {LOCAL_PROCESSES} processes on this machine, but torch sees {gpus} CUDA devices; "
            f"start at most one process a device (torchrun --nproc-per-node={gpus}), or use --device cpu"
        )
    if args.dtype == "float16" and (args.device == "cpu" or not gpus):
        raise ValueError("argument --dtype: 'float16' needs a GPU; on a CPU use bfloat16 or float32")


def load_images(name: str, folder: Path | None, limit: int | None, device: str) -> data.Dataset:
    """A data set, or the part of it that `limit` or a CPU asks for."""
    images = data.load(name, folder)
    if limit is not None:
        return images.subset(limit, len(images.test_labels))
    return images.subset(CPU_TRAIN, CPU_TEST) if device == "cpu" else images


def build_model(network: str, layers: str = "ours", seed: int = 0, dropout: float | None = None) -> nn.Sequential:
    """A network with the initial weights of `seed`, the same for both kinds of layers."""
    torch.manual_seed(seed)
    model = NETWORKS[network]()
    for layer in model:
        if isinstance(layer, nn.Dropout) and dropout is not None:
            layer.p = dropout
    if layers == "ours":
        tritonconv.convert(model, fuse=True)
    return model


def train_epoch(training: Training, images: data.Dataset, title: str, save: Callable[[], None]) -> None:
    """The steps of an epoch that are not done yet, then its line of figures, on the validation images too."""
    progress, started, before = training.progress, time.perf_counter(), training.progress.seconds
    epoch = len(progress.epochs)
    todo, first = training.batches(epoch), epoch * training.steps_an_epoch
    total, done = len(images.train_labels), (len(progress.steps) - first) * training.recipe.batch_size
    quiet = not training.accelerator.is_main_process
    with tqdm(desc=title, total=total, initial=min(done, total), unit=" images", disable=quiet, leave=False) as bar:
        while len(progress.steps) < first + training.steps_an_epoch:
            batch = todo[len(progress.steps) - first]
            training.step(images.train_images[batch], images.train_labels[batch])
            loss, _, count = progress.steps[-1]
            progress.seconds = before + time.perf_counter() - started
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(count)
            if len(progress.steps) % STEPS_A_CHECKPOINT == 0:
                save()
    losses, correct, counts = zip(*progress.steps[first:], strict=True)
    row = {
        "epoch": epoch + 1,
        "lr": training.scheduler.get_last_lr()[0],
        "train_loss": sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts),
        "train_accuracy": sum(correct) / sum(counts),
    }
    if len(images.test_labels):
        loss, predictions = training.evaluate(images.test_images, images.test_labels)
        row |= {"validation_loss": loss, "validation_accuracy": _share(predictions == images.test_labels)}
    progress.seconds = before + time.perf_counter() - started
    progress.epochs.append(row | {"seconds": progress.seconds - sum(line["seconds"] for line in progress.epochs)})
    _keep_the_best(training)


def _keep_the_best(training: Training) -> None:
    progress = training.progress
    best = [row.get("validation_accuracy", 0.0) for row in progress.epochs[: progress.best_epoch]]
    if progress.epochs[-1].get("validation_accuracy", math.inf) > max(best, default=-1.0):
        progress.best_epoch = len(progress.epochs)
        progress.best_weights = {
            name: value.detach().cpu().clone() for name, value in training.model.state_dict().items()
        }


def _finished(training: Training) -> bool:
    done, recipe = len(training.progress.epochs), training.recipe
    return done == recipe.epochs or (bool(recipe.patience) and done >= training.progress.best_epoch + recipe.patience)


def _share(holds: torch.Tensor) -> float:
    return holds.double().mean().item()


def train(args: argparse.Namespace, seed: int) -> float:
    """One run, or the rest of it; returns the accuracy on the test images."""
    out, recipe = args.out / f"seed-{seed}", args.recipe
    accelerator = Accelerator(
        cpu=args.device == "cpu",
        mixed_precision=PRECISIONS[args.dtype],
        log_with="tensorboard" if args.tensorboard else None,
        project_dir=str(out),
    )
    out.mkdir(parents=True, exist_ok=True)
    with accelerator.main_process_first():
        images = load_images(recipe.data, args.data_dir, args.limit, args.device)
    few = "; on a CPU that is enough, --limit takes more" if args.limit is None and args.device == "cpu" else ""
    known = {name: str(getattr(args, name)) for name in ("network", "layers", "device", "dtype")}
    known |= {name: str(value) for name, value in dataclasses.asdict(recipe).items() if name != "reported"}
    known |= {"seed": str(seed), "processes": str(PROCESSES), "images": images.fingerprint()}
    images = images.to(accelerator.device)
    parts = images.validation(recipe.validation)
    accelerator.print(
        f"{len(parts.train_labels):,} images to train on, {len(parts.test_labels):,} to choose the epoch and "
        f"{len(images.test_labels):,} to test, from {images.source}{few}"
    )
    model = build_model(args.network, args.layers, seed, recipe.dropout)
    accelerator.print(f"{args.network}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    training = Training(model, recipe, len(parts.train_labels), seed, accelerator)
    set_seed(seed, device_specific=True)  # each process drops and distorts differently
    found = checkpoint.latest(out) if args.resume else None
    if found is not None:
        checkpoint.load(accelerator, found, known)
        accelerator.print(f"{found}: continuing after {len(training.progress.steps)} steps")
    elif args.resume:
        accelerator.print(f"{out}: no checkpoint there, starting anew")
    if accelerator.is_main_process:
        atomic.remove_leftovers(out)
        if not args.resume:
            checkpoint.remove(out)
    if args.tensorboard:
        accelerator.init_trackers("tensorboard")
    saved = len(training.progress.steps)

    def save() -> None:
        nonlocal saved
        if len(training.progress.steps) > saved:
            saved = len(training.progress.steps)
            checkpoint.save(accelerator, out, saved, known)

    while not _finished(training):
        number = len(training.progress.epochs) + 1
        train_epoch(training, parts, f"epoch {number}/{recipe.epochs}", save)
        row = training.progress.epochs[-1]
        accelerator.log({name: value for name, value in row.items() if name != "epoch"}, step=number)
        kind = "validation" if "validation_loss" in row else "training"
        loss, accuracy = (row[f"{'train' if kind == 'training' else kind}_{name}"] for name in ("loss", "accuracy"))
        accelerator.print(f"epoch {number}: {kind} loss {loss:.4f}, {kind} accuracy {accuracy:.2%}")
    save()
    model.load_state_dict(training.progress.best_weights)
    test_loss, predictions = training.evaluate(images.test_images, images.test_labels)
    accuracy = _share(predictions == images.test_labels)
    if accelerator.is_main_process:
        metrics = _metrics(args, seed, training, images) | {
            "images": {"source": images.source, "train": len(parts.train_labels)}
            | {"validation": len(parts.test_labels), "test": len(images.test_labels)},
            "test_loss": _plain(test_loss),
            "test_accuracy": accuracy,
            "test_predictions": predictions.tolist(),
        }
        atomic.write(out / "model.safetensors", to_safetensors(model.state_dict()))
        for name, figure in figures.drawings(model, images, metrics).items():
            figures.save(out / f"{name}.png", figure)
        atomic.write(out / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False).encode())
    accelerator.end_training()
    return accuracy


def _metrics(args: argparse.Namespace, seed: int, training: Training, images: data.Dataset) -> dict[str, Any]:
    """What a run was, and what it saw on the way, as strict JSON has it: no NaN, no infinity, no path."""
    progress, device = training.progress, training.accelerator.device
    cpu = f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"
    return {
        "network": args.network,
        "recipe": dataclasses.asdict(args.recipe),
        "args": {name: _plain(value) for name, value in vars(args).items() if name != "recipe"},
        "seed": seed,
        "versions": {module.__name__: module.__version__ for module in (tritonconv, torch, triton, np)}
        | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "processes": PROCESSES,
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "classes": images.classes,
        "epochs": [{name: _plain(value) for name, value in row.items()} for row in progress.epochs],
        "best_epoch": progress.best_epoch,
        "step_losses": [_plain(loss) for loss, _, _ in progress.steps],
        "seconds": progress.seconds,
    }


def _plain(value: Any) -> str | int | float | None:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, int | float) else str(value)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0; 1 below the target accuracy; 2 for arguments, devices, data or checkpoint of no use."""
    args = parse(argv)

    def complain(text: object) -> None:
        if LOCAL_RANK == 0:
            print(f"examples.train: {text}", file=sys.stderr, flush=True)

    try:
        accuracies = [train(args, seed) for seed in range(args.seed, args.seed + args.seeds)]
    except (data.DataError, checkpoint.CheckpointError) as error:
        complain(error)
        return 2
    except OSError as error:
        complain(f"--out {args.out}: {error}")
        return 2
    except KeyboardInterrupt:
        complain("stopped; the same command with --resume continues")
        return 130
    mean = statistics.mean(accuracies)
    spread = f" +- {statistics.stdev(accuracies):.2%} over {args.seeds} seeds" if args.seeds > 1 else ""
    if args.target_accuracy is not None and mean < args.target_accuracy:
        complain(f"test accuracy {mean:.2%}{spread}, below the target of {args.target_accuracy:.2%}")
        return 1
    if LOCAL_RANK == 0:
        reported = f" (reported: {args.recipe.reported})" if args.recipe.reported != "none" else ""
        print(f"Test accuracy {mean:.2%}{spread}{reported}; metrics, figures and weights are in {args.out}", flush=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Among several processes without Python's teardown: DistributedDataParallel keeps gloo's threads alive past
    # destroy_process_group (torch 2.13), and two of about a hundred runs ended in abort().
    if PROCESSES > 1:
        os._exit(code)
    sys.exit(code)
