"""Padding that repeats the image, against torch.nn's layers: values, gradients, memory formats and errors.

Whole numbers, so that every sum is exact whatever its order.
"""

import pytest
import torch
from oracle import ALGORITHMS

from tritonconv import explain, nn, recording
from tritonconv import functional as TF

MODES = ["reflect", "replicate", "circular"]
SIZES = {
    "the most that fits": dict(kernel_size=4, padding=4, size=(5,)),
    "all different": dict(
        kernel_size=(3, 2, 4), stride=(1, 2, 1), padding=(1, 3, 2), dilation=(2, 1, 1), size=(5, 6, 4)
    ),
    "groups": dict(kernel_size=3, padding=1, groups=2, size=(3, 4)),
    "one axis": dict(kernel_size=3, padding=(1, 0), stride=2, size=(4, 5)),
    "no padding": dict(kernel_size=2, size=(2,)),
}
each_mode = pytest.mark.parametrize("mode", MODES)
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def pair(rank: int, dtype: torch.dtype, device, algorithm: str = "auto", **arguments) -> list[torch.nn.Module]:
    """Ours and torch's, with the same whole numbers for parameters."""
    ours = getattr(nn, f"Conv{rank}d")(4, 6, **arguments, algorithm=algorithm)
    theirs = getattr(torch.nn, f"Conv{rank}d")(4, 6, **arguments)
    for p in ours.parameters():
        p.data = torch.randint(-2, 3, p.shape).to(dtype)
    theirs.to(dtype).load_state_dict(ours.state_dict())
    return [ours.to(device), theirs.to(device)]


def answers(layer: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """y, and the gradients of Σ of its pixels times 1, 2, 3, 1, 2, …"""
    x = x.detach().requires_grad_()
    y = layer(x)
    dy = (torch.arange(y.numel(), device=y.device) % 3 + 1).view(y.shape).to(y)
    gradients = torch.autograd.grad(y, [x, *layer.parameters()], dy)
    return {"y": y, **dict(zip(["x", *dict(layer.named_parameters())], gradients, strict=True))}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@each_algorithm
@each_mode
def test_values_and_gradients_are_torchs(mode, algorithm, sizes, device):
    arguments = dict(sizes)
    size = arguments.pop("size")
    x = torch.randint(-3, 4, (2, 4, *size)).to(device, torch.float32)
    ours, theirs = pair(len(size), x.dtype, device, algorithm, padding_mode=mode, **arguments)
    found, expected = answers(ours, x), answers(theirs, x)
    for which in expected:
        assert torch.equal(found[which], expected[which]), which


def test_circular_padding_may_be_as_wide_as_the_image(device):
    x = torch.randint(-3, 4, (2, 4, 4)).to(device, torch.float32)
    ours, theirs = pair(1, x.dtype, device, kernel_size=3, padding=4, padding_mode="circular")
    found, expected = answers(ours, x), answers(theirs, x)
    for which in expected:
        assert torch.equal(found[which], expected[which]), which


@each_mode
def test_same_with_an_even_filter(mode, device):
    x = torch.randint(-3, 4, (2, 4, 5, 6)).to(device, torch.float32)
    ours, theirs = pair(2, x.dtype, device, kernel_size=(4, 2), dilation=(1, 3), padding="same", padding_mode=mode)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@each_algorithm
@each_mode
def test_other_dtypes(mode, algorithm, dtype, device):
    """Whole numbers up to 256 are exact in bfloat16."""
    x = torch.randint(-1, 2, (1, 4, 4, 3)).to(device, dtype)
    ours, theirs = pair(2, dtype, device, algorithm, kernel_size=2, padding=1, padding_mode=mode)
    for layer in (ours, theirs):
        layer.weight.data.clamp_(-1, 1)
    found, expected = answers(ours, x), answers(theirs, x)
    for which in expected:
        assert found[which].dtype == dtype
        assert torch.equal(found[which], expected[which]), which


def test_half_precision_sums_before_it_rounds(device):
    """An edge pixel's gradient is the sum of three copies' 1 + 2⁻¹¹, of which float16 rounds each to 1."""
    x = torch.zeros(1, 1, 1, 3, dtype=torch.float16, device=device, requires_grad=True)
    w = torch.full((1, 1, 1, 1), 3 / 4, dtype=torch.float16, device=device)
    y = TF.conv2d(x, w, padding=(0, 2), padding_mode="replicate")
    (dx,) = torch.autograd.grad(y, x, torch.full_like(y, 683 / 512))
    assert dx.flatten().tolist() == [3 + 2**-9, 1, 3 + 2**-9]


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("which", ["", "x", "w", "xw"])
@each_mode
def test_memory_format_follows_torch(mode, which, rank, device):
    """Circular padding makes torch's image contiguous, the other modes keep its format."""
    layout = torch.channels_last if rank == 2 else torch.channels_last_3d
    x = torch.randint(-3, 4, (2, 4, 5, 4, 3)[: rank + 2]).to(device, torch.float32)
    layers = pair(rank, x.dtype, device, kernel_size=3, padding=1, padding_mode=mode)
    if "w" in which:
        layers = [layer.to(memory_format=layout) for layer in layers]
    if "x" in which:
        x = x.contiguous(memory_format=layout)
    found, expected = (answers(layer, x) for layer in layers)
    assert {name: t.stride() for name, t in found.items()} == {name: t.stride() for name, t in expected.items()}


@each_mode
def test_fused_with_an_activation_and_a_pooling(mode, device):
    x = torch.randint(-3, 4, (2, 4, 6, 5)).to(device, torch.float32)
    _, conv = pair(2, x.dtype, device, kernel_size=3, padding=2, padding_mode=mode)
    fused = nn.ConvReLUMaxPool2d(4, 6, 3, padding=2, padding_mode=mode, pool_kernel_size=2).to(device)
    fused.load_state_dict(conv.state_dict())
    chain = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    for found, expected in zip(answers(fused, x).values(), answers(chain, x).values(), strict=True):
        assert torch.equal(found, expected)


@each_mode
def test_any_strides_are_read_in_place(mode, device):
    whole = torch.randint(-3, 4, (2, 5, 9, 8)).to(device, torch.float32)
    ours, theirs = pair(2, whole.dtype, device, kernel_size=3, padding=2, padding_mode=mode)
    for x in (whole[:, 1:, ::2, 1::2], whole.transpose(1, 3)[:, 2:6], whole[:1, :4, :1].expand(3, 4, 4, 8)):
        assert torch.equal(ours(x), theirs(x))


@each_mode
def test_nothing_padded_is_stored_in_forward(mode, device):
    """Every launch of a forward and a weight gradient has the image itself."""
    x = torch.rand(2, 4, 5, 5, device=device)
    layer = nn.Conv2d(4, 6, 3, padding=1, padding_mode=mode, algorithm="implicit_gemm").to(device)
    operations = recording.record(layer, (x,), {}, run=True)
    assert [operation.operator for operation in operations] == ["convolution", "convolution_wgrad"]
    assert all(7 not in t.shape for operation in operations for _, tensors in operation.touched() for t in tensors)


@pytest.mark.parametrize("shape", [(0, 4, 5, 5), (4, 5, 5)], ids=["empty batch", "unbatched"])
@each_mode
def test_batches_of_none(mode, shape, device):
    x = torch.randint(-3, 4, shape).to(device, torch.float32)
    ours, theirs = pair(2, x.dtype, device, kernel_size=3, padding=1, padding_mode=mode)
    found, expected = answers(ours, x), answers(theirs, x)
    for which in expected:
        assert torch.equal(found[which], expected[which]), which


WRONG = {
    "reflect": ("reflect", (2, 4, 5, 3), r"less than .*padding_mode='reflect'.*padding \(3, 3\) at dimension 3"),
    "reflect, first axis": ("reflect", (2, 4, 3, 5), r"less than .*padding \(3, 3\) at dimension 2"),
    "circular": ("circular", (2, 4, 5, 2), r"at most .*padding_mode='circular'.*padding \(3, 3\) at dimension 3"),
    "reflect, no channel": ("reflect", (2, 0, 5, 5), r"with channels .*\[2, 0, 5, 5\]"),
    "replicate, no channel": ("replicate", (2, 0, 5, 5), r"with channels .*\[2, 0, 5, 5\]"),
    "replicate, no pixel": ("replicate", (2, 4, 5, 0), r"input shape: \[2, 4, 5, 0\]"),
}


@pytest.mark.parametrize(("mode", "shape", "message"), WRONG.values(), ids=WRONG)
def test_padding_that_the_image_cannot_fill(mode, shape, message, device):
    x = torch.zeros(shape, device=device)
    arguments = dict(kernel_size=3, padding=3, padding_mode=mode)
    layers = [module.Conv2d(4, 6, **arguments).to(device) for module in (nn, torch.nn)]
    if shape[1] == 0:
        for layer in layers:
            layer.weight = torch.nn.Parameter(layer.weight[:, :0])
    with pytest.raises(RuntimeError, match=message):
        layers[0](x)
    with pytest.raises(RuntimeError):
        layers[1](x)


def test_same_that_does_not_fit(device):
    """'same' of an even filter has one pixel more after the image than before: 2 and 3."""
    x = torch.zeros(1, 1, 4, 3, device=device)
    for module in (nn, torch.nn):
        with pytest.raises(RuntimeError, match=r"at dimension 3"):
            module.Conv2d(1, 1, (1, 6), padding="same", padding_mode="reflect").to(device)(x)


def test_flops_of_a_padded_image():
    """No tap reads zeros: as many products as of the padded image."""
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
    (step,) = explain(layer, torch.zeros(1, 1, 4, 4), backward=False).steps
    assert step.flops == 2 * 16 * 9


def test_an_unknown_mode():
    x, w = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"padding_mode must be one of 'zeros'.*padding_mode='mirror'"):
        TF.conv2d(x, w, padding_mode="mirror")
