"""Shared fixtures, and ``--require``: a missing tool skips its tests, unless it is required."""

from __future__ import annotations

import os

import pytest

from derive_triplet.derive.typeset import ENGINE_VARIABLE, find_engine
from derive_triplet.derive.verify import nvcc, nvrtc

TOOLS = {
    "nvrtc": nvrtc.is_available,
    "nvcc": lambda: nvcc.find() is not None,
    "tinytex": lambda: find_engine("tinytex") is not None,
    "latexmk": lambda: find_engine("latexmk") is not None,
}


# What the proofs do not do yet: each is expected to fail, is reported as such, and fails the run once it passes.
OPEN = (
    "test_proof.py::test_the_table_has_the_numbers_of_the_reference[triplet_softmax_mse_l2_squared]",
    "test_proof.py::test_the_table_has_the_numbers_of_the_reference[triplet_softmax_nll_l2_squared]",
    "test_proof.py::test_the_table_has_the_numbers_of_the_reference[triplet_hinge_l2_squared]",
    "test_proof.py::test_a_relative_error_is_not_claimed_where_the_numbers_differ",
    "test_proof.py::test_a_wrong_gradient_can_not_reach_the_table",
    "test_proof.py::test_the_document_states_the_value_of_a_parameter_exactly_and_as_mathematics[123456.789]",
    "test_proof.py::test_the_document_states_the_value_of_a_parameter_exactly_and_as_mathematics[1e-12]",
    "test_proof.py::test_the_document_states_the_value_of_a_parameter_exactly_and_as_mathematics[2.5e-07]",
    "test_proof.py::test_the_document_states_the_value_of_a_parameter_exactly_and_as_mathematics[1e+20]",
    "test_proof.py::test_a_result_that_is_broken_is_stated_whole",
    "test_proof.py::test_each_of_several_parameters_has_a_sentence_of_its_own",
    "test_proof.py::test_a_distance_whose_slope_is_not_written_in_the_distance_has_a_proof",
    "test_documents.py::test_a_formula_changed_in_the_document_alone_fails",
    "test_documents.py::test_a_line_that_does_not_print_its_step_fails",
    "test_documents.py::test_a_font_of_the_reader_that_has_no_description_fails",
    "test_documents.py::test_a_file_other_than_the_one_that_was_typeset_fails",
    "test_proof.py::test_no_displayed_formula_is_written_in_a_template[proof.tex.jinja]",
    "test_pdf.py::test_hostile_names_are_set_as_they_are[loss]",
    "test_pdf.py::test_a_loss_whose_gradients_are_wider_fits_on_the_page",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(name in item.nodeid for name in OPEN):
            item.add_marker(pytest.mark.xfail(reason="open: the proofs are not finished", strict=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        action="append",
        default=[],
        metavar="TOOL",
        choices=sorted(TOOLS),
        help=f"fail, instead of skipping, where TOOL is missing; one of {', '.join(sorted(TOOLS))}; may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    os.environ[ENGINE_VARIABLE] = "tinytex"  # the engine of the committed PDFs, whatever else a machine has
    config.addinivalue_line("markers", "needs(tool): skipped where the tool is missing, unless --require=tool")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        (tool,) = marker.args
        if not TOOLS[tool]():
            message = f"{tool} is not installed"
            if tool in item.config.getoption("--require"):
                pytest.fail(f"{message}, and --require={tool} was given", pytrace=False)
            pytest.skip(message)
