"""Environments: built whole or not at all, once for all who need them, and with no means to install anything."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from tiny_suite import ended, eventually

from portmatrix import environments
from portmatrix.commands import Patience, output_of
from portmatrix.environments import (
    Download,
    Interpreter,
    Pip,
    describe_downloads,
    ensure,
    environment_key,
    existing,
    pip_for,
)
from portmatrix.errors import EnvironmentFailure
from portmatrix.plugins import EnvironmentSpec
from portmatrix.store import Store

OWN = environments.own_interpreter()


@pytest.fixture
def kept(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all the index there is."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def add_wheel(
    index: Path,
    name: str,
    version: str = "1.0",
    requires: tuple[str, ...] = (),
    *,
    damaged: bool = False,
    more: dict[str, str] | None = None,
) -> None:
    """Put a wheel with one module into the index; a damaged one tells what it is, but cannot be unpacked."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {item}\n" for item in requires)
    files = {
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}.py": f"version = {version!r}  # the body of {name}\nprint = print\n",
        **(more or {}),
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    wheel = index / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    if damaged:
        wheel.write_bytes(wheel.read_bytes().replace(b"# the body", b"# the BODY"))


def add_source(index: Path, name: str, build: str) -> None:
    """Put a source distribution into the index whose wheel is built by the statements ``build``."""
    backend = (
        "import os, signal, time\n"
        "def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
        f"    info = os.path.join(folder, '{name}-1.0.dist-info')\n"
        "    os.mkdir(info)\n"
        f"    text = 'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n'\n"
        "    open(os.path.join(info, 'METADATA'), 'w').write(text)\n"
        f"    return '{name}-1.0.dist-info'\n"
        "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
        f"    {build}\n"
    )
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    with tarfile.open(index / f"{name}-1.0.tar.gz", "w:gz") as archive:
        for file, text in {"backend.py": backend, "pyproject.toml": project, "PKG-INFO": f"Name: {name}\n"}.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{file}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


def spec_of(*requirements: str, python: str = ">=3.10") -> EnvironmentSpec:
    return EnvironmentSpec(python=python, requirements=requirements)


def build(store: Store, spec: EnvironmentSpec, seconds: float = 120) -> environments.Environment:
    return ensure(store, spec, lambda _text: None, seconds)


def inside(environment: environments.Environment, program: str) -> str:
    command = [str(environment.python), "-I", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def nothing_is_left(store: Store) -> bool:
    return not list((store.root / "envs").iterdir()) and not list((store.root / "tmp").iterdir())


# --- Building -------------------------------------------------------------------------------------------------------


def test_an_environment_holds_what_was_required_and_no_pip(kept: Store, index: Path) -> None:
    add_wheel(index, "first", requires=("second>=1",))
    add_wheel(index, "second", "1.5")
    add_wheel(index, "second", "1.4")
    said: list[str] = []
    spec = spec_of("first==1.0")
    built = ensure(kept, spec, said.append, 120)
    assert inside(built, "import first, second; print(first.version, second.version)") == "1.0 1.5"
    assert (
        inside(built, "import importlib.util as u; print(u.find_spec('pip'), u.find_spec('setuptools'))") == "None None"
    )
    assert "downloading 2 packages" in said[0]
    described = json.loads((built.folder / "environment.json").read_text())
    assert described["requirements"] == ["first==1.0"]
    assert sorted(described["installed"]) == ["first==1.0", "second==1.5"]
    assert existing(kept, spec) == built
    assert not list((kept.root / "tmp").iterdir())

    index.rename(index.with_name("gone"))
    assert ensure(kept, spec, said.append, 120) == built, "what is built needs no index"
    assert len(said) == 1


def test_two_who_need_one_environment_build_it_once(kept: Store, index: Path) -> None:
    add_wheel(index, "first")
    said: list[str] = []
    built: list[environments.Environment] = []
    threads = [
        threading.Thread(target=lambda: built.append(ensure(Store(kept.root), spec_of("first==1.0"), said.append, 120)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 2
    assert built[0] == built[1]
    assert len(said) == 1


def test_no_requirements_need_no_installer(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_run_pip", lambda *_arguments: pytest.fail("pip was called"))
    built = build(kept, spec_of())
    assert inside(built, "import sys; print(sys.prefix)") == str(built.folder)


def test_a_half_built_environment_is_built_again(kept: Store, index: Path) -> None:
    add_wheel(index, "first")
    spec = spec_of("first==1.0")
    built = build(kept, spec)
    (built.folder / "environment.json").unlink()
    assert existing(kept, spec) is None
    assert build(kept, spec) == built
    assert existing(kept, spec) == built


# --- Building that fails --------------------------------------------------------------------------------------------


def test_a_package_that_is_nowhere(kept: Store, index: Path) -> None:
    add_wheel(index, "first")
    with pytest.raises(EnvironmentFailure, match="could not resolve: ERROR") as failed:
        build(kept, spec_of("first==1.0", "nowhere==2.0"))
    assert "nowhere==2.0" in failed.value.log_tail
    assert not failed.value.unavailable
    assert nothing_is_left(kept)


def test_an_installation_that_fails_halfway(kept: Store, index: Path) -> None:
    add_wheel(index, "first")
    add_wheel(index, "last", requires=("first",), damaged=True)
    with pytest.raises(EnvironmentFailure, match="could not install") as failed:
        build(kept, spec_of("last==1.0"))
    assert "last" in failed.value.log_tail
    assert nothing_is_left(kept)


def test_a_pip_that_is_killed_in_the_middle(kept: Store, index: Path) -> None:
    add_wheel(index, "first")
    add_source(index, "killer", "os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)")
    with pytest.raises(EnvironmentFailure, match="could not install"):
        build(kept, spec_of("first==1.0", "killer==1.0"))
    assert nothing_is_left(kept)


def test_an_installer_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        "open(sys.argv[1], 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    command = [sys.executable, "-S", "-c", program, str(note)]
    with pytest.raises(EnvironmentFailure, match=r"could not install within 5 s \(limits\.prepare_seconds\)"):
        output_of(command, Patience(5), "install")
    eventually(lambda: ended(int(note.read_text())), "the end of the child")


def test_an_environment_that_holds_another_version_is_unhealthy(
    kept: Store, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_wheel(index, "first", "1.0")
    add_wheel(index, "first", "2.0")
    found = [Download("first", "2.0", "", None)]
    monkeypatch.setattr(environments, "resolve", lambda *_arguments: found)
    with pytest.raises(EnvironmentFailure, match=r"asked for first==1\.0, but first 2\.0 was installed"):
        build(kept, spec_of("first==1.0"))
    assert nothing_is_left(kept)


# --- Interpreters and keys ------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with these interpreters."""
    found = (OWN, Interpreter("/opt/3.9", "3.9.18"), Interpreter("/opt/3.6", "3.6.15"))
    monkeypatch.setattr(environments, "interpreters", lambda: found)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("required", "executable"),
    [(">=3.6", OWN.executable), ("==3.9.*", "/opt/3.9"), (">=3.6,<3.7", "/opt/3.6"), ("<3.10", "/opt/3.9")],
)
def test_the_interpreter_is_the_engines_own_if_it_will_do(required: str, executable: str) -> None:
    assert environments.find_interpreter(required).executable == executable


@pytest.mark.usefixtures("machine")
def test_no_interpreter_says_what_is_here_and_what_is_wanted(kept: Store) -> None:
    with pytest.raises(
        EnvironmentFailure, match=r"needs CPython ==2\.7\.\*; this machine has 3\.\d+.*Install"
    ) as failed:
        build(kept, spec_of(python="==2.7.*"))
    assert failed.value.unavailable
    assert nothing_is_left(kept)


def test_the_engines_own_interpreter_is_outside_of_any_environment() -> None:
    program = "import sys; print(sys.prefix == sys.base_prefix, '%d.%d.%d' % sys.version_info[:3])"
    command = [OWN.executable, "-I", "-c", program]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert answer == ["True", OWN.version]
    assert OWN.version.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")


def test_a_key_minds_what_is_built_and_nothing_else() -> None:
    key = environment_key(spec_of("a==1", "b==2"), OWN)
    assert key == environment_key(spec_of("b==2", "a==1"), OWN)
    same = spec_of("a==1", "b==2").model_copy(update={"env": {"X": "1"}, "network": True, "memory_mb": 9})
    assert key == environment_key(same, OWN)
    assert key != environment_key(spec_of("a==1"), OWN)
    assert key != environment_key(spec_of("a==1", "b==2"), Interpreter(OWN.executable, "3.6.15"))


def test_downloads_are_told_largest_first_with_a_warning_for_cuda() -> None:
    downloads = [
        Download("small", "1", "", 1_000_000),
        Download("large", "2", "", 90_000_000),
        Download("nvidia-cublas", "3", "", None),
    ]
    text = describe_downloads(spec_of("large==2"), OWN, downloads)
    assert "downloading 3 packages, 91.0 MB and 1 files of unknown size" in text
    assert (
        text.index("large 2 (90.0 MB)") < text.index("small 1 (1.0 MB)") < text.index("nvidia-cublas 3 (size unknown)")
    )
    assert "CUDA libraries" in text
    assert "CUDA" not in describe_downloads(spec_of("large==2"), OWN, downloads[:2])


@pytest.mark.skipif(sys.platform == "win32", reason="commands there are programs that look beside themselves")
def test_commands_that_a_package_brings_find_their_interpreter(kept: Store, index: Path) -> None:
    add_wheel(index, "first", more={"first-1.0.dist-info/entry_points.txt": "[console_scripts]\ntell = first:print\n"})
    built = build(kept, spec_of("first==1.0"))
    command = subprocess.run([str(Path(built.python).with_name("tell"))], capture_output=True, text=True, check=False)
    assert command.returncode == 0, command.stderr


# --- What old systems need ------------------------------------------------------------------------------------------


def test_an_old_interpreter_gets_the_last_pip_that_it_can_run(index: Path, tmp_path: Path) -> None:
    add_wheel(index, "pip", "21.3.1")
    old = tmp_path / "env" / "bin" / "python"
    pip = pip_for(old, Interpreter("/opt/3.6", "3.6.15"), tmp_path, Patience(60))
    assert pip == Pip((str(old), str(tmp_path / "pip" / "pip-21.3.1-py3-none-any.whl" / "pip")), reports=False)
    add_wheel(index, "pip", "24.0")
    pip = pip_for(old, Interpreter("/opt/3.7", "3.7.17"), tmp_path / "newer", Patience(60))
    assert pip.reports
    assert pip_for(old, OWN, tmp_path, Patience(60)).command[-2:] == ("--python", str(old))


def test_a_pip_that_cannot_report_installs_what_it_downloads(
    kept: Store, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_wheel(index, "first", requires=("second>=1",))
    add_wheel(index, "second", "1.5")
    real = environments.pip_for
    monkeypatch.setattr(environments, "pip_for", lambda *given: real(*given)._replace(reports=False))
    said: list[str] = []
    built = ensure(kept, spec_of("first==1.0"), said.append, 120)
    assert inside(built, "import first, second; print(first.version, second.version)") == "1.0 1.5"
    assert "2 packages" in said[0]


@pytest.mark.skipif(not environments._system_libraries(), reason="this system's loader does not list its libraries")
def test_libraries_of_the_system_are_linked_under_the_names_that_are_wanted(kept: Store) -> None:
    name, path = next(iter(environments._system_libraries().items()))
    spec = spec_of().model_copy(update={"libraries": {"libother.so.1": name}})
    built = build(kept, spec)
    folder = Path(built.env["LD_LIBRARY_PATH"].split(":")[0])
    assert (folder / "libother.so.1").samefile(path)
    assert environment_key(spec, OWN) != environment_key(spec_of(), OWN)


def test_a_library_that_is_not_here_makes_it_unavailable(kept: Store) -> None:
    spec = spec_of().model_copy(update={"libraries": {"a.so": "libnowhere.so.7"}, "install": "apt-get install nowhere"})
    with pytest.raises(EnvironmentFailure, match=r"needs libnowhere\.so\.7.*\(apt-get install nowhere\)") as failed:
        build(kept, spec)
    assert failed.value.unavailable
    assert nothing_is_left(kept)
