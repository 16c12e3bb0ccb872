"""Files that are there whole or not at all, whenever the process is killed."""

import os
from pathlib import Path

SUFFIX = ".partial"


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step: a reader finds the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what processes killed within `write` left behind."""
    for partial in directory.glob(f".*{SUFFIX}"):
        if partial.is_file():  # a folder is a checkpoint's
            partial.unlink(missing_ok=True)
