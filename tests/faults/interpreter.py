"""Faults of the interpreter, of its records, and of what chooses between it and the compiler."""

from tests.faults.fault import Fault, faults

REPLAY = "tests/test_replay.py::test_a_replay_has_the_bits_of_interpreting"
RUNS = "test_runs_hold_every_place_once"
AGAIN = "tests/test_replay.py::test_what_a_store_may_have_changed_is_loaded_again"
JOINED = "tests/test_replay.py::test_lines_are_copied_as_one_over_the_gaps_between_them"
SIZES = "test_a_record_belongs_to_its_sizes_and_not_to_its_tensors"

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
            "        return value.dtype\n",
            "        return None\n",
            "test_a_record_belongs_to_its_sizes_and_not_to_its_tensors",
        ),
        (
            "type(value), value.name if",
            "value.name if",
            "test_a_record_belongs_to_its_sizes_and_not_to_its_tensors",
            "1, 1.0, True",
        ),
        # how many are kept
        ("            _records.move_to_end(key)\n", "", "test_records_hold_no_more_than_their_limit"),
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
        ("(shape and other == (1,))", "other == (1,)", "test_operators_are_tritons", "a scalar and a block of one"),
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
        ("collapse(d.data).size > 1 or bool(d.data.any())", "collapse(d.data).size > 1", "test_dot"),
        ("bfloat16_to_float32(tile.data) if tile.dtype.scalar == tl.bfloat16 else tile.data", "tile.data", "test_dot"),
        ("        if adds:\n            np.copyto(product, d.data)\n", "", "test_dot"),
        ("multiply.reused = (2,)", "multiply.reused = (0, 2)", REPLAY),
        (
            "if sum(map(int, smallest)) < limits.min or sum(map(int, largest)) > limits.max:",
            "if False:",
            "test_access_just_outside_a_tensor_raises",
            "rows and columns whose sums leave 32 bits",
        ),
        ("if op is not np.add or kind", "if kind", "test_masks_of_rows_and_columns"),
        (
            " and (isinstance(a, Loaded) or not isinstance(b, Loaded))",
            "",
            "tests/test_replay.py::test_a_choice_known_beforehand_leaves_the_argument_that_it_takes_a_constant",
        ),
        ("out = y * (~take)", "out = y * take", "tests/test_pool.py::test_channels_last_along_three_axes"),
        (
            "max(1, ptr.get_element_ty().primitive_bitwidth // 8)",
            "ptr.get_element_ty().primitive_bitwidth // 8",
            "test_booleans_are_loaded_and_stored",
        ),
        (
            "return TensorHandle(expand(address, shape), ptr.dtype)",
            "return TensorHandle(address, ptr.dtype)",
            "test_one_place_read_under_a_mask",
        ),
        ("return TensorHandle(expand(out.data, shape), out.dtype)", "return out", "test_masks_of_rows_and_columns"),
        (
            "_over(np.multiply, x ^ y, take.view(np.int8)), y)",
            "_over(np.multiply, x ^ y, take.view(np.int8)), x)",
            "test_broadcast_arithmetic",
        ),
        (
            '("atomic_cas", "descriptor", "print")',
            '("atomic_cas", "descriptor")',
            "test_what_depends_on_memory_is_not_taken_for_a_constant",
        ),
        (
            "np.broadcast_to(np.True_, shape_of(ptr))",
            "np.broadcast_to(np.False_, shape_of(ptr))",
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
            "or axis is None or fold is None:",
            "or axis is None:",
            "test_reductions",
            "a combination of the kernel's own",
        ),
        ("isinstance(value, tuple) or axis is None", "isinstance(value, tuple)", "test_reductions"),
        ('swapped = name.startswith("__r")', "swapped = False", "test_operators_are_tritons"),
        ("<= value < 2**31)", "<= value)", "test_operators_are_tritons"),
        ("result = tl.int1 if compares else kind", "result = kind", "test_operators_are_tritons"),
        ("(ranks[0] == ranks[1] or 0 in ranks)", "True", "test_operators_are_tritons"),
        ("other.dtype.name == kind", "True", "test_operators_are_tritons"),
        (
            "sum(e.max() for e in exact) >= 2**31",
            "sum(e.max() for e in exact) > 2**31",
            "test_overflow_begins_at_32_bits",
        ),
        ("sum(e.min() for e in exact) < -(2**31)", "False", "test_overflow_begins_at_32_bits"),
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
        (", debug=sanitize_overflow)", ")", "test_overflow_begins_at_32_bits"),
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
        ("end > tensors[tensor].size:", "end > tensors[tensor].size + 1:", "test_access_just_outside_a_tensor_raises"),
        ("if first < 0 or tensor", "if tensor", "test_access_just_outside_a_tensor_raises"),
        (
            "end = (int(index.max()) + 1) * itemsize",
            "end = int(index.max()) * itemsize",
            "test_a_shuffled_access_outside_a_tensor_raises",
        ),
        ("    _require_inside(tensors, places.tensor, 0, places.end)\n", "", SIZES),
        (
            'fills = act is load and collapse(vars(operand)["data"]).size == 1',
            "fills = act is load",
            "test_one_place_read_under_a_mask",
            "one pointer, values that differ where masked out",
        ),
        ("loaded=tuple(map(max, *changing))", "loaded=next(changing)", "test_one_place_read_under_a_mask"),
        ("index, known = index * valid,", "index, known = index,", "test_a_shuffled_access_outside_a_tensor_raises"),
        ("bits |= ~places.mask & outside", "pass", "test_a_records_size_is_what_it_holds"),
        ("            np.copyto(values, outside)\n", "            pass\n", "test_access_outside_a_tensor_raises"),
        (
            "            gap.of_tile(values).fill(outside)\n",
            "            pass\n",
            REPLAY,
        ),
        (
            "    if not valid.any():\n        return places\n",
            "",
            "test_a_shuffled_access_outside_a_tensor_raises",
            "a tile that is all masked out",
        ),
        ("    if not parts:\n        return places\n", "", "test_access_outside_a_tensor_raises"),
        (
            "if len(ends) > whole.size // ELEMENTS:",
            "if True:",
            "tests/test_replay.py::test_columns_of_different_masks_are_boxes_of_their_own",
        ),
        ("        recorder.loaded.clear()\n", "        pass\n", AGAIN),
        ("key = places, operand.dtype.scalar.name, collapse(operand.data).tobytes()", "key = places", AGAIN),
        ("if gaps and len(found) == len(parts):", "if False:", JOINED),
        ("for rows, columns in [(height[:0], rest), *parts]:", "for rows, columns in parts:", REPLAY),
        ("(whole[:, 1:] != whole[:, :-1]).any(0)", "(whole[:, 1:] != whole[:, :-1]).all(0)", REPLAY),
        (
            "by_columns = _finest(down) < _finest(across)",
            "by_columns = False",
            "tests/test_replay.py::test_a_tile_lies_as_memory_does",
        ),
        (
            "data if lies_by_columns(data) else np.ascontiguousarray(data)",
            "data",
            "tests/test_replay.py::test_a_row_is_stored_as_every_row",
        ),
        (
            "np.maximum.at(_memory(tensors, places).view(places.dtype), places.at, values.reshape(-1))",
            "_memory(tensors, places).view(places.dtype)[places.at] = values.reshape(-1)[::-1]",
            "tests/test_layers.py::test_of_several_pixels_at_one_index_the_last_is_kept",
        ),
    ],
)

BOXES = faults(
    "tritonconv/interpreter/boxes.py",
    "tests/test_replay.py",
    [
        ("alike = (counts[:, 1:] == counts[:, :-1]).all(0)", "alike = np.ones(len(places) - 1, bool)", RUNS),
        ("taken = alike & (place == step[0]) & (address", "taken = alike & (address", RUNS),
        ("(place == step[0]) & (address == step[1])", "(place == step[0])", RUNS),
        (
            "if inner[0] > SHORT or not outer",
            "if True or not outer",
            "test_places_twice_at_one_address_are_not_copied_by_twos",
        ),
        ("if count <= times <= 2 * count and", "if times and", "test_lines_far_apart_stay_lines"),
        ("and steps == [step * times for step in inner]", "", REPLAY),
        (
            "        if steps:  # runs",
            "        if False:  # runs",
            "test_runs_that_are_alike_are_one_run_whatever_lies_between",
        ),
        ("DEPTH = 7", "DEPTH = 1", "test_a_filter_over_images_is_a_few_runs"),
        ("address + row.address + column.address", "address + row.address", REPLAY),
        ("row.place * shape[1] + column.place", "row.place * shape[0] + column.place", REPLAY),
    ],
)

THREADS = faults(
    "tritonconv/interpreter/threads.py",
    "tests/test_replay.py",
    [
        ("    torch.get_num_threads()  # the first", "    # the first", "test_torch_has_one_thread_in_each"),
        ("        torch.set_num_threads(threads)  # the", "        # the", "test_torch_has_one_thread_in_each"),
        ("    if failure is not None:\n        raise failure\n", "", "test_what_a_program_raises_is_raised"),
        (
            "            deque(left, 0)\n            failure = error\n    failure",
            "            raise\n    failure",
            "test_an_interrupt_waits_for_what_runs",
        ),
        (
            "os.register_at_fork(after_in_child=_forget)\n",
            "",
            "test_a_forked_process_has_threads_of_its_own",
        ),
    ],
)

RECORDING = faults(
    "tritonconv/interpreter/recording.py",
    "tests/test_jit.py",
    [
        (
            "            del self.loaded[next(iter(self.loaded))]\n",
            "            pass\n",
            "tests/test_replay.py::test_a_loop_over_memory_does_not_hold_all_of_it",
        ),
        (
            "        self.possible = False\n        self.programs.clear()",
            "        self.programs.clear()",
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
        (
            "TENSORS, NOTHING, FIRST = 0, 1, 2",
            "TENSORS, NOTHING, FIRST = 0, 1, 1",
            "test_a_replay_is_bit_for_bit_the_interpreted_launch",
        ),
        ("end[owner] == number and", "", "tests/test_replay.py::test_what_is_needed_again_is_not_written_over"),
        (
            "if owner is not None and end",
            "if end",
            "tests/test_replay.py::test_a_constant_is_not_written_over_at_a_programs_end",
        ),
        (
            ".count(owner) == 1",
            ".count(owner) >= 1",
            "tests/test_replay.py::test_a_product_is_not_written_over_its_own_factor",
        ),
        (
            "for program in self.programs] if self.apart else [self.programs]",
            "for program in self.programs]",
            "tests/test_layers.py::test_of_several_pixels_at_one_index_the_last_is_kept",
            "atomics",
        ),
        ("            seen.update(step.last)\n", "", "test_a_replay_is_bit_for_bit_the_interpreted_launch"),
        (
            "args = step.args.copy()",
            "args = step.args",
            "test_a_records_size_is_what_it_holds",
            "a record holds what was loaded",
        ),
        ("self.size += array.nbytes if", "self.size += 0 if", "test_a_records_size_is_what_it_holds"),
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
        (
            "                if not warmup:\n                    _interpret(self, device)\n",
            "                _interpret(self, device)\n",
            "test_warming_up_does_not_run",
        ),
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
            "{p.name: p.default for p in kernel.params if p.has_default}",
            "{}",
            "test_a_launch_is_compiled_with_the_specialisation_of_a_real_one",
        ),
        (
            "options=vars(options))",
            "options={})",
            "test_a_launch_is_compiled_with_the_specialisation_of_a_real_one",
            "num_warps",
        ),
        (
            "recorded.append(launch)\n            return None\n",
            "recorded.append(launch)\n",
            "test_recorded_launches_do_not_run",
        ),
        (
            'if device.type != "cuda":\n                raise NotImplementedError',
            'if device.type == "cuda":\n                raise NotImplementedError',
            "test_other_devices_are_refused",
        ),
    ],
)

FAULTS: list[Fault] = [*LAUNCH, *ARRAYS, *BUILDER, *LANGUAGE, *MEMORY, *BOXES, *RECORDING, *THREADS, *JIT]
