"""A hundred steps of the network mnist-cnn3: our loss curve lies on torch's."""

import torch
import torch.nn.functional as F

from tritonconv import interpreter, nn

STEPS, BATCH = 100, 16


def digits(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten blurred random 28 × 28 pictures, one a class, with noise: as learnable as digits, and nothing to download."""
    prototypes = F.interpolate(torch.rand(10, 1, 7, 7), size=28, mode="bilinear")
    labels = torch.arange(n) % 10
    return prototypes[labels] + 0.3 * torch.randn(n, 1, 28, 28), labels


def ours() -> list[torch.nn.Module]:
    """mnist-cnn3 without its dropout: one block all fused, one in three layers, one half fused."""
    return [
        nn.ConvReLUMaxPool2d(1, 32, 3, padding="same", pool_kernel_size=2),
        *(nn.Conv2d(32, 64, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        nn.ConvReLU2d(64, 64, 3, padding="same"),
        *dense(),
    ]


def torchs() -> list[torch.nn.Module]:
    t = torch.nn
    return [
        *(t.Conv2d(1, 32, 3, padding="same"), t.ReLU(), t.MaxPool2d(2)),
        *(t.Conv2d(32, 64, 3, padding="same"), t.ReLU(), t.MaxPool2d(2)),
        *(t.Conv2d(64, 64, 3, padding="same"), t.ReLU()),
        *dense(),
    ]


def dense() -> list[torch.nn.Module]:
    t = torch.nn
    return [t.Flatten(), t.Linear(3136, 100), t.ReLU(), t.Linear(100, 10)]


def loss_curve(make, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The loss of each step, from one seed."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(*make()).to(device, dtype)
    pictures, labels = digits(10 * BATCH)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    losses = []
    for step in range(STEPS):
        batch = torch.arange(step * BATCH, (step + 1) * BATCH) % len(labels)
        loss = F.cross_entropy(model(pictures[batch].to(device, dtype)), labels[batch].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def test_loss_curve_follows_torchs(device, monkeypatch):
    monkeypatch.setattr(interpreter, "sanitize_overflow", False)  # every kernel here is checked elsewhere
    got, peer = loss_curve(ours, device), loss_curve(torchs, device)
    oracle = loss_curve(torchs, device, torch.float64)
    assert oracle[-1] < oracle[0] / 100, "the network learns, or the curves would say little"
    # At this rate the curve is smooth and rounding errors do not grow: torch's float32 strays by 3e-7 from float64.
    torch.testing.assert_close(got, oracle, rtol=0, atol=10 * float((peer - oracle).abs().max()) + 1e-5)
