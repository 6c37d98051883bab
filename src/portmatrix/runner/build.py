"""Compiles the runner, here for any platform, and looks into binaries: what they are for and what they need."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from packaging.version import Version

from portmatrix.commands import Patience, output_of
from portmatrix.errors import EnvironmentFailure
from portmatrix.types import Frozen, PlatformSpec

if TYPE_CHECKING:
    import lief  # it takes half a second to load, longer than all else that a command needs to start

#: Zig's C compiler with the C libraries of all platforms, as a package of the Python index.
ZIG = "ziglang==0.17.1"
#: The runner's own sources; a runtime adds one file, which includes ``runtime.h`` from here.
SOURCES = Path(__file__).parent
_WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
_LANGUAGE = ("-std=c11", "-O2", "-s")
_LINUX = ("-lm", "-ldl")

#: Operating system, architecture and C library, as in ``PlatformSpec``.
Key = tuple[str, str, str]

#: What Zig is told for each platform. glibc 2.28 is that of the oldest distributions still in use (Debian 10, RHEL 8),
#: and what the runtimes' own wheels ask for at least. On ppc64le its printf knows the older long double only. A program
#: linked statically against musl could not open a shared library.
_ZIG_TARGETS: Mapping[Key, tuple[str, ...]] = {
    ("linux", "x86_64", "glibc"): ("x86_64-linux-gnu.2.28", *_LINUX),
    ("linux", "arm64", "glibc"): ("aarch64-linux-gnu.2.28", *_LINUX),
    ("linux", "armhf", "glibc"): ("arm-linux-gnueabihf.2.28", *_LINUX),
    ("linux", "riscv64", "glibc"): ("riscv64-linux-gnu.2.28", *_LINUX),
    ("linux", "s390x", "glibc"): ("s390x-linux-gnu.2.28", *_LINUX),
    ("linux", "ppc64le", "glibc"): ("powerpc64le-linux-gnu.2.28", "-mabi=ibmlongdouble", *_LINUX),
    ("linux", "x86_64", "musl"): ("x86_64-linux-musl", "-dynamic", *_LINUX),
    ("windows", "x86_64", ""): ("x86_64-windows-gnu",),
    ("windows", "arm64", ""): ("aarch64-windows-gnu",),
    ("macos", "arm64", ""): ("aarch64-macos.11.0",),
    ("macos", "x86_64", ""): ("x86_64-macos.11.0",),
}
#: Zig takes the place of its cache from the environment, and would fill the user's own otherwise.
_ZIG_PROGRAM = (
    "import os, runpy, sys; cache = sys.argv.pop(1); "
    "os.environ.update(ZIG_GLOBAL_CACHE_DIR=cache, ZIG_LOCAL_CACHE_DIR=cache); "
    "runpy.run_module('ziglang', run_name='__main__', alter_sys=True)"
)


class Compiler(NamedTuple):
    """A C compiler: the command that it begins with, and the arguments that each platform takes."""

    name: str
    command: tuple[str, ...]
    targets: Mapping[Key, tuple[str, ...]]


def zig(python: Path, cache: Path) -> Compiler:
    """Return Zig's compiler in the environment of the interpreter ``python``, which has ``ZIG``.

    ``cache`` is the folder where it keeps the C libraries that it compiles, up to some hundred MB, for the next time.
    """
    targets = {key: ("-target", *arguments) for key, arguments in _ZIG_TARGETS.items()}
    return Compiler("zig", (str(python), "-I", "-c", _ZIG_PROGRAM, str(cache), "cc"), targets)


def mingw(command: str = "x86_64-w64-mingw32-gcc") -> Compiler:
    """Return the compiler of MinGW-w64 for 64-bit Windows on x86, as distributions package it."""
    # Its C library is Windows's old one, whose own printf does not know %zu.
    arguments = ("-static", "-D__USE_MINGW_ANSI_STDIO=1")
    return Compiler("mingw", (command,), {("windows", "x86_64", ""): arguments})


def native(host: PlatformSpec, command: str = "cc") -> Compiler:
    """Return this machine's own compiler, which compiles for ``host`` alone."""
    return Compiler(command, (command,), {_key(host): _LINUX if host.os == "linux" else ()})


def compile_runner(
    source: Path,
    platform: PlatformSpec,
    include: Sequence[Path],
    output: Path,
    compiler: Compiler,
    patience: Patience | None = None,
) -> None:
    """Compile the runner with the runtime in the C file ``source`` for ``platform`` into the file ``output``.

    ``include`` are folders of headers that the runtime's file needs beside the runner's own. Raises
    ``EnvironmentFailure`` with the compiler's first complaint, or where what it made is not for ``platform``.
    """
    arguments = compiler.targets.get(_key(platform))
    if arguments is None:
        known = ", ".join("-".join(filter(None, key)) for key in compiler.targets)
        raise EnvironmentFailure(f"{compiler.name} does not compile for {describe(platform)}, but for {known}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="compile-", dir=output.parent) as scratch:
        # Compilers for Windows add the suffix where it is missing.
        made = Path(scratch) / ("program.exe" if platform.os == "windows" else "program")
        folders = [word for folder in (SOURCES, *include) for word in ("-I", str(folder))]
        files = [*sorted(map(str, SOURCES.glob("*.c"))), str(source)]
        command = [*compiler.command, *_LANGUAGE, *_WARNINGS, *folders, *files, "-o", str(made), *arguments]
        _run(command, patience or Patience(600), f"compile {source.name} for {describe(platform)}")
        if why := unfit(inspect_binary(made), platform):
            raise EnvironmentFailure(f"{compiler.name} compiled {source.name} for something else: {why}")
        made.replace(output)


def _run(command: Sequence[str], patience: Patience, doing: str) -> None:
    """Run the compiler; of its words the first error is the reason, since the last line only counts them."""
    try:
        output_of(command, patience, doing)
    except EnvironmentFailure as failure:
        errors = [line for line in failure.log_tail.splitlines() if "error: " in line]
        if not errors:
            raise
        raise EnvironmentFailure(f"could not {doing}: {errors[0]}", failure.log_tail) from failure


def describe(platform: PlatformSpec) -> str:
    """Return a platform's name as targets are called: ``linux-arm64``, ``linux-x86_64-musl``."""
    libc = platform.libc if platform.libc not in {"", "glibc"} else ""
    return "-".join(filter(None, (platform.os, platform.arch, libc)))


def _key(platform: PlatformSpec) -> Key:
    return platform.os, platform.arch, platform.libc


# --- Binaries -------------------------------------------------------------------------------------------------------


class Inspection(Frozen):
    """What a program or shared library is for, and what it needs.

    ``arch``, ``libc``, ``endian`` and ``bits`` are in the words of ``PlatformSpec``; the architectures of a universal
    Mach-O file are joined by ``+``. ``libraries`` are the names of those that it is linked to. ``floor`` is the lowest
    version of the system that will do: for ELF the highest version of a glibc symbol (empty where none is needed), for
    Mach-O that of macOS, for PE that of the Windows subsystem.
    """

    format: Literal["ELF", "PE", "Mach-O"]
    os: Literal["linux", "windows", "macos"]
    arch: str
    libc: str = ""
    endian: Literal["little", "big"] = "little"
    bits: Literal[32, 64] = 64
    libraries: tuple[str, ...] = ()
    floor: str = ""


def inspect_binary(file: Path) -> Inspection:
    """Return what a program or shared library is for; raises ``EnvironmentFailure`` for a file that is neither."""
    if not file.is_file():
        raise EnvironmentFailure(f"{file} is not there")
    try:
        found = _inspect(os.fspath(file))
    except ValueError as error:  # names that are no text
        raise EnvironmentFailure(f"{file.name} is damaged: {error}") from error
    # What lief makes of a header that is not whole.
    if found is None or found.arch in {"", "none", "unknown"}:
        raise EnvironmentFailure(f"{file.name} is no program and no library (ELF, PE or Mach-O)")
    return found


def _inspect(name: str) -> Inspection | None:
    import lief  # noqa: PLC0415 - see above

    lief.logging.disable()
    if lief.is_elf(name) and (elf := lief.ELF.parse(name)) is not None:
        return _inspect_elf(elf)
    if lief.is_pe(name) and (pe := lief.PE.parse(name)) is not None:
        return _inspect_pe(pe)
    if lief.is_macho(name) and (macho := lief.MachO.parse(name)) is not None:
        return _inspect_macho(list(macho))
    return None


def unfit(found: Inspection, platform: PlatformSpec) -> str:
    """Return why a binary is not for ``platform``, or an empty string; versions of the system are not looked at."""
    for what in ("os", "endian", "bits", "libc"):
        own, wanted = getattr(found, what), getattr(platform, what)
        if own != wanted and (what != "libc" or own):
            return f"its {what} is {own}, not {wanted}"
    if platform.arch not in found.arch.split("+"):
        return f"its arch is {found.arch}, not {platform.arch}"
    return ""


_EF_ARM_ABI_FLOAT_HARD = 0x400
_MACHINES = {
    "AARCH64": "arm64",
    "AMD64": "x86_64",
    "ARM": "armel",
    "ARM64": "arm64",
    "I386": "i686",
    "PPC64": "ppc64",
    "RISCV": "riscv",
    "S390": "s390",
    "X86": "i686",
    "X86_64": "x86_64",
}


def _machine(value: object) -> str:
    """Return our word for one of lief's enumerations of processors, whose names end in the machine's."""
    name = str(value).rpartition(".")[2]
    return _MACHINES.get(name, name.lower())


def _inspect_elf(elf: lief.ELF.Binary) -> Inspection:
    import lief  # noqa: PLC0415 - see above

    header = elf.header
    big = header.identity_data == lief.ELF.Header.ELF_DATA.MSB
    bits: Literal[32, 64] = 64 if header.identity_class == lief.ELF.Header.CLASS.ELF64 else 32
    arch = _machine(header.machine_type)
    if arch == "armel" and header.processor_flag & _EF_ARM_ABI_FLOAT_HARD:
        arch = "armhf"
    elif arch == "ppc64" and not big:
        arch = "ppc64le"
    elif arch == "riscv":
        arch = f"riscv{bits}"
    elif arch == "s390" and bits == 64:
        arch = "s390x"
    libraries = tuple(str(name) for name in elf.libraries)
    return Inspection(
        format="ELF",
        os="linux",
        arch=arch,
        libc=_libc(libraries),
        endian="big" if big else "little",
        bits=bits,
        libraries=libraries,
        floor=_glibc_floor(elf),
    )


def _libc(libraries: Sequence[str]) -> str:
    if any(name == "libc.so.6" for name in libraries):
        return "glibc"
    return "musl" if any(name == "libc.so" or name.startswith("libc.musl-") for name in libraries) else ""


def _glibc_floor(elf: lief.ELF.Binary) -> str:
    asked = [str(one.name) for needed in elf.symbols_version_requirement for one in needed.get_auxiliary_symbols()]
    # GLIBC_PRIVATE and GLIBC_ABI_DT_RELR are no versions.
    versions = [name.removeprefix("GLIBC_") for name in asked if re.match(r"GLIBC_\d", name)]
    return max(versions, key=Version, default="")


def _inspect_pe(pe: lief.PE.Binary) -> Inspection:
    import lief  # noqa: PLC0415 - see above

    wide = pe.optional_header.magic == lief.PE.PE_TYPE.PE32_PLUS
    return Inspection(
        format="PE",
        os="windows",
        arch=_machine(pe.header.machine),
        bits=64 if wide else 32,
        libraries=tuple(str(name) for name in pe.libraries),
        floor=f"{pe.optional_header.major_subsystem_version}.{pe.optional_header.minor_subsystem_version}",
    )


def _inspect_macho(slices: Sequence[lief.MachO.Binary]) -> Inspection:
    names = [str(library.name) for one in slices for library in one.libraries]
    return Inspection(
        format="Mach-O",
        os="macos",
        arch="+".join(_machine(one.header.cpu_type) for one in slices),
        libraries=tuple(dict.fromkeys(names)),
        floor=max((_macos_floor(one) for one in slices), key=lambda text: Version(text or "0"), default=""),
    )


def _macos_floor(binary: lief.MachO.Binary) -> str:
    """Return the lowest macOS: of LC_BUILD_VERSION, or of LC_VERSION_MIN_MACOSX in what older tools made."""
    if (build := binary.build_version) is not None:
        return ".".join(map(str, build.minos[:2]))
    if (least := binary.version_min) is not None:
        return ".".join(map(str, least.version[:2]))
    return ""
