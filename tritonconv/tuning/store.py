"""Tuned choices on disk: one JSON file for each device, Triton version and version of ours.

The folder is TRITONCONV_CACHE_DIR, else tritonconv in XDG_CACHE_HOME, else in ~/.cache. A file is replaced whole, so it
can be read without a lock; who writes holds one while reading, merging and writing, so that two processes lose nothing.
"""

import contextlib
import fcntl
import itertools
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import triton

from tritonconv.tuning.candidates import is_legal
from tritonconv.tuning.reasons import Tile
from tritonconv.version import __version__


def path(machine: str) -> Path:
    """The file that holds the choices for `machine`, as device.machine names it."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get("TRITONCONV_CACHE_DIR") or Path(home) / "tritonconv")
    try:
        folder = folder.expanduser()
    except RuntimeError:  # no home directory: a place where nothing is read and `merge` warns
        folder = Path(os.devnull) / folder
    name = f"{machine} triton {triton.__version__} tritonconv {__version__}"
    return folder / (re.sub(r"[^A-Za-z0-9._]+", "-", name) + ".json")


def load(file: Path) -> dict[str, Tile]:
    """The choices in `file`, by str(Key). None of a file that is missing, unreadable or damaged: see `merge`."""
    try:
        return _parse(file.read_bytes())
    except (OSError, ValueError):
        return {}


def merge(file: Path, choices: Mapping[str, Tile]) -> None:
    """Add `choices` to `file`, over what it has under the same keys.

    A damaged file is set aside under another name, with a warning. Where nothing can be written, a warning says so.
    """
    try:
        with _locked(file):
            stored: dict[str, Tile] = {}
            if file.exists():
                try:
                    stored = _parse(file.read_bytes())
                except ValueError as error:
                    aside = next(p for n in itertools.count() if not (p := Path(f"{file}.{n}.damaged")).exists())
                    os.replace(file, aside)
                    warnings.warn(
                        f"the cache file {file} is damaged ({error}): set aside as {aside.name}", stacklevel=4
                    )
            written = file.with_suffix(".tmp")
            text = json.dumps({"choices": dict(sorted({**stored, **choices}.items()))}, indent=1)
            written.write_text(text + "\n")
            os.replace(written, file)
    except OSError as error:
        why = f"cannot write {file} ({error}); TRITONCONV_CACHE_DIR may name another folder"
        warnings.warn(f"what was tuned holds for this process only: {why}", stacklevel=4)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold `file`'s lock; it is the system's, so a process that dies gives it back."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _parse(content: bytes) -> dict[str, Tile]:
    """Raises ValueError, with the reason, for anything that `merge` would not have written."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, dict):
        raise ValueError("no table of choices")
    for key, choice in choices.items():
        if not is_legal(choice):
            raise ValueError(f"{choice!r} is no legal choice for {key!r}")
    return choices
