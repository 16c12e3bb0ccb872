"""Faults of convert and of the modules."""

from tests.faults.fault import Fault, faults

CONVERT = faults(
    "tritonconv/convert.py",
    "tests/test_convert.py",
    [
        # what is decided
        (
            "if place in rows or module in listed:",
            "if module in listed:",
            "test_a_chain_is_fused_and_indices_and_keys_stay",
            "a fused layer is listed as swapped",
        ),
        (
            "if place in rows or module in listed:",
            "if place in rows:",
            "test_a_shared_convolution_is_swapped_not_fused",
        ),
        (
            "return Report(tuple(rows[place] for place in places if place in rows))",
            "return Report(tuple(rows.values()))",
            "test_rows_stand_in_the_models_order",
            "fused layers before all others",
        ),
        (
            '_join("tritonconv\'s already", unfused.get(module, ""))',
            '"tritonconv\'s already"',
            "test_a_layer_of_ours_that_is_not_fused_is_told_why",
        ),
        (
            '_name(SWAPS[kind]), unfused.get(module, ""))',
            "_name(SWAPS[kind]))",
            "test_a_custom_forward_is_swapped_and_not_fused",
        ),
        (
            "modules = dict(model.named_modules(remove_duplicate=False))",
            "modules = dict(model.named_modules())",
            "test_a_shared_convolution_is_swapped_not_fused",
        ),
        (
            "if (parent, slot) not in entered:",
            "if name not in entered:",
            "test_a_container_registered_twice_is_converted_once",
        ),
        # what is left
        (
            "for name, module in model.named_modules(remove_duplicate=False):",
            "for name, module in model.named_modules():",
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
            '"torch.nn.modules.conv", "torch.nn.modules.pooling", "torch.nn.modules.fold")',
            '"torch.nn.modules.conv", "torch.nn.modules.pooling")',
            "test_a_layer_is_left_with_a_reason",
        ),
        ("if kind not in (*SWAPS, *OURS):", "if kind not in SWAPS:", "test_converting_twice_changes_nothing_more"),
        ('if "forward" in vars(module):', 'if "forward" in vars(kind):', "test_a_layer_is_left_with_a_reason"),
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
        # what is fused
        (
            "if registered[conv.module] > 1:",
            "if registered[conv.module] > 2:",
            "test_a_shared_convolution_is_swapped_not_fused",
        ),
        (
            "_obstacle(conv, left) or _obstacle(following[0], left)",
            "_obstacle(following[0], left)",
            "test_a_layer_with_a_hook_is_not_fused",
        ),
        (
            "reason := _obstacle(following[1], left)",
            "reason := _obstacle(following[0], left)",
            "test_pooling_that_returns_indices_is_swapped_not_fused",
        ),
        (
            "not isinstance(following[0].module, torch.nn.ReLU)",
            "type(following[0].module) is not torch.nn.ReLU",
            "test_what_was_only_swapped_can_be_fused_later",
        ),
        (
            "not isinstance(following[1].module, torch.nn.MaxPool2d)",
            "type(following[1].module) is not torch.nn.MaxPool2d",
            "test_a_chain_of_both_houses_is_fused",
        ),
        (
            "if type(conv.module) not in (torch.nn.Conv2d, nn.Conv2d) or",
            "if type(conv.module) is not torch.nn.Conv2d or",
            "test_a_chain_of_both_houses_is_fused",
        ),
        ("row[i + 1 : i + 3]", "row[i + 1 : i + 2]", "test_a_chain_is_fused_and_indices_and_keys_stay"),
        (
            "type(place.parent) is torch.nn.Sequential and",
            "isinstance(place.parent, torch.nn.Sequential) and",
            "test_a_sequential_that_may_run_its_layers_in_another_way_is_not_fused",
        ),
        (
            ' and "forward" not in vars(place.parent):',
            ":",
            "test_a_sequential_that_may_run_its_layers_in_another_way_is_not_fused",
        ),
        ('key.endswith("_hooks")', 'key.endswith("forward_hooks")', "test_a_layer_with_a_hook_is_not_fused"),
        (
            "torch.nn.MaxPool2d) and module.return_indices:",
            "torch.nn.MaxPool2d):",
            "test_a_chain_is_fused_and_indices_and_keys_stay",
        ),
        (
            "[*module.parameters(), *module.buffers(), *module.children()]",
            "[*module.parameters(), *module.buffers()]",
            "test_a_relu_with_a_state_keeps_it",
        ),
        (
            "[*module.parameters(), *module.buffers(), *module.children()]",
            "[*module.parameters(), *module.children()]",
            "test_a_relu_with_a_state_keeps_it",
        ),
        # what is applied
        ("if len(self.absorbed) == 1 else", "if self.absorbed else", "test_a_chain_is_fused_and_indices_and_keys_stay"),
        (
            "= absorbed.padding, absorbed.dilation",
            "= absorbed.dilation, absorbed.padding",
            "test_every_argument_of_the_layers_survives_fusion",
        ),
        (
            "conv.ceil_mode = absorbed.ceil_mode",
            "conv.ceil_mode = False",
            "test_every_argument_of_the_layers_survives_fusion",
        ),
        (
            "torch.nn.Identity().train(absorbed.training)",
            "torch.nn.Identity()",
            "test_modes_dtypes_copies_and_state_dicts_go_on_working",
        ),
        # what is told
        (
            "into = sum(row.after != IDENTITY for row in self.fused)",
            "into = len(self.fused)",
            "test_the_report_is_a_table",
        ),
        ("max(len(line[column]) for line in lines)", "len(lines[0][column])", "test_the_report_is_a_table"),
        ("filter(None, reasons)", "reasons", "test_the_report_is_a_table"),
    ],
)

MODULES = faults(
    "tritonconv/nn.py",
    "tests/test_nn.py",
    [
        ("        require_algorithm(algorithm)\n", "", "test_an_unknown_algorithm_is_named"),
        ("        self.algorithm = algorithm\n", "", "test_algorithm_reaches_the_operator"),
        (
            '    algorithm: str = "auto"  # on',
            "    algorithm: str  # on",
            "test_an_object_that_never_saw_our_constructor_has_an_algorithm",
        ),
        (
            "dilation, groups, bias, padding_mode, device, dtype\n",
            "dilation, groups, bias, padding_mode, dtype=dtype\n",
            "test_parameters_are_made_on_the_device_and_in_the_dtype_asked_for",
            "device",
        ),
        (
            "*sizes, bias, padding_mode, device, dtype,",
            "*sizes, bias, padding_mode, None, dtype,",
            "test_parameters_are_made_on_the_device_and_in_the_dtype_asked_for",
            "device of the fused layer",
        ),
        (
            "        self._require_zeros()\n        window",
            "        window",
            "test_a_padding_mode_set_later_is_not_ignored",
        ),
        (
            "functional.conv2d, input, weight, bias)",
            "functional.conv2d, input, self.weight, bias)",
            "test_a_subclass_that_prepares_its_parameters_runs_on_our_kernels",
        ),
        (
            "functional.conv2d, input, weight, bias)",
            "functional.conv2d, input, weight, self.bias)",
            "test_a_subclass_that_prepares_its_parameters_runs_on_our_kernels",
        ),
        (
            "functional.conv2d_bias_relu, input, weight, bias)",
            "functional.conv2d_bias_relu, input, self.weight, bias)",
            "test_a_subclass_that_prepares_its_parameters_runs_on_our_kernels",
        ),
        (
            "window = (self.stride, self.padding, self.dilation, self.groups)",
            "window = (self.stride, self.padding, self.stride, self.groups)",
            "test_every_argument_reaches_the_operator",
        ),
        (
            "*tensors, *window, **pool, algorithm=self.algorithm)",
            "*tensors, *window, **pool)",
            "test_algorithm_reaches_the_operator",
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
            "self.dilation, self.ceil_mode, self.return_indices",
            "self.dilation, False, self.return_indices",
            "test_every_pooling_argument_reaches_the_operator",
        ),
        (
            "functional.relu(input, inplace=self.inplace)",
            "functional.relu(input)",
            "test_relu_writes_where_torch_writes",
        ),
        (
            'shown if self.algorithm == "auto" else',
            "shown if True else",
            "test_repr_names_what_torch_does_not_have",
        ),
    ],
)

FAULTS: list[Fault] = [*CONVERT, *MODULES]
