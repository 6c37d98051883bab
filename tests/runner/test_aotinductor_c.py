"""The runtime ``aotinductor-c``: archives made on the spot, mostly of a library that stands in for a compiled one and
for PyTorch's own, once by AOTInductor itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Speak
from spoken import Made, check, make_bundle, points

from portmatrix import environments, suite
from portmatrix.errors import EnvironmentFailure
from portmatrix.runner import build
from portmatrix.store import Store, default_root

STUB = Path(__file__).with_name("stub_torch.c")
COMPILER = next(filter(shutil.which, ("cc", "gcc", "clang")), "")
MEMBER = "model/data/aotinductor/model/abc.wrapper.so"
#: What the stand-in computes, for AOTInductor to compile; the second output is a view of what it computes.
COMPILE = """
import sys
import torch
import torch._inductor

class Net(torch.nn.Module):
    def forward(self, first, second):
        difference = first - second
        return difference, difference.transpose(0, 1)

batch = {0: torch.export.Dim("batch", max=64)}
program = torch.export.export(Net(), (torch.rand(4, 3), torch.rand(4, 3)), dynamic_shapes=(batch, batch))
torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1])
"""
Library = Callable[..., Path]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="aotinductor-c runs on Linux only"),
    pytest.mark.skipif(not COMPILER, reason="this machine has no C compiler that makes libraries"),
]


@pytest.fixture(scope="module")
def runner(own_compiler: build.Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner of the suite's runtime ``aotinductor-c``."""
    output = tmp_path_factory.mktemp("aotinductor-c") / "runner"
    build.compile_runner(ROOT / "runtimes" / "aotinductor-c.c", suite.this_machine(), (), output, own_compiler)
    return output


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Makes the library that stands in for both, with macros that change it."""

    def make(*macros: str) -> Path:
        output = tmp_path_factory.mktemp("stub") / "libstub.so"
        options = ("-std=c11", "-Wall", "-Werror", "-shared", "-fPIC", "-fvisibility=default")
        subprocess.run([COMPILER, *options, *(f"-D{name}" for name in macros), STUB, "-o", output], check=True)
        return output

    return make


@pytest.fixture(scope="module")
def torch(library: Library) -> Path:
    """The library that stands in for PyTorch's."""
    return library()


@pytest.fixture(scope="module")
def pytorch() -> Path:
    """The environment of the suite's runtime ``aotinductor``, by its interpreter."""
    environment = suite.load(ROOT).plugins.runtimes["aotinductor"].environment
    try:
        return Path(environments.ensure(Store(default_root()), environment, print, 1200).python)
    except EnvironmentFailure as failure:
        if failure.unavailable:
            pytest.skip(str(failure))
        raise


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    """Return an archive of those members, after the others that PyTorch writes."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as written:
        for name, content in {"model/archive_format": b"pt2", "model/abc.wrapper.cpp": b"x" * 999, **members}.items():
            written.writestr(name, content)
        written.comment = comment
    return stream.getvalue()


def bundle(folder: Path, artifact: bytes, dtype: Any = np.float32, batches: tuple[int, ...] = (2, 5)) -> Made:
    sets = []
    for batch in batches:
        a, b = (points(4, batch, seed).astype(dtype) for seed in (1, 2))
        outputs = {"difference": a - b, "exchanged": np.ascontiguousarray((a - b).transpose(0, 2, 1))}
        sets.append(({"first": a, "second": b}, outputs))
    return make_bundle(folder, artifact, sets, format="aotinductor")


@pytest.mark.parametrize("comment", [b"", b"a comment that has PK\x05\x06 in it, and more behind it"])
def test_answers_are_right_for_every_batch_and_without_gaps(
    comment: bytes, runner: Path, torch: Path, tmp_path: Path
) -> None:
    made = bundle(tmp_path / "bundle", archive({MEMBER: torch.read_bytes()}, comment=comment))
    ran = check(runner, made.folder, "--library", torch, "--threads", "3", "--atol", "0", "--rtol", "0")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "on torch 2.13.7, " in ran.stdout
    assert "difference float32 (4, 2, 3)" in ran.stdout
    assert "exchanged float32 (4, 3, 5)" in ran.stdout
    assert ran.stderr.splitlines() == ["gradients off", "3 threads"]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({}, "expected one compiled library in the archive, found 0"),
        ({MEMBER: b"nonsense"}, "file too short"),
        ({MEMBER: b"", "model/other.so": b""}, "expected one compiled library in the archive, found 2"),
    ],
    ids=["none", "no library", "two"],
)
def test_an_archive_without_its_library_is_named(
    members: dict[str, bytes], said: str, runner: Path, torch: Path, tmp_path: Path
) -> None:
    ran = check(runner, bundle(tmp_path / "bundle", archive(members)).folder, "--library", torch)
    assert ran.returncode == 3
    assert re.search(f"LOAD failed: .*{re.escape(said)}", ran.stderr), ran.stderr


def test_what_is_compressed_or_no_archive_is_named(runner: Path, torch: Path, tmp_path: Path) -> None:
    whole = archive({MEMBER: torch.read_bytes()})
    tried = {
        "compressed": (archive({MEMBER: torch.read_bytes()}, zipfile.ZIP_DEFLATED), "its library is compressed"),
        "nonsense": (b"nonsense", "it is no zip file"),
        "empty": (b"", "it is no zip file"),
        "beheaded": (whole[5000:], "the archive is damaged"),
    }
    for name, (artifact, said) in tried.items():
        ran = check(runner, bundle(tmp_path / name, artifact).folder, "--library", torch)
        assert ran.returncode == 3, name
        assert said in ran.stderr, name


def test_no_damaged_archive_makes_the_runner_crash(runner: Path, torch: Path, speak: Speak, tmp_path: Path) -> None:
    """Every byte of its list of members, and each length that the whole can be cut to there."""
    whole = archive({MEMBER: b"nonsense"})
    start = whole.index(b"PK\x01\x02")
    made = bundle(tmp_path / "bundle", whole)
    spoken = speak(runner, env={"PORTMATRIX_LIBRARY": str(torch)})
    broken = [whole[:place] + b"\xff" + whole[place + 1 :] for place in range(start, len(whole))]
    broken += [whole[:length] for length in range(start, len(whole))]
    for content in broken:
        (made.folder / "artifact" / "model").write_bytes(content)
        answer = spoken.ask(made.request(tmp_path / "out"))
        assert (answer["ok"], answer["stage"], answer["fault"]) == (False, "LOAD", "model")
    assert spoken.end() == 0


def test_a_model_that_cannot_be_made_is_named(runner: Path, torch: Path, library: Library, tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle", archive({MEMBER: library("NO_CONSTANTS").read_bytes()}))
    ran = check(runner, made.folder, "--library", torch)
    assert ran.returncode == 3
    assert "LOAD failed: RuntimeError: the constants are missing" in ran.stderr


def test_the_compiled_code_says_why_a_call_fails(runner: Path, torch: Path, tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle", archive({MEMBER: torch.read_bytes()}), batches=(9,))
    ran = check(runner, made.folder, "--library", torch)
    assert ran.returncode == 3
    assert "RUN failed: RuntimeError: the batch is larger than 8" in ran.stderr


def test_pytorch_says_why_an_operator_of_its_own_fails(runner: Path, torch: Path, tmp_path: Path) -> None:
    """The compiled code knows the line of its source only."""
    made = bundle(tmp_path / "bundle", archive({MEMBER: torch.read_bytes()}), np.int32)
    ran = check(runner, made.folder, "--library", torch)
    assert ran.returncode == 3
    assert "RUN failed: RuntimeError: no kernel for this dtype" in ran.stderr


def test_pytorch_says_why_it_takes_no_input(runner: Path, torch: Path, tmp_path: Path) -> None:
    x = np.zeros((1, 2, 3, 4), np.float32)
    artifact = archive({MEMBER: torch.read_bytes()})
    made = make_bundle(tmp_path / "bundle", artifact, [({"a": x, "b": x}, {"c": x, "d": x})], format="aotinductor")
    ran = check(runner, made.folder, "--library", torch)
    assert ran.returncode == 3
    assert "RUN failed: PyTorch failed when it was to take an input: too many axes" in ran.stderr


def test_several_models_of_one_process_are_not_taken_for_one_another(
    runner: Path, torch: Path, library: Library, speak: Speak, tmp_path: Path
) -> None:
    spoken = speak(runner, env={"PORTMATRIX_LIBRARY": str(torch)})
    assert spoken.ask({"op": "hello", "id": 1})["environment"]["torch"] == "2.13.7"
    good = bundle(tmp_path / "good", archive({MEMBER: torch.read_bytes()}))
    bad = bundle(tmp_path / "bad", archive({MEMBER: library("NO_CONSTANTS").read_bytes()}))
    for _ in range(5):
        answer = spoken.ask(good.request(tmp_path / "out"))
        assert answer["ok"], answer
        for files, one in zip(answer["outputs"], good.manifest["sets"], strict=True):
            for name, file in files.items():
                wanted = np.load(good.folder / one["outputs"][name])
                np.testing.assert_array_equal(np.load(tmp_path / "out" / file), wanted)
        answer = spoken.ask(bad.request(tmp_path / "out"))
        assert (answer["ok"], answer["stage"], answer["fault"]) == (False, "LOAD", "model")
    assert spoken.end() == 0


def test_nothing_is_left_behind(torch: Path, own_compiler: build.Compiler, tmp_path: Path) -> None:
    """A call takes its inputs over and leaves its outputs: each tensor is given back, and by one side only."""
    if own_compiler.name == "zig":
        pytest.skip("this machine has no compiler of its own with AddressSanitizer")
    checks = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    strict = own_compiler._replace(command=(*own_compiler.command, *checks))
    runner = tmp_path / "runner"
    build.compile_runner(ROOT / "runtimes" / "aotinductor-c.c", suite.this_machine(), (), runner, strict)
    made = bundle(tmp_path / "bundle", archive({MEMBER: torch.read_bytes()}))
    ran = check(runner, made.folder, "--library", torch, "--repeat", "3", env={"ASAN_OPTIONS": "detect_leaks=1"})
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_another_library_is_refused(runner: Path, torch: Path, tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle", archive({MEMBER: torch.read_bytes()}))
    ran = check(runner, made.folder, "--library", "libc.so.6")
    assert ran.returncode == 3
    assert "the library is no PyTorch 2.13 or later: it has no aoti_torch_create_tensor_from_blob" in ran.stderr


def test_what_aotinductor_compiles_runs_without_an_interpreter(
    speak: Speak, runner: Path, pytorch: Path, tmp_path: Path
) -> None:
    compiled = tmp_path / "compiled.pt2"
    if not shutil.which("g++"):
        pytest.skip("AOTInductor compiles with g++")
    subprocess.run([pytorch, "-I", "-c", COMPILE, compiled], check=True, cwd=tmp_path)
    (library,) = pytorch.parents[1].glob("lib/python*/site-packages/torch/lib/libtorch_cpu.so")
    spoken = speak(runner, env={"PORTMATRIX_LIBRARY": str(library)})
    made = bundle(tmp_path / "bundle", compiled.read_bytes())
    answer = spoken.ask(made.request(tmp_path / "out"))
    assert answer["ok"], answer
    for files, one in zip(answer["outputs"], made.manifest["sets"], strict=True):
        for name, file in files.items():
            np.testing.assert_array_equal(np.load(tmp_path / "out" / file), np.load(made.folder / one["outputs"][name]))
    mapped = Path(f"/proc/{spoken.process.pid}/maps").read_text()
    assert "libtorch_cpu" in mapped
    assert "memfd:model.so" in mapped
    assert "python" not in "".join(Path(line.split(maxsplit=5)[5]).name for line in mapped.splitlines() if "/" in line)
    assert spoken.end() == 0


def test_it_is_timed(speak: Speak, runner: Path, torch: Path, tmp_path: Path) -> None:
    spoken = speak(runner, env={"PORTMATRIX_LIBRARY": str(torch)})
    made = bundle(tmp_path / "bundle", archive({MEMBER: torch.read_bytes()}))
    answer = spoken.ask(made.symbolic().measuring(1, 5))
    assert answer["ok"], answer
    assert [timing["inner"] > 0 for timing in answer["timings"]] == [True, True]
    assert spoken.end() == 0
