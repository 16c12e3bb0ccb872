"""Faults of the interpreter, of its records, and of what chooses between it and the compiler."""

from tests.faults.fault import Fault, faults

LAUNCH = faults(
    "tritonconv/interpreter/__init__.py",
    "tests/test_jit.py",
    [
        # a record's key
        (
            "key = (fn, grid, sanitize_overflow,",
            "key = (fn, sanitize_overflow,",
            "test_a_record_belongs_to_its_sizes_and_not_to_its_tensors",
        ),
        (
            "key = (fn, grid, sanitize_overflow,",
            "key = (fn, grid,",
            "test_overflow_is_seen_when_asked_for",
        ),
        (
            "key = (fn, grid, sanitize_overflow,",
            "key = (grid, sanitize_overflow,",
            "test_a_record_belongs_to_its_sizes_and_not_to_its_tensors",
        ),
        (
            "return value.dtype if isinstance(value, torch.Tensor) else",
            "return None if isinstance(value, torch.Tensor) else",
            "test_a_record_belongs_to_its_sizes_and_not_to_its_tensors",
        ),
        ("(type(value), value)", "value", "test_a_record_belongs_to_its_sizes_and_not_to_its_tensors", "1, 1.0, True"),
        # how many are kept
        ("    _records.pop(key, None)\n", "", "test_records_hold_no_more_than_their_limit"),
        ("_records.popitem(last=False)", "_records.popitem()", "test_records_hold_no_more_than_their_limit"),
        (
            "    while sum(r.size for r in",
            "    if sum(r.size for r in",
            "test_records_hold_no_more_than_their_limit",
        ),
        # what is launched
        ("language.patched(sanitize_overflow)", "language.patched(False)", "test_overflow_is_seen_when_asked_for"),
        (
            "set_grid_idx(*index)",
            "set_grid_idx(*index[::-1])",
            "test_helpers_call_helpers tests/test_conv2d.py::test_small_tiles",
        ),
        ("np.array([next(number) <<", "np.array([0 * next(number) <<", "test_dot"),
        # what another launch in the middle of it leaves alone
        (
            "memory.tensors, recording.active, numpy_builder.grid_idx, numpy_builder.grid_dim = outer",
            "recording.active = None",
            "tests/test_threads.py::test_a_signal_handler_may_run_the_model_in_the_middle_of_a_launch",
        ),
    ],
)

ARRAYS = faults(
    "tritonconv/interpreter/arrays.py",
    "tests/test_jit.py",
    [
        ("np.uint32(0x7FFF)", "np.uint32(0x8000)", "test_bfloat16_rounds_to_nearest_even"),
        ("((bits >> 16) & 1)", "np.uint32(1)", "test_bfloat16_rounds_to_nearest_even"),
        (
            "np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))",
            "rounded.astype(np.uint16)",
            "test_bfloat16_rounds_to_nearest_even",
            "rounding carries a NaN of all ones over into -0",
        ),
    ],
)

BUILDER = faults(
    "tritonconv/interpreter/builder.py",
    "tests/test_jit.py",
    [
        ("if collapse(d.data).size > 1 or d.data.any():", "if collapse(d.data).size > 1:", "test_dot"),
        (
            "(self.cast_impl(t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b))",
            "(a, b)",
            "test_dot",
        ),
        (
            "max(1, ptr.get_element_ty().primitive_bitwidth // 8)",
            "ptr.get_element_ty().primitive_bitwidth // 8",
            "test_booleans_are_loaded_and_stored",
        ),
        (
            "return TensorHandle(expand(address, ptr.data.shape), ptr.dtype)",
            "return TensorHandle(address, ptr.dtype)",
            "test_one_place_read_under_a_mask",
        ),
        ("return TensorHandle(expand(out.data, shape), out.dtype)", "return out", "test_reductions"),
        ("& np.negative(take, dtype=bits)) ^ y", "& np.negative(take, dtype=bits)) ^ x", "test_broadcast_arithmetic"),
        (
            '("atomic_cas", "descriptor", "print")',
            '("atomic_cas", "descriptor")',
            "test_what_depends_on_memory_is_not_taken_for_a_constant",
        ),
        (
            "np.broadcast_to(np.True_, ptr.data.shape)",
            "np.broadcast_to(np.False_, ptr.data.shape)",
            "test_dot",
        ),
        (
            "float32_to_bfloat16(data.astype(np.float32))",
            "float32_to_bfloat16(data)",
            "test_casts_between_bfloat16_and_others",
        ),
    ],
)

LANGUAGE = faults(
    "tritonconv/interpreter/language.py",
    "tests/test_jit.py",
    [
        (
            "or axis is None or not fast:",
            "or axis is None:",
            "test_reductions",
            "a combination of the kernel's own",
        ),
        (
            "or isinstance(value, tuple) or axis is None",
            "or isinstance(value, tuple)",
            "test_reductions",
        ),
        ("if keep_dims or len(value.shape) > 1", "if len(value.shape) > 1", "test_reductions"),
        (
            "        interpreter.interpreter_builder = original\n",
            "        pass\n",
            "test_the_language_is_unpatched_after_a_launch_and_after_a_failure",
        ),
        (
            "in reversed(originals):",
            "in originals:",
            "test_the_language_is_unpatched_after_a_launch_and_after_a_failure",
        ),
        (
            "                delattr(owner, name)\n",
            "                setattr(owner, name, None)\n",
            "test_the_language_is_unpatched_after_a_launch_and_after_a_failure",
        ),
        (", debug=sanitize_overflow)", ")", "test_overflow_is_seen_when_asked_for"),
        (
            "key = (element_ty.name, tuple(map(operator.index, shape)))",
            "key = (element_ty.name, len(shape))",
            "test_broadcast_arithmetic",
        ),
        (
            "key = (element_ty.name, tuple(map(operator.index, shape)))",
            'key = ("", tuple(map(operator.index, shape)))',
            "test_broadcast_arithmetic",
        ),
        ("_tensor_attributes.get(type.name)", "_tensor_attributes.get(type.scalar.name)", "test_broadcast_arithmetic"),
    ],
)

MEMORY = faults(
    "tritonconv/interpreter/memory.py",
    "tests/test_jit.py",
    [
        ("ctypes.c_uint8 * ((last + 1)", "ctypes.c_uint8 * ((last + 2)", "test_access_outside_a_tensor_raises"),
        ("sum((size - 1) * stride for", "sum(size * stride for", "test_access_outside_a_tensor_raises"),
        (
            "largest >= tensors[tensor].size // dtype.itemsize",
            "largest >= tensors[tensor].size",
            "test_access_outside_a_tensor_raises",
        ),
        (
            "largest >= tensors[tensor].size // dtype.itemsize",
            "largest > tensors[tensor].size // dtype.itemsize",
            "test_access_outside_a_tensor_raises",
        ),
        (
            "if step == (0, 0) else",
            "if step[0] == 0 else",
            "test_one_place_read_under_a_mask",
            "one pointer, masks that differ",
        ),
        (
            'if act is load and collapse(vars(operand)["data"]).size == 1:',
            "if act is load:",
            "test_one_place_read_under_a_mask",
            "one pointer, values that differ where masked out",
        ),
        ("index = index * valid if", "index = index if", "test_access_outside_a_tensor_raises"),
        (
            "np.copyto(values, other.data if",
            "np.copyto(values, 0 * other.data if",
            "test_access_outside_a_tensor_raises",
        ),
        (
            "    if not valid.any():\n        return 0, dtype, np.empty(0, np.int32), None, shape\n",
            "",
            "test_access_outside_a_tensor_raises",
            "a tile that is all masked out",
        ),
        (
            "[index] = value.data if inside is None",
            "[index] = value.data.flat[0] if inside is None",
            "test_dot",
        ),
        (
            "np.maximum.at(tensors[tensor].view(dtype), index, values)",
            "tensors[tensor].view(dtype)[index] = values[::-1]",
            "tests/test_layers.py::test_of_several_pixels_at_one_index_the_last_is_kept",
        ),
    ],
)

RECORDING = faults(
    "tritonconv/interpreter/recording.py",
    "tests/test_jit.py",
    [
        (
            "        self.possible = False\n        self.instructions.clear()",
            "        self.instructions.clear()",
            "test_what_depends_on_memory_is_not_taken_for_a_constant",
        ),
        (
            "        if active is not None and not active.busy:\n            active.give_up()\n",
            "",
            "test_what_depends_on_memory_is_not_taken_for_a_constant",
        ),
        (
            "self.possible and (act or any(isinstance(a, Loaded) for a in args))",
            "self.possible and any(isinstance(a, Loaded) for a in args)",
            "test_a_record_belongs_to_its_sizes_and_not_to_its_tensors",
            "a constant that is stored",
        ),
        ("self.registers = 1  #", "self.registers = 0  #", "test_a_record_belongs_to_its_sizes_and_not_to_its_tensors"),
        ("            seen.update(step.last)\n", "", "test_a_replay_is_bit_for_bit_the_interpreted_launch"),
        (
            "                args = args.copy()\n",
            "",
            "test_a_records_size_is_what_it_holds",
            "a record holds what was loaded",
        ),
        ("                self.size += collapse(array).nbytes\n", "", "test_a_records_size_is_what_it_holds"),
        ("        self.size += INSTRUCTION_BYTES\n", "", "test_a_records_size_is_what_it_holds"),
        (
            "        if self.size > self.limit:\n            self.give_up()\n",
            "",
            "test_a_record_over_the_limit_is_given_up_while_it_is_made",
            "a launch too large to keep holds its constants until it ends",
        ),
        (
            "        if active is not None:\n            active.give_up()\n        return operation",
            "        return operation",
            "test_what_depends_on_memory_is_not_taken_for_a_constant",
        ),
    ],
)

JIT = faults(
    "tritonconv/jit.py",
    "tests/test_jit.py",
    [
        (
            "        with _lock:\n",
            "        with contextlib.nullcontext():\n",
            "test_one_launch_at_a_time",
            "two threads",
        ),
        ('kwargs.setdefault("enable_fp_fusion", True)', "kwargs", "test_interpreting_and_compiling_alternate"),
        ("return None if warmup else _interpret(", "return _interpret(", "test_warming_up_does_not_run"),
        (
            "        _recorded.reset(token)\n",
            "        _recorded.set(None)\n",
            "test_recordings_nest_and_end_with_an_error",
            "one recording in another",
        ),
        (
            "    try:\n        yield launches\n    finally:\n        _recorded.reset(token)\n",
            "    yield launches\n    _recorded.reset(token)\n",
            "test_recordings_nest_and_end_with_an_error",
            "after an error",
        ),
        (
            "os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)\n",
            "",
            "tests/test_threads.py::test_a_process_forks_while_another_thread_is_in_a_launch",
        ),
        ("if len(devices) > 1:", "if len(devices) > 2:", "test_two_devices_are_refused"),
        (
            "(isinstance(value, int) and value == 1):",
            "value == 0:",
            "test_a_launch_is_compiled_with_the_specialisation_of_a_real_one",
            "integers of 1 are constants",
        ),
        (
            "if address % 16 == 0:",
            "if address % 8 == 0:",
            "test_a_launch_is_compiled_with_the_specialisation_of_a_real_one",
        ),
        (
            "{p.name: p.default for p in kernel.params if p.has_default}",
            "{}",
            "test_a_launch_is_compiled_with_the_specialisation_of_a_real_one",
        ),
        (
            "_specialise(v, (*path, i), constants, attributes)",
            "_specialise(v, (i,), constants, attributes)",
            "test_a_launch_is_compiled_with_the_specialisation_of_a_real_one",
            "a tuple's elements",
        ),
        (
            "options=launch.options)",
            "options={})",
            "test_a_launch_is_compiled_with_the_specialisation_of_a_real_one",
            "num_warps",
        ),
        (
            "recorded.append(_bind(self, grid, args, kwargs))\n            return None\n",
            "recorded.append(_bind(self, grid, args, kwargs))\n",
            "test_recorded_launches_do_not_run",
        ),
        (
            'if device.type != "cuda":\n                raise NotImplementedError',
            'if device.type == "cuda":\n                raise NotImplementedError',
            "test_other_devices_are_refused",
        ),
    ],
)

FAULTS: list[Fault] = [*LAUNCH, *ARRAYS, *BUILDER, *LANGUAGE, *MEMORY, *RECORDING, *JIT]
