"""Faults of convert and of the modules."""

from tests.faults.fault import Fault, faults

CONVERTS = "tests/test_convert.py"

CONVERT = faults(
    "tritonconv/conversion.py",
    "tests/test_convert.py",
    [
        # what is left
        (
            "    for name, module in model.named_modules(remove_duplicate=False):",
            "    for name, module in model.named_modules():",
            "test_the_filter_is_asked_for_supported_layers_under_each_name",
        ),
        (
            "        if module in left:\n            continue",
            "        if module in left:\n            break",
            "test_a_layer_left_in_two_places_does_not_hide_the_next",
            "layers after one that is left and shared are not looked at",
        ),
        (
            "type(module) in (*SWAPS, *OURS) and not filter_fn(module, name)",
            "type(module) in SWAPS and not filter_fn(module, name)",
            "test_the_filter_is_asked_for_layers_that_are_ours_already",
            "the filter is not asked for a layer that is ours already",
        ),
        (
            '".quantized." in kind.__module__ and "Conv" in kind.__name__',
            '".quantized." in kind.__module__',
            "test_a_quantized_convolution_is_left",
        ),
        (
            "if any(base.__module__ in NOT_YET for base in kind.__mro__) else",
            "if kind.__module__ in NOT_YET else",
            "test_a_layer_is_left_with_a_reason",
            "a subclass of a layer that is not supported yet",
        ),
        (
            '("torch.nn.modules.conv", "torch.nn.modules.pooling")',
            '("torch.nn.modules.conv",)',
            "test_a_layer_is_left_with_a_reason",
        ),
        ("if kind not in (*SWAPS, *OURS):", "if kind not in SWAPS:", "test_converting_twice_changes_nothing_more"),
        ('if "forward" in vars(module) or', 'if "forward" in vars(kind) or', "test_a_layer_is_left_with_a_reason"),
        (
            ' or "_conv_forward" in vars(module):',
            ":",
            "test_a_layer_is_left_with_a_reason",
            "reported as swapped, though torch's function computes it",
        ),
        (
            "    if isinstance(module, LazyModuleMixin):",
            "    if kind is torch.nn.LazyConv1d:",
            "test_a_layer_is_left_with_a_reason",
        ),
        (
            "for name, parameter in conv.named_parameters(recurse=False):",
            'for name, parameter in [("weight", conv.weight)]:',
            "test_a_layer_is_left_with_a_reason",
            "the bias is not looked at",
        ),
        (
            "if type(parameter) is not torch.nn.Parameter:",
            "if not isinstance(parameter, torch.nn.Parameter):",
            "test_a_layer_is_left_with_a_reason",
        ),
        # what is swapped, and what is told of it
        ("in SWAPS and module not in left}", "in SWAPS}", "test_the_filter_leaves_a_layer"),
        (
            "        becoming = classes | swaps\n",
            "        becoming = classes\n",
            f"{CONVERTS}::test_a_chain_is_fused_when_it_is_called_and_its_layers_stay",
        ),
        (
            "    if fuse:\n        becoming",
            "    if True:\n        becoming",
            "test_without_fuse_layers_are_only_swapped",
        ),
        (
            'reasons.get(module, "") if fuse else ""))',
            'reasons.get(module, "")))',
            "test_without_fuse_layers_are_only_swapped",
        ),
        (
            '["tritonconv\'s already", reasons.get(module) if fuse else ""]',
            '["tritonconv\'s already"]',
            "test_a_layer_of_ours_that_is_not_fused_is_told_why",
        ),
        (
            ' or "forward" in vars(container):',
            ":",
            "test_a_sequential_whose_forward_was_replaced_is_not_fused",
        ),
        (
            "if isinstance(container, nn.Sequential) else 1",
            "if True else 1",
            "test_without_fuse_layers_are_only_swapped",
            "fused is what could be, not what is",
        ),
        ('obstacle and f"{_stage(layers[length])} not fused: {obstacle}"', '""', "test_the_filter_leaves_a_layer"),
        (
            "(other is FOLLOWS[one][0] or other in ACTIVATIONS)",
            "other is FOLLOWS[one][0]",
            "test_the_filter_leaves_a_layer",
        ),
        (
            "names, layers = names[length:], layers[length:]",
            "names, layers = names[length:], layers[1:]",
            "test_a_chain_is_fused_when_it_is_called_and_its_layers_stay",
        ),
        (
            "partly.get(conv, alone.get(conv, elsewhere))",
            "alone.get(conv, elsewhere)",
            "test_the_filter_leaves_a_layer",
        ),
        (
            "zip(names[:length], layers, strict=False)",
            "zip(names[:0], layers)",
            "test_a_layer_with_a_hook_is_not_fused",
        ),
        ('return "" if length > 1 else "nothing follows"', 'return ""', "test_a_convolution_at_the_end_is_told_so"),
        (
            "        if layer in left:\n            return",
            "        if False:\n            return",
            "test_the_filter_leaves_a_layer",
        ),
        ('not in ("torch", "tritonconv") and', "and", "test_a_forward_that_calls_torchs_functions_is_told"),
        ("len(names) < 4 else", "True else", "test_many_equal_rows_and_containers_are_one_line"),
        ("len(names) - 2} more", "len(names)} more", "test_many_equal_rows_and_containers_are_one_line"),
        ("max(len(line[column]) for line in lines)", "len(lines[0][column])", "test_the_report_is_a_table"),
        # and back
        ('            vars(module).pop("algorithm", None)\n', "", "test_restore_undoes_it"),
        ("module.__class__ = plain(kind)", "pass", "test_restore_undoes_it"),
        ("        elif isinstance(module, OURS):", "        elif False:", "test_restore_names_what_it_leaves"),
        (
            'is_changed = hasattr(module, "parametrizations")',
            "is_changed = False",
            "test_a_converted_layer_can_be_parametrized",
        ),
    ],
)
PATCHING = faults(
    "tritonconv/patching.py",
    "tests/test_patching.py",
    [
        ('kwargs | {"return_indices": True}', "kwargs", "test_a_block_runs_on_our_kernels_and_gives_torchs_answer"),
        (
            "_relu_ = functools.partial(functional.relu, inplace=True)",
            "_relu_ = functional.relu",
            "test_relu_in_place_writes_where_torch_writes",
        ),
        (
            'torch.Tensor: {"relu": functional.relu,',
            'torch.Tensor: {"unfold": functional.unfold, "relu": functional.relu,',
            "test_other_functions_are_torchs",
        ),
        (
            "        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]\n",
            "",
            "test_calls_are_found_in_code",
        ),
        (
            "            else:\n                value = None\n",
            "",
            "test_calls_are_found_in_code",
            "an attribute of something else",
        ),
    ],
)

NN = "tests/test_nn.py"
LAYERS, EPILOGUES = "tests/test_layers.py", "tests/test_epilogue.py"
APART = f"{EPILOGUES}::test_a_batch_norm_stays_apart_while_it_trains_or_a_gradient_is_wanted"

CONTAINER = faults(
    "tritonconv/nn/container.py",
    NN,
    [
        (
            "(torch.is_grad_enabled() or torch.jit.is_tracing())",
            "torch.is_grad_enabled()",
            "test_a_jit_trace_gives_the_same_and_passes_its_check",
        ),
        (
            "    if type(conv) not in FOLLOWS or why_watched(conv):",
            "    if type(conv) not in FOLLOWS:",
            f"{CONVERTS}::test_a_layer_with_a_hook_is_not_fused",
        ),
        (
            "lambda layer: not why_watched(layer), layers[1:4]",
            "lambda layer: True, layers[1:4]",
            f"{EPILOGUES}::test_a_hook_on_what_follows_is_met",
        ),
        (
            "    Conv3d: (torch.nn.BatchNorm3d, MaxPool3d),\n",
            "",
            f"{LAYERS}::test_a_chain_is_fused_along_every_number_of_axes",
        ),
        (
            "    Conv1d: (torch.nn.BatchNorm1d, MaxPool1d),\n",
            "    Conv1d: (torch.nn.BatchNorm1d, MaxPool2d),\n",
            f"{LAYERS}::test_a_chain_is_fused_along_every_number_of_axes",
        ),
        ("not (has_gradient or is_cast)", "not is_cast", APART),
        (
            'if row.saves == "output" or not has_gradient:',
            "if True:",
            f"{EPILOGUES}::test_what_reads_its_input_stays_apart_where_a_gradient_is_wanted",
        ),
        (" is pools and row.passes is not None", " is pools", f"{EPILOGUES}::test_a_sequential_fuses_what_follows"),
        (
            "is_pooled and not (is_cast and conv.rank == 3)",
            "is_pooled",
            f"{EPILOGUES}::test_pooling_in_float32_under_autocast_stays_apart",
        ),
        ("    if norm.training or norm.running_mean", "    if norm.running_mean", APART),
        (
            "(has_gradient or is_cast)",
            "has_gradient",
            f"{EPILOGUES}::test_a_batch_norm_in_another_dtype_or_under_autocast_stays_apart",
        ),
        (
            "    return is_one and",
            "    return",
            f"{EPILOGUES}::test_a_batch_norm_in_another_dtype_or_under_autocast_stays_apart",
        ),
        (
            "({conv.weight.dtype}, {wide(conv.weight)})",
            "({conv.weight.dtype},)",
            f"{EPILOGUES}::test_a_batch_norm_is_not_rounded_to_16_bits",
        ),
        (
            " and input.dim() != conv.rank + 2:",
            " and input.dim() == 0:",
            f"{EPILOGUES}::test_a_batch_norm_of_an_unbatched_input_is_torchs",
        ),
        (
            '"gelu" if layer.approximate == "none" else "gelu_tanh"',
            '"gelu"',
            f"{EPILOGUES}::test_a_sequential_fuses_what_follows",
        ),
        *(
            (f'state["_{kind}_hooks"]', "False", f"{CONVERTS}::test_a_layer_with_a_hook_is_not_fused")
            for kind in ("forward_pre", "forward", "backward_pre", "backward")
        ),
        (
            'if "forward" in state or "_conv_forward" in state:',
            'if "forward" in state:',
            f"{CONVERTS}::test_a_layer_whose_forward_was_replaced_keeps_it_and_the_relu_after_it",
        ),
        (
            'if "forward" in state or "_conv_forward" in state:',
            'if "_conv_forward" in state:',
            f"{CONVERTS}::test_a_layer_whose_forward_was_replaced_keeps_it_and_the_relu_after_it",
        ),
        ('    if state.get("_compiled_call_impl"):', "    if False:", "test_a_layer_compiled_by_itself_is_called"),
        (
            '    if state.get("return_indices"):',
            "    if False:",
            f"{CONVERTS}::test_pooling_that_returns_indices_is_swapped_not_fused",
        ),
        (
            "    if torch.nn.modules.module._has_any_global_hook():",
            "    if False:",
            f"{CONVERTS}::test_a_hook_for_all_modules_meets_every_layer",
        ),
        (
            "return _methods() != _METHODS and not torch.compiler.is_exporting()",
            "return False",
            f"{CONVERTS}::test_a_method_replaced_in_a_class_is_called",
        ),
        (" and not torch.compiler.is_exporting()", "", "test_an_exported_sequential_is_fused"),
        (
            'for name in ("forward", "__iter__", "__call__")):',
            'for name in ("forward", "__call__")):',
            f"{CONVERTS}::test_a_sequential_that_may_do_something_else_is_not_fused",
        ),
        (
            'for name in ("forward", "__iter__", "__call__")):',
            'for name in ("__iter__", "__call__")):',
            f"{CONVERTS}::test_a_sequential_that_may_do_something_else_is_not_fused",
        ),
        (
            'special = ("__reduce__", "__reduce_ex__", "__init_subclass__")',
            'special = ("__reduce_ex__", "__init_subclass__")',
            f"{CONVERTS}::test_a_sequential_that_may_do_something_else_is_not_fused",
        ),
        (
            'special = ("__reduce__", "__reduce_ex__", "__init_subclass__")',
            'special = ("__reduce__", "__reduce_ex__")',
            f"{CONVERTS}::test_a_sequential_that_may_do_something_else_is_not_fused",
        ),
        (
            "    made = fusing(kind) or kind\n",
            "    made = kind\n",
            f"{CONVERTS}::test_a_subclass_of_sequential_with_its_forward_is_fused",
        ),
    ],
)

CONVOLUTIONS = faults(
    "tritonconv/nn/conv.py",
    NN,
    [
        (
            "pool.padding, pool.dilation)",
            "pool.dilation, pool.padding)",
            f"{CONVERTS}::test_every_argument_of_the_layers_survives_fusion",
        ),
        (
            "(*window, pool.ceil_mode)",
            "(*window, False)",
            f"{CONVERTS}::test_every_argument_of_the_layers_survives_fusion",
        ),
        ("        require_algorithm(algorithm)\n", "", "test_an_unknown_algorithm_is_named"),
        ("        self.algorithm = algorithm\n", "", "test_algorithm_reaches_the_operator"),
        (
            '    algorithm: Algorithm = "auto"  # on',
            "    algorithm: Algorithm  # on",
            "test_an_object_that_never_saw_our_constructor_has_an_algorithm",
        ),
        (
            "super().__init__(*arguments)",
            "super().__init__(*arguments[:-2], None, arguments[-1])",
            "test_parameters_are_made_on_the_device_and_in_the_dtype_asked_for",
            "device",
        ),
        ('"groups", "padding_mode", "algorithm")', '"groups", "algorithm")', "test_a_padding_mode_may_be_set_later"),
        (
            '(functional, f"conv{self.rank}d")(input, weight, bias,',
            '(functional, f"conv{self.rank}d")(input, self.weight, bias,',
            "test_a_subclass_that_prepares_its_parameters_runs_on_our_kernels",
        ),
        (
            'd")(input, weight, bias,',
            'd")(input, weight, self.bias,',
            "test_a_subclass_that_prepares_its_parameters_runs_on_our_kernels",
        ),
        (
            "functional.conv2d_bias_relu(input, weight, bias,",
            "functional.conv2d_bias_relu(input, self.weight, bias,",
            "test_a_subclass_that_prepares_its_parameters_runs_on_our_kernels",
        ),
        (
            '"dilation", "groups", "padding_mode",',
            '"groups", "padding_mode",',
            "test_every_argument_reaches_the_operator",
        ),
        (
            '"groups", "padding_mode", "algorithm")',
            '"groups", "padding_mode")',
            "test_algorithm_reaches_the_operator",
        ),
        *(
            (before, after, f"{EPILOGUES}::test_a_sequential_fuses_what_follows")
            for before, after in (
                ("activation=activation,\n", "activation=None,\n"),
                (".to(wide(norm.running_var)) + norm.eps", ".to(wide(norm.running_var))"),
                ("scale if norm.weight is None else scale * norm.weight", "scale"),
                ("shift if bias is None else torch.addcmul(shift, bias, scale)", "shift"),
                ("addcmul(norm.bias, mean, scale,", "addcmul(norm.bias, mean, torch.ones_like(scale),"),
                ("-mean * scale if", "-mean if"),
                ("torch.addcmul(norm.bias, mean, scale, value=-1)", "-mean * scale"),
            )
        ),
        (
            "norm.running_var.to(wide(norm.running_var))",
            "norm.running_var",
            f"{EPILOGUES}::test_a_batch_norm_is_not_rounded_to_16_bits",
        ),
        (
            "pool_kernel_size if pool_stride is None else pool_stride",
            "1 if pool_stride is None else pool_stride",
            "test_repr_names_what_torch_does_not_have",
        ),
        (
            '"pool_padding", "pool_dilation"',
            '"pool_dilation"',
            "test_every_pooling_argument_reaches_the_fused_operator",
        ),
        (
            '"pool_dilation", "ceil_mode")',
            '"pool_dilation")',
            "test_every_pooling_argument_reaches_the_fused_operator",
        ),
        (
            'shown if self.algorithm == "auto" else',
            "shown if True else",
            "test_repr_names_what_torch_does_not_have",
        ),
    ],
)

OTHER_LAYERS = [
    *faults(
        "tritonconv/nn/ours.py",
        "tests/test_convert.py",
        [
            (
                'return kind.__module__.startswith("tritonconv.nn.")',
                "return True",
                "test_a_subclass_of_sequential_with_its_forward_is_fused",
            ),
        ],
    ),
    *faults(
        "tritonconv/nn/ours.py",
        LAYERS,
        [
            (".parameters)[1:]", ".parameters)[2:]", "test_it_computes_what_torch_computes"),
        ],
    ),
    *faults(
        "tritonconv/nn/pool.py",
        LAYERS,
        [("indices, *window, output_size)", "indices, *window)", "test_unpooling_takes_what_pooling_gives")],
    ),
    *faults(
        "tritonconv/nn/resample.py",
        LAYERS,
        [("    antialias = False\n", "    antialias = True\n", "test_it_computes_what_torch_computes")],
    ),
]

FAULTS: list[Fault] = [*CONVERT, *PATCHING, *CONTAINER, *CONVOLUTIONS, *OTHER_LAYERS]
