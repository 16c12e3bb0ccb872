"""Faults of the operators, their derivatives and the functions over them."""

from tests.faults.fault import Fault, faults

CONV, OPS, POOL, FUSED = "tests/test_conv2d.py", "tests/test_ops.py", "tests/test_pool.py", "tests/test_fused.py"
DEAD, POOLS = f"{FUSED}::test_dead_relu_passes_no_gradient", f"{FUSED}::test_every_kind_of_pool"
KEEPS = f"{OPS}::test_an_activation_keeps_what_its_row_says"
EPILOGUE = f"{OPS}::test_what_cannot_be_an_epilogue_is_refused"
PATCHES = "tests/test_identities.py::test_unfold_and_fold_are_torchs_and_adjoint"
SHAPES = "tests/test_errors.py::test_gradient_of_another_shape"
GRADS = "tests/test_gradcheck.py"
PLANS = "tests/test_plan.py"
ANOTHER_TYPE, SAME = "test_an_argument_of_another_type_is_refused_as_ever", f"{PLANS}::test_the_answer_is_the_same"
WATCHED, HOLDS = "test_who_watches_sees_every_call", "test_what_a_plan_holds_for"
STRAIGHT = "test_what_goes_straight_to_an_operators_plan"
TRANSFORMED_CALL = "test_transforms_and_autocast_after_a_plain_call"
CHANGES = "test_what_may_change_is_asked_for_each_time"
LAUNCHED = "tests/test_launch_path.py::test_every_layer_launches_again_what_it_launched"
TRANSFORMS = "tests/test_transforms.py"
COMPILED = f"{TRANSFORMS}::test_compiled_transforms"
NONE, NESTED = f"{TRANSFORMS}::test_a_batch_of_none", f"{TRANSFORMS}::test_derivatives_of_derivatives"
REGION = f"{OPS}::test_what_runs_in_float32_in_a_region_is_what_torch_runs_so"
EVERYTHING = "tests/test_epilogue.py::test_everything_in_a_convolution"
WIDE_SCALE = "tests/test_epilogue.py::test_a_scale_of_32_bits_beside_images_of_16"
FORMATS = "tests/test_epilogue.py::test_what_is_contiguous_and_channels_last_is_contiguous_behind_an_activation"
VMAP, PENALTY = f"{TRANSFORMS}::test_vmap", f"{TRANSFORMS}::test_a_penalty_reaches_what_torch_reaches"
HESSIAN = f"{TRANSFORMS}::test_jacobians_both_ways_and_their_jacobians {TRANSFORMS}::test_gradcheck"
FORWARD_OVER_REVERSE = "tests/test_epilogue.py::test_forward_over_reverse_is_torchs"
FUSED_TANGENTS = f"{TRANSFORMS}::test_forward_mode {TRANSFORMS}::test_gradcheck"
SECOND = f"{GRADS}::test_second_gradients_keep_the_memory_format {GRADS}::test_second_gradients_in_any_strides"

REGISTRATION = faults(
    "tritonconv/ops/operator.py",
    OPS,
    [
        (
            "            if torch.jit.is_tracing():",
            "            if False:",
            "tests/test_nn.py::test_a_jit_trace_serves_other_sizes",
        ),
        (
            "if isinstance(interpreter, FunctionalizeInterpreter):",
            "if interpreter is None:",
            f"{TRANSFORMS}::test_functionalize",
        ),
        ('        if name == "channels_last":  # where', '        if name == "no_name":  # where', "test_opcheck"),
        (
            "may_be_last and self.channels_last and (",
            "False and (",
            f"{CONV}::test_memory_format_follows_torch",
        ),
        ("may_be_last and self.channels_last and (", "self.channels_last and (", FORMATS),
        ("dtype=dtype or like.dtype", "dtype=like.dtype", f"{POOL}::test_many_places"),
        (
            "return (self.empty(image, (*image.shape[:2], *size)),)",
            "return (image.new_empty((*image.shape[:2], *size)),)",
            f"{POOL}::test_layout {POOL}::test_layout_of_a_sum",
        ),
        ('asked.get("input_size") or asked', "asked", "test_fake_outputs_look_like_the_real_ones"),
        (
            '{"channels_last": asked.channels_last, "shapes": shapes}',
            '{"channels_last": False, "shapes": shapes}',
            f"{CONV}::test_memory_format_follows_torch {SECOND}",
        ),
        (
            "ctx.names = (*asked.saved(), *links)",
            "ctx.names = (*tensors, *links)",
            f"{POOL}::test_backward_keeps_one_byte_a_window",
            "saves what is not needed",
        ),
        (
            "shapes = {key: t.shape for key, t in tensors.items()}",
            "shapes = {key: t.shape for key, t in [*tensors.items()][:1]}",
            f"{CONV}::test_named_case",
        ),
        (
            "zip(kind.arguments, ctx.needs_input_grad, strict=True))",
            "zip(kind.arguments, [True] * len(kind.arguments)))",
            f"{CONV}::test_only_the_gradients_asked_for_are_computed",
        ),
        (
            "    _library._destroy()\n",
            "    pass\n",
            "tests/test_threads.py::test_the_package_may_be_imported_again",
        ),
        ("        if is_cast:\n", "        if False:\n", "tests/test_layers.py::test_an_autocast_region_is_torchs"),
        (" and t.dtype != torch.float64\n", "\n", "test_autocast_leaves_float64_alone"),
        ("t.is_floating_point() and t", "t.dtype == torch.float32 and t", "test_autocast_mixes_dtypes"),
        (
            "        return _answer(asked.outputs(asked.problem()))",
            "        return _answer(asked.outputs(asked.problem())[:1])",
            "test_fake_outputs_look_like_the_real_ones",
        ),
        ("            ctx.save_for_forward(*kept)\n", "", f"{TRANSFORMS}::test_forward_mode"),
        ("grads = tuple(None if g is None else g + asked.link.sum() for g in grads)", "pass", PENALTY),
        (" if asked.is_linked() and torch.is_grad_enabled():", " if links and torch.is_grad_enabled():", PENALTY),
        ("t.movedim(dim, 0)\n", "t\n", VMAP, "the batch is the last dimension"),
        ("t.expand(merged, *t.shape) if dim", "t.expand(merged, *t.shape).contiguous() * 2 if dim", VMAP),
        ('                inputs["groups"] *= merged\n', "                pass\n", VMAP),
        ("[axes[key] or 0 for key in kind.results]", "[0 for key in kind.results]", VMAP),
        ("merged = size or 1", "merged = size", NONE),
        ("t if size else t.new_zeros(merged, *t.shape[1:])", "t", NONE),
        ("            if not size:\n", "            if False:\n", NONE),
        ("_set_fwd_grad_enabled(True)", "_set_fwd_grad_enabled(False)", NESTED),
        ("forward_ad.unpack_dual(t, level=0).primal", "t", NESTED),
        (".unpack_dual(t, level=0).primal", ".unpack_dual(t).primal", COMPILED),
        ("is_wanted or any(map(_is_dual, tensors)) else", "is_wanted else", f"{TRANSFORMS}::test_gradcheck"),
        ("forward_ad.unpack_dual(t, level=0).tangent is not None", "forward_ad._current_level >= 0", COMPILED),
        (
            "        return apply(*(_cast(kind, values) if is_cast else values))",
            "        return apply(*values)",
            f"{TRANSFORMS}::test_autocast_in_a_transform",
        ),
    ],
)
UNPOOLED = [
    *faults(
        "tritonconv/ops/pool.py",
        "tests/test_layers.py",
        [
            ("return is_channels_last(self.x)\n", "return False\n", "test_unpooling_takes_what_pooling_gives"),
            ('device == "cpu" and self.x.dim() == 5', 'device == "cpu"', REGION),
            ('return torch.float32 if device == "cpu" else None', "return None", REGION),
            ('torch.float32 if device == "cuda" else in_float32', "in_float32", REGION),
            ("return None if self.return_indices else", "return", REGION),
            ("if self.indices.dtype != torch.int64:", "if False:", "tests/test_errors.py"),
            (
                "((self.indices >= 0) & (self.indices < places)).all()",
                "(self.indices < places).all()",
                "tests/test_errors.py",
            ),
            (
                "((self.indices >= 0) & (self.indices < places)).all()",
                "(self.indices >= 0).all()",
                "tests/test_errors.py",
            ),
            (
                "operators.max_unpool_backward(gradients[0], self.indices), None",
                "operators.max_unpool_backward(2 * gradients[0], self.indices), None",
                "test_it_computes_what_torch_computes",
            ),
            ("g.reshape(pixels), accumulate=True)", "g.reshape(pixels))", "test_second_gradients_of_one_index_add"),
        ],
    ),
    *faults(
        "tritonconv/kernels/resample.py",
        "tests/test_layers.py",
        [
            (
                "(index >= 0) & (index < places",
                "(index >= 1) & (index < places",
                "test_it_computes_what_torch_computes",
            ),
            ("valid_x = (place >= 0) &", "valid_x = valid &", "test_it_computes_what_torch_computes"),
            ("& (place < places)\n", "\n", "tests/test_errors.py::test_gradient_of_another_shape"),
        ],
    ),
    *faults(
        "tritonconv/functional/arguments.py",
        "tests/test_layers.py",
        [
            (
                "functools.partial(function, rank)",
                "functools.partial(function, 2)",
                "test_it_computes_what_torch_computes",
            ),
            (".replace(parameters=parameters)", "", "test_a_function_takes_torchs_arguments"),
        ],
    ),
    *faults(
        "tritonconv/problems.py",
        "tests/test_errors.py",
        [
            ("if len(given) != rank:", "if False:", "test_class_is_torchs_and_message_names_the_argument"),
            (
                "if abs(length - usual) >= step:",
                "if abs(length - usual) > step:",
                "test_class_is_torchs_and_message_names_the_argument",
            ),
        ],
    ),
    *faults(
        "tritonconv/functional/patches.py",
        "tests/test_errors.py",
        [
            ("if C % r**2:", "if C % r:", "test_class_is_torchs_and_message_names_the_argument"),
            ("    if factor <= 0:", "    if factor < 0:", "test_class_is_torchs_and_message_names_the_argument"),
            (
                "    if input.dim() < 3:",
                "    if input.dim() < 2:",
                "test_class_is_torchs_and_message_names_the_argument",
            ),
        ],
    ),
]
PADDED = [
    *faults(
        "tritonconv/ops/conv.py",
        "tests/test_padding.py",
        [
            (
                'if name == "channels_last" and self.padding_mode == "circular":',
                "if False:",
                "test_memory_format_follows_torch",
            ),
            ('layout = self.padding_mode != "circular" and is', "layout = is", "test_memory_format_follows_torch"),
            ("is_channels_last(self.x)\n", "self.channels_last\n", "test_memory_format_follows_torch"),
            (
                "torch.empty(padded.input_shape, dtype=wide(dx),",
                "torch.empty(padded.input_shape, dtype=dx.dtype,",
                "test_half_precision_sums_before_it_rounds",
            ),
        ],
    ),
    *faults(
        "tritonconv/kernels/tables.py",
        "tests/test_padding.py",
        [('"replicate": "edge"', '"replicate": "reflect"', "test_values_and_gradients_are_torchs")],
    ),
    *faults(
        "tritonconv/problems.py",
        "tests/test_padding.py",
        [
            (
                '{"reflect": -1, "circular": 0}',
                '{"reflect": 0, "circular": 0}',
                "test_padding_that_the_image_cannot_fill",
            ),
            (
                '{"reflect": -1, "circular": 0}',
                '{"reflect": -1, "circular": -1}',
                "test_circular_padding_may_be_as_wide_as_the_image",
            ),
            ("max(pad) > size", "pad[0] > size", "test_same_that_does_not_fit"),
            ('if mode in ("reflect", "replicate") and x', "if False and x", "test_padding_that_the_image_cannot_fill"),
            ('            if w.mode != "zeros"\n', "            if False\n", "test_flops_of_a_padded_image"),
        ],
    ),
]
TRANSFORMED = [
    *faults(
        "tritonconv/ops/conv.py",
        TRANSFORMS,
        [
            ("values | {two: d_two, **added})", "values | {two: d_two})", "test_forward_mode"),
            ('{"b": None, "residual": None, "activation": None}', '{"b": None, "residual": None}', FUSED_TANGENTS),
            ("return None if name in of_filters else 0", "return 0", "test_vmap"),
            ("return (self.activated(t),)", "return (t,)", FUSED_TANGENTS),
            ('given["x"], "bias": False})[0], db', 'given["x"], "bias": False})[0], None', HESSIAN),
            ('vars(self) | {"dy": given["dy"]}', "vars(self)", HESSIAN),
            (
                'Conv(**vars(self) | {"activation": None, "residual": None})',
                'Conv(**vars(self) | {"residual": None})',
                FUSED_TANGENTS,
            ),
        ],
    ),
    *faults(
        "tritonconv/ops/pool.py",
        TRANSFORMS,
        [
            (
                'operators.max_pool_gather(given["x"],',
                'operators.max_pool_gather(given["x"].abs(),',
                "test_forward_mode",
            ),
            ("t = operators.average_pool(given", "t = operators.average_pool(self.x * given", "test_forward_mode"),
            (
                'operators.adaptive_max_pool_gather(given["x"], self',
                'operators.adaptive_max_pool_gather(given["x"].abs(), self',
                "test_forward_mode",
            ),
        ],
    ),
    *faults(
        "tritonconv/ops/elementwise.py",
        TRANSFORMS,
        [
            ("    is_elementwise = True\n", "", "test_a_batch_of_numbers"),
            ("t + bent", "t", FORWARD_OVER_REVERSE),
            ("t + bent", "bent", FORWARD_OVER_REVERSE),
        ],
    ),
    *faults(
        "tritonconv/ops/resample.py",
        TRANSFORMS,
        [
            (
                'self.mode == "area" and any(size != 1 for size in self.output_size)',
                'self.mode == "area"',
                "test_a_penalty_reaches_what_torch_reaches",
            ),
            ('return torch.float32 if device == "cuda" else None', "return None", REGION),
            ("return in_float32_in_3d(self, device)", "return None", REGION),
        ],
    ),
]
CONVOLUTION = faults(
    "tritonconv/ops/conv.py",
    CONV,
    [
        (
            '        if self.needs["x"]:\n            size, layout',
            "        if True:\n            size, layout",
            "test_only_the_gradients_asked_for_are_computed",
        ),
        (
            '        if self.needs["w"]:\n            size',
            "        if True:\n            size",
            "test_only_the_gradients_asked_for_are_computed",
        ),
        ("of_channel = (0, *range(2, dy.dim()))", "of_channel = (0, 2)", "test_bias_gradient_alone"),
        ('return dx, dw, db if self.needs["b"] else None', "return dx, dw, db", "test_named_case"),
        (
            'with_bias = self.needs["b"] and self.scale is None',
            "with_bias = self.scale is None",
            "test_only_the_gradients_asked_for_are_computed",
        ),
        (
            '        last = (self.channels_last, self.algorithm)\n        if self.needs["x"]:',
            '        last = (self.channels_last, "auto")\n        if self.needs["x"]:',
            "test_gradients_and_their_gradients_stay_in_the_algorithm",
            "gradients by another algorithm",
        ),
        (
            'self.adjoint_gradients("x", g, self.channels_last)',
            'self.adjoint_gradients("x", g, None)',
            "test_transposed_memory_format_follows_torch",
        ),
        (
            "self.chosen(problem, self.x).dgrad(self.x, self.w, self.b, *outputs, problem)",
            "self.chosen(problem, self.x).dgrad(self.x, self.w, None, *outputs, problem)",
            "test_transposed_named_case",
        ),
        ('require_shape("input", self.x, problem.output_shape)\n', "pass\n", SHAPES),
        ("g.sum((0, *range(2, g.dim())))", "g.sum((0, 2))", "test_transposed_named_case"),
        ("        dy = self.activated(*gradients)\n", "        (dy,) = gradients\n", DEAD),
        (
            '            return "x", "w", *scale\n',
            '            return "x", "w", *scale, "y"\n',
            "test_only_inputs_are_saved",
        ),
        ('if self.row.saves == "output" else self.call', "if True else self.call", EVERYTHING),
        ('dy if self.needs["residual"] else None', "2 * dy", EVERYTHING),
        ("d_scale = (summed * products)", "d_scale = (dy * products)", EVERYTHING),
        ("            dy = (dy * self.scale.view(", "            dy = (dy * self.scale.abs().view(", EVERYTHING),
        ("(dy.dim() - 2))).to(dy.dtype)", "(dy.dim() - 2)))", WIDE_SCALE),
        ("self.scale.dtype == wide(self.x) != self.x.dtype:", "False:", WIDE_SCALE),
        ('scale=named.pop("scale"), bias=named.pop("bias"))', 'scale=named.pop("scale"))', WIDE_SCALE),
        ("is_both = problem.C_out == 1 or math", "is_both = math", FORMATS),
        ("math.prod(problem.output_size) == 1 or 0", "0", FORMATS),
        (" or 0 in problem.output_shape", "", FORMATS),
        ("return self.row is None or not is_both", "return not is_both", FORMATS),
        ('terms.append(self.call(values | {"scale": scale}))', "pass", EVERYTHING),
        ('of_filters = ("w", "b", "scale")', 'of_filters = ("w", "b")', EVERYTHING),
        (
            "d_t = operators.convolution(g, self.w, *NONE,",
            "d_t = operators.convolution(getattr(self, name), self.w, *NONE,",
            f"{GRADS}::test_conv2d",
        ),
        (
            "last = (False, self.channels_last, self.algorithm)",
            "last = (False, False, self.algorithm)",
            SECOND,
            "strides of a second gradient",
        ),
        (
            "last = (False, self.channels_last, self.algorithm)",
            'last = (False, self.channels_last, "auto")',
            "test_gradients_and_their_gradients_stay_in_the_algorithm",
        ),
        (
            "operators.convolution_wgrad(getattr(self, name), g, self",
            "operators.convolution_wgrad(g, g, self",
            f"{GRADS}::test_conv2d",
        ),
        ("            b = g_bias if self.bias else None\n", "            b = None\n", f"{GRADS}::test_conv2d {SECOND}"),
        (
            "            last = (self.channels_last, self.algorithm)\n            d_x",
            "            last = (False, self.algorithm)\n            d_x",
            SECOND,
        ),
        (
            "d_x = operators.convolution_dgrad(self.dy, g,",
            "d_x = operators.convolution_dgrad(self.dy, g.abs(),",
            f"{GRADS}::test_second_gradients_in_any_strides",
        ),
        (
            "        if self.needs[name]:\n",
            "        if True:\n",
            "test_second_gradients_are_computed_where_they_are_asked_for",
        ),
        (
            '        if self.needs["x"]:\n            last',
            "        if True:\n            last",
            "test_second_gradients_are_computed_where_they_are_asked_for",
        ),
        ("super().flops() * self.groups", "super().flops()", f"{OPS}::test_flops_are_counted_as_torchs"),
        (
            "conv = problem[0] if isinstance(problem, tuple) else problem  # with",
            "conv = problem  # with",
            f"{OPS}::test_flops_are_counted_as_torchs",
        ),
        (
            "return dw, self.dy.new_empty(problem.C_out if self.bias else 0)",
            "return dw, self.dy.new_empty(problem.C_out)",
            f"{OPS}::test_a_bias_gradient_not_asked_for_is_empty",
        ),
        *(
            (f"require_algorithm(self.algorithm)\n{after}", f"pass\n{after}", "tests/test_errors.py")
            for after in ('        name = f"conv{', '        require_tensors(f"conv_transpose')
        ),
        ("if self.row is None or self.row.passes is None:", "if self.row is None:", EPILOGUE),
        ("(*conv.output_shape[:2], *pool.output_size), self", "conv.output_shape, self", POOLS),
        (
            "for dtype in (None, pool.argmax_dtype))",
            "for dtype in (None, torch.uint8))",
            f"{FUSED}::test_more_places_than_a_byte_names",
        ),
        (
            '("scale",)), "argmax"',
            '("scale",)), "argmax", "y"',
            f"{FUSED}::test_pooled_backward_keeps_one_byte_an_output",
        ),
        ("argmax, size, *self.pool, self.channels_last)", "argmax, size, *self.pool, False)", SECOND),
        (
            '(shape, self.w.shape, None, *self.window)\n        require_shape("dy", self.dy, problem.output_shape)\n',
            "(shape, self.w.shape, None, *self.window)\n",
            SHAPES,
        ),
    ],
)
OTHERS = [
    *faults(
        "tritonconv/ops/pool.py",
        POOL,
        [
            ("shape if self.return_indices else (0,)", "shape", f"{OPS}::test_indices_not_asked_for_are_empty"),
            (
                "indices if self.return_indices else None, problem)",
                "indices, problem)",
                "test_indices_are_made_only_when_asked_for",
            ),
            (
                "self.empty(self.x, shape, problem.argmax_dtype), indices",
                "self.empty(self.x, shape, torch.uint8), indices",
                "test_many_places",
            ),
            ('require_shape("dy", self.dy, self.argmax.shape)\n', "pass\n", SHAPES),
            (
                'require_shape("x", self.x, (*self.argmax.shape[:2], *self.x.shape[2:]))\n',
                "pass\n",
                SHAPES,
            ),
            (
                "covered_problem(self.input_size, self.argmax.shape[2:], *self.window)",
                "covered_problem(self.argmax.shape[2:], self.argmax.shape[2:], *self.window)",
                "test_layout",
            ),
            (
                "return (operators.max_pool_gather(gradients[0], self.argmax, *self.window, self.channels_last),)",
                "return (operators.max_pool_gather(gradients[0], self.argmax, *self.window, False),)",
                SECOND,
            ),
            (
                'require_shape("dy", self.dy, (*self.dy.shape[:2], *problem.output_size))\n',
                "pass\n",
                SHAPES,
            ),
            ('require_shape("dy", self.dy, self.indices.shape)\n', "pass\n", SHAPES),
            ('require_shape("x", self.x, (*self.indices.shape[:2], *self.x.shape[2:]))\n', "pass\n", SHAPES),
            (
                "operators.adaptive_max_pool_gather(gradients[0], self.indices, self.channels_last)",
                "2 * operators.adaptive_max_pool_gather(gradients[0], self.indices, self.channels_last)",
                f"{GRADS}::test_adaptive_max_pool2d",
            ),
            (
                "return (operators.average_pool(*gradients, *self.average),)",
                "return (2 * operators.average_pool(*gradients, *self.average),)",
                f"{GRADS}::test_avg_pool2d",
            ),
            (
                "torch.where(outer == 0, 0.0, dy",
                "torch.where(outer != outer, 0.0, dy",
                "test_lp_norm_of_zeros_has_no_gradient",
            ),
            (
                "self.x.to(wide(self.x))",
                "self.x",
                "test_lp_norm_of_half_precision_does_not_overflow",
            ),
            (
                "(0,) * len(self.kernel), self.ceil_mode, True, None)",
                "(0,) * len(self.kernel), False, True, None)",
                "test_lp_norm_is_torchs",
            ),
        ],
    ),
    *faults(
        "tritonconv/ops/elementwise.py",
        POOL,
        [
            ("return (empty_elementwise(self.x),)", "return (self.x.new_empty(self.x.shape),)", "test_relu_is_torchs"),
            ('return ("y",) if self.row.saves == "output" else ("x",)', 'return ("y",)', KEEPS),
            (
                'return ("y",) if self.row.saves == "output" else ("x",)',
                'return ("x",)',
                "test_relu_keeps_only_its_output",
            ),
            ("d_dy = operators.activate_backward(g, self.x_or_y, self.activation)", "d_dy = g", f"{GRADS}::test_relu"),
            ('require_shape("dy", self.dy, self.x_or_y.shape)\n', "pass\n", SHAPES),
        ],
    ),
    *faults(
        "tritonconv/ops/patches.py",
        "tests/test_identities.py",
        [
            (
                'return (operators.fold(*gradients, self.shapes["x"][2:], *self.how),)',
                "return (operators.fold(*gradients, gradients[0].shape[2:], *self.how),)",
                f"{GRADS}::test_unfold",
            ),
            (
                "return (operators.unfold(*gradients, *self.how),)",
                "return (2 * operators.unfold(*gradients, *self.how),)",
                f"{GRADS}::test_fold",
            ),
            ('require_tensors("fold", input=self.columns)\n', "pass\n", "tests/test_errors.py"),
            (
                "self.empty(t, shape) if self.keeps_format else",
                "self.empty(t, shape) if True else",
                "tests/test_layers.py::test_folding_is_contiguous_whatever_the_strides",
            ),
            (
                "self.empty(t, shape) if self.keeps_format else",
                "self.empty(t, shape) if False else",
                "tests/test_layers.py::test_shuffling_keeps_the_memory_format",
            ),
        ],
    ),
    *faults(
        "tritonconv/functional/conv.py",
        CONV,
        [
            ('algorithm, activation="relu")\n', "algorithm, activation=None)\n", DEAD),
            ("(*pool, ceil_mode))", "(*pool, False))", POOLS),
            (
                "tuple(weight.shape[2:]), steps, spread), spread, groups",
                "tuple(weight.shape[2:]), steps, (1,) * rank), spread, groups",
                "test_named_case",
            ),
            (
                "for pad in (p, p - a)]",
                "for pad in (p, p)]",
                "tests/test_layers.py::test_it_computes_what_torch_computes",
            ),
        ],
    ),
    *faults(
        "tritonconv/functional/pool.py",
        POOL,
        [
            (
                "    if len(given) == 1 != rank:",
                "    if len(given) == 0:",
                "tests/test_errors.py",
            ),
            (
                "isinstance(norm_type, torch.Tensor) and norm_type.requires_grad",
                "False",
                "test_lp_norm_says_that_its_norm_gets_no_gradient",
            ),
            (
                "sign = math.copysign(1, norm_type)",
                "sign = 1",
                "test_lp_norm_at_its_limits_is_the_largest_and_the_smallest_magnitude",
            ),
            (
                "operators.max_pool(x, *sliding, ceil_mode, return_indices)",
                "operators.max_pool(x, *sliding, False, return_indices)",
                "test_same_as_torch",
            ),
            ("indices.squeeze(0) if return_indices else indices\n", "indices\n", POOL),
            (
                "*sliding, ceil_mode, count_include_pad, divisor_override)",
                "*sliding, ceil_mode, count_include_pad, None)",
                "test_average_is_torchs",
            ),
            ("kernel, steps, ceil_mode)", "kernel, steps, False)", "test_lp_norm_is_torchs"),
        ],
    ),
    *faults(
        "tritonconv/functional/activation.py",
        POOL,
        [("return input.copy_(y) if inplace else y", "return y", "test_relu_in_place")],
    ),
    *faults(
        "tritonconv/functional/arguments.py",
        POOL,
        [(" and not (isinstance(stride, Sequence) and not stride)", "", POOL)],
    ),
    *faults(
        "tritonconv/functional/patches.py",
        CONV,
        [
            (
                "return kernel, steps, (pads[0], pads[0], pads[1], pads[1]), spread",
                "return kernel, steps, (pads[0], pads[1], pads[0], pads[1]), spread",
                PATCHES,
            ),
            ("    return columns.squeeze(0) if unbatched else columns", "    return columns", PATCHES),
            (
                "    y = operators.fold(columns.unflatten(2,",
                "    y = operators.fold(columns.contiguous().unflatten(2,",
                "tests/test_identities.py::test_fold_reads_its_columns_in_place",
                "a copy",
            ),
        ],
    ),
    *faults(
        "tritonconv/functional/resample.py",
        "tests/test_resample.py",
        [
            ('if recompute_scale_factor or mode == "area":', 'if mode == "area":', "test_mode_is_torchs"),
            ('(0 if mode == "area" else 1)', "0", "tests/test_errors.py"),
            (
                "isinstance(length, torch.Tensor) and torch.jit.is_tracing()",
                "False",
                "tests/test_nn.py::test_a_jit_trace_serves_other_sizes",
            ),
            ("torch.sym_int(length", "int(length", "tests/test_nn.py::test_an_export_by_a_scale_serves_other_sizes"),
            ("    if any(isinstance(value, str) for value in values):", "    if False:", "tests/test_errors.py"),
            ("except (ValueError, OverflowError) as error", "except ValueError as error", "tests/test_errors.py"),
            ("bool(align_corners), bool(antialias))", "False, bool(antialias))", "test_mode_is_torchs"),
            (
                "        scales = (0.0,) * rank  # torch copies",
                "        pass  # torch copies",
                "test_a_scale_that_leaves_the_size_leaves_the_image",
            ),
        ],
    ),
    *faults(
        "tritonconv/ops/resample.py",
        "tests/test_resample.py",
        [
            ('return self.mode != "area"', "return True", "test_channels_last_along_three_axes"),
            ("tuple(axis.turned for axis in axes)", "axes", "test_mode_is_torchs"),
            (
                'self.shapes["dy"][2:], *self.how),)',
                'self.shapes["dy"][2:], "area", *self.how[1:]),)',
                f"{GRADS}::test_interpolate",
            ),
        ],
    ),
]

PLANNED = [
    *faults(
        "tritonconv/ops/operator.py",
        PLANS,
        [
            (
                "key = plan.key(tensors, (types, *values[count:]))",
                "key = plan.key(tensors, values[count:])",
                ANOTHER_TYPE,
            ),
            (" if PLAIN.issuperset(types[:count]) else None", "", "test_a_subclass_stays_one"),
            ("if is_cast and _is_any_autocast_enabled():", "if False:", TRANSFORMED_CALL),
            ("            calls_seen.append((known, tensors, outputs))\n", "            pass\n", STRAIGHT),
            (
                "            ctx.set_materialize_grads(False)",
                "            pass",
                "test_nothing_is_filled_for_an_argmax",
                "zeros for an argmax",
            ),
            (
                "[known.plan.gradient(i) if g is None else g for i, g",
                "[g for i, g",
                "test_a_result_that_nothing_depends_on_has_no_gradient",
            ),
            ("else found.whole(found.run(tensors))", "else found.run(tensors)", OPS),
        ],
    ),
    *faults(
        "tritonconv/ops/shortcuts.py",
        PLANS,
        [
            ("        or _len_torch_dispatch_stack()\n", "", WATCHED),
            ("        or _profiler_enabled()\n", "", WATCHED),
            ("        or forward_ad._current_level >= 0\n", "", TRANSFORMED_CALL),
            ("self.eager(self, *tensors) if self.is_wanted", "self.eager(self, *tensors) if False", SAME),
            ("if not is_plain() or _is_any_autocast_enabled():", "if not is_plain():", TRANSFORMED_CALL),
            ("if not is_plain() or _is_any_autocast", "if _is_any_autocast", WATCHED),
            ("others: list[Any] = [*kwargs]", "others: list[Any] = []", "test_keywords_are_told_apart"),
            ("            others.append(kind)\n", "", ANOTHER_TYPE),
            ("others += value, *map(type, value)", "others.append(value)", ANOTHER_TYPE),
            (
                "        if len(set(map(id, tensors))) == len(tensors):",
                "        if True:",
                "test_two_tensors_that_were_one",
                "one tensor for two",
            ),
            ("if not calls_seen or calls_seen[0][0] is None:", "if calls_seen[0][0] is None:", STRAIGHT),
            ("if not calls_seen or calls_seen[0][0] is None:", "if not calls_seen:", STRAIGHT),
            ("[*range(len(tensors))] else places", "[*range(len(given))] else places", STRAIGHT),
            ("itemgetter(*answers)", "itemgetter(*range(len(answers)))", STRAIGHT),
            ("    if len(table) >= plan.MOST:\n        table.clear()\n", "", "test_no_more_plans_than_are_kept"),
        ],
    ),
    *faults(
        "tritonconv/ops/plan.py",
        PLANS,
        [
            (
                "    if results[0].numel() == 0:",
                "    if False:",
                f"{PLANS}::test_an_empty_answer_is_a_tensor_each_time",
            ),
            ("t.stride(), dtype, t.get_device(), address % 16", "dtype, t.get_device(), address % 16", HOLDS),
            ("t.get_device(), address % 16, t", "t.get_device(), t", HOLDS),
            ("parts += t.shape, t.stride(), dtype,", "parts += t.shape, t.stride(),", HOLDS),
            (
                "        parts.append(_precision())\n",
                "        pass\n",
                "test_the_precision_of_products_is_asked_for_each_time",
            ),
            ("    parts = [number, *others]\n", "    parts = [number]\n", HOLDS),
            ("    parts = [number, *others]\n", "    parts = [*others]\n", HOLDS),
            ("address % 16, t.requires_grad", "address % 16", HOLDS),
            (" or jit.recorded() is not None:", ":", HOLDS),
            (" or t.is_neg():", ":", "test_what_lies_in_memory_negated"),
            ("        except RuntimeError:", "        except ValueError:", f"{TRANSFORMS}::test_gradcheck"),
            (
                "[None if t is None else t.detach() for t in tensors]",
                "[*tensors]",
                "test_two_tensors_that_were_one",
            ),
            ("len(owners) != 1 or", "", "test_two_tensors_that_were_one"),
            ("self.offset // t.element_size()", "0", "test_a_view_of_an_argument_is_found_again"),
            ("elif func._schema.is_mutable or not", "elif not", "test_what_does_more_than_launch_has_no_plan"),
            (" or storage(out) not in self.known:", ":", "test_what_does_more_than_launch_has_no_plan"),
            ("if self.is_floating[number] else None", "", "test_nothing_is_filled_for_an_argmax"),
        ],
    ),
    *faults(
        "tritonconv/jit.py",
        "tests/test_launch_path.py",
        [
            ("data_ptr() + offset\n", "data_ptr()\n", "test_a_splits_sums_lie_one_behind_the_other"),
            ("self.onto.get(stream)", "self.onto.get(0)", CHANGES),
            ("        if not (launcher.global_scratch_size or", "        if not (False or", CHANGES),
            ("        if runtime.launch_enter_hook.calls or", "        if False or", CHANGES),
        ],
    ),
]

FAULTS: list[Fault] = [*REGISTRATION, *PLANNED, *CONVOLUTION, *PADDED, *UNPOOLED, *TRANSFORMED, *OTHERS]
