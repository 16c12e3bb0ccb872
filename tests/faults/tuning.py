"""Faults of tuning: the device, tiles, candidates, choices, measuring, the store."""

from tests.faults.fault import Fault, faults

AUTOTUNE, TUNING, CANDIDATES = "tests/test_autotune.py", "tests/test_tuning.py", "tests/test_candidates.py"
PLANS = "tests/test_plan.py::test_what_a_plan_holds_for"
AUTO = f"{TUNING}::test_auto_is_direct_where_a_group_has_few_channels"
SPLITS = f"{TUNING}::test_a_split_has_its_share_of_the_steps_and_no_more"

CHOICES = [
    *faults(
        "tritonconv/tuning/choices.py",
        AUTOTUNE,
        [
            (
                "operator, x.dtype, channels_last,",
                "operator, torch.float32, channels_last,",
                "test_keys_tell_apart_what_wants_another_tile",
                "a key without dtype",
            ),
            (
                "x.dtype, channels_last, precision,",
                "x.dtype, False, precision,",
                "test_keys_tell_apart_what_wants_another_tile",
            ),
            ("    precision = dot_precision(x)\n", '    precision = "ieee"\n', "test_keys_know_the_precision"),
            (
                "window = () if problem is None else dataclasses.astuple(problem.window)",
                "window = ()",
                "test_keys_tell_apart_what_wants_another_tile",
            ),
            (
                "        window += (problem.groups,)\n",
                "        window += ()\n",
                "test_keys_tell_apart_what_wants_another_tile",
            ),
            ("next_power_of_2(max(size, 1)) if name in", "int(size) if name in", "test_no_key_has_the_exact_batch"),
            (
                'if name in ("pixels", "elements") else int(size)',
                "if True else int(size)",
                "test_keys_tell_apart_what_wants_another_tile",
            ),
            (
                "if current_target() is not None or not (is_recording() or tuned()):",
                "if not (is_recording() or tuned()):",
                "test_a_machine_that_is_not_there_has_nothing_tuned",
            ),
            ("_instead.set(_Table(choices))", "_instead.set(_tuned)", AUTOTUNE),
            ("        _instead.reset(token)\n", "        pass\n", AUTOTUNE),
            ("        self.number = next(self.numbers)\n", "        self.number = 0\n", PLANS),
            (
                "    table.number = next(table.numbers)\n",
                "",
                "test_the_fastest_candidate_wins_and_is_used",
            ),
            (
                "None if is_recording() or current_target() is not None else tuned().number",
                "tuned().number",
                PLANS,
            ),
            ("    return _tuned if choices is None else choices\n", "    return _tuned\n", AUTOTUNE),
            (
                '    if algorithm != "auto":\n',
                '    if algorithm not in ("auto", "im2col"):\n',
                "tests/test_conv2d.py tests/test_nn.py",
            ),
            (
                'choice["algorithm"], reason, asked)',
                "built_in_algorithm(problem)[0], reason, asked)",
                "test_auto_takes_the_fastest_algorithm",
            ),
            ("    if problem.groups == 1:\n", "    if False:\n", AUTO),
            ("    if least < DIRECT_BELOW:\n", "    if least > DIRECT_BELOW:\n", AUTO),
            (
                "least = min(problem.C_in, problem.C_out) // problem.groups",
                "least = problem.C_in // problem.groups",
                AUTO,
            ),
            (
                'return because("splits", (splits, cdiv(steps, splits)), reason)',
                'return because("splits", (splits, steps // splits), reason)',
                SPLITS,
            ),
            ("    return 2 * multiprocessors(x.device)\n", "    return 264\n", SPLITS),
            (" and programs < _wanted(x)\n", "\n", "tests/test_habits.py::test_launches_with_and_without_fusing"),
            (
                "min(cdiv(wanted, programs), cdiv(steps, 4), 64))",
                "min(cdiv(wanted, programs), cdiv(steps, 4)))",
                SPLITS,
            ),
            (
                "max(1, min(cdiv(wanted, programs), cdiv(steps, 4), 64))",
                "1",
                "tests/test_conv2d.py::test_tiles_of_a_gpu",
            ),
        ],
    ),
    *faults(
        "tritonconv/tuning/device.py",
        TUNING,
        [
            ("        _target.reset(token)\n", "        _target.set(None)\n", "test_targets_nest"),
            ('"tf32" if allowed == "tf32" else "tf32x3"', '"tf32"', "test_products_follow_torchs_switch"),
            (
                'if x.dtype != torch.float32 or architecture(x.device).startswith("gfx"):',
                "if x.dtype != torch.float32:",
                "test_products_follow_torchs_switch",
            ),
            ("if x.dtype != torch.float32 or arch", "if arch", "test_products_follow_torchs_switch"),
        ],
    ),
]
SIDES = "test_a_product_has_large_tiles_unless_multiprocessors_stay_idle"
TILES = [
    *faults(
        "tritonconv/tuning/tiles.py",
        TUNING,
        [
            (
                "return triton.cdiv(size, triton.cdiv(size, most)) if",
                "return min(size, most) if",
                "tests/test_replay.py::test_a_tiles_side_leaves_no_block_empty",
            ),
            ("INTERPRETER_TILE = 2**18", "INTERPRETER_TILE = 2**21", "test_tiles_are_legal"),
            ("next_power_of_2(max(size, 1))))", "max(size, 1)))", "test_tiles_are_legal"),
            ("_block(columns, 16, most", "_block(columns, 8, most", "test_tiles_are_legal"),
            ("_block(depth, 16, most", "_block(depth, 8, most", "test_tiles_are_legal"),
            ("[side] if side <= LEAST_SIDE", "[side] if side < LEAST_SIDE", SIDES),
            ("64 if crowded else 128", "128", SIDES),
            (
                "programs_at_once or multiprocessors(x.device)",
                "132",
                "test_a_filter_gradient_has_tiles_that_its_channels_fill",
            ),
            ('most["BLOCK_K"], 1)', 'most["BLOCK_K"])', "test_a_filter_gradient_has_tiles_that_its_channels_fill"),
            ("(rows + columns) * x.element_size() / loaded)", "0)", "test_the_choice_of_sides_says_what_it_compared"),
            (
                "max(rows * columns * slower / products, (",
                "max(0, (",
                "test_a_filter_gradient_has_tiles_that_its_channels_fill",
            ),
            ("next_power_of_2(pixels), C_in", "pixels, C_in", "test_the_choice_of_sides_says_what_it_compared"),
            (
                "    if C_in < FLATTEN_BELOW:\n",
                "    if C_in <= FLATTEN_BELOW:\n",
                "test_taps_are_flattened_for_few_channels",
            ),
        ],
    ),
    *faults(
        "tritonconv/tuning/candidates.py",
        CANDIDATES,
        [
            ('if "num_warps" in choice and not', "if not", "test_candidates_are_few_different_and_legal"),
            (
                "    return [tile for i, tile in enumerate([first, *others]) if tile not in [first, *others][:i]]",
                "    return [first, *others]",
                "test_candidates_are_few_different_and_legal",
            ),
            (
                "for i, tile in enumerate([first, *others])",
                "for i, tile in enumerate([*others, first])",
                "test_candidates_are_few_different_and_legal",
            ),
            (
                "    first, _ = built_in(operator, x, **sizes)\n",
                "    first, _ = built_in(operator, x.contiguous(), **sizes)\n",
                CANDIDATES,
            ),
            ("and shared <= SHARED_BYTES.get(arch, LEAST_SHARED_BYTES)", "", "test_products_fit_shared_memory"),
            (
                "shared = stages * (rows + columns) * depth * x.element_size()",
                "shared = stages * rows * columns * x.element_size()",
                "test_products_fit_shared_memory",
            ),
            ("LEAST_SHARED_BYTES = 101_376", "LEAST_SHARED_BYTES = 232_448", "test_products_fit_shared_memory"),
            ("if 1 <= block <= most]", "if 1 <= block]", "test_candidates_are_few_different_and_legal"),
            ("if 1 <= block <= most]", "if block <= most]", "test_candidates_are_few_different_and_legal"),
            ("_cut(side, extent, 16) for", "_cut(side, extent) for", "test_candidates_are_few_different_and_legal"),
            (
                "if min(problem.C_in, problem.C_out) // problem.groups < MEASURE_DIRECT_BELOW:",
                "if problem.groups > 1:",
                "test_algorithms_worth_measuring",
            ),
            ("if problem.taps > 1 and pixels", "if pixels", "test_algorithms_worth_measuring"),
            (
                " and pixels * problem.C_in * problem.taps <= MEASURE_COLUMNS_BELOW",
                "",
                "test_algorithms_worth_measuring",
            ),
            ("    return list(dict.fromkeys(names))", "    return names", "test_algorithms_worth_measuring"),
            (
                "    if not isinstance(choice, dict) or not choice:\n",
                "    if not isinstance(choice, dict):\n",
                "test_what_is_no_choice_is_illegal",
            ),
            (
                'return len(choice) == 1 and choice["algorithm"] in ALGORITHMS[1:]',
                'return choice["algorithm"] in ALGORITHMS[1:]',
                "test_what_is_no_choice_is_illegal",
            ),
            ("in ALGORITHMS[1:]", "in ALGORITHMS", "test_what_is_no_choice_is_illegal"),
            (" and type(value) in (int, bool)", "", "test_what_is_no_choice_is_illegal"),
            (
                "all(math.prod(sides) <= TRITON_MAX_TENSOR_NUMEL for",
                "all(True for",
                "test_what_is_no_choice_is_illegal",
            ),
            ("(3 if pooled else 1)", "1", "test_accumulators_leave_registers"),
            ("(2 if x.dtype == torch.float64 else 1)", "1", "test_accumulators_leave_registers"),
        ],
    ),
]
MEASURE = [
    *faults(
        "tritonconv/tuning/measure.py",
        AUTOTUNE,
        [
            (
                "            if not ((result == reference) | (result.isnan() & reference.isnan())).all()",
                "            if not torch.allclose(result.double(), reference.double(), 1e-2, 1e-2)",
                "test_a_wrong_candidate_never_wins",
                "the gate at 1e-2",
            ),
            (
                "            if not ((result == reference) | (result.isnan() & reference.isnan())).all()",
                "            if result.shape != reference.shape",
                "test_a_wrong_candidate_never_wins",
            ),
            (
                "with record_choices() as made, _Poisoned():",
                "with record_choices() as made:",
                "test_an_element_nobody_wrote_is_refused",
            ),
            (
                'self._reference("implicit_gemm" if by_direct else "direct")',
                'self._reference("implicit_gemm")',
                "test_the_reference_is_another_algorithm",
            ),
            ("else arguments | {k: t.double() for k, t in floating.items()}", "else dict(arguments)", AUTOTUNE),
            ("                with using({}):\n", "                with contextlib.nullcontext():\n", AUTOTUNE),
            (
                "                    reason = trial.refusal()  # a race",
                '                    reason = ""  # a race',
                "test_a_candidate_that_is_wrong_only_at_times_never_wins",
            ),
            ("                    times.pop(i, None)\n", "", "test_a_candidate_that_is_wrong_only_at_times_never_wins"),
            (
                "times[best] > (1 - LEAST_GAIN) * times[0]:",
                "times[best] > times[0]:",
                "test_a_gain_within_the_noise_changes_nothing",
            ),
            ("        if 0 in refused:\n", "        if False:\n", "test_a_wrong_built_in_tile_is_not_silent"),
            (
                "best = min(times, key=times.__getitem__, default=0)",
                "best = max(times, key=times.__getitem__, default=0)",
                "test_the_fastest_candidate_wins_and_is_used",
            ),
            (
                'if row.source == "known" or row.chosen_ms is not None}',
                "}",
                "test_where_nothing_is_right_the_built_in_tile_stays_and_a_warning_says_so",
            ),
            (
                "        if before:\n            self._withdraw(trial, before)\n",
                "",
                "test_a_winner_must_be_right_on_every_recorded_call",
            ),
            (
                "        remember({key: row.chosen for key, row in right.items()})\n",
                "",
                "test_the_fastest_candidate_wins_and_is_used",
            ),
            (
                "        if key not in self.rows and known in options:\n",
                "        if key not in self.rows and known:\n",
                "test_a_stored_choice_that_is_no_candidate_is_measured_anew",
            ),
            (
                "with torch.no_grad(), torch.autocast(trial.device.type, enabled=False):",
                "with torch.no_grad():",
                "test_autocast_is_measured_in_its_dtype",
            ),
            (
                'if "empty" in func.__name__:',
                'if "empty_like" in func.__name__:',
                "test_an_element_nobody_wrote_is_refused",
            ),
            ("            with self:\n", "            if True:\n", "test_an_element_nobody_wrote_is_refused"),
            ("for row in self.changed:\n", "for row in self.rows:\n", "test_the_report_shows_what_changed"),
            (
                "record(model, example, keywords, run=True)",
                "record(model, example, {}, run=True)",
                "test_keyword_arguments_are_the_calls",
            ),
            (
                "    return statistics.median(milliseconds)",
                "    return milliseconds[0]",
                "test_a_time_is_the_median_of_several",
            ),
            ("    if not calls:\n", "    if False:\n", "test_refused_where_nothing_is_ours"),
        ],
    ),
    *faults(
        "tritonconv/tuning/store.py",
        AUTOTUNE,
        [
            (
                "{**stored, **choices}",
                "{**choices, **stored}",
                "test_a_stored_choice_that_is_no_candidate_is_measured_anew",
            ),
            ("{**stored, **choices}", "choices", "test_two_processes_lose_nothing"),
            ("        fcntl.flock(lock, fcntl.LOCK_EX)\n", "", "test_who_writes_waits_for_who_writes"),
            ("                    os.replace(file, aside)\n", "", "test_a_damaged_file_is_set_aside_with_one_warning"),
            (
                "    except (OSError, ValueError):\n        return {}",
                "    except OSError:\n        return {}",
                "test_a_damaged_file_is_set_aside_with_one_warning",
            ),
            (
                "    except OSError as error:\n        why",
                "    except ValueError as error:\n        why",
                "test_without_a_folder_to_write_results_hold_for_the_process",
            ),
            (
                "except (ValueError, RecursionError) as error:",
                "except RecursionError as error:",
                "test_a_damaged_file_is_set_aside_with_one_warning",
            ),
            (
                "        if not is_legal(choice):\n",
                "        if choice is None:\n",
                "test_a_damaged_file_is_set_aside_with_one_warning",
            ),
            (
                "{machine} triton {triton.__version__} tritonconv {__version__}",
                "{machine} tritonconv {__version__}",
                "test_a_second_process_measures_nothing",
            ),
            ('os.environ.get("TRITONCONV_CACHE_DIR") or ', "", "test_the_folder_follows_the_environment"),
        ],
    ),
    *faults(
        "tritonconv/tuning/reasons.py",
        AUTOTUNE,
        [
            (
                "        _choices.reset(token)\n",
                "        _choices.set(None)\n",
                "tests/test_threads.py::test_a_switch_set_twice_is_what_it_was",
            ),
            (
                'layout = "channels_last" if self.channels_last else "contiguous"',
                'layout = "contiguous"',
                "test_keys_tell_apart_what_wants_another_tile",
            ),
        ],
    ),
]
RECORDING = faults(
    "tritonconv/recording.py",
    "tests/test_explain.py",
    [
        ("        numel = reach + 1 if", "        numel = reach if", "tests/test_autotune.py"),
        ("low, high = -LARGEST_INPUT, LARGEST_INPUT + 1", "low, high = 0, 1", "tests/test_autotune.py", "all zeros"),
        ("return tuple(value) if isinstance(value, list) else value", "return value", "tests/test_autotune.py"),
        (
            "described = [a.detach() if _is_code(a) else Like.of(a) for a in args]",
            "described = [Like.of(a) for a in args]",
            "tests/test_autotune.py",
        ),
        (
            "        if not value.is_leaf:\n",
            "        if False:\n",
            "test_an_input_with_a_history_is_an_input",
        ),
        (
            "for t in ends], retain_graph=True)",
            "for t in ends])",
            "test_a_closure_keeps_its_tensors_and_its_graph",
        ),
        (
            "                leaf.grad = grad\n",
            "                pass\n",
            "test_checkpointed_layers_are_explained",
        ),
        (
            "                tuning.target(self._target),\n",
            "",
            "tests/test_threads.py::test_what_backward_needs_of_the_caller_reaches_autograds_thread",
        ),
        (
            "call = replica(call, recorder.without_data)",
            "pass",
            "test_what_a_call_keeps_is_put_back",
        ),
        ("call = replica(call, _alias)", "pass", "tests/test_autotune.py::test_the_model_is_left_as_it_was"),
        ("return t.detach().clone()", "return t.detach()", "tests/test_autotune.py::test_the_model_is_left_as_it_was"),
        (
            'stack.enter_context(torch.compiler.set_stance("force_eager"))',
            "pass",
            "test_a_compiled_function_is_explained",
        ),
        (
            "            self._inside = None\n        returned",
            "            pass\n        returned",
            "tests/test_explain.py",
        ),
        (
            '        if written or (new and read and "empty" not in func.__name__):\n',
            "        if written:\n",
            "test_a_copy_made_by_torch_counts",
        ),
        ("stack.enter_context(torch.random.fork_rng(devices=devices))", "pass", "tests/test_autotune.py"),
    ],
)

FAULTS: list[Fault] = [*CHOICES, *TILES, *MEASURE, *RECORDING]
