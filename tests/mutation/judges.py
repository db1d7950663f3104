"""Who has to see which mutants: of modules tests, where they are not those of its name alone; of templates products.

Where a module's tests take minutes, those are named that ask most of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DTYPES = ("float32", "float64")

_KERNEL = "tests/test_kernel.py"
_DIFFERENTIATE = "tests/test_differentiate.py"
_SURVIVORS = "tests/mutation/test_survivors.py"
_CURVATURE = "tests/verify/test_curvature.py"
_CHECKS = "tests/verify/test_checks.py"
_PROOF = "tests/test_proof.py"
_ALL_THERE = f"{_PROOF}::test_the_document_has_all_that_it_promises"
_PTX = "tests/verify/ptx/"
_C = "tests/verify/test_c.py"
_C_QUICK = (
    f"{_C}::test_arrays_begin_with_a_line_of_the_cache",
    f"{_C}::test_thorough_verification_takes_threads_and_sanitizers",
    f"{_C}::test_what_the_compiler_does_not_take_is_left_out_and_named",
    f"{_C}::test_without_a_compiler_it_says_rendered_and_how_to_get_more",
    f"{_C}::test_a_compiler_that_is_not_there_is_an_error",
    f"{_C}::test_the_compiler_may_have_options",
    *(
        f"{_C}::test_an_error_in_the_source_is_seen[{plant}]"
        for plant in (
            "one gradient too many",
            "weights ignored",
            "batch factor ignored",
            "no words for a status",
            "unused variable",
        )
    ),
    f"{_C}::test_sanitizers_see_errors[misaligned pointers taken]",
    f"{_C}::test_results_that_depend_on_how_it_is_compiled_are_seen",
)
_PLANTED = "tests/verify/test_planted_errors.py::test_verification_"
_RIGHT_KERNELS = "tests/verify/test_executed.py::test_the_generated_kernels_are_right[l2-softmax-mse]"
_EXECUTED = (
    _RIGHT_KERNELS,
    *(
        f"tests/verify/test_executed.py::test_an_error_planted_into_the_kernels_is_found[{plant}]"
        for plant in (
            "NaN taken for no loss",
            "weights saved without their scales",
            "an element's index in 32 bits",
            "upstream gradient ignored",
            "rows read twice",
            "warps of 33",
        )
    ),
)
_RESCALE = "tests/test_rescale.py"
_UNITS = "tests/test_reductions.py::test_unit_vectors_are_rounded_where_passes_compare_them"
_LAUNCHERS = "tests/targets/test_launchers.py::test_"
_HOST = "tests/verify/caffe/test_host.py::test_both_devices_make_the_same_of_what_is_wanted_and_stay_in_their_arrays"
_ACCURACY = "tests/verify/test_accuracy.py::test_"
_LAYER = "tests/verify/caffe/test_layer.py::test_"
_COMPOSED = "tests/verify/caffe/test_composed.py::test_"
_CUSTOM = "tests/test_custom.py::test_"
_EXECUTABLE = f"{_ACCURACY}all_means_each_that_is_executable_and_each_is_measured_once"
_REFUSED = f"{_CUSTOM}a_formula_is_refused_with_the_place_and_the_reason"
_NO_LOSS = f"{_CUSTOM}what_cannot_be_a_loss_is_told_with_a_point"
_CANCELS = f"{_CUSTOM}a_weight_whose_divisor_cancels_is_not_masked_for_the_other_distance"
_NUMPY = "tests/targets/test_numpy.py::test_"
_CUDA = "tests/targets/test_cuda.py::test_"
_CLI = "tests/test_cli.py::test_"
_REGENERATE = (
    "tests/test_regenerate.py",  # but for all products, which take ten minutes
    "--deselect=tests/test_regenerate.py::test_committed_tree_is_clean",
    "--deselect=tests/test_regenerate.py::test_drift_planted_in_a_copy_of_the_committed_tree_is_found",
    "--deselect=tests/test_regenerate.py::test_a_tree_without_a_manifest_is_said_to_have_none",
)
_API = (
    "tests/test_api.py",
    "--deselect=tests/test_api.py::test_examples_in_docstrings_hold[derive_triplet.derive.api]",
)
TESTS: Mapping[str, tuple[str, ...]] = {
    "cli.py": (
        "tests/test_cli.py",  # but for what takes most of the time, and is in another process
        f"--deselect={_CLI}options_repeat_and_all_is_a_value_of_each[--norm all --loss all",
        f"--deselect={_CLI}main_command_writes_the_files_and_says_what_was_derived_written_and_verified[caffe",
        f"--deselect={_CLI}a_reader_that_has_gone_is_no_error",
        f"{_ACCURACY}the_command_prints_tables_and_writes_nothing",
        f"{_ACCURACY}the_command_in_json",
        f"{_CUSTOM}a_changed_default_of_a_file_is_that_of_the_code",
        "tests/targets/test_pdf.py::test_without_an_engine_the_document_is_written_and_one_line_says_how_to_get_one",
    ),
    "derive/api.py": (
        "tests/test_api.py",
        f"{_CUSTOM}what_is_not_judged_is_told",
        f"{_CUSTOM}the_proof_of_an_own_loss_is_verified",
    ),
    "derive/batch.py": ("tests/test_batch.py", f"{_CLI}no_verify_verifies_nothing_and_says_so"),
    "derive/catalogue.py": (
        "tests/test_catalogue.py",
        f"{_CUSTOM}parameters_are_refused_for_a_reason",
        f"{_CUSTOM}the_header_and_the_manifest_hold_the_loss_exactly",
    ),
    "derive/custom.py": (
        _REFUSED,
        f"{_CUSTOM}parameters_are_refused_for_a_reason",
        f"{_CUSTOM}names_that_files_cannot_have_are_refused",
        f"{_CUSTOM}files_are_refused_in_one_line_that_names_them",
        f"{_CUSTOM}a_changed_default_of_a_file_is_in_the_domain_of_its_own_parameter",
        f"{_CUSTOM}wrong_usage_is_one_line_and_exit_status_2",
        f"{_CUSTOM}a_word_is_a_name_and_anything_else_a_formula",
        f"{_CUSTOM}default_names_differ_where_formulas_do",
        f"{_CUSTOM}the_header_and_the_manifest_hold_the_loss_exactly",
        f"{_CUSTOM}a_file_that_changed_is_drift_and_one_that_is_gone_is_named",
        f"{_CUSTOM}own_losses_stand_beside_those_of_the_catalogue",
    ),
    "derive/dictionary.py": (
        f"{_PROOF}::test_the_dictionary_has_every_name_of_the_kernel_with_its_value",
        f"{_PROOF}::test_an_inner_product_is_the_sum_that_it_is_called",
        _ALL_THERE,
    ),
    "derive/evaluate.py": ("tests/test_evaluate.py", "tests/test_functions.py", "tests/test_steps.py"),
    "derive/examine.py": (
        _REFUSED,
        _NO_LOSS,
        f"{_CUSTOM}parameters_are_refused_for_a_reason",
        f"{_CUSTOM}a_formula_that_explodes_when_it_is_written_out_is_refused",
        f"{_CUSTOM}kinks_are_found_and_said",
        f"{_CUSTOM}points_without_a_value_or_a_slope_are_told",
        f"{_CUSTOM}at_a_kink_the_reference_takes_the_piece_that_the_code_takes",
    ),
    "derive/expression.py": ("tests/test_expression.py", _REFUSED, _NO_LOSS, "tests/test_fuzz.py", _SURVIVORS),
    "derive/formats.py": ("tests/test_formats.py", _CHECKS),
    "derive/forward.py": ("tests/test_hvp.py",),
    "derive/rates.py": ("tests/test_hvp.py", f"{_CURVATURE}::test_right_code_passes[l2-softened-False]"),
    "derive/functions.py": ("tests/test_functions.py", "tests/test_stabilise.py", _DIFFERENTIATE),
    "derive/highprecision.py": ("tests/test_highprecision.py", "tests/verify/test_reference.py"),
    "derive/hvp.py": ("tests/test_hvp.py", _CURVATURE),
    "derive/kernel.py": (_KERNEL, _RESCALE, "tests/test_hvp.py"),
    "derive/largest.py": (_KERNEL, _RESCALE, _SURVIVORS),
    "derive/launches.py": (f"{_LAUNCHERS}what_errors_are_planted_into_is_right", "tests/verify/test_selection.py"),
    "derive/lemmas.py": (_SURVIVORS, _DIFFERENTIATE, _KERNEL),
    "derive/lower.py": (_KERNEL, _SURVIVORS, _CANCELS),
    "derive/normalization.py": (_DIFFERENTIATE, _KERNEL),
    "derive/printing.py": ("tests/test_printing.py", "tests/test_latex.py"),
    "derive/properties.py": (_DIFFERENTIATE, _PROOF),
    "derive/regenerate.py": (
        *_REGENERATE,
        "tests/targets/test_cuda_usage.py::test_all_leaves_it_out_and_a_check_of_all_leaves_its_files_alone",
    ),
    "derive/requests.py": (
        *_API,
        "tests/test_batch.py",
        *_REGENERATE,
        f"{_CLI}parameter_goes_to_the_losses_that_have_it",
        f"{_CLI}close_name_is_suggested",
        f"{_CLI}all_names_that_may_be_meant_are_suggested",
        f"{_CLI}all_does_not_hide_a_misspelt_name",
        f"{_CLI}name_that_is_close_to_none_is_answered_with_all",
        f"{_CLI}value_that_cannot_be_is_refused_in_one_line",
        f"{_ACCURACY}a_wrong_combination_is_one_clear_line",
        f"{_ACCURACY}what_is_not_executable_is_refused_in_python",
        _EXECUTABLE,
    ),
    "derive/rescale.py": (_RESCALE, "tests/test_properties.py"),
    "derive/stabilise.py": ("tests/test_stabilise.py", _DIFFERENTIATE),
    "derive/steps.py": ("tests/test_steps.py", _DIFFERENTIATE),
    "derive/symbols.py": ("tests/test_steps.py", _DIFFERENTIATE),
    "derive/table.py": (_PROOF,),
    "derive/targets/base.py": (
        "tests/targets/test_base.py",
        "tests/test_api.py::test_a_default_that_a_float_type_does_not_have_is_refused",
        "tests/test_reductions.py::test_a_maximum_of_numbers_that_may_be_negative_is_derived_but_not_generated",
        "tests/test_new_entry.py::test_a_parameter_that_would_have_to_be_known_to_every_component_is_refused",
        f"{_NUMPY}verification_runs_the_text_and_passes",
    ),
    "derive/targets/c.py": ("tests/targets/test_c.py", f"{_C}::test_every_layer_is_right", _EXECUTABLE),
    "derive/targets/caffe.py": (
        "tests/targets/test_caffe.py::test_files_and_types_are_named_as_caffe_names_them",
        "tests/targets/test_caffe.py::test_the_header_states_the_memory_and_where_parameters_come_from",
        _EXECUTABLE,
        _HOST,
        "tests/verify/caffe/test_layer.py::test_every_layer_is_right_in_real_caffe_and_so_are_its_kernels[l2-hinge]",
    ),
    "derive/targets/cpp.py": (
        "tests/test_reductions.py::test_unit_vectors_are_rounded_where_passes_compare_them",
        f"{_C}::test_every_layer_is_right",
        f"{_CUSTOM}every_function_is_executed_in_kernels",
        _RIGHT_KERNELS,
    ),
    "derive/targets/cuda.py": (
        f"{_CUDA}only_the_float_types_asked_for_are_instantiated",
        f"{_CUDA}the_source_knows_every_dimension_and_its_size_does_not_depend_on_it",
        f"{_CUDA}the_defaults_of_the_parameters_are_in_the_code",
        _EXECUTABLE,
        f"{_LAUNCHERS}what_errors_are_planted_into_is_right",
        f"{_CUDA}two_blocks_of_the_longest_rows_fit_on_a_multiprocessor_where_registers_allow",
        f"{_CUSTOM}every_function_is_executed_in_kernels",
    ),
    "derive/targets/latex.py": (
        "tests/test_latex.py",
        _ALL_THERE,
        f"{_PROOF}::test_what_is_said_of_opposite_embeddings_and_of_longer_ones",
        f"{_PROOF}::test_remarks_stand_only_where_they_belong",
        f"{_PROOF}::test_the_floor_of_the_paper_on_unit_vectors_is_stated",
        f"{_PROOF}::test_the_gradients_of_both_norms_stand_side_by_side",
        f"{_PROOF}::test_the_layers_of_a_distance_are_told",
    ),
    "derive/targets/numpy.py": (
        f"{_NUMPY}verification_runs_the_text_and_passes",
        f"{_NUMPY}default_parameters_are_those_asked_for",
        f"{_NUMPY}sigmoids_of_a_number_and_its_negative_are_one_call_and_nothing_else_is",
        f"{_NUMPY}options_outside_their_domain_are_refused",
        f"{_NUMPY}a_module_for_one_float_type_refuses_the_other",
        f"{_CUSTOM}every_function_is_verified_in_numpy",
        "tests/test_hvp.py::test_no_line_of_a_module_is_long",
        _EXECUTABLE,
    ),
    "derive/targets/numpy_rows.py": ("tests/targets/test_numpy.py", "tests/targets/test_numpy_weights.py"),
    "derive/text.py": ("tests/test_printing.py", _PROOF, "tests/targets/test_registry.py"),
    "derive/units.py": (_SURVIVORS, _KERNEL),
    "derive/verify/accuracy.py": tuple(
        f"{_ACCURACY}{test}"
        for test in (
            "an_objective_and_a_loss_of_ones_own_are_measured",
            "what_is_naive_is_seen_where_it_is_not_finite_and_where_it_is_wrong",
            "a_missing_pytorch_is_named",
            "a_broken_pytorch_is_named",
            "a_planted_error_exceeds_the_bound",
            "a_row_that_spoils_others_is_seen",
            "the_count_of_numbers_beside_bad_rows_has_those_that_hide_nan",
            "a_module_that_raises_is_one_clear_line",
            "infinity_where_a_number_is_right_is_no_number_and_neither_is_the_reverse",
            "the_command_in_json",
            "what_is_not_executable_is_refused_in_python",
            "targets_whose_tool_is_missing_are_named_and_alone_they_fail",
        )
    ),
    "derive/verify/c.py": _C_QUICK,
    "derive/verify/c_library.py": _C_QUICK,
    "derive/verify/caffe/composed.py": (
        f"{_COMPOSED}normalized_embeddings_are_judged_in_units_of_what_makes_them_shorter",
        f"{_COMPOSED}every_net_is_right_in_real_caffe[l2-softmax-mse-True]",
        f"{_COMPOSED}an_error_in_the_net_is_seen",
        f"{_COMPOSED}on_its_kink_the_hinge_has_the_derivative_0",
        f"{_COMPOSED}without_caffe_it_says_rendered_and_how_to_get_more",
        f"{_COMPOSED}without_pycaffe_a_note_says_that_nothing_was_trained",
    ),
    "derive/verify/caffe/gpu.py": (
        f"{_LAYER}every_layer_is_right_in_real_caffe_and_so_are_its_kernels[l2-softmax-mse]",
        f"{_LAYER}an_error_in_the_kernels_is_seen",
        f"{_LAYER}without_nvcc_the_gpu_code_is_only_rendered",
    ),
    "derive/verify/caffe/layer.py": (
        f"{_LAYER}one_float_type_is_verified_alone",
        f"{_LAYER}without_caffe_it_says_rendered_and_how_to_get_more",
        f"{_LAYER}a_root_without_caffe_is_an_error",
        f"{_LAYER}without_nvcc_the_gpu_code_is_only_rendered",
        f"{_LAYER}an_error_in_its_own_test_is_not_passed_over",
        f"{_LAYER}a_failed_check_is_quoted_without_its_log",
        f"{_LAYER}a_report_of_a_layer_that_does_not_compile_has_no_level",
    ),
    "derive/verify/caffe/sources.py": ("tests/verify/caffe/test_build.py",),
    "derive/verify/caffe/train.py": (
        f"{_COMPOSED}the_composed_and_the_fused_net_train_alike",
        f"{_COMPOSED}without_pycaffe_a_note_says_that_nothing_was_trained",
    ),
    "derive/verify/checks.py": (_SURVIVORS, _CHECKS),
    "derive/verify/compiled.py": (
        "tests/verify/test_nvrtc.py",
        "tests/verify/test_gpu.py",
        "tests/targets/test_cuda.py::test_a_kernel_that_the_compiler_does_not_report_fails",
        f"{_PLANTED}of_cuda_passes_without_an_error",
    ),
    "derive/verify/differences.py": ("tests/verify/test_reference.py", _SURVIVORS),
    "derive/verify/executed.py": _EXECUTED,
    "derive/verify/executed_products.py": _EXECUTED,
    "derive/verify/naive.py": (
        f"{_ACCURACY}naive_formulas_are_right_at_ordinary_points",
        f"{_ACCURACY}what_is_naive_is_seen_where_it_is_not_finite_and_where_it_is_wrong",
        f"{_ACCURACY}autograd_of_pytorch_is_measured",
    ),
    "derive/verify/products.py": (_CURVATURE,),
    "derive/verify/ptx/__init__.py": (f"{_PTX}test_parse.py", f"{_PTX}test_execute.py"),
    "derive/verify/ptx/arithmetic.py": (f"{_PTX}test_arithmetic.py", f"{_PTX}test_instructions.py"),
    "derive/verify/ptx/errors.py": (f"{_PTX}test_execute.py",),
    "derive/verify/ptx/frame.py": (f"{_PTX}test_execute.py", f"{_PTX}test_instructions.py"),
    "derive/verify/ptx/parse.py": (f"{_PTX}test_parse.py", f"{_PTX}test_execute.py"),
    "derive/verify/ptx/program.py": tuple(
        f"{_PTX}test_{of}.py" for of in ("parse", "execute", "instructions", "memory")
    ),
    "derive/verify/ptx/types.py": tuple(f"{_PTX}test_{of}.py" for of in ("arithmetic", "instructions", "memory")),
    "derive/verify/reference.py": ("tests/verify/test_reference.py", _SURVIVORS),
    "derive/verify/report.py": (_CHECKS,),
    "derive/verify/regimes.py": ("tests/verify/test_regimes.py", _CHECKS),
}
"""The tests that have to see the mutants of a module, where they are not those of its name alone."""


@dataclass(frozen=True)
class Judges:
    """What verifies a template: its target's products of objectives ('distance/loss'), then tests."""

    target: str
    objectives: tuple[str, ...] = ("l2/softmax-mse", "lp/softmax-mse", "l1/hinge", "cosine/softmax-nll")
    dtypes: tuple[str, ...] = ("float32",)
    tests: tuple[str, ...] = ()
    tried: int = 1  # products that a mutant differs in, at most
    has_nvcc: bool = True

    def products(self) -> Iterator[Any]:
        from derive_triplet import differentiate, generate

        for named in self.objectives:
            yield generate(differentiate(*named.split("/")), self.target, dtypes=list(self.dtypes))


TEMPLATES: Mapping[str, Judges] = {
    "templates/cuda/half.cuh.jinja": Judges("cuda", dtypes=("float16",)),
    "templates/cuda/bfloat16.cuh.jinja": Judges("cuda", dtypes=("bfloat16",)),
    **dict.fromkeys(
        ("templates/cuda/*.cu.jinja", "templates/cuda/signatures.jinja"),
        Judges(
            "cuda",
            (),
            tests=(
                f"{_LAUNCHERS}what_errors_are_planted_into_is_right",
                f"{_LAUNCHERS}launchers_start_the_kernels_that_verification_executes",
                f"{_LAUNCHERS}launchers_start_nothing_with_arguments_that_cannot_be",
            ),
        ),
    ),
    # all functions are in all products, those that a product does not use as well
    "templates/cpp/functions.jinja": Judges(
        "cuda",
        ("l2/softmax-mse", "l1/softmax-nll", "l2/hinge", "linf/hinge"),
        ("float32", "float64"),
        (f"{_CUSTOM}every_function_is_executed_in_kernels", _UNITS),
        tried=4,
    ),
    "templates/cpp/scales.jinja": Judges("cuda", ("l2/softmax-mse",), ("float32", "float64")),
    "templates/cpp/*": Judges("cuda"),
    "templates/cuda/*": Judges("cuda"),
    "templates/caffe/layer.cu.jinja": Judges("caffe", ("l2/hinge",), ("float32",), (_HOST,)),
    **dict.fromkeys(
        ("templates/caffe/layer.hpp.jinja", "templates/caffe/parameters.cpp.jinja"),
        Judges(
            "caffe",
            ("l2/hinge",),
            ("float32",),
            (
                "tests/targets/test_caffe.py",
                "tests/verify/caffe/test_weights.py::test_normalization_is_that_of_caffe_but_the_mean_where_nothing_is_said",
                "tests/verify/caffe/test_weights.py::test_nothing_is_taken_beside_the_weights",
            ),
            has_nvcc=False,
        ),
    ),
    "templates/caffe/*": Judges("caffe", ("l2/hinge",), ("float32",), (_HOST,), has_nvcc=False),
    "templates/c/functions.jinja": Judges(
        "c",
        ("l2/softmax-mse", "lp/softmax-mse", "linf/hinge", "l1/softmax-nll"),
        DTYPES,
        (
            f"{_CUSTOM}every_function_is_run_in_c",
            f"{_C}::test_every_layer_is_right[triplet_hinge_linf_normalized]",
            f"{_C}::test_thorough_verification_takes_threads_and_sanitizers",
        ),
    ),
    "templates/c/*": Judges(
        "c", ("l2/softmax-mse",), tests=(f"{_C}::test_thorough_verification_takes_threads_and_sanitizers",)
    ),
    "templates/numpy/select.py.jinja": Judges(
        "numpy",
        (),
        tests=(
            f"{_CUSTOM}at_a_kink_the_reference_takes_the_piece_that_the_code_takes",
            f"{_CUSTOM}every_function_is_verified_in_numpy",
        ),
    ),
    "templates/numpy/*": Judges(
        "numpy",
        ("l2/softmax-mse", "lp/softmax-mse", "linf/hinge", "cosine/softmax-nll"),
        DTYPES,
        ("tests/targets/test_numpy.py", "tests/targets/test_numpy_weights.py"),
    ),
    "templates/prototxt/*": Judges("prototxt", ("l2/softmax-mse",), DTYPES, ("tests/targets/test_prototxt.py",)),
    "templates/latex/*": Judges(
        "latex", ("l2/softmax-mse", "l2/hinge", "cosine/softmax-nll"), DTYPES, ("tests/test_latex.py",)
    ),
}
"""By pattern, of which the first holds."""
