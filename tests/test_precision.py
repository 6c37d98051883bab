"""Lower precisions from end to end: which paths there are, what their bundles hold, and what they are judged by."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_suite import Assemble, RunMatrix

from portmatrix import suite
from portmatrix.bundle import HeldOut
from portmatrix.store import Store
from portmatrix.types import Outcome, Precision, Stage

ALL = ["fp16", "bf16", "int8-dynamic", "int8-static"]


def variants(*precisions: str, **more: object) -> dict[str, object]:
    return {"precision": {"variants": list(precisions), **more}}


def test_every_path_in_single_precision_has_its_variants(assemble: Assemble) -> None:
    root = assemble("runtimes/plain", "precisions/rounded", **variants("fp16", "int8-static"))
    paths = suite.load(root).plugins.exporters["linear"].paths
    assert set(paths) == {"native", "dynamic", "graph"} | {
        f"{path}+{precision}" for path in ("native", "dynamic") for precision in ("fp16", "int8-static")
    }
    made = paths["dynamic+int8-static"]
    assert (made.source, made.reducer, made.precision) == ("dynamic", "rounded", Precision.INT8_STATIC)
    assert made.batch is paths["dynamic"].batch


def test_a_suite_that_names_none_has_none(assemble: Assemble) -> None:
    plugins = suite.load(assemble("runtimes/plain", "precisions/rounded")).plugins
    assert set(plugins.exporters["linear"].paths) == {"native", "dynamic", "graph"}
    assert not plugins.reducers


def test_halves_are_compared_and_integers_judged_by_their_accuracy(
    assemble: Assemble, run_matrix: RunMatrix, store: Store
) -> None:
    root = assemble("runtimes/plain", "precisions/rounded", models=("points",), **variants(*ALL, calibration=50))
    ran = run_matrix(root, "*/*/dynamic+*/*")
    half = ran.only("*/dynamic+fp16/*")
    assert (half.outcome, half.held_out) == (Outcome.PASS, None)
    assert half.comparisons[0].tolerance.atol == pytest.approx(2.5e-2)
    wrong = ran.only("*/dynamic+bf16/*")
    assert (wrong.outcome, wrong.stage) == (Outcome.FAIL, Stage.COMPARE)
    integers = ran.only("*/dynamic+int8-static/*")
    assert integers.outcome is Outcome.PASS
    assert integers.held_out is not None
    assert (integers.held_out.rows, integers.held_out.allowed) == (100, 0.02)
    assert integers.held_out.framework == integers.accuracy
    assert integers.facts["calibrated_on"] == 50
    # The difference is told all the same, and not said to be within the strict tolerance.
    assert {item.verdict for item in integers.comparisons} == {"loose"}
    assert all(item.needed is not None and item.needed > 1 for item in integers.comparisons)


def test_integers_that_lose_too_much_accuracy_fail_and_say_how_much(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/plain", "precisions/ruinous", models=("points",), **variants("int8-dynamic"))
    record = run_matrix(root, "*/native+*").only()
    assert (record.outcome, record.stage) == (Outcome.FAIL, Stage.COMPARE)
    assert record.held_out is not None
    assert "of 100 rows" in record.reason
    assert "at most 2 may be" in record.reason


def test_the_bundle_holds_all_held_out_rows_in_the_batches_of_its_path(
    assemble: Assemble, run_matrix: RunMatrix, store: Store
) -> None:
    root = assemble("runtimes/plain", "precisions/rounded", models=("points",), **variants("int8-dynamic"))
    ran = run_matrix(root, "*+*")
    found = {}
    for path in ("native", "dynamic"):
        bundle = ran.only(f"*/{path}+*/*").bundle
        assert bundle is not None
        manifest = store.get_bundle(bundle)
        assert isinstance(manifest.held_out, HeldOut)
        x = np.load(store.bundle_folder(bundle) / manifest.held_out.inputs["x"])
        labels = np.load(store.bundle_folder(bundle) / manifest.held_out.labels)
        assert len(labels) == 100
        found[path] = x.shape
    assert found == {"native": (100, 1, 2), "dynamic": (1, 100, 2)}


def test_without_a_data_set_integers_are_compared_like_all_others(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/plain", "precisions/rounded", models=("free",), **variants("int8-dynamic", "int8-static"))
    ran = run_matrix(root, "*/dynamic+*")
    assert ran.only("*+int8-dynamic/*").held_out is None
    static = ran.only("*+int8-static/*")
    assert (static.outcome, static.stage) == (Outcome.FAIL, Stage.EXPORT)
    assert "no training rows" in static.reason


def test_what_was_reduced_once_is_not_reduced_again_until_the_plugin_changes(
    assemble: Assemble, run_matrix: RunMatrix
) -> None:
    root = assemble("runtimes/plain", "precisions/rounded", models=("points",), **variants("fp16"))
    first = run_matrix(root, "*/native+*").only()
    assert run_matrix(root, "*/native+*").only().reused
    plugin = root / "precisions" / "rounded.py"
    # A text of another length: Python may not look closer.
    plugin.write_text(plugin.read_text().replace("numpy.float16", "numpy.single"))
    again = run_matrix(root, "*/native+*").only()
    assert not again.reused
    assert again.bundle != first.bundle


def test_a_broken_precision_plugin_is_an_error_of_its_own(assemble: Assemble, run_matrix: RunMatrix) -> None:
    root = assemble("runtimes/plain", "precisions/rounded", models=("free",), **variants("fp16"))
    (root / "precisions" / "torn.py").write_text("FORMATS = []\n")
    ran = run_matrix(root)
    assert ran.only("*/torn/*").outcome is Outcome.ERROR
    assert ran.only("*/native/*").outcome is Outcome.PASS
    assert ran.only("*/native+fp16/*").outcome is Outcome.PASS


def test_a_path_is_trained_and_exported_in_its_own_environment(assemble: Assemble, run_matrix: RunMatrix) -> None:
    ran = run_matrix(assemble("exporters/two_rooms", "runtimes/plain", models=("free",)))
    assert ran.only("*/native/*").facts["room"] == "usual"
    assert ran.only("*/elsewhere/*").facts["room"] == "other"
    assert set(ran.outcomes.values()) == {Outcome.PASS}


def test_a_path_in_an_environment_that_is_not_there_breaks_the_exporter(assemble: Assemble) -> None:
    root = assemble("exporters/two_rooms", "runtimes/plain", models=("free",))
    plugin = root / "exporters" / "two_rooms.py"
    plugin.write_text(plugin.read_text().replace('"environment": "other"', '"environment": "third"'))
    (broken,) = suite.load(root).plugins.broken
    assert "path 'elsewhere' names the environment 'third'; there are '', 'other'" in broken.why
