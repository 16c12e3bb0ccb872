"""Right first: a result is compared with float64 before anyone asks how fast it came."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch

from bench.workloads import Problem

# Largest relative Frobenius error |out - reference| / |reference| of one convolution whose inputs are exact in the
# dtype. float16 and bfloat16 lose 2^-11 and 2^-8 in storing the result; TF32 keeps 2^-11 of each operand; float32
# without TF32 must be near 1e-6, and 1e-4 lets a Winograd transform pass but not a TF32 product (3e-4).
TOLERANCE = {"bfloat16": 1e-2, "float16": 3e-3, "float32": 1e-4, "float64": 1e-12}
TF32_TOLERANCE = 2e-3


def tolerance(problem: Problem, name: str) -> float:
    """For the result `name`: "y" or "loss", or a gradient.

    A rounding error e turns ReLU's or pooling's decision at about a share e of the places, and each one turned sends a
    gradient elsewhere: the error of a gradient that passed a decision is about √e, not e. Seen on mnist-cnn3's layers
    at batch 8 (CPU, 2026-11-21, torch and ours alike): 0.059 in bfloat16, 0.034 in float16, 0.026 with operands rounded
    to TF32; allowed are 0.2, 0.11 and 0.09.
    """
    least = TF32_TOLERANCE if problem.tf32 == "on" else TOLERANCE[problem.dtype]
    decides = problem.variant not in ("conv", "conv-bias", "pool") and name not in ("y", "loss")
    return 2 * math.sqrt(least) if decides else least


def relative_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    """Relative Frobenius error; NaN or a difference in shape is infinite."""
    if result.shape != reference.shape:
        return math.inf
    difference = torch.linalg.vector_norm(result.detach().to(reference.dtype) - reference).item()
    size = torch.linalg.vector_norm(reference).item()
    error = difference / size if size else difference
    return error if math.isfinite(error) else math.inf


def verdict(
    problem: Problem, results: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]
) -> tuple[float, str]:
    """(the largest error, why the results are refused or "")."""
    if results.keys() != reference.keys():
        return math.inf, f"gives {sorted(results)} instead of {sorted(reference)}"
    errors = {name: relative_error(results[name], reference[name]) for name in reference}
    refused = [
        f"{name}: error {error:.2g}, allowed {tolerance(problem, name):.2g}"
        for name, error in errors.items()
        if not error <= tolerance(problem, name)
    ]
    return max(errors.values()), "; ".join(refused)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """New tensors are full of NaN: an element that nobody wrote is seen (torch fills them by default, see
    torch.utils.deterministic.fill_uninitialized_memory)."""
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
