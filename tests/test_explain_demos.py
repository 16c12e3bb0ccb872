"""examples/explain: what each demonstration finds and draws, the command line, the page, the notebook."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from examples import data, figures, train
from examples.explain import algorithms, edges, fields, gallery, matrix, receptive, resampling, shifts, summary, trained
from examples.explain.__main__ import ALL, DEMOS, main
from examples.explain.lesson import ArgumentError, Lesson, build, digits, require_equal
from examples.explain.notebook import NOTEBOOK, notebook
from examples.networks import NETWORKS

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).parent.parent
# the smallest PNG file that the page can measure: its signature and the first chunk's head, width and height
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + (3).to_bytes(4, "big") + (2).to_bytes(4, "big")


@pytest.fixture(scope="module")
def lessons() -> dict[str, Lesson]:
    options = {"algorithms": {"min_run_time": 0.01}, "summary": {"network": "vgg16"}}
    return {name: module.lesson(**options.get(name, {})) for name, module in DEMOS.items()}


def images(lesson: Lesson, drawing: int = 0) -> list[torch.Tensor]:
    """What a figure shows, in the order of its axes."""
    shown = [image for axes in lesson.drawings[drawing].figure.axes for image in axes.get_images()]
    return [torch.as_tensor(np.asarray(image.get_array())) for image in shown]


def test_what_is_printed_is_ascii(lessons):
    for name, lesson in lessons.items():
        alts = [drawing.alt for drawing in lesson.drawings]
        assert all(text.isascii() for text in [lesson.title, lesson.text, *alts, DEMOS[name].__doc__]), name


# receptive fields


@pytest.mark.parametrize(
    ("name", "sides"), [("stride 1", [3, 5, 7]), ("stride 2", [3, 7, 15]), ("dilation 1, 2, 4", [3, 7, 15])]
)
def test_the_fields_of_stacked_3x3(name, sides, lessons):
    assert receptive.sizes(receptive.STACKS[name]) == sides
    assert f"{name}: {', '.join(map(str, sides))}" in lessons["receptive"].text


def test_two_3x3_see_what_a_5x5_sees_with_fewer_weights(lessons):
    assert receptive.sizes(receptive.stack({}, {}))[-1] == receptive.sizes(receptive.stack({}, kernel=5))[0] == 5
    assert (receptive.weights(3, 2), receptive.weights(5, 1)) == (18, 25)
    assert "two 3x3 see 5 pixels a side with 18 C^2 weights, one 5x5 sees 5 with 25 C^2" in lessons["receptive"].text


@pytest.mark.parametrize(
    ("network", "layer", "field"),
    [
        ("mnist-cnn3", 6, (18, 4, -7)),
        ("lenet-1995", 6, (16, 4, -2)),
        ("emnist-double", 2, (3, 1, 0)),
        ("mnist1d-cnn", 4, (15, 8, 0)),
        ("vgg16", 30, (212, 32, -90)),
    ],
)
def test_fields_known_by_hand(network, layer, field):
    model, shape = build(network, "meta")
    assert set(fields.stages(model, shape)[layer].fields) == {field}


@pytest.mark.parametrize("network", ["mnist-cnn3", "lenet-1995", "emnist-double", "mnist1d-cnn", "mnist1d-mlp"])
def test_the_gradients_support_is_the_field_of_every_layer_at_the_borders_too(network):
    model, shape = build(network, "meta")
    before = None
    for depth, stage in enumerate(fields.stages(model, shape), start=1):
        if stage == before:  # an activation
            continue
        before = stage
        for unit in ([0] * len(stage.units), [count - 1 for count in stage.units]):
            field = tuple(map(fields.Field.of, stage.fields, unit, shape[1:]))
            sees_pixels = all(first <= last for first, last in field)  # and not padding alone
            assert fields.support(fields.seen(list(model)[:depth], shape, unit)) == (field if sees_pixels else ())


def test_the_field_is_the_support_of_torchs_own_gradient():
    """LeNet pools by means; at an image of zeros without biases, tanh has slope 1: nothing need be replaced."""
    model = NETWORKS["lenet-1995"]().double()
    for parameter in model.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.dim() == 1 else torch.rand_like(parameter) + 0.1
    image = torch.zeros(1, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model[:7](image)[0, 0, 0, 3], image)
    rows, columns = fields.stages(*build("lenet-1995", "meta"))[6].fields
    assert fields.support(gradient[0, 0]) == (rows.of(0, 28), columns.of(3, 28)) == ((0, 13), (10, 25))


def test_a_wrong_recurrence_is_noticed(monkeypatch):
    model, shape = build("mnist-cnn3", "meta")
    right = fields.step
    monkeypatch.setattr(fields, "step", lambda *args: right(*args)._replace(start=0))
    with pytest.raises(ArithmeticError, match="support is"):
        fields.seen(list(model)[:7], shape, (3, 3))


def test_the_frame_is_the_field():
    lesson = receptive.lesson("mnist-cnn3", layer=3, unit=(0, 13))
    frame = lesson.drawings[0].figure.axes[0].patches[0]
    assert frame.get_bbox().extents.tolist() == [22.5, -0.5, 27.5, 4.5]  # columns 23 to 27, rows 0 to 4
    assert "sees pixels 0 to 4 and 23 to 27" in lesson.text
    shown = images(lesson)[0]
    assert fields.support(shown) == ((0, 4), (23, 27))
    assert shown.max() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "resnet"}, "'resnet' is none of mnist-cnn3, "),
        ({"layer": 13}, "13 is no layer of mnist-cnn3, which has 0 to 12"),
        ({"layer": -1}, "-1 is no layer"),
        ({"layer": 6, "unit": (7, 0)}, "7,0 is no unit of layer 6, which has 0,0 to 6,6"),
        ({"unit": (1,)}, "1 is no unit"),
        ({"network": "lenet-1995", "layer": 0, "unit": (0, 5)}, "0,5 of layer 0 sees nothing but padding"),
    ],
)
def test_an_unknown_network_layer_or_unit_is_named(options, message):
    with pytest.raises(ArgumentError, match=message):
        receptive.lesson(**options)


# layers, memory, weights


def test_vgg16s_memory_and_weights(lessons):
    text = lessons["summary"].text
    lines = [line.split() for line in text.splitlines()]
    for row in (
        ["INPUT", "224x224x3", "150,528", "602,112", "0", "0"],
        ["CONV3-64", "224x224x64", "3,211,264", "12,845,056", "1,728", "64"],
        ["POOL2", "7x7x512", "25,088", "100,352", "0", "0"],
        ["FC-4096", "4096", "4,096", "16,384", "102,760,448", "4,096"],
        ["FC-1000", "1000", "1,000", "4,000", "4,096,000", "1,000"],
        ["TOTAL", "15,237,608", "60,950,432", "138,344,128", "13,416"],
        ["total", "138,357,544", "15,483,821,032"],
    ):
        assert row in lines
    sides, channels = (224, 112, 56, 28, 14), (64, 128, 256, 512, 512)
    convolutions = sum(n * c * s * s for n, c, s in zip((2, 2, 3, 3, 3), channels, sides, strict=True))
    pools = sum(c * (s // 2) ** 2 for c, s in zip(channels, sides, strict=True))
    assert 3 * 224**2 + convolutions + pools + 2 * 4096 + 1000 == 15_237_608
    assert "28,793,320 numbers" in text  # 13 convolutions and 2 dense layers have an activation
    assert 15_237_608 + convolutions + 2 * 4096 == 28_793_320


def test_the_bars_are_the_rows(lessons):
    memory, weights = lessons["summary"].drawings[0].figure.axes
    assert sum(bar.get_width() for bar in memory.patches) == 15_237_608
    assert sum(bar.get_width() for bar in weights.patches) == 138_344_128
    assert [label.get_text() for label in memory.get_yticklabels()][:4] == ["INPUT", "CONV3-64", "CONV3-64", "POOL2"]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_summary_of_every_network_counts_its_parameters(network):
    count = sum(parameter.numel() for parameter in build(network, "meta")[0].parameters())
    lesson = summary.lesson(network)
    assert f"parameters: {count:,} numbers" in lesson.text
    if network == "mnist-cnn3":
        assert [f"{n:,}" in lesson.text for n in (320, 18_496, 36_928, 313_700, 1_010, 370_454)] == [True] * 6


# edges


def test_the_edges_of_the_letter_are_at_their_places(lessons):
    _, vertical, horizontal, positive = images(lessons["edges"])[:4]
    expected = torch.zeros(8, 7)
    expected[1:7, 1], expected[1:5, 3], expected[5:7, 6] = 1, -1, -1
    assert torch.equal(vertical, expected)
    assert torch.equal(positive, expected.clamp(min=0))
    expected = torch.zeros(7, 8)
    expected[0, 2:4], expected[4, 4:7], expected[6, 2:7] = 1, 1, -1
    assert torch.equal(horizontal, expected)
    assert "    . . + + + + + .     . + . . . . -     . . - - - - - .\n" in lessons["edges"].text


def test_a_digit_loses_a_column_keeps_its_size_and_is_halved(lessons):
    digit, valid, positive, pooled = images(lessons["edges"])[4:]
    assert [tuple(image.shape) for image in (digit, valid, positive, pooled)] == [
        (28, 28),
        (28, 27),
        (28, 28),
        (14, 14),
    ]
    assert torch.equal(valid, digit[:, 1:] - digit[:, :-1])
    assert torch.equal(positive[:, :-1], valid.clamp(min=0))
    assert torch.equal(positive[:, -1], (0 - digit[:, -1]).clamp(min=0))  # the column of zeros
    assert torch.equal(pooled, positive.view(14, 2, 14, 2).amax((1, 3)))


def test_cross_correlation_turns_a_pixels_answer_and_convolution_does_not(lessons):
    _, weight, correlated, convolved = images(lessons["edges"], 1)
    assert torch.equal(correlated, weight.flip(0, 1)) and torch.equal(convolved, weight)
    row, filter = torch.tensor([3.0, 1, 4, 1, 5]), torch.tensor([2.0, 7, 1])
    ours = edges.convolve(row.view(1, 1, 1, 5), filter.view(1, 1, 1, 3)).flatten()
    assert ours.tolist() == np.convolve(row, filter, "valid").tolist()


# matrices


@pytest.mark.parametrize(("side", "kernel"), [(4, 3), (5, 2), (6, 1)])
def test_the_matrix_has_the_filter_in_each_row(side, kernel):
    weight = torch.arange(1.0, 1 + kernel**2, dtype=torch.float64).view(1, 1, kernel, kernel)
    outputs = side - kernel + 1
    expected = torch.zeros(outputs, outputs, side, side, dtype=torch.float64)
    for p in range(outputs):
        for q in range(outputs):
            expected[p, q, p : p + kernel, q : q + kernel] = weight
    assert torch.equal(matrix.matrix(weight, side), expected.view(outputs**2, side**2))
    matrix.check(weight, side)


def test_the_matrix_and_its_transpose_are_drawn(lessons):
    shown = images(lessons["matrix"])
    assert sorted(tuple(image.shape) for image in shown) == [(3, 3), (4, 16), (9, 4), (16, 4), (36, 64)]
    small, transpose = (next(image for image in shown if image.shape == shape) for shape in ((4, 16), (16, 4)))
    assert torch.equal(small.T, transpose)
    assert "matrix 36x64, 324 of 2304 entries are not 0 (14%), 9 different ones" in lessons["matrix"].text


@pytest.mark.parametrize(("function", "what"), [("conv_transpose2d", "transpose"), ("unfold", "filter times patches")])
def test_a_wrong_product_is_noticed(function, what, monkeypatch):
    right = getattr(matrix.F, function)
    monkeypatch.setattr(matrix.F, function, lambda *args: right(*args) + 1)
    with pytest.raises(ArithmeticError, match=what):
        matrix.check(matrix.WEIGHT, 4)


def test_equal_means_every_bit():
    x = torch.tensor([1.0, 2.0])
    require_equal("x", x, x.clone())
    for other in (x.nextafter(x + 1), x[:1]):
        with pytest.raises(ArithmeticError, match="x: not equal"):
            require_equal("x", x, other)


# shifts


@pytest.mark.parametrize("pixels", shifts.SHIFTS)
def test_convolution_commutes_with_shifts(pixels):
    image, weight = torch.rand(2, 1, 12, 12), torch.randn(1, 1, 3, 3)
    assert shifts.equivariance(image, weight, "circular", pixels).count_nonzero() == 0
    zeros = shifts.equivariance(image, weight, "zeros", pixels)
    assert shifts.inner(zeros, pixels).count_nonzero() == 0
    touched = zeros.abs().sum((0, 1, 2)).nonzero().flatten().tolist()
    assert touched == ([] if pixels == 0 else sorted({0, pixels - 1, pixels, 11}))


def test_a_shift_changes_less_the_wider_the_window():
    some = digits()[0][::500]
    changed, stayed = zip(*(shifts.change(some, window, 1) for window in shifts.WINDOWS), strict=True)
    assert list(changed) == sorted(changed, reverse=True) and changed[0] > 0.4
    assert stayed[0] < 0.3 < stayed[1]
    assert (changed[-1], stayed[-1]) == (0, 1)
    assert torch.equal(shifts.pool(some, 28), some.amax((2, 3), keepdim=True))
    assert torch.equal(shifts.pool(some, 4), some.view(10, 1, 7, 4, 7, 4).amax((3, 5)))
    x = some[:1]
    assert shifts.change(x, 1, 2)[0] == pytest.approx(((x.roll(2, -1) - x).norm() / x.norm()).item())


def test_the_drawn_differences(lessons):
    shown = images(lessons["shifts"])
    assert len(shown) == 8
    assert shown[3].count_nonzero() == 0 and shown[7].count_nonzero() > 0
    lines = lessons["shifts"].drawings[1].figure.axes[0].get_lines()
    assert [line.get_ydata()[0] for line in lines] == [0] * len(shifts.WINDOWS)


# resampling


def test_down_is_what_its_name_says():
    x = torch.rand(3, 1, 6, 4)
    windows = x.view(3, 1, 3, 2, 2, 2)
    small = resampling.down(x)
    assert torch.equal(small["subsampling"], x[..., ::2, ::2])
    assert torch.equal(small["max"], windows.amax((3, 5)))
    torch.testing.assert_close(small["mean"], windows.mean((3, 5)))
    torch.testing.assert_close(small["L2"], windows.square().mean((3, 5)).sqrt())


def test_up_is_what_its_name_says():
    small = torch.rand(2, 1, 5, 4)
    tent = (resampling.TENT[:, None] * resampling.TENT).view(1, 1, 4, 4)
    large = resampling.up(small, tent)
    assert torch.equal(large["nearest"], small.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(large["transposed conv"][..., 1:-1, 1:-1], large["bilinear"][..., 1:-1, 1:-1])
    x = torch.rand(2, 1, 6, 4)
    back = resampling.unpool(x)
    assert torch.equal(back[back > 0], x[back > 0])
    assert torch.equal(back.view(2, 1, 3, 2, 2, 2).sum((3, 5)), x.view(2, 1, 3, 2, 2, 2).amax((3, 5)))


def test_the_fitted_filter_is_the_best():
    weight = torch.rand(1, 1, 4, 4)
    small = torch.rand(4, 1, 7, 7)
    original = resampling.up(small, weight)["transposed conv"]
    torch.testing.assert_close(resampling.fit(small, original), weight, rtol=1e-4, atol=1e-5)  # lstsq in float32


def test_the_errors_shown_are_those_of_the_images(lessons):
    axes = [axes for axes in lessons["resampling"].drawings[0].figure.axes if axes.get_images()]
    original = torch.as_tensor(np.asarray(axes[0].get_images()[0].get_array()))
    errors = {}
    for each in axes:
        name, _, shown = each.get_title().partition(": ")
        if shown:
            image = torch.as_tensor(np.asarray(each.get_images()[0].get_array()))
            assert resampling.error(image, original) == pytest.approx(float(shown), abs=5e-4)
            errors.setdefault(name, []).append(float(shown))
    assert [len(errors[way]) for way in ("nearest", "bilinear", "transposed conv", "max-unpooling")] == [4, 4, 4, 1]
    assert min(errors["nearest"]) == errors["nearest"][2]  # of what is constant on windows, their mean is the best


# algorithms


@pytest.mark.parametrize("algorithm", algorithms.ALGORITHMS)
def test_bytes_and_memory(algorithm):
    result = algorithms.measure(algorithm, CPU, 0.001)
    ends = 4 * (8 * 32 * 14 * 14 + 64 * 32 * 9 + 64 + 8 * 64 * 14 * 14)
    patches = 4 * 8 * (32 * 9) * 14 * 14 if algorithm == "im2col" else 0
    assert (result.ends, result.patches) == (ends, patches)
    assert result.moved == result.moved_on_target == ends + 2 * patches
    assert 0 < result.error < 1e-5 and result.seconds > 0


def test_a_wrong_algorithm_is_noticed(monkeypatch):
    right = algorithms.F.conv2d
    wrong = lambda *args, **kwargs: right(*args, **kwargs) * (1.1 if "algorithm" in kwargs else 1)  # noqa: E731 (short)
    monkeypatch.setattr(algorithms.F, "conv2d", wrong)
    with pytest.raises(ArithmeticError, match=r"im2col: the error is 0\.1 of the largest output"):
        algorithms.measure("im2col", CPU, 0.001)


def test_the_table_says_whose_times_they_are(lessons):
    text = lessons["algorithms"].text
    assert ("the times are the interpreter's" in text) != torch.cuda.is_available()
    assert "1,806,336" in text and "sm_90" in text


# a trained network


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a small run of examples.train."""
    out = tmp_path_factory.mktemp("run")
    sizes = ["--layers=torch", "--limit=24", "--epochs=1", "--batch-size=10", "--device=cpu"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert train.main(["mnist1d-cnn", *sizes, "--out", str(out)]) == 0
    return out / "seed-0"


def test_a_trained_network_is_told_and_drawn_as_it_was_tested(run):
    metrics = json.loads((run / "metrics.json").read_text())
    shown = trained.lesson(run)
    assert f"mnist1d-cnn: {metrics['test_accuracy']:.2%} of 1,000 test images (reported: about 83 %)" in shown.text
    assert "trained on 24 images, 1 epochs, with the weights of epoch 1" in shown.text
    names = {"curves", "misclassified", "confusion", "confused", "filters-1", "filters-2", "filters-3", "feature_maps"}
    assert {drawing.name.removeprefix("trained-") for drawing in shown.drawings} == names
    labels, predictions = data.load("mnist1d").test_labels, torch.tensor(metrics["test_predictions"])
    (a, b, count), *_ = figures.confused(labels, predictions, data.DIGITS)
    assert f"taken for one another: {a} and {b} ({count})" in shown.text


def test_a_run_on_other_images_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test_accuracy"] += 0.001
    (tmp_path / "copy" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ArgumentError, match="was tested on other images"):
        trained.lesson(tmp_path / "copy")


# command line, page, notebook


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sumary"], "argument DEMONSTRATION: invalid choice: 'sumary'"),
        ([], "the following arguments are required: DEMONSTRATION"),
        (["summary", "resnet"], "argument NETWORK: invalid choice: 'resnet'"),
        (["receptive", "--layer", "99"], "argument --layer: 99 is no layer of mnist-cnn3, which has 0 to 12"),
        (["receptive", "--unit", "3;3"], "argument --unit: '3;3' is not a row and a column such as 3,3"),
        (["receptive", "--unit", "9,9"], "argument --unit: 9,9 is no unit of layer 6, which has 0,0 to 6,6"),
        (["gallery", "--out", "nowhere"], "argument --out: no demonstration is in 'nowhere'"),
        (["trained", "--run", "nowhere"], "argument --run: 'nowhere' has no finished run of examples.train"),
        (["matrix", "--out", "file"], "argument --out: cannot write to 'file'"),
    ],
)
def test_a_bad_argument_is_named_in_one_line(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_demonstration_leaves_its_files_whole(tmp_path, capsys):
    assert main(["edges", "--out", str(tmp_path / "a" / "b")]) == 0
    out = tmp_path / "a" / "b"
    assert sorted(path.name for path in out.iterdir()) == ["correlation.png", "edges.lesson.json", "edges.png"]
    assert all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in out.glob("*.png"))
    assert "a digit without padding: 28x28 -> 28x27" in capsys.readouterr().out


def test_help_has_a_line_for_each(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {name:13}{module.__doc__.splitlines()[0]}\n" in shown for name, module in DEMOS.items())


class Page(HTMLParser):
    """Checks that elements are closed in order; collects attributes and text."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def demonstrate(folder: Path, name: str, **record) -> None:
    """A demonstration's files, made up."""
    (folder / f"{name}.png").write_bytes(PNG)
    made = {"title": name, "about": "why\n\nhow", "text": "a < b", "figures": [{"file": f"{name}.png", "alt": name}]}
    (folder / f"{name}.lesson.json").write_text(json.dumps(made | record))


def test_the_page_holds_all_and_needs_nothing_else(tmp_path):
    for name in ("zoo", "summary-vgg16", "edges"):
        demonstrate(tmp_path, name)
    text = gallery.page(tmp_path, tuple(DEMOS))
    page = Page(text)
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    # in the order in which they teach, the unknown one last
    assert [picture["alt"] for picture in pictures] == ["edges", "summary-vgg16", "zoo"]
    assert all(picture["src"].startswith("data:image/png;base64,iVBOR") for picture in pictures)
    assert {(picture["width"], picture["height"]) for picture in pictures} == {("3", "2")}
    assert "http" not in text and not {"script", "link", "iframe"} & {tag for tag, _ in page.elements}
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    targets = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert len(identifiers) == len(set(identifiers)) and {target[1:] for target in targets} <= set(identifiers)
    assert page.text.count("a < b") == 3 and page.text.count("how") == 3
    for word in ("prefers-color-scheme: dark", "@media print", "break-inside: avoid", 'lang="en"'):
        assert word in text


def test_the_page_escapes_what_it_is_given(tmp_path):
    evil = "\"><script>alert('x')</script>"
    demonstrate(tmp_path, "edges", title=evil, text=evil, about=evil, figures=[{"file": "edges.png", "alt": evil}])
    page = Page(gallery.page(tmp_path))
    assert "script" not in [tag for tag, _ in page.elements]
    assert [attributes["alt"] for tag, attributes in page.elements if tag == "img"] == [evil]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("edges.png", None, "No such file"),
        ("edges.png", b"JPEG", "edges.png is no PNG file"),
        ("edges.lesson.json", b"{", "run that demonstration again"),
        ("edges.lesson.json", b"{}", "run that demonstration again"),
    ],
)
def test_the_page_names_what_it_cannot_read(name, content, message, tmp_path, capsys):
    demonstrate(tmp_path, "edges")
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit) as exit:
        main(["gallery", "--out", str(tmp_path)])
    err = capsys.readouterr().err
    assert exit.value.code == 2 and "argument --out: " in err and message in err and err.count("\n") == 1
    assert not (tmp_path / "index.html").exists()


def test_gallery_of_what_a_demonstration_wrote(tmp_path, capsys):
    assert main(["matrix", "--out", str(tmp_path)]) == main(["gallery", "--out", str(tmp_path)]) == 0
    page = Page((tmp_path / "index.html").read_text())
    assert [attributes["alt"] for tag, attributes in page.elements if tag == "img"] == [
        "The matrix of a 3x3 convolution on a 4x4 image and on an 8x8 image, its transpose, and im2col's patches"
    ]
    assert "equal, bit for bit" in page.text


def test_the_notebook_is_the_one_that_is_made_and_has_no_outputs():
    assert NOTEBOOK.read_text() == notebook(), "run python -m examples.explain.notebook"
    cells = nbformat.read(NOTEBOOK, 4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert sum("show(" in cell.source for cell in cells[3:]) == len(ALL)


@pytest.mark.slow
def test_the_notebook_runs():
    made = nbformat.read(NOTEBOOK, 4)
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}  # where Jupyter starts it
    NotebookClient(made, timeout=300, kernel_name="python3", resources=where).execute()
    kinds = [[o.output_type for o in cell.outputs] for cell in made.cells if cell.source.startswith("show(")]
    assert len(kinds) == len(ALL) and all("stream" in kind and "display_data" in kind for kind in kinds)


@pytest.mark.slow
def test_all_of_it_as_a_user_runs_it(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "examples.explain", "all", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    page = Page((tmp_path / "index.html").read_text())
    assert sum(tag == "img" for tag, _ in page.elements) == len(list(tmp_path.glob("*.png"))) == 11
    assert done.stdout.isascii()
