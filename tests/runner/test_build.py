"""The runner compiled for other platforms, and what is found out about binaries."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from portmatrix import suite
from portmatrix.errors import EnvironmentFailure
from portmatrix.runner import build
from portmatrix.types import PlatformSpec

STUB = Path(__file__).with_name("stub.c")
GLIBC = {"libc.so.6", "libdl.so.2", "libm.so.6"}


def platform(name: str) -> PlatformSpec:
    """Return the platform that a target of this name has."""
    os, arch, *libc = name.split("-")
    own = libc[0] if libc else "glibc" if os == "linux" else ""
    facts = {"endian": "big" if arch == "s390x" else "little", "bits": 32 if arch == "armhf" else 64}
    return PlatformSpec.model_validate({"os": os, "arch": arch, "libc": own, **facts})


def compiled(source: Path, name: str, compiler: build.Compiler, folder: Path) -> build.Inspection:
    output = folder / "runner"
    build.compile_runner(source, platform(name), (), output, compiler)
    assert list(folder.iterdir()) == [output], "nothing else is left behind"
    return build.inspect_binary(output)


# --- Compiling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["x86_64", "arm64", "armhf", "riscv64", "s390x", "ppc64le"])
def test_zig_compiles_for_linux_with_an_old_glibc(arch: str, zig: build.Compiler, tmp_path: Path) -> None:
    found = compiled(STUB, f"linux-{arch}", zig, tmp_path)
    assert (found.format, found.os, found.arch, found.libc) == ("ELF", "linux", arch, "glibc")
    assert (found.endian == "big", found.bits == 32) == (arch == "s390x", arch == "armhf")
    assert set(found.libraries) <= GLIBC
    assert found.floor == "2.28"


def test_zig_links_dynamically_against_musl(zig: build.Compiler, tmp_path: Path) -> None:
    # Linked statically it would be fine to look at, and could load no runtime.
    found = compiled(STUB, "linux-x86_64-musl", zig, tmp_path)
    assert (found.arch, found.libc, found.libraries, found.floor) == ("x86_64", "musl", ("libc.so",), "")


@pytest.mark.parametrize("arch", ["arm64", "x86_64"])
def test_zig_compiles_for_macos(arch: str, zig: build.Compiler, tmp_path: Path) -> None:
    found = compiled(STUB, f"macos-{arch}", zig, tmp_path)
    assert (found.format, found.os, found.arch, found.floor) == ("Mach-O", "macos", arch, "11.0")
    assert found.libraries == ("/usr/lib/libSystem.B.dylib",)


# The first time, Zig compiles the C library of MinGW-w64, which takes longer than all other tests here.
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_zig_compiles_for_windows(arch: str, zig: build.Compiler, tmp_path: Path) -> None:
    found = compiled(STUB, f"windows-{arch}", zig, tmp_path)
    assert (found.format, found.os, found.arch, found.bits) == ("PE", "windows", arch, 64)
    assert all(name.startswith(("api-ms-win-crt-", "KERNEL32", "SHELL32")) for name in found.libraries)


def test_mingw_compiles_for_windows(tmp_path: Path) -> None:
    if shutil.which(build.mingw().command[0]) is None:
        pytest.skip("this machine has no MinGW-w64 (Debian: gcc-mingw-w64-x86-64)")
    found = compiled(STUB, "windows-x86_64", build.mingw(), tmp_path)
    assert (found.format, found.arch) == ("PE", "x86_64")
    assert sorted(found.libraries) == ["KERNEL32.dll", "SHELL32.dll", "msvcrt.dll"]


def test_what_this_machine_compiles_is_for_itself(stub: Path) -> None:
    assert build.unfit(build.inspect_binary(stub), suite.this_machine()) == ""


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("int broken(", "error: "), ("static int unused(void) { return 0; }", "unused")],
    ids=["error", "warning"],
)
def test_the_compilers_first_complaint_is_the_reason(
    line: str, complaint: str, own_compiler: build.Compiler, tmp_path: Path
) -> None:
    source = tmp_path / "odd.c"
    source.write_text(f"{STUB.read_text(encoding='utf-8')}\n{line}\n")
    output = tmp_path / "out" / "runner"
    with pytest.raises(EnvironmentFailure, match=r"could not compile odd\.c for \S+: .*error.*") as failed:
        build.compile_runner(source, suite.this_machine(), (), output, own_compiler)
    assert complaint in failed.value.log_tail
    assert list(output.parent.iterdir()) == []


def test_headers_of_the_runtime_are_found_where_they_are_said_to_be(
    own_compiler: build.Compiler, tmp_path: Path
) -> None:
    (tmp_path / "headers").mkdir()
    (tmp_path / "headers" / "theirs.h").write_text("enum { THEIRS = 1 };\n")
    source = tmp_path / "own.c"
    source.write_text(f'#include "theirs.h"\n{STUB.read_text(encoding="utf-8")}\nint theirs = THEIRS;\n')
    build.compile_runner(source, suite.this_machine(), [tmp_path / "headers"], tmp_path / "out", own_compiler)
    with pytest.raises(EnvironmentFailure, match=r"theirs\.h"):
        build.compile_runner(source, suite.this_machine(), [], tmp_path / "out", own_compiler)


def test_a_platform_that_a_compiler_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="mingw does not compile for linux-arm64, but for windows-x86_64"):
        build.compile_runner(STUB, platform("linux-arm64"), (), tmp_path / "runner", build.mingw())


def test_a_compiler_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="no-such-compiler"):
        build.compile_runner(STUB, platform("windows-x86_64"), (), tmp_path / "runner", build.mingw("no-such-compiler"))


def test_what_is_compiled_for_something_else_is_not_taken(own_compiler: build.Compiler, tmp_path: Path) -> None:
    host = suite.this_machine()
    other = host.model_copy(update={"arch": "s390x", "endian": "big"})
    claims = build.native(other, own_compiler.command[0])
    with pytest.raises(EnvironmentFailure, match=r"compiled stub\.c for something else: its endian is little, not big"):
        build.compile_runner(STUB, other, (), tmp_path / "runner", claims)
    assert not (tmp_path / "runner").exists()


# --- Inspecting -----------------------------------------------------------------------------------------------------


def test_the_library_of_a_wheel_says_what_it_needs(library: Path) -> None:
    found = build.inspect_binary(library)
    assert build.unfit(found, suite.this_machine()) == ""
    assert found.libraries
    assert found.floor


# lief says so where a number stands for no processor that it knows.
@pytest.mark.filterwarnings("ignore:.* is not a valid:RuntimeWarning")
@pytest.mark.parametrize("length", [0, 3, 10])
def test_a_file_without_a_whole_header_is_no_binary(length: int, stub: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(stub.read_bytes()[:length])
    with pytest.raises(EnvironmentFailure, match="cut is no program and no library"):
        build.inspect_binary(cut)


def test_a_text_is_no_binary(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("hello")
    with pytest.raises(EnvironmentFailure, match=r"text\.so is no program and no library"):
        build.inspect_binary(tmp_path / "text.so")
    with pytest.raises(EnvironmentFailure, match="nowhere is not there"):
        build.inspect_binary(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("found", "wanted", "why"),
    [
        (("ELF", "linux", "arm64", "glibc"), "linux-arm64", ""),
        (("ELF", "linux", "arm64", "glibc"), "linux-x86_64", "its arch is arm64, not x86_64"),
        (("ELF", "linux", "x86_64", "glibc"), "linux-x86_64-musl", "its libc is glibc, not musl"),
        (("ELF", "linux", "x86_64", ""), "linux-x86_64-musl", ""),
        (("ELF", "linux", "s390x", "glibc"), "linux-s390x", "its endian is little, not big"),
        (("PE", "windows", "x86_64", ""), "linux-x86_64", "its os is windows, not linux"),
        (("Mach-O", "macos", "x86_64+arm64", ""), "macos-arm64", ""),
        (("Mach-O", "macos", "x86_64", ""), "macos-arm64", "its arch is x86_64, not arm64"),
    ],
)
def test_a_binary_fits_its_own_platform_alone(found: tuple[str, str, str, str], wanted: str, why: str) -> None:
    facts = dict(zip(("format", "os", "arch", "libc"), found, strict=True))
    assert build.unfit(build.Inspection.model_validate(facts), platform(wanted)) == why
