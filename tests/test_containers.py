"""Containers: which tool is taken, what it is asked, how a worker in one ends; by a tool that only looks like one."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_suite import Assemble, RunMatrix

from portmatrix import containers, environments, suite
from portmatrix.commands import Patience
from portmatrix.containers import Inside, build_image, command_inside, find_tool, has_image, image_for
from portmatrix.environments import Interpreter, ensure, environment_key, existing, source_of
from portmatrix.errors import EnvironmentFailure
from portmatrix.plugins import EnvironmentSpec
from portmatrix.sites import Ending
from portmatrix.store import Store
from portmatrix.types import Outcome, Stage

#: Where the reference suite has them.
DOCKERFILES = Path(__file__).parents[1] / "dockerfiles"
DOCKERFILE = 'ARG BASE_IMAGE=scratch\nFROM ${BASE_IMAGE}\nLABEL portmatrix.python="inner-python"\n'
#: Knows what was built by a file, and runs a container's command on this machine, where "inner-python" is this Python.
FAKE = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/asked"
case $1 in
    info) echo "true []" ;;
    pull)
        test "$2" != --platform || shift 2
        grep -qx "$2" "$here/registry" 2>/dev/null || { echo "no such host" >&2; exit 1; } ;;
    inspect)
        test "$2" != --format || { cat "$here/state" 2>/dev/null || echo "exited false"; exit; }
        grep -qx "$4" "$here/built" 2>/dev/null ;;
    build)
        while [ "$1" != --tag ]; do shift; done
        test ! -e "$here/broken" || { echo "E: no such package" >&2; exit 100; }
        echo "$2" >> "$here/built" ;;
    run)
        while [ "$1" != --env ]; do shift; done
        while [ "$1" = --env ]; do export "$2"; shift 2; done
        shift 2
        "PYTHON" "$@" ;;
    rm) ;;
esac
"""


@pytest.fixture(autouse=True)
def no_memory() -> None:
    """Ask again which tool there is, and what it can do."""
    find_tool.cache_clear()
    containers._docker.cache_clear()


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the only tool there is, which calls itself Docker."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(FAKE.replace("PYTHON", sys.executable))
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in ("podman", "buildah"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def dockerfile(tmp_path: Path) -> Path:
    """A Dockerfile."""
    file = tmp_path / "old.Dockerfile"
    file.write_text(DOCKERFILE)
    return file


def spec_of(dockerfile: Path, **more: object) -> EnvironmentSpec:
    return EnvironmentSpec(container="old", interpreter=False).model_copy(update={"dockerfile": dockerfile, **more})


def asked(tool: Path) -> list[str]:
    return (tool / "asked").read_text().splitlines()


# --- Which tool, which image ----------------------------------------------------------------------------------------


def test_a_client_without_a_daemon_is_no_tool(tool: Path) -> None:
    found = find_tool()
    assert found is not None
    assert found.executable == str(tool / "docker")
    find_tool.cache_clear()
    (tool / "docker").write_text("#!/bin/sh\nexit 1\n")
    assert find_tool() is None or find_tool().executable.startswith("/usr/bin")  # type: ignore[union-attr]


def test_another_client_of_the_same_name_is_tried(tool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    front = tmp_path / "front"
    front.mkdir()
    (front / "docker").write_text("#!/bin/sh\nexit 1\n")
    (front / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{front}:{os.environ['PATH']}")
    found = find_tool()
    assert found is not None
    assert found.executable == str(tool / "docker")


def test_no_tool_is_no_fault(tool: Path, dockerfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "find_tool", lambda: None)
    with pytest.raises(EnvironmentFailure, match="old needs Docker, Podman or Buildah") as failed:
        source_of(spec_of(dockerfile))
    assert failed.value.unavailable


@pytest.mark.usefixtures("tool")
def test_an_image_is_known_by_what_it_is_built_from(dockerfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [image_for("old", dockerfile, ()), image_for("old", dockerfile, ("numpy==1.19.5",))]
    monkeypatch.setenv("PORTMATRIX_BASE_IMAGE_OLD", "mine:1")
    images.append(image_for("old", dockerfile, ()))
    assert dict(images[-1].arguments) == {"BASE_IMAGE": "mine:1"}
    dockerfile.write_text(DOCKERFILE + "RUN true\n")
    images.append(image_for("old", dockerfile, ()))
    assert len({image.tag for image in images}) == len(images)
    assert {image.python for image in images} == {"inner-python"}


@pytest.mark.usefixtures("tool")
def test_what_nobody_has_built_is_tried_when_asked_for_only(dockerfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dockerfile.write_text(DOCKERFILE + 'LABEL portmatrix.untested="its base is gone"\n')
    with pytest.raises(EnvironmentFailure, match=r"untested.*its base is gone.*PORTMATRIX_UNTESTED=1") as failed:
        image_for("old", dockerfile, ())
    assert failed.value.unavailable
    monkeypatch.setenv("PORTMATRIX_UNTESTED", "1")
    assert image_for("old", dockerfile, ()).container == "old"


@pytest.mark.usefixtures("tool")
def test_an_interpreter_comes_before_a_container(dockerfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(dockerfile, interpreter=True, python=">=3.6,<3.7")
    old = Interpreter("/opt/3.6", "3.6.15")
    monkeypatch.setattr(environments, "interpreters", lambda: (old,))
    assert source_of(spec) == old
    missing = spec.model_copy(update={"libraries": {"libold.so.1": "libnowhere.so.7"}})
    assert not isinstance(source_of(missing), Interpreter)
    monkeypatch.setattr(environments, "interpreters", lambda: (environments.own_interpreter(),))
    assert environment_key(spec, source_of(spec)).startswith("old-")


def test_what_is_missing_is_named_for_every_way(dockerfile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "find_tool", lambda: None)
    monkeypatch.setattr(environments, "interpreters", lambda: (Interpreter("/opt/3.6", "3.6.15"),))
    libraries = {"libold.so.1": "libnowhere.so.7"}
    more = {"interpreter": True, "python": "<3.7", "libraries": libraries, "install": "apt-get install nowhere"}
    with pytest.raises(EnvironmentFailure, match=r"libnowhere\.so\.7 .*apt-get install nowhere.*; .*needs Docker"):
        source_of(spec_of(dockerfile, **more))


# --- Building -------------------------------------------------------------------------------------------------------


def test_an_image_is_built_once(tool: Path, dockerfile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTMATRIX_BASE_IMAGE_OLD", "mine:1")
    monkeypatch.setenv("PORTMATRIX_APT_MIRROR", "mirror")
    (tool / "registry").write_text("mine:1\n")
    store, spec = Store(tmp_path / "store"), spec_of(dockerfile, requirements=("a==1", "b==2"))
    assert existing(store, spec) is None
    said: list[str] = []
    for _ in range(2):
        built = ensure(store, spec, said.append, 60)
    again = existing(store, spec)
    assert again is not None
    assert (again.key, again.command) == (built.key, built.command)
    assert (built.python, len(said)) == ("inner-python", 1)
    (line,) = (line for line in asked(tool) if line.startswith("build"))
    for argument in ("BASE_IMAGE=mine:1", "APT_MIRROR=mirror", "REQUIREMENTS=a==1 b==2", f"--file {dockerfile}"):
        assert argument in line


def test_a_build_that_fails_says_why(tool: Path, dockerfile: Path) -> None:
    (tool / "broken").touch()
    image = image_for("old", dockerfile, ())
    with pytest.raises(EnvironmentFailure, match=r"old\.Dockerfile: E: no such package") as failed:
        build_image(image, lambda _text: None, Patience(60))
    assert not failed.value.unavailable
    assert not has_image(image)


def test_without_its_base_an_image_is_unavailable(
    tool: Path, dockerfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTMATRIX_BASE_IMAGE_OLD", "far:1")
    with pytest.raises(
        EnvironmentFailure, match=r"base image far:1: no such host.*PORTMATRIX_BASE_IMAGE_OLD"
    ) as failed:
        build_image(image_for("old", dockerfile, ()), lambda _text: None, Patience(60))
    assert failed.value.unavailable
    assert not any(line.startswith("build") for line in asked(tool))
    (tool / "built").write_text("far:1\n")
    build_image(image_for("old", dockerfile, ()), lambda _text: None, Patience(60))


# --- Running --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tool")
def test_an_image_for_another_platform_is_another_one(dockerfile: Path, tool: Path) -> None:
    (tool / "registry").write_text("mine:1\n")
    more = {"BASE_IMAGE": "mine:1", "DEBIAN_PACKAGES": "python3"}
    images = [image_for("old", dockerfile, (), platform, more) for platform in ("", "linux/s390x", "linux/arm64")]
    assert len({image.tag for image in images}) == len(images)
    build_image(images[1], lambda _text: None, Patience(60))
    assert "pull --platform linux/s390x mine:1" in asked(tool)
    (line,) = (line for line in asked(tool) if line.startswith("build"))
    assert "--platform linux/s390x" in line
    assert "--build-arg DEBIAN_PACKAGES=python3" in line


@pytest.mark.usefixtures("tool")
def test_a_container_sees_what_it_is_given(dockerfile: Path, tmp_path: Path) -> None:
    image = image_for("old", dockerfile, ())
    inside = Inside("c", tmp_path, {"A": "1"}, {tmp_path / "b": True, tmp_path / "a": False}, 300, network=False)
    line = " ".join(command_inside(image, inside, ["python3", "x.py"]))
    assert f"--volume {tmp_path}/a:{tmp_path}/a:ro --volume {tmp_path}/b:{tmp_path}/b:rw" in line
    for argument in ("--network none", "--memory 300m", "--cpus 1", "--env A=1", "--init", "--name c"):
        assert argument in line
    for argument in ("--read-only", "--tmpfs /tmp:", "--cap-drop ALL", "--security-opt no-new-privileges"):
        assert argument in line
    for argument in ("--pids-limit ", "--ulimit core=0", f"--label {containers.OWNER}={containers.owner()}"):
        assert argument in line
    assert line.endswith(f"{image.tag} python3 x.py")
    buildah = command_inside(image._replace(tool=containers.Tool("buildah", "/b")), inside, ["python3", "x.py"])
    assert buildah[:2] == ["/bin/sh", "-c"]
    assert buildah[-2:] == ["python3", "x.py"]
    assert "--cap-drop" in buildah


def test_no_container_runs_as_root(tool: Path, dockerfile: Path, tmp_path: Path) -> None:
    inside = Inside("c", tmp_path, {}, {}, 300, network=False)
    line = command_inside(image_for("old", dockerfile, ()), inside, ["true"])
    user = line[line.index("--user") + 1].split(":")
    assert user == [str(os.getuid() or 65532), str(os.getgid() if os.getuid() else 65532)]
    containers._docker.cache_clear()
    # Root of a namespace that belongs to who runs the daemon; and without control groups nothing can be limited.
    (tool / "docker").write_text("#!/bin/sh\necho 'false [name=seccomp,profile=default name=rootless]'\n")
    line = command_inside(image_for("old", dockerfile, ()), inside, ["true"])
    assert line[line.index("--user") + 1] == "0:0"
    assert "--cpus" not in line


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
def test_root_hands_its_workers_the_folders_that_they_write_to(tmp_path: Path) -> None:
    private, bundle = tmp_path / "private", tmp_path / "private" / "bundle"
    private.mkdir(0o700)
    bundle.mkdir()
    exchange, full = private / "exchange", private / "full"
    exchange.mkdir(0o700)
    full.mkdir(0o755)
    (full / "model").touch()
    (exchange / "left").touch()
    for folder in (bundle, exchange, full):
        assert containers.there(folder) == str(folder)
    assert [folder.stat().st_uid for folder in (bundle, exchange, full)] == [65532, 65532, 0]
    assert private.stat().st_uid == 0
    assert private.stat().st_mode & 0o777 == 0o701
    (bundle / "artifact").mkdir()
    (bundle / "artifact" / "secret").symlink_to(full / "model")
    for file in (bundle / "artifact", bundle / "artifact" / "secret"):
        os.chown(file, 65532, 65532, follow_symlinks=False)
    os.chown(full / "model", 1234, 1234)
    containers.take_back(bundle)
    assert {file.lstat().st_uid for file in (bundle, *bundle.rglob("*"))} == {0}
    assert (full / "model").stat().st_uid == 1234, "what a link leads to is let alone"


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root has folders that others cannot pass"
)
def test_what_lies_between_two_folders_that_are_shared_can_be_passed_through(tmp_path: Path) -> None:
    suite, engine, beside = tmp_path / "suite", tmp_path / "suite/.tox/env/engine", tmp_path / "suite/private"
    engine.mkdir(parents=True)
    beside.mkdir(0o700)
    (suite / ".tox").chmod(0o700)
    tmp_path.chmod(0o700)
    containers.open_ways([suite, engine])
    modes = [folder.stat().st_mode & 0o777 for folder in (suite / ".tox", beside, tmp_path)]
    assert modes == [0o701, 0o700, 0o700], "nothing else is opened, and nobody may look into it"


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [
        ("exited true", 137, Ending("used more than 300 MiB of memory", "model", transient=True)),
        ("exited false", 137, Ending("the worker died of SIGKILL (signal 9)", "model", transient=True, died=True)),
        ("exited false", 3, None),
        ("created false", 125, Ending("docker could not run the container (status 125)", "harness", transient=True)),
    ],
)
@pytest.mark.usefixtures("tool")
def test_how_a_container_ended_is_asked_of_the_tool(
    dockerfile: Path, tool: Path, tmp_path: Path, state: str, status: int, expected: Ending | None
) -> None:
    (tool / "state").write_text(f"{state}\n")
    site = containers.site_of(image_for("old", dockerfile, ()), (), "namespace")
    inside = Inside("c", tmp_path, {}, {}, 300, network=False)
    assert site.ending(inside, status) == expected


def test_where_nothing_is_installed_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert containers.clean_up() == []


@pytest.fixture
def contained(assemble: Assemble) -> Callable[[str], Path]:
    """Makes a suite whose runtime of that name runs in a container."""

    def make(runtime: str) -> Path:
        root = assemble(f"runtimes/{runtime}")
        file = root / "runtimes" / f"{runtime}.py"
        # What the fake tool runs is this interpreter, whose numpy is the one required.
        file.write_text(file.read_text() + '\nENVIRONMENTS[""].update(container="old", interpreter=False)\n')
        (root / "dockerfiles").mkdir()
        (root / "dockerfiles" / "old.Dockerfile").write_text(DOCKERFILE)
        return root

    return make


def test_cells_run_in_a_container(tool: Path, contained: Callable[[str], Path], run_matrix: RunMatrix) -> None:
    ran = run_matrix(contained("plain"), "*/native/*")
    record = ran.only()
    assert record.outcome is Outcome.PASS, record.reason
    assert record.environment["via"].startswith("docker, image localhost/portmatrix/old:")
    assert record.environment["numpy"] == np.__version__
    assert any(line.startswith("rm --force --volumes portmatrix-") for line in asked(tool)), "the container is removed"
    assert f"REQUIREMENTS=numpy=={np.__version__}" in "\n".join(asked(tool))


@pytest.mark.usefixtures("tool")
def test_a_runtime_that_dies_in_its_container_names_its_signal(
    contained: Callable[[str], Path], run_matrix: RunMatrix
) -> None:
    # A shell gives what died of a signal the status 128 + its number, and so does a container.
    record = run_matrix(contained("segfaults"), "*/native/*").only()
    assert (record.outcome, record.stage) == (Outcome.FAIL, Stage.RUN)
    assert "SIGSEGV" in record.reason


def test_a_container_that_hangs_is_ended(
    tool: Path, contained: Callable[[str], Path], run_matrix: RunMatrix, tmp_path: Path
) -> None:
    root = contained("hangs")
    spec = root / "matrix.yaml"
    spec.write_text(spec.read_text().replace('"cell_seconds": 30', '"cell_seconds": 2'))
    record = run_matrix(root, "*/native/*").only()
    assert (record.outcome, record.stage) == (Outcome.FAIL, Stage.RUN)
    assert "did not end within 2 s" in record.reason
    assert any(line.startswith("rm --force --volumes portmatrix-") for line in asked(tool))


def test_a_broken_dockerfile_is_an_error_of_its_cells(
    tool: Path, contained: Callable[[str], Path], run_matrix: RunMatrix
) -> None:
    (tool / "broken").touch()
    record = run_matrix(contained("plain"), "*/native/*").only()
    assert (record.outcome, record.stage) == (Outcome.ERROR, Stage.PREPARE)
    assert "no such package" in record.reason


def test_a_dockerfile_that_is_not_there_breaks_its_plugin(contained: Callable[[str], Path]) -> None:
    root = contained("plain")
    (root / "dockerfiles" / "old.Dockerfile").unlink()
    (broken,) = suite.load(root).plugins.broken
    assert "dockerfiles/old.Dockerfile" in broken.why


# --- The reference suite's Dockerfiles ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [file.name for file in sorted(DOCKERFILES.glob("*"))])
def test_a_dockerfile_of_the_suite(name: str) -> None:
    """What all of them have in common; hadolint, in `tox run -e lint`, knows the rest."""
    content = (DOCKERFILES / name).read_text(encoding="utf-8")
    instructions = [line for line in content.splitlines() if line and line[0].isupper()]
    assert re.match(r"ARG BASE_IMAGE=\S+$", instructions[0])
    assert instructions[1] == "FROM ${BASE_IMAGE}"
    assert {"ARG APT_MIRROR="} <= set(instructions)
    users = [line for line in instructions if line.startswith("USER")]
    assert users == ["USER 65532:65532"], "one that owns nothing, and is known without a list of users"
    assert instructions.index(users[0]) > max(number for number, line in enumerate(instructions) if line[:3] == "RUN")
    assert not [line for line in instructions if line.startswith(("COPY", "ADD"))], "it is built from nothing of ours"
