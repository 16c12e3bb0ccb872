"""What a measured row must carry: the machine, the versions, the commit and the date."""

import dataclasses
import datetime
import json
import os
import platform
import subprocess
from typing import Any

import numpy as np
import torch
import triton

import tritonconv
from bench import timing


def describe() -> dict[str, str | int]:
    """The conditions of a run, as they go into its JSON.

    TRITONCONV_COMMIT names the commit where the sources travelled without their repository.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
    return {
        "gpu": gpu,
        "driver": driver or "none",
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "numpy": np.__version__,
        "tritonconv": tritonconv.__version__,
        "commit": os.environ.get("TRITONCONV_COMMIT") or _output("git", "describe", "--always", "--dirty") or "unknown",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _output(*command: str) -> str:
    """What a command prints; "" where it fails or does not exist."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


if __name__ == "__main__":  # python -m bench.environment: the conditions, and a GPU's roofs
    found: dict[str, Any] = {"conditions": describe()}
    if torch.cuda.is_available():
        for dtype in (torch.bfloat16, torch.float32):
            found[str(dtype)] = dataclasses.asdict(timing.roofs(dtype, "off"))
    print(json.dumps(found, indent=1))
