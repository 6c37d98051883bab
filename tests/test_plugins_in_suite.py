"""Every plug-in file of the repository, without its environment: it loads, conforms, pins, imports nothing heavy."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from portmatrix import suite
from portmatrix.plugins import EnvironmentSpec, load_file

ROOT = Path(__file__).parents[1]
KINDS = {"exporters": "exporter", "runtimes": "runtime", "targets": "target", "data": "data"}
KINDS |= {"precisions": "precision"}
FILES = [file for folder in KINDS for file in sorted((ROOT / folder).glob("*.py"))]
each_file = pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.stem}" for file in FILES])


def test_there_are_plugins_of_every_kind() -> None:
    assert {file.parent.name for file in FILES} == set(KINDS)


def test_none_is_broken() -> None:
    exporters, runtimes, targets, data, broken, kinds, reducers = suite.load(ROOT).plugins
    assert broken == ()
    found = {item.file for item in exporters.values()} | {item.file for item in runtimes.values()}
    found |= {item.file for item in targets.values()} | {item.file for item in data.values()}
    found |= {item.file for item in reducers.values()}
    assert found | {ROOT / "targets" / f"{name}.py" for name in kinds} == set(FILES)


@each_file
def test_it_satisfies_its_protocol(file: Path) -> None:
    # Raises an error that names the function or constant that differs.
    load_file(KINDS[file.parent.name], file)


@each_file
def test_it_imports_the_standard_library_and_numpy_alone_at_its_top(file: Path) -> None:
    imported = set(_imports(ast.parse(file.read_text(encoding="utf-8"))))
    assert imported <= {*sys.stdlib_module_names, "numpy"}


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level names that are imported when the module is, not when its functions are called."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                continue
            case ast.Import(names):
                yield from (name.name.split(".")[0] for name in names)
            case ast.ImportFrom(module, _, level):
                yield module.split(".")[0] if module and not level else "a relative import"
            case _:
                yield from _imports(node)


def _environments() -> Iterator[tuple[str, EnvironmentSpec, bool]]:
    """Yield every plug-in's environment, and whether its worker is a program."""
    plugins = suite.load(ROOT).plugins
    for name, exporter in plugins.exporters.items():
        yield from ((f"exporters/{name} {key}".strip(), item, False) for key, item in exporter.environments.items())
    yield from ((f"precisions/{name}", item.environment, False) for name, item in plugins.reducers.items())
    for name, item in plugins.runtimes.items():
        yield f"runtimes/{name}", item.environment, item.program is not None


@pytest.mark.parametrize(
    ("name", "environment", "program"), [pytest.param(*item, id=item[0]) for item in _environments()]
)
def test_its_requirements_are_pinned(name: str, environment: EnvironmentSpec, program: bool) -> None:
    if not environment.interpreter:
        pytest.skip("its Dockerfile says what is in its container, from a release that no longer changes")
    requirements = [Requirement(item) for item in environment.requirements]
    assert requirements, f"{name} needs at least numpy"
    loose = [str(item) for item in requirements if [part.operator for part in item.specifier] != ["=="]]
    assert not loose
    assert not [str(item) for item in requirements if item.url or "*" in str(item.specifier)]
    assert program or "numpy" in [item.name for item in requirements], "the worker itself needs numpy"
