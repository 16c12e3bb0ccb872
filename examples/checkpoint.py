"""Checkpoints that are written whole or not at all, and that tell when they cannot be used."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import atomic
import torch

State = dict[str, Any]


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message is one line for the user."""


def save(path: Path, recipe: State, state: State) -> None:
    """Write `state`, and the `recipe` it belongs to, in place of the checkpoint before."""
    buffer = io.BytesIO()
    torch.save({"recipe": recipe, "state": state}, buffer)
    atomic.write(path, buffer.getvalue())


def load(path: Path, recipe: State) -> State:
    """Read the state back, on the CPU; refuses a damaged file and one made with another `recipe`."""
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch.load does not compare the checksums
                raise CheckpointError(f"{path}: damaged ({damaged}); delete it, or train without --resume")
        found = torch.load(path, map_location="cpu", weights_only=True)
        saved, state = found["recipe"], found["state"]
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint; delete it, or train without --resume") from error
    if differing := [key for key in recipe if saved.get(key) != recipe[key]]:
        told = ", ".join(f"{key} {saved.get(key)}, not {recipe[key]}" for key in differing)
        raise CheckpointError(f"{path}: trained with {told}; use the same values, or train without --resume")
    return state


def rng_state() -> dict[str, torch.Tensor]:
    """The state of torch's random numbers on the CPU and on this process's GPU."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, torch.Tensor]) -> None:
    """Continue torch's random numbers from what `rng_state` gave."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
