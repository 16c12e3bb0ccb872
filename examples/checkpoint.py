"""A checkpoint is a folder that is there whole or not at all, and that tells when it cannot be used.

accelerate writes what is in it (weights, optimizer, schedule, loss scale, random numbers of each process, progress)
but promises neither: a run killed while it writes leaves a part, and one damaged byte is read as it is.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from examples import atomic

MANIFEST = "manifest.json"


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message is one line for the user."""


def save(accelerator: Accelerator, folder: Path, step: int, recipe: dict[str, Any]) -> None:
    """Write the state of a run after `step` steps and the `recipe` it belongs to; remove the checkpoints before."""
    path = folder / f"checkpoint-{step}"
    partial = path.with_name(f".{path.name}{atomic.SUFFIX}")
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return
    files = sorted(partial.iterdir())
    manifest = {"recipe": recipe, "files": {file.name: _sha256(file) for file in files}}
    atomic.write(partial / MANIFEST, json.dumps(manifest, indent=1).encode())
    for file in files:
        with open(file, "rb") as written:
            os.fsync(written.fileno())
    os.replace(partial, path)
    remove(folder, but=path)


def latest(folder: Path) -> Path | None:
    """The checkpoint of the most steps in `folder`."""
    found = folder.glob("checkpoint-*")
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def remove(folder: Path, but: Path | None = None) -> None:
    """Remove the checkpoints in `folder` and what killed runs left of some."""
    for path in (*folder.glob("checkpoint-*"), *folder.glob(f".checkpoint-*{atomic.SUFFIX}")):
        if path != but:
            shutil.rmtree(path)


def load(accelerator: Accelerator, path: Path, recipe: dict[str, Any]) -> None:
    """Continue from the checkpoint at `path`; refuses a damaged one and one made with another `recipe`."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        saved, files = manifest["recipe"], manifest["files"]
        damaged = [name for name, digest in files.items() if _sha256(path / name) != digest]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint; delete it, or train without --resume") from error
    if damaged:
        raise CheckpointError(f"{path}: damaged ({damaged[0]}); delete it, or train without --resume")
    if differing := [key for key in recipe if saved.get(key) != recipe[key]]:
        told = ", ".join(f"{key} {saved.get(key)}, not {recipe[key]}" for key in differing)
        raise CheckpointError(f"{path}: trained with {told}; use the same values, or train without --resume")
    accelerator.load_state(str(path))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
