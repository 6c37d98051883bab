"""Which module may import which, by the source of every one of them; and what the worker may rest on."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import portmatrix

SOURCE = Path(portmatrix.__file__).parent
#: Every module stands in one layer, and imports from its own and from the ones above it in this list only.
LAYERS = (
    {"", "types", "errors", "globs"},
    {"yaml_source", "spec", "migrations", "pairwise", "plan", "affected", "compare", "latency", "rate", "render"}
    | {"regression", "advice", "steps"}
    | {"questions", "resampling", "arithmetic", "survey"},
    {"converters"},
    {"plugins", "bundle", "pool", "starter", "commands", "schemas"},
    {"sites"},
    {"containers"},
    {"store", "workers", "records", "progress", "filesets"},
    {"npm", "anchors", "history", "parquet", "site"},
    {"environments", "export", "run", "wheels", "runner", "attach"},
    {"programs"},
    {"places"},
    {"suite", "static"},
    {"recording", "archive", "conversion", "locations", "parcels"},
    {"reuse", "sources", "diff", "jobs"},
    {"matrix"},
    {"measure"},
    {"cli"},
)
#: From data to data: these layers see no process, no clock, no network and no chance.
PURE_LAYERS = LAYERS[:2]
IMPURE = {"subprocess", "time", "datetime", "socket", "urllib", "http", "threading", "multiprocessing", "asyncio"}
IMPURE |= {"random", "secrets", "uuid", "tempfile", "shutil", "psutil", "ctypes", "signal", "platform", "filelock"}
#: What of these is from text to text all the same.
PURE_PARTS = ("urllib.parse.",)
#: Stands alone: it runs in other interpreters, in environments that hold nothing of ours.
WORKER = SOURCE / "worker.py"


def modules() -> list[Path]:
    return [
        file
        for file in sorted(SOURCE.rglob("*.py"))
        if not {"starter_files", "suite"} & set(file.relative_to(SOURCE).parts[:-1]) and file != WORKER
    ]


def name_of(file: Path) -> str:
    """Return the module's name in ``LAYERS``: its own, or that of its package."""
    first = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(file: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(name: str) -> int:
    found = [number for number, layer in enumerate(LAYERS) if name in layer]
    assert found, f"{name} stands in no layer of this test: give it one"
    return found[0]


def own_imports(file: Path) -> Iterator[str]:
    """Yield the names, as in ``LAYERS``, of the modules of ours that a module imports."""
    for name in imported(file):
        parts = name.split(".")
        if parts[0] == "portmatrix":
            is_module = (SOURCE / parts[1]).is_dir() or (SOURCE / f"{parts[1]}.py").is_file()
            yield parts[1] if is_module else ""


@pytest.mark.parametrize("file", modules(), ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_a_module_imports_nothing_from_a_later_layer(file: Path) -> None:
    own = layer_of(name_of(file))
    later = [name for name in own_imports(file) if layer_of(name) > own]
    assert not later


@pytest.mark.parametrize("file", modules(), ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_a_pure_module_sees_no_process_no_clock_and_no_network(file: Path) -> None:
    if layer_of(name_of(file)) < len(PURE_LAYERS):
        seen = {name.split(".")[0] for name in imported(file) if not name.startswith(PURE_PARTS)}
        assert not seen & IMPURE


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph: dict[str, set[str]] = {}
    for file in modules():
        graph.setdefault(name_of(file), set()).update(set(own_imports(file)) - {name_of(file)})
    while graph:
        free = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert free, f"these modules import each other: {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in free}


def test_converters_need_numpy_and_onnx_alone() -> None:
    ours = {"portmatrix.converters", "portmatrix.errors"}
    allowed = {*sys.stdlib_module_names, "numpy", "onnx", "google"}
    for file in (SOURCE / "converters").rglob("*.py"):
        strange = {
            name for name in imported(file) if name.split(".")[0] not in allowed and not name.startswith(tuple(ours))
        }
        assert not strange, f"{file.name} imports {', '.join(sorted(strange))}"


def test_nothing_imports_the_worker() -> None:
    assert not [file for file in modules() if "worker" in own_imports(file)]


def test_the_command_line_starts_without_what_few_commands_need() -> None:
    heavy = "{'cpuinfo', 'docker', 'duckdb', 'findpython', 'fsspec', 'lief', 'onnx', 'vl_convert'}"
    program = f"import sys; import portmatrix.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- The worker -----------------------------------------------------------------------------------------------------


def test_the_worker_is_written_in_the_syntax_of_python_3_6() -> None:
    tree = ast.parse(WORKER.read_bytes(), feature_version=(3, 6))
    # What feature_version lets through all the same.
    later = (ast.NamedExpr, ast.Match)
    assert not [node for node in ast.walk(tree) if isinstance(node, later)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.arguments) and node.posonlyargs]
    assert "__future__" not in {name.split(".")[0] for name in imported(WORKER)}


def test_the_worker_imports_the_standard_library_and_numpy_only() -> None:
    allowed = {*sys.stdlib_module_names, "numpy"}
    assert {name.split(".")[0] for name in imported(WORKER)} <= allowed


def old_interpreter(version: str) -> str | None:
    """Return an interpreter of that version, installed for all or by pyenv, that starts."""
    found = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")]
    for candidate in filter(None, found):
        if not subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode:
            return str(candidate)
    return None


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "3.9"])
def test_the_worker_compiles_on_an_old_interpreter(version: str) -> None:
    interpreter = old_interpreter(version)
    if interpreter is None:
        pytest.skip(f"there is no Python {version} on this machine")
    program = "import sys; compile(open(sys.argv[1], encoding='utf-8').read(), 'worker', 'exec')"
    subprocess.run([interpreter, "-c", program, str(WORKER)], check=True)
