"""Train a convolutional network on handwritten digits, with tritonconv's own kernels.

    python examples/train_mnist.py                    # on this machine, with or without a GPU
    python examples/train_mnist.py --backend torch    # the same run on torch's layers, to compare
    torchrun --nproc-per-node=2 examples/train_mnist.py

The lesson, top to bottom: convert an ordinary torch model (`build_model`), take one step of the optimizer
(`train_step`), one for each batch (`train_epoch`), count the right answers (`evaluate`), and put it together (`train`).
What other examples need too lies beside this file: the data, the state of a run, its checkpoints, its figures.
"""

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is there: its threads would keep the cores busy

import arguments
import atomic
import checkpoint
import networks
import results
import torch
from distributed import RANK, WORLD_SIZE, DeviceError, from_rank_zero, leave, say, start, sum_over_ranks, wait
from mnist_data import DataError, Digits, load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DistributedSampler, TensorDataset
from tqdm import tqdm
from training import Training

import tritonconv

CPU_TRAIN, CPU_TEST = 4000, 1000  # digits by default on a CPU, where kernels are interpreted: minutes, not hours
STEPS_A_CHECKPOINT = 25
EVALUATION_BATCH = 500
RECIPE = ("backend", "algorithm", "dtype", "epochs", "batch_size", "lr", "seed")  # what a resumed run must share


def build_model(
    backend: str = "triton", algorithm: tritonconv.functional.Algorithm = "auto", seed: int = 0
) -> nn.Sequential:
    """mnist-cnn3 with the initial weights of `seed`, the same for both backends."""
    torch.manual_seed(seed)
    model = networks.mnist_cnn3()
    if backend == "triton":
        say(tritonconv.convert(model, fuse=True))
        for layer in model:
            if isinstance(layer, tritonconv.nn.Conv2d):
                layer.algorithm = algorithm
    say(f"mnist-cnn3: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    return model


def train_step(training: Training, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, int, int]:
    """One step of the optimizer; returns the loss, the right answers and the number of digits, over all ranks."""
    scores = training.scores(training.network, images)
    loss = cross_entropy(scores, labels)
    training.optimizer.zero_grad()
    training.scaler.scale(loss).backward()
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.scheduler.step()
    right = (scores.argmax(1) == labels).sum()
    sums = sum_over_ranks(torch.stack([loss.detach().double(), right.double()])).tolist()
    return sums[0] / WORLD_SIZE, int(sums[1]), len(labels) * WORLD_SIZE


def batches(digits: Digits, args: Namespace, epoch: int) -> tuple[torch.Tensor, ...]:
    """This rank's share of the digits, batch by batch, in an order that depends on the seed and the epoch alone."""
    dataset = TensorDataset(digits.train_labels)
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, WORLD_SIZE, RANK, seed=args.seed)
    sampler.set_epoch(epoch)
    return torch.tensor(list(sampler)).split(args.batch_size // WORLD_SIZE)


def train_epoch(training: Training, digits: Digits, args: Namespace, save: Callable[[], None]) -> None:
    """The steps of one epoch that are not done yet."""
    progress, todo = training.progress, batches(digits, args, training.progress.epoch)
    training.model.train()
    total, done = len(digits.train_labels), progress.step * args.batch_size
    title = f"epoch {progress.epoch + 1}/{args.epochs}"
    with tqdm(desc=title, total=total, initial=done, unit=" digits", disable=RANK > 0) as bar:
        while progress.step < len(todo):
            started, batch = time.perf_counter(), todo[progress.step]
            loss, right, count = train_step(training, digits.train_images[batch], digits.train_labels[batch])
            progress.steps.append((loss, right, count))
            progress.step += 1
            progress.seconds += time.perf_counter() - started
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(count)
            if progress.step % STEPS_A_CHECKPOINT == 0:
                save()


@torch.no_grad()
def evaluate(training: Training, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The mean loss, and the label given to each image; each image is looked at by one rank alone."""
    training.model.eval()
    loss, predictions = torch.zeros((), dtype=torch.float64, device=labels.device), torch.zeros_like(labels)
    for batch in torch.arange(len(labels))[RANK::WORLD_SIZE].split(EVALUATION_BATCH):
        scores = training.scores(training.model, images[batch])
        loss += cross_entropy(scores.double(), labels[batch], reduction="sum")
        predictions[batch] = scores.argmax(1)
    return sum_over_ranks(loss).item() / len(labels), sum_over_ranks(predictions)


def finish_epoch(training: Training, digits: Digits) -> None:
    """Test, print, and note the epoch in the progress."""
    progress, started = training.progress, time.perf_counter()
    test_loss, predictions = evaluate(training, digits.test_images, digits.test_labels)
    losses, right, counts = zip(*progress.steps[-progress.step :], strict=True)
    progress.predictions = predictions.tolist()
    progress.seconds += time.perf_counter() - started
    progress.epoch, progress.step = progress.epoch + 1, 0
    row = {
        "epoch": progress.epoch,
        "train_loss": sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts),
        "train_accuracy": sum(right) / sum(counts),
        "test_loss": test_loss,
        "test_accuracy": (predictions == digits.test_labels).double().mean().item(),
        "seconds": progress.seconds - sum(row["seconds"] for row in progress.epochs),
    }
    progress.epochs.append(row)
    say(f"epoch {progress.epoch}: test loss {test_loss:.4f}, test accuracy {row['test_accuracy']:.2%}")


def train(args: Namespace) -> float:
    """The whole run, or the rest of one; returns the accuracy on the test digits."""
    digits, note = from_rank_zero(lambda: load_digits(args.data_dir)), ""
    if args.limit is not None:
        digits = digits.subset(args.limit, len(digits.test_labels))
    elif args.device.type == "cpu" and len(digits.train_labels) > CPU_TRAIN:
        digits, note = digits.subset(CPU_TRAIN, CPU_TEST), "; on a CPU that is enough, --limit takes more"
    sizes = f"{len(digits.train_labels):,} digits to train on and {len(digits.test_labels):,} to test"
    say(f"Data: {sizes}, from {digits.source}{note}")
    training = Training(
        build_model(args.backend, args.algorithm, args.seed),
        total_steps=args.epochs * len(batches(digits, args, epoch=0)),
        lr=args.lr,
        device=args.device,
        dtype=arguments.DTYPES[args.dtype],
    )
    torch.manual_seed(args.seed + RANK)  # each rank drops other values
    recipe = {name: getattr(args, name) for name in RECIPE}
    recipe |= {"device": args.device.type, "processes": WORLD_SIZE, "digits": digits.fingerprint()}
    path, digits = args.out / "checkpoint.pt", digits.to(args.device)

    def save() -> None:
        state = training.state()
        if RANK == 0:
            checkpoint.save(path, recipe, state)

    state = from_rank_zero(lambda: checkpoint.load(path, recipe) if args.resume and path.exists() else None)
    if state is not None:
        training.load(state)
        say(f"{path}: continuing after {len(training.progress.steps)} steps")
    elif args.resume:
        say(f"{path}: not there, starting anew")
    save()
    while training.progress.epoch < args.epochs:
        train_epoch(training, digits, args, save)
        finish_epoch(training, digits)
        save()
    if RANK == 0:
        results.write(args, training, digits)
    wait()
    return training.progress.epochs[-1]["test_accuracy"]


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0; 1 below the target accuracy; 2 for arguments, devices, data or checkpoint of no use."""
    args = arguments.parse(argv, str(__doc__).splitlines()[0])
    try:
        args.device = start(args.device)
        args.out.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(args.out)
        accuracy = train(args)
    except (DataError, DeviceError, checkpoint.CheckpointError) as error:
        say(f"train_mnist.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        say(f"train_mnist.py: --out {args.out}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("train_mnist.py: stopped; the same command with --resume continues", file=sys.stderr)
        return 130
    if args.target_accuracy is not None and accuracy < args.target_accuracy:
        say(f"train_mnist.py: test accuracy {accuracy:.2%}, below the target of {args.target_accuracy:.2%}", sys.stderr)
        return 1
    say(f"Test accuracy {accuracy:.2%}; metrics, figures and checkpoint are in {args.out}")
    return 0


if __name__ == "__main__":
    leave(main())
