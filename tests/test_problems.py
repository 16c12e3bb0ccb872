"""What a problem knows by itself: when offsets need 64 bits, and what strides say of the memory format."""

import pytest
import torch
import torch.nn.functional as F

from tritonconv.layouts import MAX_OFFSET_32, flat, is_channels_last, needs_int64


def strided(shape: tuple, stride: tuple) -> torch.Tensor:
    return torch.empty_strided(shape, stride, dtype=torch.uint8, device="meta")


@pytest.mark.parametrize(
    ("tensor", "wide"),
    [
        (strided((MAX_OFFSET_32 + 1,), (1,)), True),
        (strided((MAX_OFFSET_32,), (1,)), False),
        (strided((2,), (MAX_OFFSET_32 + 1,)), True),
        (strided((2,), (MAX_OFFSET_32,)), False),
        (strided((2, 2), (2**30, 2**30)), True),  # each axis alone fits
        (strided((1, 2), (2**40, 1)), False),  # no step is taken along the first
        (torch.empty(1, device="meta").expand(2**32), True),  # one element, counted 2³² times
    ],
)
def test_offsets_need_64_bits(tensor, wide):
    assert needs_int64(tensor) is needs_int64(None, torch.empty(1), tensor) is wide


def test_the_last_tile_is_counted():
    """A kernel counts on to the end of its last tile, so 32 bits end a tile before 2³¹."""
    assert MAX_OFFSET_32 + 2**20 < 2**31


@pytest.mark.parametrize(
    ("shape", "stride", "expected"),
    [
        ((2, 3, 4, 5), (60, 1, 15, 3), True),
        ((2, 3, 4, 5), (60, 20, 5, 1), False),
        ((2, 3, 4, 5), (120, 1, 30, 6), True),  # every second pixel
        ((2, 3, 4, 5), (60, 1, 3, 12), False),  # W before H
        ((2, 3, 4, 5), (60, 1, 15, 2), False),  # pixels overlap
        ((2, 3, 4, 5), (60, 0, 15, 3), False),  # expanded
        ((2, 1, 1, 1), (1, 1, 1, 1), False),
        ((0, 3, 4, 5), (60, 1, 15, 3), False),
        ((2, 3, 4), (12, 1, 3), False),  # one spatial axis has one format
        ((2, 3, 4, 5, 6), (360, 1, 90, 18, 3), True),
        ((2, 3, 4, 5, 6), (360, 120, 30, 6, 1), False),
    ],
)
def test_strides_say_channels_last(shape, stride, expected):
    """torch's own rule: its convolution answers in that format."""
    t = torch.empty_strided(shape, stride)
    assert is_channels_last(t) is is_channels_last(torch.empty(1), t) is expected
    if t.dim() == 4 and 0 not in shape:
        y = F.conv2d(t, torch.empty(2, shape[1], 1, 1), padding=1)
        assert is_channels_last(y) is expected


def test_pixels_that_lie_evenly():
    """As images of one pixel; of a batch of one only where the images of a larger one would lie so too."""

    def found(t: torch.Tensor) -> tuple:
        return (*flat(t).shape, *flat(t).stride()[:2])

    planes = torch.empty(2, 3, 4, 5)
    last = planes.contiguous(memory_format=torch.channels_last)
    assert found(last) == (40, 3, 1, 1, 3, 1)
    assert flat(planes) is planes
    assert found(last[:1]) == (20, 3, 1, 1, 3, 1) and flat(planes[:1]).shape == (1, 3, 4, 5)
    assert found(torch.empty(1).expand(2, 3, 4, 5)) == (40, 3, 1, 1, 0, 0)
    assert found(torch.empty(2, 7, 5, 3)[:, :1].permute(0, 3, 1, 2)) == (2, 3, 1, 5, 105, 1)
    assert found(torch.empty(2, 5, 3, 7)[..., :1].permute(0, 2, 3, 1)) == (10, 3, 1, 1, 21, 7)
    assert flat(last[:, :, ::2]).shape == (2, 3, 2, 5)
