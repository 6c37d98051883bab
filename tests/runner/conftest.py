"""Compilers, one of them from the Python index and kept between runs of the tests, and runners compiled by them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import onnxruntime
import pytest
from spoken import Spoken

from portmatrix import environments, suite
from portmatrix.plugins import EnvironmentSpec
from portmatrix.runner import build
from portmatrix.store import Store, default_root

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).with_name("stub.c")
Speak = Callable[..., Spoken]


@pytest.fixture(scope="session")
def zig() -> build.Compiler:
    """Zig, in an environment of this user's store: it is large, and what it has compiled once need not be again."""
    store = Store(default_root())
    built = environments.ensure(store, EnvironmentSpec(requirements=(build.ZIG,)), print, 600)
    return build.zig(Path(built.python), store.root / "zig")


@pytest.fixture(scope="session")
def own_compiler(request: pytest.FixtureRequest) -> build.Compiler:
    """This machine's own compiler, or Zig where it has none."""
    host = suite.this_machine()
    command = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    compiler: build.Compiler = build.native(host, command) if command else request.getfixturevalue("zig")
    return compiler


def _compile(source: Path, folder: Path, compiler: build.Compiler) -> Path:
    host = suite.this_machine()
    output = folder / ("runner.exe" if host.os == "windows" else "runner")
    build.compile_runner(source, host, (), output, compiler)
    return output


@pytest.fixture(scope="session")
def stub(own_compiler: build.Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner of the stub in this folder."""
    return _compile(STUB, tmp_path_factory.mktemp("stub"), own_compiler)


@pytest.fixture(scope="session")
def sanitized(own_compiler: build.Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, ended by the first read or write outside of memory, overflow or other undefined behaviour, and at its
    end by what it did not give back (on Linux).
    """
    if own_compiler.name == "zig" or os.name != "posix":
        pytest.skip("this machine has no compiler of its own with AddressSanitizer")
    checks = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    strict = own_compiler._replace(command=(*own_compiler.command, *checks))
    return _compile(STUB, tmp_path_factory.mktemp("sanitized"), strict)


@pytest.fixture(scope="session")
def onnxruntime_c(own_compiler: build.Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner of the suite's runtime ``onnxruntime-c``."""
    return _compile(ROOT / "runtimes" / "onnxruntime-c.c", tmp_path_factory.mktemp("onnxruntime-c"), own_compiler)


@pytest.fixture(scope="session")
def library() -> Path:
    """ONNX Runtime's shared library, as its wheel carries it."""
    capi = Path(onnxruntime.__file__).parent / "capi"
    found = [
        file
        for pattern in ("libonnxruntime.so*", "libonnxruntime.*.dylib", "onnxruntime.dll")
        for file in capi.glob(pattern)
    ]
    assert len(found) == 1, f"the wheel has {[file.name for file in found]}"
    return found[0]


@pytest.fixture
def speak(tmp_path: Path) -> Iterator[Speak]:
    """Starts runners in the mode for the engine; what a test leaves running is ended."""
    started: list[Spoken] = []

    def start(runner: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> Spoken:
        started.append(Spoken(runner, tmp_path / f"spoken-{len(started)}", *arguments, env=env))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        for pipe in (one.process.stdin, one.process.stdout):
            if pipe is not None:
                pipe.close()
