"""Which cells a plan has: every one of the suite once, over all shards together, and none that was not asked for."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portmatrix.errors import NothingSelected, UserError
from portmatrix.globs import Globs
from portmatrix.pairwise import pairs_of
from portmatrix.plan import Axes, LeftOut, Selection, belonging, cells_of, exactly, parse_shard, plan, spared
from portmatrix.types import CellId

names = st.sampled_from(["a", "b", "c", "d-1", "e.2"])
formats = st.sampled_from(["onnx", "tflite", "npz"])
several = st.lists(names, unique=True, max_size=4).map(tuple)


@st.composite
def some_axes(draw: st.DrawFn) -> Axes:
    paths = draw(st.dictionaries(names, st.dictionaries(names, formats, max_size=3), max_size=3))
    runtimes = draw(st.dictionaries(names, st.frozensets(formats), max_size=3))
    return Axes(draw(several), paths, runtimes, draw(several))


AXES = Axes(
    models=("mlp", "lstm"),
    paths={"torch": {"onnx": "onnx", "native": "pt2"}, "keras": {"tflite": "tflite"}},
    runtimes={"onnxruntime": frozenset({"onnx"}), "litert": frozenset({"tflite"}), "torch": frozenset({"pt2"})},
    targets=("linux-x86_64", "linux-arm64"),
)


def cells(*take: str, leave: tuple[str, ...] = (), shard: tuple[int, int] = (1, 1)) -> list[str]:
    return [str(cell) for cell in plan(AXES, [], Selection(take, leave, shard)).cells]


def test_a_cell_exists_where_the_format_fits() -> None:
    found = cells()
    assert len(found) == len(set(found)) == 12
    assert "torch/mlp/onnx/onnxruntime/linux-arm64" in found
    assert "torch/mlp/onnx/litert/linux-arm64" not in found


@given(some_axes())
def test_every_cell_is_named_once_and_fits(axes: Axes) -> None:
    found = list(cells_of(axes))
    assert len(found) == len(set(found))
    for cell in found:
        assert axes.paths[cell.framework][cell.path] in axes.runtimes[cell.runtime]
        assert CellId.parse(str(cell)) == cell


@given(some_axes(), st.integers(1, 9))
def test_shards_cover_everything_once_and_part_no_trained_model(axes: Axes, count: int) -> None:
    whole = list(cells_of(axes))
    parts: list[list[CellId]] = []
    for number in range(1, count + 1):
        try:
            parts.append(plan(axes, [], Selection(shard=(number, count))).cells)
        except NothingSelected:
            parts.append([])
    assert sorted(cell for part in parts for cell in part) == sorted(whole)
    trained = [{cell[:2] for cell in part} for part in parts]
    assert sum(map(len, trained)) == len(set().union(*trained))


@given(some_axes(), st.integers(1, 9), st.lists(st.sampled_from(["a/*", "*/b/*", "*", "?/*/c/*", "*/[ab]/*"])))
def test_shards_of_a_selection_cover_the_selection(axes: Axes, count: int, take: list[str]) -> None:
    wanted = [cell for cell in cells_of(axes) if not take or any(fnmatchcase(str(cell), glob) for glob in take)]
    found: list[CellId] = []
    for number in range(1, count + 1):
        try:
            found += plan(axes, [], Selection(tuple(take), (), (number, count))).cells
        except NothingSelected:
            continue
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize(
    ("glob", "count"),
    [
        ("torch/*", 8),
        ("*/mlp/*", 6),
        ("*/onnxruntime/*", 4),
        ("*-arm64", 6),
        ("torch/mlp/onnx/onnxruntime/linux-x86_64", 1),
        ("t?rch/[lm]*/*/torch/*", 4),
    ],
)
def test_a_selection_is_a_glob_over_ids(glob: str, count: int) -> None:
    found = cells(glob)
    assert len(found) == count
    assert all(fnmatchcase(cell, glob) for cell in found)


def test_globs_add_up_and_skip_takes_away() -> None:
    assert len(cells("torch/*", "keras/*")) == 12
    assert cells("torch/*", leave=("*/native/*", "*/lstm/*", "*-arm64")) == ["torch/mlp/onnx/onnxruntime/linux-x86_64"]


def test_upper_case_is_another_name() -> None:
    with pytest.raises(NothingSelected):
        cells("Torch/*")


def test_an_exclusion_is_left_out_with_its_first_reason() -> None:
    exclusions = [("*/litert/*", "too slow"), ("keras/*", "never")]
    planned = plan(AXES, exclusions, Selection())
    assert {item.why for item in planned.left_out} == {"too slow"}
    assert len(planned.cells) + len(planned.left_out) == 12


def test_a_plan_of_exclusions_only_is_not_nothing() -> None:
    planned = plan(AXES, [("*", "all of it")], Selection())
    assert not planned.cells
    assert len(planned.left_out) == 12


def test_nothing_selected_shows_what_an_id_looks_like() -> None:
    with pytest.raises(
        NothingSelected,
        match=r"nothing matches 'toorch/\*' \(did you mean 'torch'\?\); cell ids look like torch/mlp/onnx/",
    ):
        cells("toorch/*")


@pytest.mark.parametrize("short", ["torch/mlp", "torch/mlp/onnx", "torch/mlp/"])
def test_a_glob_that_stops_short_is_told_how_it_goes_on(short: str) -> None:
    with pytest.raises(NothingSelected, match=rf"\(did you mean '{short.rstrip('/')}/\*'\?\)"):
        cells(short)


def test_an_empty_shard_says_how_many_models_there_are() -> None:
    with pytest.raises(NothingSelected, match="shard 9/9 is empty: only 4 trained models are selected"):
        cells(shard=(9, 9))


def test_a_suite_without_cells_says_what_it_needs() -> None:
    with pytest.raises(NothingSelected, match="at least one exporter, runtime and target"):
        plan(Axes((), {}, {}, ()), [], Selection())


@given(st.integers(1, 999), st.integers(1, 999))
def test_a_shard_is_read_back(number: int, count: int) -> None:
    text = f"{number}/{count}"
    if number <= count:
        assert parse_shard(text) == (number, count)
    else:
        with pytest.raises(UserError):
            parse_shard(text)


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "-1/2", "1/0", "a/b", "1/2/3", "1 /2", "1/2\n"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected i/n with 1 <= i <= n"):
        parse_shard(text)


def test_no_glob_matches_nothing() -> None:
    assert CellId("a", "b", "c", "d", "e") not in Globs([])


@pytest.mark.parametrize("text", ["", "a/b/c/d", "a/b/c/d/e/f", "a//c/d/e"])
def test_what_is_no_cell_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected framework/model/path/runtime/target"):
        CellId.parse(text)


# --- Systems and bounds ---------------------------------------------------------------------------------------------

BOUNDED = AXES._replace(bounds={"linux-arm64": ("torch/mlp/*",)})


def test_a_runtime_has_cells_on_targets_of_its_systems_only() -> None:
    axes = AXES._replace(takers={("onnxruntime", "linux-x86_64"), ("litert", "linux-arm64")})
    assert {(cell.runtime, cell.target) for cell in cells_of(axes)} == axes.takers


def test_beyond_the_bounds_of_a_target_nothing_is_planned() -> None:
    for selection in (Selection(), Selection(("torch/*",)), Selection(("*/onnx/*",))):
        found = plan(BOUNDED, [], selection).cells
        assert {cell.model for cell in found if cell.target == "linux-arm64"} == {"mlp"}
        assert {cell.model for cell in found if cell.target == "linux-x86_64"} == {"mlp", "lstm"}


@pytest.mark.parametrize("glob", ["*/linux-arm64", "torch/lstm/*/linux-{arm64,x86_64}", "torch/lstm/*/*/linux-arm64"])
def test_who_names_a_target_gets_what_lies_beyond_its_bounds(glob: str) -> None:
    found = plan(BOUNDED, [], Selection((glob,))).cells
    assert any((cell.model, cell.target) == ("lstm", "linux-arm64") for cell in found)


def test_naming_one_target_opens_no_other() -> None:
    found = plan(BOUNDED, [], Selection(("*/linux-x86_64", "*lstm*"))).cells
    assert {cell.target for cell in found if cell.model == "lstm"} == {"linux-x86_64"}


def test_it_is_said_how_to_reach_beyond_the_bounds() -> None:
    axes = BOUNDED._replace(targets=("linux-arm64",))
    with pytest.raises(NothingSelected, match=r"beyond the scope .* torch/lstm/onnx/onnxruntime/linux-arm64"):
        plan(axes, [], Selection(("torch/lstm/*",)))


def test_what_belongs_to_the_matrix_is_what_a_plan_without_globs_takes() -> None:
    assert list(belonging(BOUNDED)) == plan(BOUNDED, [], Selection()).cells


# --- Cells that are named one by one --------------------------------------------------------------------------------


def test_named_cells_are_planned_whatever_the_bounds_of_their_targets_are() -> None:
    bound = AXES._replace(bounds={"linux-arm64": ()})
    wanted = ["torch/mlp/onnx/onnxruntime/linux-arm64", "torch/mlp/native/torch/linux-x86_64"]
    strangers = ["torch/mlp/onnx/litert/linux-arm64", "a/b"]
    found, strange = exactly(bound, [("*/native/*", "not today")], [*wanted, *strangers])
    assert [str(cell) for cell in found.cells] == wanted[:1]
    assert found.left_out == [LeftOut(CellId.parse(wanted[1]), "not today")]
    assert strange == sorted(strangers)


@given(some_axes(), st.data())
def test_named_cells_are_found_in_their_usual_order(axes: Axes, data: st.DataObject) -> None:
    every = list(map(str, cells_of(axes)))
    wanted = data.draw(st.lists(st.sampled_from(every), unique=True)) if every else []
    found, strange = exactly(axes, [], wanted)
    assert [str(cell) for cell in found.cells] == [cell for cell in every if cell in wanted]
    assert not strange


# --- The pairwise choice --------------------------------------------------------------------------------------------

#: One exporter with three variants of its path, on two targets; two runtimes, one of which is no part of a choice.
VARIED = Axes(
    models=("mlp", "lstm"),
    paths={"torch": {"onnx": "onnx", "onnx+fp16": "onnx", "onnx+int8": "onnx", "onnx+opset9": "onnx"}},
    runtimes={"onnxruntime": frozenset({"onnx"}), "iree": frozenset({"onnx"})},
    targets=("linux-x86_64", "macos-arm64"),
    pairwise=("*/*/*+*/*/*", "*/*/*/iree/*"),
    traits={
        ("torch", path): ("torch/onnx", "static", opset, precision)
        for path, opset, precision in [
            ("onnx", "default", "fp32"),
            ("onnx+fp16", "default", "fp16"),
            ("onnx+int8", "default", "int8"),
            ("onnx+opset9", "oldest", "fp32"),
        ]
    },
)


def met(found: list[CellId]) -> set[object]:
    points = [(*VARIED.traits[cell.framework, cell.path], cell.model, cell.runtime) for cell in found]
    return {pair for point in points for pair in pairs_of(point)}


def chosen(*take: str, full: bool = False) -> list[CellId]:
    return plan(VARIED, [], Selection(take, full=full)).cells


def test_the_choice_leaves_cells_out_and_no_pair() -> None:
    everything, some = chosen(full=True), chosen()
    assert everything == list(cells_of(VARIED))
    assert len(some) < len(everything)
    for target in VARIED.targets:
        on_target = [cell for cell in some if cell.target == target]
        assert met(on_target) == met([cell for cell in everything if cell.target == target])
    assert sorted(belonging(VARIED)) == sorted(some)


def test_what_is_no_part_of_the_choice_is_all_there() -> None:
    assert {cell for cell in chosen(full=True) if cell.path == "onnx" and cell.runtime == "onnxruntime"} <= set(
        chosen()
    )


def test_a_selection_does_not_change_the_choice() -> None:
    assert chosen("*/lstm/*") == [cell for cell in chosen() if cell.model == "lstm"]


def test_a_glob_that_names_path_runtime_and_target_asks_for_what_was_not_chosen() -> None:
    asked = chosen("*/*/onnx+{fp16,int8}/iree/linux-x86_64")
    assert len(asked) == 4
    # A target alone asks for what is beyond its scope, and for no more of what a choice was made of.
    assert len(chosen("*/linux-x86_64")) == len(chosen()) / 2


@pytest.mark.parametrize("within", [(), ("torch/mlp/*",)])
def test_beyond_the_bounds_of_a_target_a_choice_is_made_too(within: tuple[str, ...]) -> None:
    bounded = VARIED._replace(bounds={"macos-arm64": within})
    belongs = {cell for cell in belonging(bounded) if cell.target == "macos-arm64"}
    found = plan(bounded, [], Selection(("*/macos-arm64",))).cells
    everything = plan(bounded, [], Selection(("*/macos-arm64",), full=True)).cells
    assert belongs <= set(found) < set(everything)
    assert met(found) == met(everything)
    assert len(plan(bounded, [], Selection(("*/*/onnx+{fp16,int8}/iree/macos-arm64",))).cells) == 4


def test_nothing_but_cells_that_were_not_chosen_says_how_to_take_them() -> None:
    left_out = CellId.parse(min(spared(VARIED)))
    with pytest.raises(NothingSelected, match=r"left out by the pairwise choice, such as .*add --full"):
        chosen(str(left_out._replace(target=f"?{left_out.target[1:]}")))
