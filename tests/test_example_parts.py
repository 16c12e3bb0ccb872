"""The parts of examples/, each on its own: arguments, files, data, augmentation, figures, steps, epochs."""

import copy
import dataclasses
import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy

import tritonconv
from examples import atomic, checkpoint, data, figures, networks, results, train, training
from examples.augment import augment
from examples.recipes import CHOICES, RECIPES, Recipe

EXAMPLES = Path(networks.__file__).parent
SGD = Recipe("none", optimizer="SGD", lr=0.1, epochs=2, batch_size=4, validation=0.0)


def digits(train: int = 12, test: int = 10) -> data.Dataset:
    """Random images and labels."""
    images, labels = torch.randint(256, (train + test, 1, 28, 28)).to(torch.uint8), torch.randint(10, (train + test,))
    return data.Dataset(images[:train], labels[:train], images[train:], labels[train:], "made up")


def new_training(recipe: Recipe = SGD, images: int = 12, layers: str = "torch", **changes) -> training.Training:
    recipe = dataclasses.replace(recipe, **changes)
    return training.Training(train.build_model("mnist-cnn3", layers), recipe, images, 0, Accelerator(cpu=True))


# --- arguments ---


def parse(*argv: str) -> Namespace:
    return train.parse(["mnist-cnn3", *argv])


@pytest.mark.parametrize(
    ("argument", "taken", "refused"),
    [
        ("--epochs", "1", "0"),
        ("--batch-size", "1", "0"),
        ("--limit", "2", "1"),
        ("--seeds", "1", "0"),
        ("--seed", "0", "-1"),
        ("--seed", "4294967295", "4294967296"),
        ("--lr", "1e-300", "0.0"),
        ("--lr", "1e300", "inf"),
        ("--momentum", "0", "-0.5"),
        ("--validation", "0", "1.0"),
        ("--patience", "0", "-1"),
        ("--clean-epochs", "0", "-1"),
        ("--rotation", "0", "inf"),
        ("--scaling", "0", "1.0"),
        ("--dropout", "1", "1.5"),
        ("--target-accuracy", "1e-9", "0.0"),
        ("--target-accuracy", "1", "1.001"),
    ],
)
def test_the_last_values_that_are_taken_and_the_first_that_are_not(argument, taken, refused, capsys):
    args, name = parse(f"{argument}={taken}"), argument[2:].replace("-", "_")
    assert vars(args).get(name, getattr(args.recipe, name, None)) == float(taken)
    with pytest.raises(SystemExit, match="2"):
        parse(f"{argument}={refused}")
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {argument}: {refused} is not a " in line


def test_a_gpu_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert parse("--device=cuda").device == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert parse("--device=cpu").device == "cpu"
    with pytest.raises(SystemExit, match="2"):
        parse("--device=cuda")
    assert "argument --device: 'cuda' is not here" in capsys.readouterr().err


def test_more_processes_than_gpus(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(train, "LOCAL_PROCESSES", 2)
    assert parse("--device=cuda").device == "cuda"
    monkeypatch.setattr(train, "LOCAL_PROCESSES", 4)
    assert parse("--device=cpu").device == "cpu"
    with pytest.raises(SystemExit, match="2"):
        parse("--device=cuda")
    told = capsys.readouterr().err
    assert all(part in told for part in ("4 processes", "2 CUDA devices", "--nproc-per-node=2"))


def test_float16_needs_a_gpu(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("--device=cpu", "--dtype=float16")
    assert "argument --dtype: 'float16' needs a GPU" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert parse("--device=cuda", "--dtype=float16").dtype == "float16"


def test_a_batch_divides_by_the_processes(monkeypatch, capsys):
    monkeypatch.setattr(train, "PROCESSES", 3)
    assert parse("--batch-size=63").recipe.batch_size == 63
    with pytest.raises(SystemExit, match="2"):
        parse("--batch-size=64")
    assert "64 does not divide by the 3 processes" in capsys.readouterr().err


def test_every_field_of_a_recipe_is_an_option_and_the_networks_own_by_default():
    for name, recipe in RECIPES.items():
        assert train.parse([name]).recipe == recipe
    changed = Recipe(
        *("99.26 %", "kmnist", 3, 8, "SGD", 0.5, 0.25, 0.125, 0.4, "steps", 0.5, 2, 1.0, 2.0, 0.75, 4.0, 1),
    )
    given = {name: value for name, value in dataclasses.asdict(changed).items() if name != "reported"}
    assert not any(value == getattr(RECIPES["mnist-cnn3"], name) for name, value in given.items())
    assert parse(*(f"--{name.replace('_', '-')}={value}" for name, value in given.items())).recipe == changed


def test_a_recipes_dropout_is_every_layers():
    own, given = (train.build_model("fashion-cnn", dropout=share) for share in (None, 0.125))
    shares = ([layer.p for layer in model if isinstance(layer, torch.nn.Dropout)] for model in (own, given))
    assert list(shares) == [[0.25, 0.25, 0.5], [0.125] * 3]


def test_recipes_are_of_networks_and_name_what_is_there():
    assert set(RECIPES) == set(networks.NETWORKS) - {"vgg16"}  # that one runs forward only
    for recipe in RECIPES.values():
        assert all(getattr(recipe, name) in choices for name, choices in CHOICES.items())
    assert set(CHOICES["data"]) == {*data.SETS, "mnist1d"}


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (0.5, 0),
        (0.4999, 1),
        (OSError("disk full"), 2),
        (data.DataError("no digits"), 2),
        (checkpoint.CheckpointError("damaged"), 2),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_exit_codes(end, code, monkeypatch, tmp_path):
    """By what `train` returns, where the target is 0.5, or raises."""

    def run(args: Namespace, seed: int) -> float:
        if isinstance(end, BaseException):
            raise end
        return end

    monkeypatch.setattr(train, "train", run)
    argv = ["mnist-cnn3", "--out", str(tmp_path / "out"), "--target-accuracy", "0.5", "--device", "cpu"]
    assert train.main(argv) == code


def test_several_seeds_are_told_with_mean_and_spread(monkeypatch, capsys):
    seeds = []

    def run(args: Namespace, seed: int) -> float:
        seeds.append(seed)
        return {3: 0.5, 4: 0.6, 5: 0.7}[seed]

    monkeypatch.setattr(train, "train", run)
    assert train.main(["mnist-cnn3", "--seed=3", "--seeds=3", "--target-accuracy=0.6"]) == 0
    assert seeds == [3, 4, 5]
    assert "Test accuracy 60.00% +- 10.00% over 3 seeds (reported: 99.26 %)" in capsys.readouterr().out
    assert train.main(["mnist-cnn3", "--seed=3", "--seeds=3", "--target-accuracy=0.61"]) == 1


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


def test_the_checkpoint_of_the_most_steps_is_the_one(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    for name in ("checkpoint-5", "checkpoint-10", ".checkpoint-12.partial", "checkpoint-9"):
        (tmp_path / name).mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint-10"
    (tmp_path / "curves.png").touch()
    checkpoint.remove(tmp_path, but=tmp_path / "checkpoint-9")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-9", "curves.png"}


def test_a_checkpoint_without_one_value_of_the_recipe_is_refused(tmp_path):
    run = new_training()
    checkpoint.save(run.accelerator, tmp_path, 1, {"lr": 1})
    checkpoint.load(run.accelerator, tmp_path / "checkpoint-1", {"lr": 1})
    with pytest.raises(checkpoint.CheckpointError, match="seed None, not 3"):
        checkpoint.load(run.accelerator, tmp_path / "checkpoint-1", {"lr": 1, "seed": 3})


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"recipe": {}, "files": 1}', b"\xff"], ids=repr)
def test_a_folder_that_is_no_checkpoint_is_refused(content, tmp_path):
    (tmp_path / checkpoint.MANIFEST).write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="not a whole checkpoint"):
        checkpoint.load(Accelerator(cpu=True), tmp_path, {})


# --- data ---


def test_a_subset_is_evenly_spread_and_no_larger_than_the_set():
    whole = digits(train=12, test=21)
    part = whole.subset(5, 3)
    assert torch.equal(part.train_images, whole.train_images[:5])
    assert torch.equal(part.train_labels, whole.train_labels[:5])
    assert torch.equal(part.test_images, whole.test_images[[0, 10, 20]])
    assert torch.equal(part.test_labels, whole.test_labels[[0, 10, 20]])
    assert whole.subset(100, 100).fingerprint() == whole.fingerprint()


def test_validation_images_are_of_the_training_images_and_no_test_image():
    whole = digits(train=12)
    parts = whole.validation(1 / 6)
    assert torch.equal(torch.cat([parts.train_images, parts.test_images]), whole.train_images)
    assert torch.equal(torch.cat([parts.train_labels, parts.test_labels]), whole.train_labels)
    assert len(parts.train_labels) == 10
    assert len(whole.validation(0.0).train_labels) == 12 and len(whole.validation(0.0).test_labels) == 0


def test_the_fingerprint_tells_any_change():
    whole = digits()
    seen = {whole.fingerprint()}
    for name in whole.TENSORS:
        changed = copy.deepcopy(whole)
        getattr(changed, name)[-1] += 1
        seen.add(changed.fingerprint())
    assert len(seen) == 1 + len(whole.TENSORS)


def test_letters_are_upright_and_end_at_j():
    images = torch.arange(4 * 28 * 28).view(4, 1, 28, 28).to(torch.uint8)
    letters = data.Dataset(
        images, torch.tensor([1, 26, 10, 11]), images[:1], torch.tensor([2]), "made up", data.LETTERS
    )
    upright = data._upright_letters(letters)
    assert upright.train_labels.tolist() == [0, 9] and upright.test_labels.tolist() == [1]
    assert torch.equal(upright.train_images, images[[0, 2]].transpose(2, 3))


def test_signals_are_the_packages_and_as_many_as_its_paper_has():
    signals = data.load("mnist1d")
    assert signals.train_images.shape == (4000, 1, 40) and signals.test_images.shape == (1000, 1, 40)
    assert signals.train_labels.unique().tolist() == list(range(10))
    everything = torch.cat([signals.train_images, signals.test_images])
    assert abs(everything.mean().item()) < 1e-6 and abs(everything.std().item() - 1) < 1e-4
    assert data.load("mnist1d").fingerprint() == signals.fingerprint()


# --- augmentation ---


def lone_pixel(images: int = 1) -> torch.Tensor:
    image = torch.zeros(images, 1, 28, 28)
    image[:, :, 14, 14] = 1.0
    return image


def centre(images: torch.Tensor) -> torch.Tensor:
    """(N, 2): where an image's weight lies, row and column."""
    places = torch.stack(torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij"))
    return (images * places).sum((2, 3)) / images.sum((2, 3))


def test_without_amounts_nothing_is_drawn_and_nothing_changes():
    images, state = torch.rand(3, 1, 28, 28), torch.get_rng_state()
    assert augment(images, SGD) is images
    assert torch.equal(torch.get_rng_state(), state)


def test_a_shift_moves_by_up_to_so_many_pixels_along_both_axes():
    torch.manual_seed(0)
    moved = centre(augment(lone_pixel(500), dataclasses.replace(SGD, shift=3.0))) - 14
    assert moved.abs().max() <= 3.0 + 1e-4
    assert moved.amax(0).min() > 2.8 and moved.amin(0).max() < -2.8
    assert abs(torch.corrcoef(moved.T)[0, 1]) < 0.15  # rows and columns move each for itself


def test_a_rotation_turns_about_the_middle_by_up_to_so_many_degrees():
    torch.manual_seed(0)
    images = torch.zeros(500, 1, 28, 28)
    images[:, :, 13:15, 23:25] = 1.0  # ten pixels to the right of the middle, 13.5
    from_middle = centre(augment(images, dataclasses.replace(SGD, rotation=30.0))) - 13.5
    torch.testing.assert_close(from_middle.norm(dim=1), torch.full((500,), 10.0), rtol=0, atol=0.1)
    degrees = torch.atan2(from_middle[:, 0], from_middle[:, 1]).rad2deg()
    assert 29 < degrees.max() < 30.5 and -30.5 < degrees.min() < -29


def test_a_scaling_stretches_both_sides_by_up_to_its_share():
    torch.manual_seed(0)
    images = torch.zeros(500, 1, 28, 28)
    images[:, :, 8:20, 8:20] = 1.0
    area = augment(images, dataclasses.replace(SGD, scaling=0.25)).sum((1, 2, 3)) / 144
    assert 1.5 < area.max() < 1.5625 + 0.01 and 0.5625 - 0.01 < area.min() < 0.6


def test_an_elastic_distortion_has_its_standard_deviation_and_is_smooth():
    torch.manual_seed(0)
    ramp = torch.arange(28.0).view(1, 1, 1, 28).expand(400, 1, 28, 28)
    moved = (augment(ramp, dataclasses.replace(SGD, elastic=1.5)) - ramp)[
        :, 0, 8:20, 8:20
    ]  # by columns, read off a ramp
    assert moved.std().item() == pytest.approx(1.5, rel=0.05) and abs(moved.mean().item()) < 0.1
    assert (moved[:, 1:] - moved[:, :-1]).std() < 0.3 * moved.std()  # neighbours move together
    assert torch.corrcoef(torch.stack([moved[:, 0, 0], moved[:, -1, -1]]))[0, 1] < 0.3  # far ones do not


# --- figures ---


def images_of(figure) -> list[torch.Tensor]:
    return [torch.from_numpy(axes.images[0].get_array().data) for axes in figure.axes if axes.images]


def test_the_confusion_figure_counts_each_pair():
    labels, predictions = torch.tensor([0, 0, 0, 9, 1]), torch.tensor([0, 3, 3, 0, 1])
    expected = torch.zeros(10, 10)
    expected[0, 0] = expected[9, 0] = expected[1, 1] = 1
    expected[0, 3] = 2
    figure = figures.confusion(labels, predictions, data.DIGITS)
    torch.testing.assert_close(images_of(figure)[0], expected.log1p())
    written = {text.get_position(): int(text.get_text()) for text in figure.axes[0].texts}
    assert written == {(column, row): expected[row, column] for row in range(10) for column in range(10)}
    assert figure.axes[0].get_title() == "Most confused: 0 and 3 (2), 0 and 9 (1)"
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list(data.DIGITS)


def test_the_most_confused_pairs_count_both_directions():
    labels, predictions = torch.tensor([1, 2, 2, 0, 1, 0]), torch.tensor([2, 1, 1, 2, 1, 1])
    assert figures.confused(labels, predictions, ("a", "b", "c")) == [("b", "c", 3), ("a", "b", 1), ("a", "c", 1)]
    assert figures.confused(labels, labels, ("a", "b", "c")) == []


def test_the_most_confused_pairs_are_drawn_a_row_each():
    labels, predictions = torch.tensor([1, 2, 2, 0, 1, 0, 1]), torch.tensor([2, 1, 1, 2, 1, 1, 1])
    images = torch.arange(7.0).view(7, 1, 1, 1).expand(7, 1, 2, 2)
    figure = figures.confused_images(images, labels, predictions, ("a", "b", "c"))
    rows = [figure.axes[row : row + figures.COLUMNS] for row in range(0, len(figure.axes), figures.COLUMNS)]
    shown = [[int(axes.images[0].get_array()[0, 0]) for axes in row if axes.images] for row in rows]
    assert shown == [[0, 1, 2], [5], [3]]
    assert rows[0][1].get_title() == "true c\npredicted b"
    assert len(figures.confused_images(images, labels, labels, ("a", "b", "c")).axes) == figures.COLUMNS


@pytest.mark.parametrize("size", [(28, 28), (40,)])
def test_the_figure_of_errors_shows_what_was_misclassified(size):
    images = torch.arange(50.0).view(50, 1, *[1] * len(size)).expand(50, 1, *size)
    labels = torch.arange(50) % 10
    predictions = (labels + 1) % 10
    predictions[:3] = labels[:3]
    figure = figures.misclassified(images, labels, predictions, data.DIGITS)
    if len(size) == 1:
        shown = [int(axes.lines[0].get_ydata()[0]) for axes in figure.axes]
    else:
        shown = [int(image[0, 0]) for image in images_of(figure)]
    assert shown == list(range(3, 3 + figures.MISCLASSIFIED_SHOWN))
    told = [re.findall(r"\d+", axes.get_title()) for axes in figure.axes]
    assert told == [[str(labels[number].item()), str(predictions[number].item())] for number in shown]
    assert re.findall(r"\d+", figure.get_suptitle()) == ["47", "50"]


@pytest.mark.parametrize("layers", ["torch", "ours"])
def test_feature_maps_are_what_each_convolutions_block_answers(layers):
    """The input, then the first seven maps: of the first block, of the second, of the third, which does not pool."""
    model, digit = train.build_model("mnist-cnn3", layers).eval(), torch.rand(1, 1, 28, 28)
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


@pytest.mark.parametrize("shape", [(9, 1, 3, 3), (4, 2, 3, 2), (5, 2, 3), (3, 1, 4)], ids=str)
def test_filters_lie_in_rows_on_a_scale_with_zero_in_the_middle(shape):
    weight = torch.randn(shape)
    weight[0, 0, 0] = -9.0
    figure = figures.filters(weight, 1)
    (drawn,) = (axes.images[0] for axes in figure.axes[:1])
    mosaic, (R, S) = torch.from_numpy(drawn.get_array().filled(torch.nan)), ((1, *shape[2:])[-2:])
    columns = figures.COLUMNS if shape[1] == 1 else shape[1]
    for place, expected in enumerate(weight.reshape(-1, R, S)):
        top, left = place // columns * (R + 1), place % columns * (S + 1)
        torch.testing.assert_close(mosaic[top : top + R, left : left + S], expected)
    assert int(mosaic.isfinite().sum()) == weight.numel()
    assert drawn.get_clim() == (-9.0, 9.0)


def test_curves_lie_where_their_epochs_are():
    names = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
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
    alone = figures.curves(losses, [{k: v for k, v in row.items() if "validation" not in k} for row in epochs])
    assert [len(axes.lines) for axes in alone.axes] == [2, 1]


# --- a step, an epoch, an evaluation ---


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_a_step_is_the_optimizers_on_the_mean_loss(optimizer):
    changes = {"optimizer": optimizer, "lr": 0.005, "weight_decay": 0.01, "momentum": 0.5}
    run, seen = new_training(schedule="inverse-time", **changes), digits(train=6)
    run.model.eval()  # no dropout
    model = copy.deepcopy(run.model)
    options = {"lr": 0.005, "weight_decay": 0.01}
    options |= {"momentum": 0.5} if optimizer in ("SGD", "RMSprop") else {}
    options |= {"alpha": 0.9} if optimizer == "RMSprop" else {}
    expected = getattr(torch.optim, optimizer)(model.parameters(), **options)
    labels = model(seen.train_images / 255).argmax(1)
    labels[0] = (labels[0] + 1) % 10
    for step in range(3):
        scores = model(seen.train_images / 255)
        loss = cross_entropy(scores, labels)
        expected.param_groups[0]["lr"] = 0.005 / (1 + step * 0.005 / 2)
        expected.zero_grad()
        loss.backward()
        expected.step()
        run.step(seen.train_images, labels)
        assert run.progress.steps[-1] == (pytest.approx(loss.item()), int((scores.argmax(1) == labels).sum()), 6)
        assert step > 0 or run.progress.steps[-1][1] == 5
    torch.testing.assert_close(run.model.state_dict(), model.state_dict())


def test_pixels_are_read_as_shares_and_signals_as_they_are():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(training.as_float(pixels), torch.arange(256.0) / 255)
    signals = torch.randn(5)
    assert training.as_float(signals) is signals


@pytest.mark.parametrize(("epochs_done", "is_augmented"), [(0, True), (1, False)])
def test_steps_are_on_augmented_images_but_in_the_clean_epochs(epochs_done, is_augmented, monkeypatch):
    run, seen = new_training(rotation=10.0, epochs=2, clean_epochs=1), digits(train=6)
    run.progress.epochs += [{}] * epochs_done
    run.model.eval()  # no dropout
    monkeypatch.setattr(training, "augment", lambda images, recipe: images * (recipe.rotation == 0.0))
    augmented, clean = (
        cross_entropy(run.model(x), seen.train_labels).item()
        for x in (torch.zeros(6, 1, 28, 28), seen.train_images / 255)
    )
    assert run.evaluate(seen.train_images, seen.train_labels)[0] == pytest.approx(clean, rel=1e-5)
    run.model.eval()
    run.step(seen.train_images, seen.train_labels)
    assert augmented != pytest.approx(clean, rel=1e-5)
    assert run.progress.steps[-1][0] == pytest.approx(augmented if is_augmented else clean, rel=1e-5)


def test_schedules_are_what_they_are_called():
    seen = {}
    for name in CHOICES["schedule"]:
        recipe = dataclasses.replace(SGD, schedule=name, lr=0.5, epochs=2)
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        schedule = training.make_schedule(optimizer, recipe, 8)
        seen[name] = []
        for _ in range(8):
            seen[name].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step() if len(seen[name]) < 8 else None
    assert seen["constant"] == [0.5] * 8
    assert seen["steps"] == pytest.approx([0.5] * 4 + [0.05] * 2 + [0.005] * 2)
    assert seen["inverse-time"] == pytest.approx([0.5 / (1 + step * 0.25) for step in range(8)])
    assert max(seen["one-cycle"]) == pytest.approx(0.5, rel=0.1) and seen["one-cycle"][-1] < 0.01
    assert seen["one-cycle"][0] == pytest.approx(0.02)


def test_the_order_of_the_images_depends_on_seed_and_epoch():
    orders = {}
    for seed in (0, 5):
        run = new_training(batch_size=16, images=50)
        run.seed = seed
        for epoch in (0, 1):
            order = orders[seed, epoch] = run.batches(epoch)
            assert [len(batch) for batch in order] == [16, 16, 16, 2]
            assert torch.cat(order).sort().values.tolist() == list(range(50))
            assert torch.equal(torch.cat(run.batches(epoch)), torch.cat(order))
    assert len({tuple(torch.cat(order).tolist()) for order in orders.values()}) == 4


def test_an_evaluation_is_the_networks_over_all_images(monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", 4)
    run, seen = new_training(), digits(test=10)
    run.model.train()
    loss, predictions = run.evaluate(seen.test_images, seen.test_labels)
    assert run.model.training
    with torch.no_grad():
        scores = run.model.eval()(seen.test_images / 255)
    assert loss == pytest.approx(cross_entropy(scores, seen.test_labels).item(), rel=1e-5)
    assert torch.equal(predictions, scores.argmax(1))


def test_each_image_is_looked_at_by_one_process(monkeypatch):
    """Also where there are fewer images than processes."""
    run, seen = new_training(), digits(test=3)
    run.accelerator = Namespace(num_processes=5, reduce=lambda tensor: tensor)
    looked = []
    monkeypatch.setattr(run.model, "forward", lambda batch: looked.append(len(batch)) or torch.zeros(len(batch), 10))
    for rank in range(5):
        run.accelerator.process_index = rank
        run.evaluate(seen.test_images, seen.test_labels)
    assert sum(looked) == 3


def test_an_epoch_saves_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(train, "STEPS_A_CHECKPOINT", 2)
    run, saved = new_training(images=20), []
    monkeypatch.setattr(run, "step", lambda images, labels: run.progress.steps.append((0.0, 0, 4)))
    train.train_epoch(run, digits(train=20, test=0), "", save=lambda: saved.append(len(run.progress.steps)))
    assert saved == [2, 4]
    assert len(run.progress.steps) == 5 and len(run.progress.epochs) == 1


def test_an_epochs_row_is_the_mean_over_its_own_steps(monkeypatch):
    run, seen = new_training(images=6), digits(train=6, test=3)
    run.progress.steps = [(99.0, 9, 4), (98.0, 9, 2)]  # loss, correct, images of each step: the epoch before
    run.progress.epochs = [{"epoch": 1, "seconds": 0.0, "validation_accuracy": 0.0}]
    todo = [(1.0, 2, 4), (3.0, 1, 2)]
    monkeypatch.setattr(run, "step", lambda images, labels: run.progress.steps.append(todo.pop(0)))
    train.train_epoch(run, seen, "", save=lambda: None)
    row = run.progress.epochs[-1]
    assert (row["epoch"], row["train_loss"], row["train_accuracy"]) == (2, pytest.approx(10 / 6), 0.5)
    correct = (run.model.eval()(seen.test_images / 255).argmax(1) == seen.test_labels).sum()
    assert row["validation_accuracy"] * 3 == pytest.approx(correct)


def test_the_first_epoch_with_the_best_validation_is_kept():
    run = new_training()
    weight = run.model.get_parameter("0.weight")
    for epoch, accuracy in enumerate((0.3, 0.5, 0.4, 0.5), start=1):
        with torch.no_grad():
            weight.fill_(epoch)
        run.progress.epochs.append({"validation_accuracy": accuracy})
        train._keep_the_best(run)
    assert run.progress.best_epoch == 2
    assert run.progress.best_weights["0.weight"].unique().tolist() == [2.0]


def test_without_validation_the_last_epoch_is_kept():
    run = new_training()
    for epoch in (1, 2, 3):
        run.progress.epochs.append({"train_accuracy": 1 / epoch})
        train._keep_the_best(run)
        assert run.progress.best_epoch == epoch


@pytest.mark.parametrize(("patience", "ends"), [(0, 5), (1, 3), (2, 4)])
def test_a_run_ends_after_its_epochs_or_its_patience(patience, ends):
    run = new_training(epochs=5, patience=patience)
    for accuracy in (0.1, 0.2, 0.1, 0.1, 0.1):
        assert not train._finished(run)
        run.progress.epochs.append({"validation_accuracy": accuracy})
        train._keep_the_best(run)
        if train._finished(run):
            break
    assert len(run.progress.epochs) == ends


# --- the state of a run ---


def test_a_checkpoint_holds_all_that_the_next_step_depends_on(tmp_path):
    """With dropout and augmentation, which draw random numbers, momentum and a schedule."""
    changes = {"momentum": 0.9, "schedule": "inverse-time", "rotation": 10.0}
    run, seen = new_training(**changes), digits()
    run.step(seen.train_images, seen.train_labels)
    run.progress.best_weights = {"weight": torch.ones(2)}
    checkpoint.save(run.accelerator, tmp_path, 1, {})
    steps = copy.deepcopy(run.progress.steps)
    run.step(seen.train_images, seen.train_labels)
    resumed = new_training(**changes)
    checkpoint.load(resumed.accelerator, tmp_path / "checkpoint-1", {})
    assert resumed.progress.steps == steps
    assert torch.equal(resumed.progress.best_weights["weight"], torch.ones(2))
    resumed.step(seen.train_images, seen.train_labels)
    assert resumed.progress.steps == run.progress.steps
    assert resumed.scheduler.get_last_lr() == run.scheduler.get_last_lr()
    torch.testing.assert_close(resumed.model.state_dict(), run.model.state_dict(), rtol=0, atol=0)


def test_metrics_are_strict_json(tmp_path):
    args, run, seen = parse("--data-dir=/data", "--device=cpu"), new_training(), digits()
    run.progress.steps = [(float("inf"), 0, 4), (float("nan"), 0, 4), (0.5, 4, 4)]
    run.progress.epochs = [{"epoch": 1, "train_loss": float("nan")}, {"epoch": 2, "train_loss": 0.5}]
    metrics = json.loads(json.dumps(train._metrics(args, 7, run, seen), allow_nan=False))
    assert metrics["step_losses"] == [None, None, 0.5]
    assert metrics["epochs"] == [{"epoch": 1, "train_loss": None}, {"epoch": 2, "train_loss": 0.5}]
    assert metrics["args"]["data_dir"] == "/data" and metrics["seed"] == 7
    assert metrics["recipe"] == dataclasses.asdict(RECIPES["mnist-cnn3"])
    assert metrics["parameters"] == 370_454


# --- networks ---

PARAMETERS = {
    **{"mnist-cnn3": 370_454, "mnist-conv1": 31_450, "mnist-dropout": 1_199_882, "lenet-1995": 61_706},
    **{"nielsen-1": 289_630, "nielsen-2": 85_670, "nielsen-relu": 85_670, "nielsen-final": 95_770},
    **{"fashion-cnn": 1_677_674, "emnist-double": 448_330, "mnist1d-cnn": 2_050, "mnist1d-mlp": 59_065},
    "vgg16": 138_357_544,
    "mnist-best": 427_658,
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
    run = subprocess.run([sys.executable, "-m", "examples.mnist"], cwd=EXAMPLES.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


# --- results ---


def finished(folder: Path, accuracy: float, **changes) -> None:
    """Metrics of a run, as examples.train leaves them."""
    folder.mkdir(parents=True)
    images = {"source": "/data/MNIST", "train": 50, "validation": 10, "test": 20}
    metrics = {"images": images, "epochs": [{}] * 3, "test_accuracy": accuracy, "seconds": 2.0, "device": "cpu (x)"}
    (folder / "metrics.json").write_text(json.dumps(metrics | changes))


def test_a_result_has_mean_and_spread_over_seeds_and_says_what_was_left_out(tmp_path):
    command = results.command_of("nielsen-1", tmp_path, on_gpu=True)
    assert command[-6:] == ["nielsen-1", "--seeds", "3", "--out", str(tmp_path / "nielsen-1"), "--resume"]
    for seed, accuracy in enumerate((0.9, 0.94, 0.98)):
        finished(tmp_path / f"seed-{seed}", accuracy)
    found = results.result("nielsen-1", tmp_path, command, "")
    assert found.reached == "94.00 % +- 4.00 %" and found.seconds == 6.0 and found.parameters == 289_630
    assert found.trained_on == "50 images, 3 epochs of 60; tested on 20; of mnist"
    whole = results.result("mnist1d-cnn", tmp_path / "nothing", command, "")
    assert whole.reached == "not run" and whole.seconds is None
    assert "| nielsen-1 " in results.table([found]) and "98.78 %" in results.table([found])


def test_a_networks_runs_are_not_run_again_and_the_budget_ends(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(results, "run", lambda command, seconds: seen.append(command[3]) or "not finished")
    finished(tmp_path / "runs" / "nielsen-1" / "seed-0", 0.5)
    argv = ["--only", "nielsen", "--out", str(tmp_path / "runs")]
    assert results.main(argv) == 0
    assert seen == ["nielsen-2", "nielsen-relu", "nielsen-final"]
    assert results.main([*argv, "--minutes", "0"]) == 0 and len(seen) == 3
    conditions, rows = results.read(tmp_path / "runs" / "results.json")
    assert conditions["torch"] == torch.__version__
    assert [row.reached for row in rows] == ["50.00 %"] + ["not run: the time was up"] * 3
    monkeypatch.setattr(results, "run", lambda command, seconds: "failed: no disk")
    assert results.main(argv) == 1
    with pytest.raises(SystemExit, match="2"):
        results.main(["--only", "resnet"])
    assert "--only: no network has 'resnet'" in capsys.readouterr().err


def test_a_run_that_takes_too_long_is_interrupted_and_one_that_fails_says_why():
    sleeps = ["python", "-c", "import time; time.sleep(60)"]
    assert results.run(sleeps, 1.0) == "not finished: the time was up"
    assert results.run(["python", "-c", "raise SystemExit('no disk')"], 60.0) == "failed: no disk"
    assert results.run(["python", "-c", ""], 60.0) == ""


@pytest.mark.slow
def test_vgg16_goes_forward_on_our_layers():
    found = results.vgg16()
    assert found.parameters == 138_357_544
    assert float(found.note.split()[-1]) < 1e-5


def test_every_network_has_a_result():
    assert {*results.ON_A_CPU, "vgg16"} == set(networks.NETWORKS)
