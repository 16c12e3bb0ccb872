"""Faults of the geometry: sizes, padding, memory format, arguments and their errors."""

from tests.faults.fault import Fault, faults

CONV, POOL, EDGES = "tests/test_conv2d.py", "tests/test_pool.py", "tests/test_edges.py"
IDENTITY = "tests/test_identities.py::test_unfold_and_fold_are_torchs_and_adjoint"
PROBLEMS, RANKS = "tests/test_problems.py", "tests/test_ops.py::test_convolution_of_any_rank"
ERRORS = "tests/test_errors.py::test_class_is_torchs_and_message_names_the_argument"

SIZES = [
    *faults(
        "tritonconv/problems.py",
        CONV,
        [
            (
                "tuple(d * (r - 1) + 1 for d, r in zip(self.dilation",
                "tuple(d * r for d, r in zip(self.dilation",
                "test_named_case[dilation 2-direct]",
            ),
            (
                "stride = tuple(s if p > 1 else 1 for s, p",
                "stride = tuple(s for s, p",
                f"{EDGES}::test_a_stride_past_the_image_has_no_more_phases_than_pixels",
                "a stride of 2³¹ + 5",
            ),
            (
                "dilation = tuple(d if r > 1 else 1 for d, r",
                "dilation = tuple(d for d, r",
                f"{EDGES}::test_a_dilation_of_one_tap",
            ),
            (
                "stride = tuple(s if p > 1 else 1 for",
                "stride = tuple(s if p > 2 else 1 for",
                "test_named_case[stride 3 over 2x2-direct]",
            ),
            ("d if r > 1 else 1 for d, r", "d if r > 2 else 1 for d, r", "test_named_case tests/test_gradcheck.py"),
            (
                "sum(0 <= p * step - before + r * spread < size for",
                "sum(0 <= p * step < size for",
                "tests/test_explain.py::test_multiply_adds_are_what_a_convolution_of_ones_sums",
            ),
            (
                "self.N * self.C_out * self.C_in // self.groups *",
                "self.N * self.C_out * self.C_in *",
                "tests/test_explain.py::test_multiply_adds_are_what_a_convolution_of_ones_sums",
            ),
            (
                "dataclasses.replace(self, C_in=self.C_in * self.taps, input_size=self.output_size, window=pointwise)",
                "dataclasses.replace(self, C_in=self.C_in * self.taps, window=pointwise)",
                "test_named_case[plain-im2col]",
            ),
            # output sizes
            (
                "tuple((p - r) // s + 1 for p, r, s in zip(padded",
                "tuple(-(-(p - r) // s) + 1 for p, r, s in zip(padded",
                "test_named_case[1x1 stride 2-direct]",
            ),
            (
                "size + before + after for size",
                "size + 2 * before for size",
                "test_named_case[same 2x2-direct]",
                "'same', 2×2",
            ),
            (
                "window.effective(output_size))\n\n\ndef transposed",
                "window)\n\n\ndef transposed",
                f"{EDGES} tests/test_codegen.py",
            ),
            ("w_shape = (x_shape[1] * math.prod(kernel), x_shape[1],", "w_shape = (x_shape[1], x_shape[1],", IDENTITY),
            ("x_shape = (N, J // math.prod(kernel), *output_size)", "x_shape = (N, J, *output_size)", IDENTITY),
            # pooling
            ("span = size + 2 * p - reach", "span = size + p - reach", f"{POOL}::test_same_as_torch"),
            ("reach = d * (k - 1) + 1", "reach = d * k", f"{POOL}::test_same_as_torch"),
            (
                "if added >= max(step, spread):",
                "if added >= step:",
                "tests/test_layers.py::test_it_computes_what_torch_computes",
            ),
            ("    if C_in != w_shape[0]:\n", "    if False:\n", "tests/test_errors.py"),
            (
                '_require_least("padding", padding[::2], 0)',
                '_require_least("padding", padding, 0)',
                "tests/test_layers.py",
            ),
            (
                '"padded" if count_include_pad else "image"',
                '"image" if count_include_pad else "padded"',
                f"{POOL}::test_average_is_torchs",
            ),
            ("divisor=counted if divisor is None else divisor", "divisor=counted", f"{POOL}::test_average_is_torchs"),
            ('reduction="lp", norm=norm)', 'reduction="lp", norm=2.0)', f"{POOL}::test_lp_norm_is_torchs"),
            ("    if divisor == 0:\n", "    if False:\n", "tests/test_errors.py"),
            ("    if norm == 0:\n", "    if False:\n", "tests/test_errors.py"),
            ("(-(-span // s) if ceil_mode else span // s)", "(span // s)", f"{POOL}::test_same_as_torch"),
            ("if ceil_mode and (length - 1) * s >= size + p:", "if False:", f"{POOL}::test_same_as_torch"),
            ("(length - 1) * s >= size + p:", "(length - 1) * s > size + p:", f"{POOL}::test_same_as_torch"),
            ("(length - 1) * s >= size + p:", "(length - 1) * s >= size:", f"{POOL} tests/test_identities.py"),
            ("tuple((p, p) for p in padding), tuple(dilation))", "((0, 0),) * len(padding), tuple(dilation))", POOL),
            ("torch.uint8 if self.window.taps <= 255 else", "torch.uint8 if self.window.taps <= 256 else", POOL),
            ("torch.uint8 if self.window.taps <= 255 else", "torch.uint8 if self.window.taps <= 254 else", POOL),
            (
                "return 255 if self.window.taps <= 255 else self.window.taps",
                "return 255",
                POOL,
                "the 256th place is 255",
            ),
            ("return 255 if self.window.taps <= 255 else self.window.taps", "return 0", POOL),
        ],
    ),
    *faults(
        "tritonconv/checks.py",
        CONV,
        [
            # padding
            (
                "for pad in (t // 2, t - t // 2))",
                "for pad in (t - t // 2, t // 2))",
                "test_named_case[same 2x2-direct]",
            ),
            (
                "total = [d * (r - 1) for d, r in",
                "total = [r - 1 for d, r in",
                "test_named_case[same 4x3, dilation (1,2)-direct]",
            ),
            ("rank) for pad in (p, p))", "rank) for pad in (p, 0))", "test_named_case[prime-direct]"),
            ("if any(s != 1 for s in stride):", "if all(s != 1 for s in stride):", "tests/test_errors.py"),
            (
                'padding == "valid":\n        return (0,) * (2 * rank)',
                'padding == "valid":\n        return (0,) * rank',
                "test_named_case[valid-direct]",
            ),
        ],
    ),
]
ARGUMENTS = [
    *faults(
        "tritonconv/problems.py",
        "tests/test_errors.py",
        [
            ("    if min(values) < least:\n", "    if max(values) < least:\n", ERRORS),
            ("    if groups <= 0:\n", "    if groups < 0:\n", ERRORS),
            ("((w_shape[0] < groups, ", "((False, ", ERRORS),
            ("(w_shape[0] % groups != 0, ", "(w_shape[0] % groups > 1, ", ERRORS),
            ("if C_in != C_group * groups:", "if C_in < C_group * groups:", ERRORS),
            ("tuple(b_shape) != (C_out,)", "b_shape[0] != C_out", ERRORS),
            ("    if min(input_size) == 0 and N > 0:\n", "    if max(input_size) == 0 and N > 0:\n", ERRORS),
            ("if any(p < r for p, r in zip(padded", "if any(p < r - 1 for p, r in zip(padded", ERRORS),
            ("if J == 0 or J % math.prod(kernel) != 0:", "if J == 0:", ERRORS),
            ("if math.prod(places) != blocks:", "if math.prod(places) < blocks:", "tests/test_errors.py"),
            ("        if p > k // 2:\n", "        if p > (d * (k - 1) + 1) // 2:\n", ERRORS),
            *(
                (f"    if min(output) < 1:\n{after}", f"    if min(output) < 0:\n{after}", test)
                for after, test in (
                    (
                        '        raise RuntimeError(\n            f"Given input size per',
                        "tests/test_errors.py::test_a_transposed_convolution_that_leaves_nothing_is_refused",
                    ),
                    ('        raise RuntimeError(\n            f"Given input size: (', ERRORS),
                )
            ),
        ],
    ),
    *faults(
        "tritonconv/checks.py",
        "tests/test_errors.py",
        [
            (
                "        values = (values[0],) * rank\n",
                "        values = (values[0], 1)[:rank]\n",
                f"{CONV}::test_named_case",
            ),
            ("    if len(values) != rank:\n", "    if len(values) < rank:\n", ERRORS),
            ('getattr(value, "ndim", 0) > 0', "False", EDGES),
            ("isinstance(value, Sequence) and not isinstance(value, str)", "isinstance(value, tuple | list)", EDGES),
            ("isinstance(value, bool | np.bool_) or", "isinstance(value, np.bool_) or", f"{ERRORS} {EDGES}"),
            (' or getattr(value, "dtype", None) == torch.bool', "", EDGES),
            ("return operator.index(value)", "return int(value)", f"{ERRORS} {EDGES}", "1.5 becomes 1"),
            ("return operator.index(value)", "return value", EDGES),
            (
                "return (x.unsqueeze(0) if unbatched else x), unbatched",
                "return (x[None] if unbatched else x), False",
                "tests/test_nn.py::test_an_unbatched_input",
            ),
            ("if x.dim() not in (rank + 1, rank + 2):", "if x.dim() < rank + 1:", ERRORS),
            ("if w.dim() != rank + 2:", "if w.dim() < rank + 2:", "tests/test_errors.py"),
            ("if first.dtype not in DTYPES:", "if first.dtype is torch.bool:", "tests/test_errors.py"),
            ("if t.device != first.device:", "if t.device.index != first.device.index:", "tests/test_errors.py"),
            ("        if t.dtype != first.dtype:\n", "        if False:\n", ERRORS),
            ("if tuple(t.shape) != tuple(shape):", "if t.dim() != len(shape):", "test_gradient_of_another_shape"),
        ],
    ),
]
LAYOUT = faults(
    "tritonconv/layouts.py",
    PROBLEMS,
    [
        (
            "torch.contiguous_format if t.is_contiguous() else torch.preserve_format",
            "torch.preserve_format",
            "tests/test_epilogue.py::test_what_is_contiguous_and_channels_last_is_contiguous_behind_an_activation",
        ),
        ("if not channels_last or dim not in (4, 5):", "if not channels_last or dim != 4:", RANKS),
        (
            "return any(map(_has_channels_last_strides, tensors))",
            "return all(map(_has_channels_last_strides, tensors))",
            f"{CONV}::test_memory_format_follows_torch",
        ),
        (" or t.stride(1) == 0:", ":", PROBLEMS),
        ("for axis in (1, *range(t.dim() - 1, 1, -1), 0):", "for axis in (1, *range(2, t.dim()), 0):", PROBLEMS),
        (" or (axis == 0 and least == t.stride(1))", "", PROBLEMS, "N = 1, C = 1"),
        ("if size == 0 or stride < least", "if stride < least", PROBLEMS),
        ("least = stride * max(size, 1)", "least = stride", PROBLEMS),
        (
            "if axis == 0 or t.shape[axis] != 1]",
            "if t.shape[axis] != 1]",
            "tests/test_launch_path.py::test_another_batch_compiles_nothing",
        ),
        ("if axis == 0 or t.shape[axis] != 1]", "]", "test_pixels_that_lie_evenly"),
        (
            "        return None\n    return t.stride(axes[-1])",
            "        pass\n    return t.stride(axes[-1])",
            "tests/test_blocks.py::test_several_blocks_of_pixels",
        ),
        (
            "sum((size - 1) * stride for size, stride in zip(t.shape",
            "max((size - 1) * stride for size, stride in zip(t.shape",
            "test_offsets_need_64_bits",
            "each axis alone fits",
        ),
        (
            "if max(reach, t.numel()) > MAX_OFFSET_32:",
            "if reach > MAX_OFFSET_32:",
            PROBLEMS,
            "an expanded tensor's count",
        ),
        ("if max(reach, t.numel()) > MAX_OFFSET_32:", "if t.numel() > MAX_OFFSET_32:", "test_offsets_need_64_bits"),
        ("MAX_OFFSET_32 = 2**31 - 2**20 - 1", "MAX_OFFSET_32 = 2**32", "test_offsets_need_64_bits"),
        ("MAX_OFFSET_32 = 2**31 - 2**20 - 1", "MAX_OFFSET_32 = 2**31", "test_the_last_tile_is_counted"),
    ],
)

FAULTS: list[Fault] = [*SIZES, *ARGUMENTS, *LAYOUT]
