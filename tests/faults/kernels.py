"""Faults of the kernels, and of what launches them."""

from tests.faults.fault import Fault, faults

EVERYTHING = "tests/test_epilogue.py::test_everything_in_a_convolution"
PADDING = "tests/test_padding.py::test_values_and_gradients_are_torchs"
CONV, BLOCKS = "tests/test_conv2d.py", "tests/test_blocks.py"
VALUES = f"{CONV}::test_named_case {BLOCKS}::test_several_blocks_of_channels"
EDGES, POOL, FUSED = "tests/test_edges.py", "tests/test_pool.py", "tests/test_fused.py"
COPIED, NOT_COPIED = "test_a_product_reads_a_copy_in_channels_last", "test_what_is_not_copied_for_a_product"
LAUNCHED = "tests/test_launch_path.py::test"
OFFSETS = "tests/test_ops.py::test_offsets_look_at_every_tensor"

BLOCKED = f"{BLOCKS}::test_several_blocks_of_pixels"
BATCH = f"{LAUNCHED}_another_batch_compiles_nothing"
ANOTHER = "tests/test_tuning.py::test_a_batch_has_the_tile_of_another"

GRID = faults(
    "tritonconv/kernels/grid.py",
    CONV,
    [
        # windows, on the host
        (
            "is_outside = before > 0 or last >= length",
            "is_outside = before > 0",
            "test_named_case",
            "padding after",
        ),
        ("is_outside = before > 0 or last >= length", "is_outside = last >= length", "test_named_case"),
        ("last >= length\n", "last > length\n", f"{POOL}::test_same_as_torch", "ceil_mode's last row"),
        (" and before == 0 and", " and", "tests/test_layers.py::test_it_computes_what_torch_computes"),
        (" and positions == length)", ")", f"{EDGES}::test_a_stride_past_the_image_has_no_more_phases_than_pixels"),
        (
            "covering.append(((taps - 1) * spread + step) // step)",
            "covering.append(taps)",
            f"{POOL}::test_same_as_torch",
        ),
        (
            "((taps - 1) * spread + step) // step",
            "((taps - 1) * spread + step - 1) // step",
            f"{POOL}::test_same_as_torch",
        ),
        ("[before for before, _ in w.padding]", "[after for _, after in w.padding]", "test_named_case", "'same', 4x2"),
        ("place.to(UNSIGNED, bitcast=True) < size", "place < size", "test_named_case"),
        ("place.to(UNSIGNED, bitcast=True) < size", "place.to(UNSIGNED, bitcast=True) <= size", "test_named_case"),
        # positions further on
        ("position[1], by[1][1] + carry,", "position[1], by[1][1],", BLOCKED),
        ("by[0] * size[0] + by[1][0] + carry)", "by[0] * size[0] + by[1][0])", BLOCKED),
        ("by[0] * size[0] + by[1][0] + carry)", "by[1][0] + carry)", BLOCKED),
        ("is_over = place >= size\n", "is_over = place > size\n", BLOCKED),
        # outputs
        ("return strides(t) if t.stride(1) == 1 else t.stride()[:2]", "return t.stride()[:2]", "test_layout"),
        ("n * (stride[0] - stride[1])", "n * stride[0]", "test_named_case"),
        (
            "return strides(t) if t.stride(1) == 1 else t.stride()[:2]",
            "return strides(t)",
            "tests/test_codegen.py::test_neighbours_are_stored_together_in_nchw",
            "as right, and slower",
        ),
        ("(stride[0] - stride[1]), n < N\n", "(stride[0] - stride[1]), n <= N\n", "test_named_case"),
        ("rows = n * stride[0] + offset(position, stride)\n", "rows = offset(position, stride)\n", "test_layout"),
        # phases
        (
            "tuple(map(min, problem.window.stride, problem.input_size))",
            "problem.window.stride",
            f"{EDGES}::test_a_stride_past_the_image_has_no_more_phases_than_pixels",
        ),
        ("pow(d // g, -1, s // g)", "d // g", "test_named_case", "the inverse of a unit is not always itself"),
        ("pow(d // g, -1, s // g)", "1", "test_named_case"),
        ("-(-size // stride)", "size // stride", "test_named_case"),
        ("padded = phase + WINDOW[PADDING][AXIS]", "padded = phase", "test_named_case"),
        ("tl.where(padded % PHASES[GCD][AXIS] == 0, count, 0)", "count", "test_named_case"),
        ("(WINDOW[SIZE][AXIS] - first + step - 1) // step", "(WINDOW[SIZE][AXIS] - first) // step", "test_named_case"),
        (
            "of_row = tl.maximum(count[2], 1)",
            "of_row = count[2]",
            f"{EDGES}::test_dgrad_divides_by_no_count_that_may_be_zero",
        ),
        (
            "first[1] + row % of_plane * (WINDOW[STRIDE][1] // PHASES[GCD][1])",
            "first[1] + row % of_plane * WINDOW[STRIDE][1]",
            "test_named_case",
        ),
        (
            "valid & (d < size[0]) & (h < size[1]) & (w < size[2])",
            "valid & (d < size[0]) & (h < size[1])",
            "test_named_case",
        ),
        # positions, taps, windows
        (
            "return pid // inner // middle, pid // inner % middle, pid % inner",
            "return pid // middle // inner, pid // middle % inner, pid % middle",
            VALUES,
        ),
        ("    r = row % WINDOW[SIZE][1]\n", "    r = row\n", "tests/test_ops.py::test_convolution_of_any_rank"),
        (
            "[1] - WINDOW[PADDING][1],\n        position[2] * WINDOW",
            "[2] - WINDOW[PADDING][1],\n        position[2] * WINDOW",
            "test_named_case",
        ),
        (
            "(tap[0] * WINDOW[DILATION][0], tap[1] * WINDOW[DILATION][1], tap[2] * WINDOW[DILATION][2])",
            "(tap[0] * WINDOW[DILATION][0], tap[1] * WINDOW[DILATION][1], tap[2] * WINDOW[DILATION][1])",
            "test_named_case",
        ),
        ("valid & _within(h, size[1])", "valid & _within(w, size[1])", "test_named_case"),
        ("valid & _within(w, size[2])", "valid", "test_named_case"),
        ("valid & _within(position[1], size[1])", "valid", "test_named_case"),
        ("size - 1 - tl.abs(size - 1 - tl.abs(place))", "size - tl.abs(size - 1 - tl.abs(place))", PADDING),
        ("size - 1 - tl.abs(size - 1 - tl.abs(place))", "tl.abs(place)", PADDING),
        ("place = tl.minimum(tl.maximum(place, 0), size - 1)", "place = tl.maximum(place, 0)", PADDING),
        ("tl.where(place < size, place, place - size)", "place", PADDING),
        (
            "_repeated(start[1][:, None] + shift[1][None, :], size[1], WINDOW[MODE][1])",
            "_repeated(start[1][:, None] + shift[1][None, :], size[2], WINDOW[MODE][1])",
            PADDING,
        ),
        (
            "_repeated(start[1] + shift[1], size[1], WINDOW[MODE][1])",
            "_repeated(start[1] + shift[1], size[2], WINDOW[MODE][1])",
            PADDING,
        ),
        ("modes.append(PADDING_MODES.index(w.mode) if is_outside else 0)", "modes.append(0)", PADDING),
        ("valid = number < WINDOW[TAPS]", "valid = number <= WINDOW[TAPS]", VALUES),
        ("        valid = c < C\n", "        valid = c < BLOCK\n", VALUES),
        (
            "blocks: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK",
            "blocks: tl.constexpr = CHANNELS // BLOCK + 1",
            f"{BLOCKS}::test_several_blocks_of_channels {FUSED}",
        ),
        (
            "c = step % blocks * BLOCK + tl.arange",
            "c = tl.arange",
            f"{BLOCKS}::test_several_blocks_of_channels",
            "the first K block alone",
        ),
        (" & (window * WINDOW[STRIDE][AXIS] == inside)", "", "test_named_case"),
        ("valid & _within(window, size) & (window", "valid & (window", "test_named_case"),
        (
            "            valid = valid & _within(window, size)\n    return",
            "            pass\n    return",
            "test_named_case",
        ),
        ("valid = valid & _within(window, size)\n    return tap", "return tap", f"{POOL}::test_same_as_torch"),
        ("(tap * WINDOW[DILATION][AXIS] == inside)", "(tap >= 0)", f"{POOL}::test_same_as_torch"),
        (
            "        element += r * WINDOW[SIZE][2]\n",
            "        element += r * WINDOW[SIZE][1]\n",
            f"{POOL}::test_same_as_torch",
        ),
        ("tl.minimum(tl.maximum(position[2], 0), size[2] - 1)", "position[2]", POOL),
    ],
)
GEMM = faults(
    "tritonconv/kernels/implicit_gemm.py",
    BLOCKS,
    [
        ("        n, pixel = grid.advance(n, pixel, by, out_size)\n", "", BLOCKED),
        ("        n_dy, pixel_dy = grid.advance(n_dy, pixel_dy, by_dy, dy_size)\n", "", BLOCKED),
        ("& (n_dy < dy_N)[None, :]", "& (n_dy < N)[None, :]", BLOCKED),
        (
            "b_ptr + c * b_stride, mask=valid_n",
            "b_ptr + offs_n * b_stride, mask=valid_n",
            f"{CONV}::test_transposed_named_case",
            "the bias of the first group",
        ),
        ("GROUPS, (C_out + BLOCK_N - 1) // BLOCK_N, OFFSET)", "GROUPS, C_out // BLOCK_N, OFFSET)", VALUES),
        (
            "    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)\n    valid_m = n < N\n",
            "    offs_n = tl.arange(0, BLOCK_N)\n    valid_m = n < N\n",
            "test_several_blocks_of_channels",
        ),
        ("x_group = x_ptr + group * C_in * x_stride[1]", "x_group = x_ptr + group * x_stride[1]", VALUES),
        (
            "bias = tl.load(b_ptr + k * b_stride",
            "bias = tl.load(b_ptr + tl.arange(0, BLOCK_N) * b_stride",
            "test_several_blocks_of_channels",
        ),
        (
            "        if ACTIVATION is not None:\n            acc = ACTIVATION(acc, ARGUMENT)\n",
            "",
            f"{FUSED}::test_dead_relu_passes_no_gradient",
        ),
        (
            "blocks_k: tl.constexpr = (C_out + BLOCK_K - 1) // BLOCK_K",
            "blocks_k: tl.constexpr = C_out // BLOCK_K",
            f"test_several_blocks_of_channels {CONV}::test_named_case",
        ),
        (
            "        k = step % blocks_k * BLOCK_K + tl.arange(0, BLOCK_K).to(OFFSET)\n",
            "        k = tl.arange(0, BLOCK_K).to(OFFSET)\n",
            "test_several_blocks_of_channels",
        ),
        ("dy_group = dy_ptr + group * C_out * dy_stride[1]", "dy_group = dy_ptr + group * C_in * dy_stride[1]", VALUES),
        ("w_ptr + group * C_out * w_stride[0] + offs_n * w_stride[1]", "w_ptr + offs_n * w_stride[1]", VALUES),
        ("    c = group * C_in + offs_n\n", "    c = offs_n\n", VALUES),
        ("offs_m = rest % BLOCKS_M * BLOCK_M", "offs_m = BLOCKS_M * 0 * BLOCK_M", "test_several_blocks_of_channels"),
        (
            "split = rest // BLOCKS_M",
            "split = rest // BLOCKS_M * 0",
            f"test_several_blocks_of_channels {CONV}::test_tiles_of_a_gpu",
        ),
        ("(group * C_in + c) * x_stride[1]", "c * x_stride[1]", VALUES),
        ("steps_w = steps * (pid_n < BLOCKS_N)", "steps_w = steps * (pid_n < BLOCKS_N - 1)", VALUES),
        ("        valid_n = valid_n & (pid_n < BLOCKS_N)\n", "", VALUES),
        (
            "last = valid_m & (pid_n == BLOCKS_N)",
            "last = valid_m",
            "test_programs_may_run_in_any_order",
            "zeros race with the sum",
        ),
        (
            'steps = triton.cdiv(problem.taps * C_in, tile["BLOCK_K"])',
            'steps = problem.taps * C_in // tile["BLOCK_K"]',
            VALUES,
        ),
        (
            'steps = problem.taps * triton.cdiv(C_in, tile["BLOCK_K"])',
            'steps = problem.taps * (C_in // tile["BLOCK_K"])',
            VALUES,
        ),
        (
            'blocks_n = problem.taps * triton.cdiv(C_in, tile["BLOCK_N"])',
            'blocks_n = problem.taps * (C_in // tile["BLOCK_N"] or 1)',
            "test_several_blocks_of_channels",
        ),
        ("            acc *= scale[None, :]\n", "            pass\n", EVERYTHING),
        ("residual_ptr + offs_y, mask", "residual_ptr + offs_y * 0, mask", EVERYTHING),
        ("(output(dx=dx) if phases[3] == 1 else {})", "output(dx=dx)", VALUES),
    ],
)
EPILOGUE = faults(
    "tritonconv/kernels/epilogue.py",
    "tests/test_epilogue.py",
    [
        *(
            (before, after, "test_values_and_two_derivatives_are_torchs")
            for before, after in (
                ("(output <= 0) | (output >= 6), 0.0, dy", "output <= 0, 0.0, dy"),
                ("tl.where(values > 0, values, values * ARGUMENT)", "tl.where(values > 0, values, values * 0.01)"),
                ("(x > -3) & (x < 3), dy / 3", "(x > -3) & (x < 3), dy"),
                ("dy * (1 - 2 * y)", "dy * (1 - y)"),
                ("s * (1 - s) * (2 + x * (1 - 2 * s))", "s * (1 - s) * (2 + x * (1 - s))"),
                ("tl.abs(values) < 0.05", "tl.abs(values) < 0.5"),
                ("return -2 * dy * y", "return 2 * dy * y"),
                ("torch.exp(-0.5 * x * x) * (2 - x * x)", "torch.exp(-0.5 * x * x) * (1 - x * x)"),
                ("(ddu - 2 * t * du * du)", "(ddu - t * du * du)"),
                ("0.0), K * (1 + 0.134145", "0.0), K * (1 + 0.044715"),
                ('saves="output" if argument >= 0 else "input"', 'saves="output"'),
            )
        ),
        (
            "((output > 0) & (output < 6))",
            "(output > 0)",
            "test_scale_before_a_pooling test_a_dead_relu6_passes_no_gradient",
        ),
    ],
)
OTHERS = [
    *EPILOGUE,
    *faults(
        "tritonconv/kernels/direct.py",
        CONV,
        [
            ("    c0 = k // C_out * C_in\n", "    c0 = k // C_out\n", "test_named_case"),
            ("    k0 = c // C_in * C_out\n", "    k0 = c // C_in\n", "test_named_case"),
            ("c % C_in * w_stride[1]", "c * w_stride[1]", "test_named_case"),
            ("            for _c in range(C_in):\n", "            for _c in range(1):\n", "test_named_case"),
            ("steps_w = steps * (filters < FILTERS)", "steps_w = steps * (filters < FILTERS - 1)", "test_named_case"),
            ("(k // C_out * C_in + c) * x_stride[1]", "c * x_stride[1]", "test_named_case"),
        ],
    ),
    *faults(
        "tritonconv/kernels/pooling.py",
        POOL,
        [
            ("other=OUTSIDE).to(ACC)", "other=0.0).to(ACC)", "test_same_as_torch", "padding is not 0"),
            ('float("inf") if NORM < 0 else FIRST', "FIRST", "test_lp_norm_is_torchs"),
            (" | ((argmax == NO_ARGMAX) & valid[:, None])", "", "test_infinities_and_nan"),
            ("grid.ravel(grid.clamp(reached, in_size), in_size)", "grid.ravel(reached, in_size)", POOL),
            ("tl.where(argmax == element[:, None], dy, 0.0)", "dy", "test_same_as_torch"),
            ("        count = DIVISOR\n", "        count = 1\n", "test_average_is_torchs"),
            ('WINDOW, DIVISOR == "padded")', "WINDOW, True)", "test_average_is_torchs"),
            ("acc += average(dy, window, in_size, WINDOW, DIVISOR)", "acc += dy", "test_average_is_torchs"),
            ("power(best * WINDOW[grid.TAPS], 1 / NORM)", "power(best, 1 / NORM)", "test_lp_norm_is_torchs"),
            ('-size if P % 2 == 1 else float("nan")', "-size", "test_lp_norm_is_torchs"),
            ("size if P % 2 == 0 else", "size if P % 2 == 2 else", "test_lp_norm_is_torchs"),
            (
                "mask=valid & (argmax != NO_ARGMAX), other=0.0)",
                "mask=valid, other=0.0)",
                "tests/test_pool.py tests/test_gradcheck.py",
            ),
        ],
    ),
    *faults(
        "tritonconv/kernels/resample.py",
        "tests/test_resample.py",
        [
            ("math.prod(terms) >= SEPARATE_FROM", "False", "test_many_terms_are_summed_an_axis_at_a_time"),
            (
                "dtype=wide(x), device",
                "dtype=x.dtype, device",
                "test_many_terms_are_rounded_once",
            ),
            (" | ((place < 0) & valid[:, None])", "", "test_adaptive_maximum_is_torchs"),
            ("tl.where(place == own[:, None], dy, 0.0)", "dy", "test_adaptive_maximum_is_torchs"),
            (
                "mask=valid[:, None] & valid_c[None, :], other=0.0)\n        acc +=",
                "mask=valid_m[:, None] & valid_c[None, :], other=0.0)\n        acc +=",
                "test_mode_is_torchs",
            ),
        ],
    ),
    *faults(
        "tritonconv/kernels/tables.py",
        "tests/test_resample.py",
        [
            ("-(-(places + 1) * size // length)", "(places + 1) * size // length", "test_mode_is_torchs"),
            (
                "np.maximum(ratio * (places + 0.5) - 0.5, 0) + 0.5 if exact else",
                "ratio * (places + 0.5) if False else",
                "test_mode_is_torchs",
            ),
            (
                "ratio = (size - 1) / (length - 1) if length > 1 else 0.0",
                "ratio = size / length",
                "test_mode_is_torchs",
            ),
            (
                "ratio = 1 / scale if scale else size / length\n        if antialias",
                "ratio = size / length\n        if antialias",
                "test_mode_is_torchs",
            ),
            (
                "places.astype(np.float64) if size == length else centre",
                "centre",
                "test_a_scale_that_leaves_the_size_leaves_the_image",
            ),
            (
                "_cubic((centre - first)[:, None] - around, -0.75)",
                "_cubic((centre - first)[:, None] - around, -0.5)",
                "test_mode_of_an_image_is_torchs",
            ),
            ("width = max(ratio, 1.0)", "width = ratio", "test_mode_of_an_image_is_torchs"),
            ("        with _disable_current_modes():", "        if True:", "test_tables_without_data_are_not_kept"),
            (
                "        if len(_joined) >= MOST_JOINED:",
                "        if False:",
                "test_the_same_tables_are_made_once",
            ),
            (
                'order = np.argsort(inputs, kind="stable")',
                "order = np.arange(len(inputs))",
                "test_tables_are_whole_and_turn_round",
            ),
        ],
    ),
    *faults(
        "tritonconv/kernels/im2col.py",
        CONV,
        [
            ("c = j // PATCH[grid.TAPS]", "c = j", "test_named_case"),
            ("n, pixel, c * PATCH[grid.TAPS] + number)", "n, pixel, c + number)", "test_named_case"),
            (
                "    if matrix is not dw:\n        dw.copy_(matrix)\n",
                "",
                "test_layout test_memory_format_follows_torch",
            ),
            (
                "_columns(dx, problem, wide(dy))",
                "_columns(dx, problem, dy.dtype)",
                "test_columns_of_a_gradient_are_not_rounded",
            ),
        ],
    ),
    *faults(
        "tritonconv/kernels/elementwise.py",
        "tests/test_nn.py",
        [
            (
                "and all(strides == [1] for strides in merged)",
                "",
                f"{POOL}::test_relu_is_torchs",
            ),
            (
                "None if dy is None else dy[i], out[i])\n        return\n",
                "None if dy is None else dy[i], out[i])\n            return\n",
                f"{POOL}::test_relu_is_torchs",
                "the first index alone",
            ),
            ("        if size == 1:\n            continue\n", "", f"{POOL}::test_axes_of_length_1_do_not_matter"),
        ],
    ),
    *faults(
        "tritonconv/kernels/epilogue.py",
        FUSED,
        [
            ("(output > 0) | (output != output)", "output > 0", "test_nan_and_infinity_pass_through"),
            (
                "return tl.where(output <= 0, 0.0, dy)",
                "return tl.where(output < 0, 0.0, dy)",
                "test_dead_relu_passes_no_gradient",
            ),
            ("return (value > best) | (value != value)", "return value > best", f"{POOL}::test_infinities_and_nan"),
            (
                "return (value > best) | (value != value)",
                "return (value >= best) | (value != value)",
                f"{POOL}::test_first_of_equals_wins",
            ),
            ("acc.to(STORED).to(acc.dtype)", "acc", "test_bit_equal_to_the_unfused_chain", "ties of rounded values"),
            ("tl.where(PASSES(best), argmax, NO_ARGMAX)", "argmax", "test_dead_relu_passes_no_gradient"),
        ],
    ),
    *faults(
        "tritonconv/kernels/split_k.py",
        CONV,
        [
            (
                "mask=(split < splits)[:, None]",
                "mask=(split < splits - 1)[:, None]",
                "test_tiles_of_a_gpu tests/test_blocks.py",
            ),
            (
                "dtype=wide(dw)",
                "dtype=dw.dtype",
                "test_tiles_of_a_gpu tests/test_blocks.py",
            ),
            (
                "scratch is None or scratch.numel() == 0",
                "scratch is None",
                f"{EDGES}::test_a_sum_of_nothing_launches_nothing",
            ),
            ("mask=offs < filters)", "mask=valid)", "test_tiles_of_a_gpu"),
            ("        offs_dw = (rest //", "        offs_dw, _ = offs, (rest //", "test_tiles_of_a_gpu"),
            ("1 if 1 in (dw.stride(1), dw.shape[1]) else", "1 if dw.shape[1] == 1 else", "test_tiles_of_a_gpu"),
            ("    if not is_split:\n", "    if splits == 1:\n", BATCH),
            ("(offs - filters), acc", "offs, acc", "test_tiles_of_a_gpu"),
            ("        n, pixel = grid.advance(n, pixel, by, size)\n", "", BLOCKED),
            ("block_of_pixels(first * PIXELS, size", "block_of_pixels(first * 0, size", "test_tiles_of_a_gpu"),
            ("whole[:, filters:]", "whole", "test_tiles_of_a_gpu"),
        ],
    ),
    *faults(
        "tritonconv/kernels/arguments.py",
        CONV,
        [
            ("tl.int64 if needs_int64(*tensors) else tl.int32", "tl.int32", "test_offsets_beyond_32_bits"),
            ("offsets(*others, *tensors.values())", "offsets(*tensors.values())", OFFSETS),
            ("offsets(*others, *tensors.values())", "offsets(*others, *list(tensors.values())[1:])", OFFSETS),
            ("offsets(*others, *tensors.values())", "offsets(*others, *list(tensors.values())[:-1])", OFFSETS),
            ("tl.float64 if wide(x) == torch.float64 else tl.float32", "tl.float32", "tests/test_gradcheck.py"),
            (
                "t.stride() == y.stride() else",
                "t.shape == y.shape else",
                "tests/test_epilogue.py::test_a_residual_of_any_strides_and_an_unbatched_one",
            ),
        ],
    ),
]

RELAID = [
    *faults(
        "tritonconv/kernels/relayout.py",
        CONV,
        [
            ("(offs_m < pixels)[:, None] & ", "", COPIED),
            (" & (offs_n < C)[None, :]", "", COPIED),
            ("y_ptr + n * pixels * C +", "y_ptr +", COPIED),
            ("if t.stride(1) == 1 or step is None or", "if step is None or", NOT_COPIED),
            ("t.stride(1) == 1 or step is None or", "t.stride(1) == 1 or", NOT_COPIED),
            ("min(problem.C_in, problem.C_out) // problem.groups", "problem.C_out", COPIED),
        ],
    ),
    *faults(
        "tritonconv/tuning/choices.py",
        CONV,
        [
            ("dtype.itemsize != 2 or", "", f"{CONV}::test_tiles_of_a_gpu tests/test_explain.py", "float32 is copied"),
            ("channels < CHANNELS_LAST_FROM or", "", COPIED),
            (' or architecture(device) == "interpreter":', ":", NOT_COPIED),
            ("if BATCHES_ALIKE * pixels >= sizes", "if pixels >= sizes", BATCH),
            ("BATCHES_ALIKE * pixels >= sizes", "BATCHES_ALIKE * pixels > sizes", ANOTHER),
            ("dict(min(near)[1])", "dict(max(near)[1])", ANOTHER),
            ('if name != "pixels")', "if True)", BATCH),
        ],
    ),
    *faults(
        "tritonconv/kernels/elementwise.py",
        "tests/test_epilogue.py",
        [
            ("if first + BLOCK_M <= elements:", "if first < elements:", "tests/test_fused.py tests/test_epilogue.py"),
            ("_pad([] if is_dense else sizes, 1)", "_pad(sizes, 1)", f"{LAUNCHED}_another_batch_compiles_nothing"),
        ],
    ),
    *faults(
        "tritonconv/jit.py",
        "tests/test_launch_path.py",
        [
            ('VARYING = ("N", ', "VARYING = (", "test_another_batch_compiles_nothing"),
            ('"dy_N", ', "", "test_another_batch_compiles_nothing"),
            ('"splits", "steps")', '"splits")', "test_another_batch_compiles_nothing"),
            ('"elements", "splits"', '"splits"', "test_another_batch_compiles_nothing"),
        ],
    ),
]

FAULTS: list[Fault] = [*GRID, *GEMM, *OTHERS, *RELAID]
