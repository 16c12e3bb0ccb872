"""The parts of examples/, each on its own: arguments, files, data, figures, one step, one epoch, one checkpoint."""

import copy
import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import arguments
import atomic
import checkpoint
import distributed
import figures
import mnist_data
import networks
import results
import train_mnist
import training

import tritonconv

CPU = torch.device("cpu")
EXAMPLES = Path(networks.__file__).parent


def digits(train: int = 12, test: int = 10) -> mnist_data.Digits:
    """Random images and labels."""
    images, labels = torch.randint(256, (train + test, 1, 28, 28)).to(torch.uint8), torch.randint(10, (train + test,))
    return mnist_data.Digits(images[:train], labels[:train], images[train:], labels[train:], "made up")


def new_training(backend: str = "torch", dtype: torch.dtype = torch.float32, steps: int = 8) -> training.Training:
    return training.Training(train_mnist.build_model(backend), steps, 0.005, CPU, dtype)


# --- arguments ---


def parse(*argv: str) -> Namespace:
    return arguments.parse(list(argv), "")


@pytest.mark.parametrize(
    ("argument", "taken", "refused"),
    [
        ("--epochs", "1", "0"),
        ("--seed", "0", "-1"),
        ("--seed", "4294967295", "4294967296"),
        ("--lr", "1e-300", "0"),
        ("--lr", "1e300", "inf"),
        ("--target-accuracy", "1e-9", "0"),
        ("--target-accuracy", "1", "1.001"),
    ],
)
def test_the_last_values_that_are_taken_and_the_first_that_are_not(argument, taken, refused, capsys):
    assert getattr(parse(f"{argument}={taken}"), argument[2:].replace("-", "_")) == float(taken)
    with pytest.raises(SystemExit, match="2"):
        parse(f"{argument}={refused}")
    assert repr(refused) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gpus", "taken", "refused"), [(1, "cuda:0", "cuda:1"), (1, "cuda", "cuda:1"), (0, "cpu", "cuda")]
)
def test_a_gpu_that_is_not_there(gpus, taken, refused, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert parse(f"--device={taken}").device == torch.device(taken)
    with pytest.raises(SystemExit, match="2"):
        parse(f"--device={refused}")
    assert f"{refused!r} is not here" in capsys.readouterr().err


def test_an_algorithm_needs_our_backend(capsys):
    assert parse("--algorithm=direct").algorithm == "direct"
    assert parse("--backend=torch").algorithm == "auto"
    with pytest.raises(SystemExit, match="2"):
        parse("--backend=torch", "--algorithm=direct")
    assert "'direct' needs --backend triton" in capsys.readouterr().err


def test_a_batch_divides_by_the_processes(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "WORLD_SIZE", 3)
    assert parse("--batch-size=63").batch_size == 63
    with pytest.raises(SystemExit, match="2"):
        parse("--batch-size=64")
    assert "64 does not divide by the 3 processes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (0.5, 0),
        (0.4999, 1),
        (OSError("disk full"), 2),
        (mnist_data.DataError("no digits"), 2),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_exit_codes(end, code, monkeypatch, tmp_path):
    """By what `train` returns, where the target is 0.5, or raises."""

    def train(args: Namespace) -> float:
        if isinstance(end, BaseException):
            raise end
        return end

    monkeypatch.setattr(train_mnist, "train", train)
    assert train_mnist.main(["--out", str(tmp_path / "out"), "--target-accuracy", "0.5", "--device", "cpu"]) == code


# --- files ---


def test_leftovers_of_killed_writes_are_removed_and_nothing_else(tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr(os, "replace", lambda partial, path: moved.append(partial.name))
    atomic.write(tmp_path / "metrics.json", b"{}")
    kept = {".gitignore", "metrics.json", "notes.partial"}
    for name in (*moved, *kept):
        (tmp_path / name).touch()
    atomic.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_checkpoint_without_one_value_of_the_recipe_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"lr": 1}, {"step": 2})
    assert checkpoint.load(path, {"lr": 1}) == {"step": 2}
    with pytest.raises(checkpoint.CheckpointError, match="seed None, not 3"):
        checkpoint.load(path, {"lr": 1, "seed": 3})


@pytest.mark.parametrize(
    "content", [{"weight": torch.ones(2)}, [1, 2], torch.ones(2), None], ids=lambda c: type(c).__name__
)
def test_a_file_of_torchs_that_is_no_checkpoint_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(checkpoint.CheckpointError, match=r"weights\.pt: not a whole checkpoint"):
        checkpoint.load(tmp_path / "weights.pt", {})


# --- data ---


def test_a_subset_is_evenly_spread_and_no_larger_than_the_set():
    whole = digits(train=12, test=21)
    part = whole.subset(5, 3)
    assert torch.equal(part.train_images, whole.train_images[:5])
    assert torch.equal(part.train_labels, whole.train_labels[:5])
    assert torch.equal(part.test_images, whole.test_images[[0, 10, 20]])
    assert torch.equal(part.test_labels, whole.test_labels[[0, 10, 20]])
    assert whole.subset(100, 100).fingerprint() == whole.fingerprint()


def test_the_fingerprint_tells_any_change():
    whole = digits()
    seen = {whole.fingerprint()}
    for name in whole.TENSORS:
        changed = copy.deepcopy(whole)
        getattr(changed, name)[-1] += 1
        seen.add(changed.fingerprint())
    assert len(seen) == 1 + len(whole.TENSORS)


def test_a_cached_file_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (name, *_) = mnist_data.SHA256
    mnist_data.cache_dir().mkdir(parents=True)
    (mnist_data.cache_dir() / name).write_bytes(b"not MNIST's")
    with pytest.raises(mnist_data.DataError, match="wrong SHA-256"):
        mnist_data._cached_or_downloaded(name)


def test_a_download_that_cannot_be_kept_is_still_used(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # a folder cannot be made in it
    monkeypatch.setattr(mnist_data, "_downloaded", lambda name: name.encode())
    (name, *_) = mnist_data.SHA256
    assert mnist_data._cached_or_downloaded(name) == name.encode()
    assert "could not be kept" in capsys.readouterr().out


# --- figures ---


def images_of(figure) -> list[torch.Tensor]:
    return [torch.from_numpy(axes.images[0].get_array().data) for axes in figure.axes if axes.images]


def test_the_confusion_figure_counts_each_pair():
    labels, predictions = torch.tensor([0, 0, 0, 9, 1]), torch.tensor([0, 3, 3, 0, 1])
    expected = torch.zeros(10, 10)
    expected[0, 0] = expected[9, 0] = expected[1, 1] = 1
    expected[0, 3] = 2
    figure = figures.confusion(labels, predictions)
    torch.testing.assert_close(images_of(figure)[0], expected.log1p())
    written = {text.get_position(): int(text.get_text()) for text in figure.axes[0].texts}
    assert written == {(column, row): expected[row, column] for row in range(10) for column in range(10)}


def test_the_figure_of_errors_shows_what_was_misclassified():
    images = torch.arange(50.0).view(50, 1, 1, 1).expand(50, 1, 28, 28)
    labels = torch.arange(50) % 10
    predictions = (labels + 1) % 10
    predictions[:3] = labels[:3]
    figure = figures.wrong(images, labels, predictions)
    shown = [int(image[0, 0]) for image in images_of(figure)]
    assert shown == list(range(3, 3 + figures.WRONG_SHOWN))
    told = [re.findall(r"\d+", axes.get_title()) for axes in figure.axes]
    assert told == [[str(labels[number].item()), str(predictions[number].item())] for number in shown]
    assert re.findall(r"\d+", figure.get_suptitle()) == ["47", "50"]


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_feature_maps_are_what_each_convolutions_block_answers(backend):
    """The input, then the first seven maps: of the first block, of the second, of the third, which does not pool."""
    model, digit = train_mnist.build_model(backend).eval(), torch.rand(1, 1, 28, 28)
    with torch.no_grad():
        figure = figures.feature_maps(model, digit)
        rows = [[digit[0, 0], *model[:end](digit)[0, : figures.COLUMNS - 1]] for end in (3, 6, 8)]
    torch.testing.assert_close(images_of(figure), [image for row in rows for image in row])


def test_layers_between_a_convolution_and_the_next_belong_to_its_block():
    layers = [torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.Conv2d(2, 3, 3)]
    model, digit = torch.nn.Sequential(*layers).eval(), torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        figure = figures.feature_maps(model, digit)
        expected = [digit[0, 0], *model[:3](digit)[0], digit[0, 0], *model(digit)[0]]
    torch.testing.assert_close(images_of(figure), expected)


def test_filters_are_drawn_on_a_scale_with_zero_in_the_middle():
    weight = torch.randn(figures.COLUMNS + 1, 2, 3, 3)
    weight[0, :, 0, 0] = torch.tensor([-8.0, -10.0])
    figure = figures.filters(weight)
    torch.testing.assert_close(images_of(figure), list(weight.mean(1)))
    assert {axes.images[0].get_clim() for axes in figure.axes if axes.images} == {(-9.0, 9.0)}


def test_curves_lie_where_their_epochs_are():
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    epochs = [{"epoch": epoch} | {name: epoch + i / 10 for i, name in enumerate(names)} for epoch in (1, 2, 3)]
    losses = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    figure = figures.curves(losses, epochs)
    lines = {
        (axes.get_ylabel(), line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for axes in figure.axes
        for line in axes.lines
    }
    assert lines.pop(("loss", "each step")) == ([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], losses)
    expected = {tuple(name.split("_")[::-1]): ([1, 2, 3], [row[name] for row in epochs]) for name in names}
    assert lines == expected


# --- a step, an epoch, an evaluation ---


def test_a_step_is_adams_on_the_mean_loss():
    run, seen = new_training(dtype=torch.float64, steps=4), digits(train=6)
    run.model.eval()  # no dropout
    model = copy.deepcopy(run.model)
    optimizer = torch.optim.Adam(model.parameters(), 0.005, eps=1e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, 4, pct_start=0.3)
    labels = model(seen.train_images.double() / 255).argmax(1)
    labels[0] = (labels[0] + 1) % 10
    for step in range(3):
        scores = model(seen.train_images.double() / 255)
        loss = cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        taken = train_mnist.train_step(run, seen.train_images, labels)
        assert taken == (pytest.approx(loss.item()), int((scores.argmax(1) == labels).sum()), 6)
        assert step > 0 or taken[1] == 5
    torch.testing.assert_close(run.model.state_dict(), model.state_dict())
    assert run.scheduler.get_last_lr() == scheduler.get_last_lr()


def test_the_order_of_the_digits_depends_on_seed_and_epoch():
    seen = digits(train=50)
    orders = {
        (seed, epoch): train_mnist.batches(seen, Namespace(batch_size=16, seed=seed), epoch)
        for seed in (0, 5)
        for epoch in (0, 1)
    }
    for (seed, epoch), order in orders.items():
        assert [len(batch) for batch in order] == [16, 16, 16, 2]
        assert torch.cat(order).sort().values.tolist() == list(range(50))
        again = train_mnist.batches(seen, Namespace(batch_size=16, seed=seed), epoch)
        assert torch.equal(torch.cat(again), torch.cat(order))
    assert len({tuple(torch.cat(order).tolist()) for order in orders.values()}) == 4


def test_an_evaluation_is_the_networks_over_all_digits(monkeypatch):
    monkeypatch.setattr(train_mnist, "EVALUATION_BATCH", 4)
    run, seen = new_training(), digits(test=10)
    run.model.train()
    loss, predictions = train_mnist.evaluate(run, seen.test_images, seen.test_labels)
    with torch.no_grad():
        scores = run.model.eval()(seen.test_images / 255)
    assert loss == pytest.approx(cross_entropy(scores, seen.test_labels).item(), rel=1e-5)
    assert torch.equal(predictions, scores.argmax(1))


def epoch_args(**changes) -> Namespace:
    return Namespace(**{"batch_size": 4, "seed": 0, "epochs": 1, **changes})


def test_an_epoch_drops_out_again_after_an_evaluation(monkeypatch):
    run, modes = new_training(), []
    run.model.eval()
    monkeypatch.setattr(train_mnist, "train_step", lambda run, *_: modes.append(run.model.training) or (0.0, 0, 4))
    train_mnist.train_epoch(run, digits(train=12), epoch_args(), save=lambda: None)
    assert modes == [True] * 3


def test_an_epoch_saves_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(train_mnist, "STEPS_A_CHECKPOINT", 2)
    monkeypatch.setattr(train_mnist, "train_step", lambda *_: (0.0, 0, 4))
    run, saved = new_training(), []
    train_mnist.train_epoch(run, digits(train=20), epoch_args(), save=lambda: saved.append(run.progress.step))
    assert saved == [2, 4]
    assert run.progress.step == len(run.progress.steps) == 5


def test_an_epochs_row_is_the_mean_over_its_own_steps():
    run, seen = new_training(), digits(test=3)
    run.progress.steps = [(99.0, 9, 9), (1.0, 2, 4), (3.0, 1, 2)]  # loss, right answers, digits; one of an epoch before
    run.progress.epoch, run.progress.step = 1, 2
    train_mnist.finish_epoch(run, seen)
    (row,) = run.progress.epochs
    assert (row["train_loss"], row["train_accuracy"]) == (pytest.approx(10 / 6), 0.5)
    assert row["test_accuracy"] * 3 == pytest.approx(
        (run.model(seen.test_images / 255).argmax(1) == seen.test_labels).sum()
    )
    assert (row["epoch"], run.progress.epoch, run.progress.step) == (2, 2, 0)


# --- the state of a run ---


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [(d, torch.float32) for d in (torch.float16, torch.bfloat16, torch.float32)] + [(torch.float64, torch.float64)],
    ids=str,
)
def test_weights_are_float32_under_autocast(dtype, weights):
    run = new_training(dtype=dtype)
    assert {parameter.dtype for parameter in run.model.parameters()} == {weights}
    assert run.scores(run.network, torch.zeros(1, 1, 28, 28, dtype=torch.uint8)).dtype == weights


def test_a_checkpoint_holds_all_that_the_next_step_depends_on(tmp_path):
    """In float16, where the loss is scaled; with dropout, which draws random numbers."""
    seen, path = digits(), tmp_path / "checkpoint.pt"
    run = new_training(dtype=torch.float16)
    train_mnist.train_step(run, seen.train_images, seen.train_labels)
    run.scaler.update(512.0)
    run.progress.step = 1
    checkpoint.save(path, {}, run.state())
    gone_on = train_mnist.train_step(run, seen.train_images, seen.train_labels)
    resumed = new_training(dtype=torch.float16)
    resumed.load(checkpoint.load(path, {}))
    assert train_mnist.train_step(resumed, seen.train_images, seen.train_labels) == gone_on
    assert resumed.scaler.get_scale() == run.scaler.get_scale() == 512.0
    assert resumed.scheduler.get_last_lr() == run.scheduler.get_last_lr()
    assert resumed.progress == run.progress
    torch.testing.assert_close(resumed.model.state_dict(), run.model.state_dict(), rtol=0, atol=0)


def test_metrics_hold_what_the_run_saw(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "save", lambda path, figure: None)
    run, seen = new_training(), digits(train=12, test=4)
    run.progress.steps = [(float("inf"), 0, 4), (float("nan"), 0, 4), (0.5, 4, 4)]
    names = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
    run.progress.epochs = [dict.fromkeys(names, 0.25), dict.fromkeys(names, 0.75)]
    run.progress.predictions = [0, 1, 2, 3]
    results.write(Namespace(out=tmp_path, seed=7, lr=0.005, data_dir=None), run, seen)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["step_losses"] == [None, None, 0.5]
    assert metrics["epochs"] == run.progress.epochs and metrics["test_accuracy"] == 0.75
    assert metrics["digits"] == {"source": "made up", "train": 12, "test": 4}
    assert metrics["args"] == {"out": str(tmp_path), "seed": 7, "lr": 0.005, "data_dir": None}


# --- networks ---

PARAMETERS = {
    **{"mnist-cnn3": 370_454, "mnist-conv1": 31_450, "mnist-dropout": 1_199_882, "lenet-1995": 61_706},
    **{"nielsen-1": 289_630, "nielsen-2": 85_670, "nielsen-relu": 85_670, "nielsen-final": 95_770},
    **{"fashion-cnn": 1_677_674, "emnist-double": 448_330, "mnist1d-cnn": 2_050, "mnist1d-mlp": 59_065},
    "vgg16": 138_357_544,
}


def image_of(name: str) -> tuple[int, ...]:
    return (3, 224, 224) if name == "vgg16" else (1, 40) if name.startswith("mnist1d") else (1, 28, 28)


EVEN = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # torch's own layer


@EVEN
def test_networks_have_the_parameters_of_the_table():
    with torch.device("meta"):
        models = {name: make() for name, make in networks.NETWORKS.items()}
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert counts == PARAMETERS
    for name, model in models.items():
        scores = model.eval()(torch.empty(2, *image_of(name), device="meta"))
        assert scores.shape == (2, 1000 if name == "vgg16" else 10), name


@EVEN
@pytest.mark.parametrize("name", [name for name in PARAMETERS if name != "vgg16"])
def test_a_networks_step_on_our_layers_is_torchs(name):
    """Scores and all gradients, training with dropout switched off; no layer of torch's that we have is left."""
    torch.manual_seed(0)
    theirs = networks.NETWORKS[name]().double()
    for layer in theirs:
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    ours = copy.deepcopy(theirs)
    tritonconv.convert(ours, fuse=True)
    kinds = {type(layer) for layer in ours if type(layer).__module__.startswith("torch.nn")}
    assert not any(kind.__name__.startswith(("Conv", "MaxPool", "AvgPool", "ReLU")) for kind in kinds), kinds
    images, labels = torch.rand(6, *image_of(name), dtype=torch.float64), torch.arange(6)
    for model in (theirs, ours):
        cross_entropy(model(images), labels).backward()
    torch.testing.assert_close(ours(images), theirs(images))
    torch.testing.assert_close([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])


def test_the_lesson_is_short_and_has_no_flags():
    text = (EXAMPLES / "mnist.py").read_text()
    assert len(text.splitlines()) <= 60 and "argv" not in text and "argparse" not in text


@pytest.mark.slow
def test_the_lesson_learns():
    run = subprocess.run([sys.executable, EXAMPLES / "mnist.py"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
