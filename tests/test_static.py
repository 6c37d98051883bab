"""Look-ups: in the real index, in a folder of wheels made for the purpose, and in real models and runtimes."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import socket
import sys
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import flatbuffers
import onnxruntime
import pytest
from filelock import FileLock
from onnx import TensorProto, helper, save
from onnx.backend.test.case.node import collect_testcases

from portmatrix import static
from portmatrix.bundle import Manifest, Signature
from portmatrix.commands import Patience
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Wanted
from portmatrix.plugins import EnvironmentSpec, Way, load_file
from portmatrix.rate import rate
from portmatrix.spec import RatingSpec
from portmatrix.static import answers, artifact, indexes, kernels
from portmatrix.store import Store, digest_of
from portmatrix.types import Batch, Lookup, Outcome, PathKind, PlatformSpec, Reach, Record, Stage

RUNTIMES = Path(__file__).parents[1] / "runtimes"
PLATFORMS = {
    "macos arm64": PlatformSpec(os="macos", arch="arm64"),
    "macos x86_64": PlatformSpec(os="macos", arch="x86_64"),
    "windows x86_64": PlatformSpec(os="windows", arch="x86_64"),
    "windows arm64": PlatformSpec(os="windows", arch="arm64"),
    "linux x86_64": PlatformSpec(os="linux", arch="x86_64", libc="glibc"),
    "linux s390x": PlatformSpec(os="linux", arch="s390x", libc="glibc", endian="big"),
    "linux x86_64 with musl": PlatformSpec(os="linux", arch="x86_64", libc="musl"),
    "browser": PlatformSpec(os="browser", arch="wasm32"),
    "node": PlatformSpec(os="node", arch="x86_64"),
}
PATIENCE = Patience(300)
#: Three releases of Python, of which an index is asked for the newest first.
THREE = ">=3.11,<3.14"
ONNXRUNTIME = {"python": THREE, "requirements": ["onnxruntime==1.32.0", "numpy==2.4.6"]}
ONNXRUNTIME_1_17 = {"python": ">=3.10,<3.13", "requirements": ["onnxruntime==1.17.3", "numpy==1.26.4"]}


def wanted(platform: str, **spec: Any) -> Wanted:
    return Wanted("rt", EnvironmentSpec(**spec), PLATFORMS[platform], Way(reach=Reach.STATIC))


def bundle(folder: Path, format: str = "onnx", entry: str = "model.onnx") -> tuple[Manifest, Path]:
    """Return the manifest of a bundle in ``folder``, as far as look-ups read one; its artifact is what lies there."""
    manifest = Manifest(
        framework="f", model="m", path="p", kind=PathKind.ONNX, format=format, batch=Batch.STATIC, entry=entry,
        signature=Signature(inputs=(), outputs=()), sets=(), files={f"artifact/{entry}": folder.name}, seed=1,
        accuracy=None, recipe="", trained_on="", environment={}, facts={}, seconds={},
    )  # fmt: skip
    return manifest, folder


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    """A store with nothing in it."""
    return Store(tmp_path / "empty")


@pytest.fixture
def look(empty: Store, tmp_path: Path) -> Callable[..., Lookup]:
    """Looks up whether requirements are there for a platform; the model does not matter."""

    def look_up(platform: str, *requirements: str, **spec: Any) -> Lookup:
        needs = wanted(platform, **{"python": "==3.13.*", "requirements": requirements, **spec})
        (tmp_path / "artifact").mkdir(exist_ok=True)
        (tmp_path / "artifact" / "model").write_bytes(b"")
        return static.look_up(empty, needs, *bundle(tmp_path, "other", "model"), PATIENCE)

    return look_up


# --- The index itself -----------------------------------------------------------------------------------------------


def test_onnxruntime_is_there_for_apple_silicon(look: Callable[..., Lookup]) -> None:
    found = look("macos arm64", **ONNXRUNTIME)
    assert found.possible
    assert found.asked == "onnxruntime==1.32.0 numpy==2.4.6 for CPython 3.13 on macos arm64"
    # onnxruntime's own wheel is for macOS 14; of numpy there is one for 14 and one that runs from 11 on.
    assert found.floor == "macOS 14.0"
    assert found.found[:2] == (
        "onnxruntime-1.32.0-cp313-cp313-macosx_14_0_arm64.whl",
        "numpy-2.4.6-cp313-cp313-macosx_11_0_arm64.whl",
    )
    assert found.date == answers.today().isoformat()
    assert "the floor by the binaries themselves: it is what the wheels' tags say" in found.unchecked


def test_onnxruntime_is_there_no_more_for_macs_with_intel(look: Callable[..., Lookup]) -> None:
    found = look("macos x86_64", **ONNXRUNTIME)
    assert not found.possible
    assert found.asked.endswith("for CPython 3.11 to 3.13 on macos x86_64")
    assert found.missing == ("onnxruntime==1.32.0",)
    assert found.newest == ("onnxruntime 1.23.2 for CPython 3.13",)
    assert not found.found


def test_onnxruntime_is_there_for_windows_on_arm(look: Callable[..., Lookup]) -> None:
    found = look("windows arm64", **ONNXRUNTIME)
    assert found.possible
    assert found.found[0] == "onnxruntime-1.32.0-cp313-cp313-win_arm64.whl"
    assert found.floor == ""


@pytest.mark.parametrize("platform", ["linux s390x", "linux x86_64 with musl"])
def test_onnxruntime_was_never_there_for_it(look: Callable[..., Lookup], platform: str) -> None:
    found = look(platform, **ONNXRUNTIME)
    assert (found.possible, found.missing, found.newest) == (False, ("onnxruntime==1.32.0",), ())


def test_torch_is_not_there_for_windows_on_arm(look: Callable[..., Lookup]) -> None:
    found = look("windows arm64", "torch==2.13.0", "numpy==2.4.6", python=THREE)
    assert (found.possible, found.missing) == (False, ("torch==2.13.0",))


def test_torch_for_macos_needs_nothing_of_what_it_needs_on_linux(look: Callable[..., Lookup]) -> None:
    found = look("macos arm64", "torch==2.13.0")
    assert found.possible
    assert not [file for file in found.found if file.startswith(("nvidia", "cuda", "triton"))]


def test_source_without_a_wheel_is_a_doubt_and_no_refusal(look: Callable[..., Lookup]) -> None:
    found = look("macos arm64", "theano==1.0.5", "six==1.16.0", python=">=3.7,<3.9")
    assert found.possible
    assert found.asked.endswith("for CPython 3.8 on macos arm64")
    assert "Theano-1.0.5.tar.gz" in found.found
    assert "whether Theano-1.0.5.tar.gz, of which there is no wheel, builds there" in found.unchecked


# --- npm and Debian -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm on this machine")
def test_npm_says_whether_a_package_is_there(look: Callable[..., Lookup]) -> None:
    found = look("browser", npm=["onnxruntime-common@1.20.1"])
    assert (found.possible, found.found) == (True, ("onnxruntime-common-1.20.1.tgz",))
    gone = look("browser", npm=["onnxruntime-common@1.999.0"])
    assert (gone.possible, gone.missing) == (False, ("onnxruntime-common@1.999.0",))


def test_binaries_of_a_package_fit_by_the_folders_that_they_lie_in() -> None:
    binaries = ["bin/napi-v6/darwin/arm64/b.node", "bin/napi-v6/linux/x64/b.node", "prebuilds/linux-x64/b.node"]
    assert indexes.fitting(binaries, "linux/x64") == ["bin/napi-v6/linux/x64/b.node", "prebuilds/linux-x64/b.node"]
    assert indexes.fitting(binaries, "darwin/x64") == []
    assert indexes.fitting(binaries, "") == []


def test_without_npm_nobody_can_be_asked(look: Callable[..., Lookup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentFailure, match="npm is not on this machine") as caught:
        look("node", npm=["onnxruntime-node@1.30.0"])
    assert caught.value.unavailable


@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="there is no mmdebstrap on this machine")
def test_debian_has_what_the_index_of_wheels_has_not(look: Callable[..., Lookup]) -> None:
    needs = {"python": ">=3.10,<3.13", "debian": ["python3-onnxruntime"]}
    found = look("linux s390x", "onnxruntime==1.21.0", **needs)
    assert found.possible
    assert found.asked == "python3-onnxruntime of Debian 13 (trixie) for s390x"
    assert found.found[0].startswith("python3-onnxruntime_1.21.0")
    assert found.floor == "glibc 2.41"
    needs["debian"] = ["python3-onnxruntime", "python3-no-such-package"]
    gone = look("linux s390x", "onnxruntime==1.21.0", **needs)
    assert (gone.possible, gone.missing) == (False, ("onnxruntime==1.21.0", "python3-no-such-package"))


def test_without_mmdebstrap_debian_cannot_be_asked(
    look: Callable[..., Lookup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentFailure, match="Debian cannot be asked without mmdebstrap") as caught:
        look("linux s390x", debian=["python3-onnxruntime"])
    assert caught.value.unavailable


def test_what_is_a_container_only_is_not_looked_up(look: Callable[..., Lookup]) -> None:
    with pytest.raises(EnvironmentFailure, match="made as a container image only") as caught:
        look("macos arm64", interpreter=False, container="caffe")
    assert caught.value.unavailable


# --- A folder of wheels ---------------------------------------------------------------------------------------------


class Shelf:
    """A folder of wheels that is all the index there is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, version: str, tag: str, *needs: str) -> Path:
        """Put a wheel there that needs others."""
        file = self.folder / f"{name}-{version}-{tag}.whl"
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        metadata = "\n".join([*lines, *(f"Requires-Dist: {item}" for item in needs)])
        with zipfile.ZipFile(file, "w") as wheel:
            wheel.writestr(f"{name}-{version}.dist-info/METADATA", metadata + "\n")
            wheel.writestr(f"{name}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
            wheel.writestr(f"{name}-{version}.dist-info/RECORD", "")
        return file

    def add_source(self, name: str, version: str) -> None:
        """Put a source distribution there; whoever runs its setup.py finds out that this was wrong."""
        setup = self.folder / "setup.py"
        setup.write_text("raise SystemExit('a look-up runs nothing')\n")
        with tarfile.open(self.folder / f"{name}-{version}.tar.gz", "w:gz") as archive:
            archive.add(setup, f"{name}-{version}/setup.py")
        setup.unlink()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Shelf(folder)


def test_the_newest_python_that_has_wheels_is_named(look: Callable[..., Lookup], shelf: Shelf) -> None:
    shelf.add("a", "1.0", "cp312-cp312-macosx_12_0_arm64")
    shelf.add("a", "1.0", "cp311-cp311-macosx_12_0_arm64")
    assert look("macos arm64", "a==1.0", python=THREE).asked == "a==1.0 for CPython 3.12 on macos arm64"
    assert look("macos arm64", "a==1.0", python="==3.11.*").asked == "a==1.0 for CPython 3.11 on macos arm64"
    assert not look("macos arm64", "a==1.0", python=">=3.13,<3.14").possible


def test_all_that_is_required_must_be_there_for_one_python(look: Callable[..., Lookup], shelf: Shelf) -> None:
    shelf.add("a", "1.0", "cp312-cp312-win_arm64")
    shelf.add("b", "1.0", "cp311-cp311-win_arm64")
    found = look("windows arm64", "a==1.0", "b==1.0", python=THREE)
    assert not found.possible
    assert set(found.missing) == {"a==1.0", "b==1.0"}


@pytest.mark.parametrize("platform", ["macos arm64", "windows arm64", "linux s390x", "linux x86_64 with musl"])
def test_a_wheel_in_pure_python_is_for_all(look: Callable[..., Lookup], shelf: Shelf, platform: str) -> None:
    shelf.add("a", "1.0", "py3-none-any")
    found = look(platform, "a==1.0")
    assert (found.possible, found.floor, found.found) == (True, "", ("a-1.0-py3-none-any.whl",))


@pytest.mark.parametrize(
    ("platform", "tags", "floor"),
    [
        ("macos arm64", ["macosx_12_0_arm64", "macosx_13_0_universal2", "any"], "macOS 13.0"),
        ("macos x86_64", ["macosx_10_9_x86_64", "macosx_10_13_x86_64"], "macOS 10.13"),
        ("linux x86_64", ["manylinux2014_x86_64", "manylinux_2_28_x86_64", "manylinux1_x86_64"], "glibc 2.28"),
        ("linux x86_64", ["manylinux_2_17_x86_64.manylinux2014_x86_64", "manylinux2010_x86_64"], "glibc 2.17"),
        ("linux x86_64 with musl", ["musllinux_1_1_x86_64", "musllinux_1_2_x86_64"], "musl 1.2"),
        ("windows x86_64", ["win_amd64"], ""),
    ],
)
def test_the_floor_is_the_highest_of_all_wheels(
    look: Callable[..., Lookup], shelf: Shelf, platform: str, tags: list[str], floor: str
) -> None:
    names = [f"p{number}" for number in range(len(tags))]
    for name, tag, following in zip(names, tags, [*names[1:], ""], strict=True):
        shelf.add(name, "1.0", f"cp313-cp313-{tag}" if tag != "any" else "py3-none-any", *filter(None, [following]))
    assert look(platform, "p0").floor == floor


def test_of_two_wheels_of_one_version_the_one_for_older_systems_counts(
    look: Callable[..., Lookup], shelf: Shelf
) -> None:
    shelf.add("a", "1.0", "cp313-cp313-macosx_14_0_arm64")
    shelf.add("a", "1.0", "cp313-cp313-macosx_11_0_arm64")
    assert look("macos arm64", "a").floor == "macOS 11.0"


def test_a_system_older_than_all_that_there_are_is_none(look: Callable[..., Lookup], shelf: Shelf) -> None:
    shelf.add("a", "1.0", "cp313-cp313-manylinux_2_42_x86_64")
    assert not look("linux x86_64", "a").possible


def test_what_is_needed_on_some_platforms_is_needed_there_only(look: Callable[..., Lookup], shelf: Shelf) -> None:
    needs = ["lin; sys_platform == 'linux'", "win; os_name == 'nt'", "arm; platform_machine == 'ARM64'"]
    shelf.add("a", "1.0", "py3-none-any", *needs, "old; python_version < '3.13'")
    for name in ("lin", "win", "arm"):
        shelf.add(name, "1.0", "py3-none-any")
    expected = {
        "macos arm64": {"a"},
        "windows x86_64": {"a", "win"},
        "windows arm64": {"a", "win", "arm"},
        "linux s390x": {"a", "lin"},
    }
    found = {platform: {file.split("-")[0] for file in look(platform, "a").found} for platform in expected}
    assert found == expected


def test_the_newest_version_that_is_there_is_named(look: Callable[..., Lookup], shelf: Shelf) -> None:
    shelf.add("a", "1.0", "cp313-cp313-win_arm64")
    shelf.add("a", "1.1", "cp313-cp313-win_arm64", "nowhere")
    shelf.add("a", "2.0", "cp313-cp313-win_amd64")
    found = look("windows arm64", "a==2.0")
    assert (found.possible, found.missing) == (False, ("a==2.0",))
    assert found.newest == ("a 1.1 for CPython 3.13",), "what that needs is another question"


def test_what_others_need_and_nobody_has_is_named(look: Callable[..., Lookup], shelf: Shelf) -> None:
    shelf.add("a", "1.0", "py3-none-any", "nowhere>2")
    found = look("windows arm64", "a==1.0")
    assert (found.possible, found.missing) == (False, ("nowhere>2 (from a)",))


def test_a_wheel_for_an_older_python_goes_before_source(look: Callable[..., Lookup], shelf: Shelf) -> None:
    shelf.add("a", "1.0", "cp311-cp311-win_arm64")
    shelf.add_source("a", "1.0")
    found = look("windows arm64", "a==1.0", python=THREE)
    assert found.found == ("a-1.0-cp311-cp311-win_arm64.whl",)


def test_source_that_others_need_is_a_doubt_about_all_that_they_need(look: Callable[..., Lookup], shelf: Shelf) -> None:
    shelf.add("a", "1.0", "cp313-cp313-win_arm64", "c==1.0")
    shelf.add_source("c", "1.0")
    found = look("windows arm64", "a==1.0")
    assert found.possible
    assert found.found == ("a-1.0-cp313-cp313-win_arm64.whl", "c-1.0.tar.gz")
    (doubt,) = [item for item in found.unchecked if "c-1.0.tar.gz" in item]
    assert doubt.endswith("builds there, and what the requirements need beside it")


def test_source_of_another_version_is_none(look: Callable[..., Lookup], shelf: Shelf) -> None:
    shelf.add_source("a", "0.9")
    assert not look("windows arm64", "a==1.0").possible


def test_a_python_that_there_is_not_is_said(look: Callable[..., Lookup], shelf: Shelf) -> None:
    with pytest.raises(EnvironmentFailure, match=r"needs CPython ==2\.7"):
        look("macos arm64", "a==1.0", python="==2.7.*")


# --- Answers that are kept ------------------------------------------------------------------------------------------


def rewrite(store: Store, **changes: Any) -> None:
    """Change the store's documents of answers that have such a field."""
    for file in store.root.glob(f"{answers.KIND}/*/*.json"):
        kept = json.loads(file.read_bytes())
        if changes.keys() <= kept.keys():
            file.write_text(json.dumps({**kept, **changes}))


def days_ago(days: int) -> str:
    return (answers.today() - timedelta(days)).isoformat()


def test_an_answer_is_kept_with_its_day(look: Callable[..., Lookup], shelf: Shelf, empty: Store) -> None:
    wheel = shelf.add("a", "1.0", "py3-none-any")
    first = look("macos arm64", "a==1.0")
    wheel.unlink()
    rewrite(empty, date=days_ago(answers.REUSED_DAYS - 1))
    again = look("macos arm64", "a==1.0")
    assert again == first.model_copy(update={"date": days_ago(answers.REUSED_DAYS - 1)})
    assert look("macos x86_64", "a==1.0").possible is False, "another platform is another question"
    assert look("macos arm64", "a==1.0", python="==3.12.*").possible is False, "other Pythons are another question"


@pytest.mark.parametrize("days", [answers.REUSED_DAYS, -1])
def test_an_answer_of_another_time_is_asked_for_again(
    look: Callable[..., Lookup], shelf: Shelf, empty: Store, days: int
) -> None:
    wheel = shelf.add("a", "1.0", "py3-none-any")
    assert look("macos arm64", "a==1.0").possible
    wheel.unlink()
    rewrite(empty, date=days_ago(days))
    again = look("macos arm64", "a==1.0")
    assert (again.possible, again.date) == (False, days_ago(0))


@pytest.mark.parametrize("damage", [{"date": "yesterday"}, {"possible": "perhaps"}, {"asked": None}])
def test_a_damaged_answer_is_asked_for_again(
    look: Callable[..., Lookup], shelf: Shelf, empty: Store, damage: dict[str, Any]
) -> None:
    shelf.add("a", "1.0", "py3-none-any")
    first = look("macos arm64", "a==1.0")
    rewrite(empty, **damage)
    assert look("macos arm64", "a==1.0") == first


@pytest.fixture
def silent_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index at a port of this machine that nobody listens to."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{port.getsockname()[1]}/simple"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", address)


def test_an_index_that_does_not_answer_is_no_verdict(look: Callable[..., Lookup], silent_index: None) -> None:
    with pytest.raises(EnvironmentFailure, match="did not answer") as caught:
        look("macos arm64", "a==1.0")
    assert not caught.value.unsupported


def test_where_nobody_answers_an_older_answer_is_given_with_its_day(
    look: Callable[..., Lookup], shelf: Shelf, empty: Store, request: pytest.FixtureRequest
) -> None:
    shelf.add("a", "1.0", "cp313-cp313-macosx_12_0_arm64")
    first = look("macos arm64", "a==1.0")
    rewrite(empty, date=days_ago(100))
    request.getfixturevalue("silent_index")
    old = look("macos arm64", "a==1.0")
    assert (old.possible, old.found, old.floor, old.date) == (True, first.found, "macOS 12.0", days_ago(100))
    (why,) = [item for item in old.unchecked if item.startswith("whether it is still so")]
    assert "did not answer" in why
    assert f"what was answered on {days_ago(100)}" in why


def test_whoever_did_not_answer_is_not_asked_again_at_once(
    look: Callable[..., Lookup], silent_index: None, empty: Store, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(EnvironmentFailure, match="did not answer"):
        look("macos arm64", "a==1.0")
    shelf: Shelf = request.getfixturevalue("shelf")
    shelf.add("a", "1.0", "py3-none-any")
    with pytest.raises(EnvironmentFailure, match="did not answer"):
        look("macos arm64", "a==1.0")
    rewrite(empty, at=0)
    assert look("macos arm64", "a==1.0").possible


@pytest.fixture
def answering(silent_index: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str], None]]:
    """An index that answers everything with one status and type of content."""
    answer = {"status": 404, "type": "text/html"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(answer["status"]))
            self.send_header("Content-Type", str(answer["type"]))
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        yield lambda status, kind: answer.update(status=status, type=kind)
        server.shutdown()


@pytest.mark.parametrize(("status", "kind"), [(403, "text/html"), (502, "text/html"), (200, "image/png")])
def test_an_index_that_answers_something_else_has_not_answered(
    look: Callable[..., Lookup], answering: Callable[[int, str], None], status: int, kind: str
) -> None:
    answering(status, kind)
    with pytest.raises(EnvironmentFailure, match="did not answer"):
        look("macos arm64", "a==1.0")


def test_an_index_without_such_a_project_has_answered(
    look: Callable[..., Lookup], answering: Callable[[int, str], None]
) -> None:
    answering(404, "text/html")
    found = look("macos arm64", "a==1.0")
    assert (found.possible, found.missing) == (False, ("a==1.0",))


def test_two_engines_do_not_ask_the_same(empty: Store) -> None:
    asked: list[str] = []
    begun = threading.Event()

    def ask(scratch: Path) -> Lookup:
        asked.append(threading.current_thread().name)
        begun.set()
        threading.Event().wait(0.3)
        return Lookup(possible=True, asked="a", date=answers.today().isoformat())

    def look_up() -> None:
        found.append(answers.answer(Store(empty.root), ["a"], ask, PATIENCE))

    found: list[Lookup] = []
    first, second = threading.Thread(target=look_up), threading.Thread(target=look_up)
    first.start()
    assert begun.wait(10)
    second.start()
    first.join()
    second.join()
    assert len(asked) == 1
    assert found[0] == found[1]


def test_who_waits_for_another_engine_can_be_stopped(empty: Store) -> None:
    def never(_scratch: Path) -> Lookup:
        raise AssertionError("asked although another engine is asking")

    key = digest_of([answers.FORM, "a"])
    with FileLock(empty.root / "locks" / f"lookup-{key[:16]}.lock"):
        for patience in (Patience(60, lambda: True), Patience(0)):
            with pytest.raises(EnvironmentFailure, match="gave up while another engine"):
                answers.answer(empty, ["a"], never, patience)


# --- Operators ------------------------------------------------------------------------------------------------------


def model(
    file: Path, nodes: list[Any], *, ir: int = 8, opset: int = 17, imports: tuple[Any, ...] = (), **more: Any
) -> Path:
    """Write a model of one input ``x`` and one output ``y``, both of four numbers."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", opset), *imports]
    file.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(graph, opset_imports=opsets, ir_version=ir, **more), file)
    return file


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which the environments of the runtimes are made once for all tests of operators."""
    return Store(tmp_path_factory.mktemp("lookups") / "store")


@pytest.fixture
def lacks(shared: Store, tmp_path: Path) -> Callable[..., Lookup]:
    """Looks up a model that lies in ``tmp_path/artifact``."""

    def look_up(spec: dict[str, Any], runtime: str = "onnxruntime.py", format: str = "onnx") -> Lookup:
        needs = wanted("macos arm64", **spec)
        return static.look_up(shared, needs, *bundle(tmp_path, format), PATIENCE, RUNTIMES / runtime)

    return look_up


def test_a_model_of_usual_operators_lacks_nothing(lacks: Callable[..., Lookup], tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["one"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]))
    nodes = [constant, helper.make_node("Add", ["x", "one"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    file = model(tmp_path / "artifact" / "model.onnx", nodes)
    onnxruntime.InferenceSession(file)
    found = lacks(ONNXRUNTIME)
    assert (found.possible, found.lacking) == (True, ())
    (told,) = [item for item in found.unchecked if item.startswith("kernels are those of the build for ")]
    assert sys.platform in told
    assert "types and attributes of operators were not compared" in told


def test_an_operator_of_a_domain_that_nobody_knows_is_lacking(lacks: Callable[..., Lookup], tmp_path: Path) -> None:
    foreign = helper.make_node("Foo", ["x"], ["y"], domain="com.acme")
    file = model(tmp_path / "artifact" / "model.onnx", [foreign], imports=(helper.make_opsetid("com.acme", 3),))
    with pytest.raises(Exception, match="Foo"):
        onnxruntime.InferenceSession(file)
    found = lacks(ONNXRUNTIME)
    assert (found.possible, found.lacking) == (False, ("com.acme::Foo 3",))
    assert found.found, "that there are wheels is said all the same"


def test_a_file_too_new_for_the_release_is_lacking(lacks: Callable[..., Lookup], tmp_path: Path) -> None:
    model(tmp_path / "artifact" / "model.onnx", [helper.make_node("Relu", ["x"], ["y"])], ir=10)
    found = lacks(ONNXRUNTIME_1_17)
    assert (found.possible, found.lacking) == (False, ("IR version 10 (it reads up to 9)",))
    assert lacks(ONNXRUNTIME).possible


def test_an_opset_too_new_for_the_release_is_lacking(lacks: Callable[..., Lookup], tmp_path: Path) -> None:
    model(tmp_path / "artifact" / "model.onnx", [helper.make_node("Relu", ["x"], ["y"])], opset=21)
    found = lacks(ONNXRUNTIME_1_17)
    assert found.lacking == ("ai.onnx version 21 (it reads up to 20)",)


def test_an_operator_in_a_branch_of_a_branch_is_looked_at(lacks: Callable[..., Lookup], tmp_path: Path) -> None:
    """GlobalLpPool got another definition in opset 22, for which ONNX Runtime 1.32 has no kernel."""

    def branch(nodes: list[Any], output: str) -> Any:
        return helper.make_graph(nodes, output, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])

    def choice(output: str, then: Any, otherwise: Any) -> Any:
        return helper.make_node("If", ["c"], [output], then_branch=then, else_branch=otherwise)

    shape = helper.make_node("Constant", [], ["s"], value_ints=[1, 1, 4])
    cube = helper.make_node("Reshape", ["x", "s"], ["cube"])
    rare = branch([helper.make_node("GlobalLpPool", ["cube"], ["a"])], "a")
    usual = branch([helper.make_node("Identity", ["cube"], ["b"])], "b")
    inner = branch([choice("d", rare, usual)], "d")
    other = branch([helper.make_node("Identity", ["cube"], ["e"])], "e")
    flag = helper.make_node("Constant", [], ["n"], value_ints=[1])
    condition = helper.make_node("Cast", ["n"], ["c"], to=TensorProto.BOOL)
    flat = helper.make_node("Constant", [], ["f"], value_ints=[4])
    last = helper.make_node("Reshape", ["big", "f"], ["y"])
    nodes = [shape, cube, flag, condition, flat, choice("big", inner, other), last]
    file = model(tmp_path / "artifact" / "model.onnx", nodes, ir=10, opset=22)
    with pytest.raises(Exception, match="GlobalLpPool"):
        onnxruntime.InferenceSession(file)
    assert lacks(ONNXRUNTIME).lacking == ("ai.onnx::GlobalLpPool 22",)


def test_functions_of_the_model_are_looked_into(lacks: Callable[..., Lookup], tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["a"], ["t"]), helper.make_node("Bar", ["t"], ["b"], domain="com.acme")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    own = helper.make_function("own", "Twice", ["a"], ["b"], body, opsets)
    call = helper.make_node("Twice", ["x"], ["y"], domain="own")
    imports = (helper.make_opsetid("own", 1),)
    model(tmp_path / "artifact" / "model.onnx", [call], imports=imports, functions=[own])
    assert lacks(ONNXRUNTIME).lacking == ("com.acme::Bar 1",)


def test_what_is_made_of_other_operators_is_a_doubt(lacks: Callable[..., Lookup], tmp_path: Path) -> None:
    """Mish has no kernel in ONNX Runtime, which takes it apart."""
    file = model(tmp_path / "artifact" / "model.onnx", [helper.make_node("Mish", ["x"], ["y"])], opset=18)
    onnxruntime.InferenceSession(file)
    found = lacks(ONNXRUNTIME)
    assert found.possible
    assert "ai.onnx::Mish 18 has no kernel and is made of others, which were not looked at" in found.unchecked


def test_a_runtime_that_lists_nothing_is_not_guessed_at(lacks: Callable[..., Lookup], tmp_path: Path) -> None:
    model(tmp_path / "artifact" / "model.onnx", [helper.make_node("Foo", ["x"], ["y"])])
    found = lacks({"requirements": ["numpy==2.4.6"], "python": ">=3.11,<3.14"}, "openvino.py")
    assert (found.possible, found.lacking) == (True, ())
    assert "the model's operators: rt does not list its kernels" in found.unchecked


def test_a_file_that_is_no_model_is_not_compared(lacks: Callable[..., Lookup], tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "model.onnx").write_bytes(b"no model" * 100)
    found = lacks(ONNXRUNTIME)
    assert found.possible
    assert [item for item in found.unchecked if item.startswith("the model's operators: could not read the artifact")]


@pytest.mark.slow
def test_nothing_that_loads_is_said_to_lack_something(tmp_path: Path) -> None:
    """The models of ONNX's own tests, by the release of ONNX Runtime that these tests run with."""
    listed = kernels.Kernels.model_validate(load_file("runtime", RUNTIMES / "onnxruntime.py").kernels())
    file = tmp_path / "model.onnx"
    wrongly: list[str] = []
    foretold = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [case for case in collect_testcases(None) if case.model is not None]
    for case in cases:
        save(case.model, file)
        lacking = list(kernels.lacking(kernels.Needs.model_validate(artifact.needs(file, "onnx")), listed))
        try:
            onnxruntime.InferenceSession(file)
        except Exception:
            foretold += bool(lacking)
        else:
            wrongly += [f"{case.name}: {', '.join(lacking)}"] if lacking else []
    assert not wrongly
    assert len(cases) > 1000
    assert foretold > 50


PLUGIN = """
ENVIRONMENTS = {"": {}}
FORMATS = ("onnx",)
def load(entry, format, signature, threads): ...
def input_names(session): ...
def run(session, inputs): ...
def degraded(session): ...
def kernels():
    print("libraries print things")
"""


def plugin(tmp_path: Path, body: str) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN + "".join(f"    {line}\n" for line in body.splitlines()))
    return file


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise RuntimeError('no list today')", "no list today"),
        ("return {'versions': {'IR': 'new'}, 'operators': {}}", "kernels() is not as expected"),
        ("import os; os.abort()", "could not list the kernels of rt"),
    ],
)
def test_a_list_that_cannot_be_had_is_a_doubt(
    empty: Store, shelf: Shelf, one_interpreter: None, tmp_path: Path, body: str, why: str
) -> None:
    shelf.add("a", "1.0", "py3-none-any")
    model(tmp_path / "artifact" / "model.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    needs = wanted("linux s390x", requirements=["a==1.0"])
    found = static.look_up(empty, needs, *bundle(tmp_path), PATIENCE, plugin(tmp_path, body))
    assert found.possible
    doubts = [item for item in found.unchecked if item.startswith("the model's operators: ")]
    assert [item for item in doubts if why in item], doubts


def test_a_list_is_made_once_for_each_environment(
    empty: Store, shelf: Shelf, one_interpreter: None, tmp_path: Path
) -> None:
    shelf.add("a", "1.0", "py3-none-any")
    model(tmp_path / "artifact" / "model.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    log = tmp_path / "log"
    body = f"open({str(log)!r}, 'a').write('listed ')\nreturn {{'versions': {{}}, 'operators': {{}}}}"
    said: list[str] = []
    for platform in ("macos arm64", "linux s390x"):
        needs = wanted(platform, requirements=["a==1.0"])
        found = static.look_up(empty, needs, *bundle(tmp_path), PATIENCE, plugin(tmp_path, body), said.append)
        assert found.lacking == ("ai.onnx::Relu 14",)
    assert log.read_text() == "listed "
    assert len(said) == 1
    assert "a 1.0" in said[0]


def test_a_program_can_name_who_lists_the_kernels_of_its_library(
    empty: Store, shelf: Shelf, one_interpreter: None, tmp_path: Path
) -> None:
    shelf.add("a", "1.0", "py3-none-any")
    model(tmp_path / "artifact" / "model.onnx", [helper.make_node("Add", ["x", "x"], ["y"])])
    lister = plugin(tmp_path, "return {'versions': {}, 'operators': {'ai.onnx': {'Add': [[1, 13]]}}}")
    program = tmp_path / "program.py"
    lines = ["ENVIRONMENTS = {'': {}}", "FORMATS = ('onnx',)", "PROGRAM = 'a.c'", f"KERNELS = {lister.name!r}", ""]
    program.write_text("\n".join(lines))
    needs = wanted("linux s390x", requirements=["a==1.0"])
    found = static.look_up(empty, needs, *bundle(tmp_path), PATIENCE, program)
    assert found.lacking == ("ai.onnx::Add 14",)


def test_without_the_runtimes_python_there_is_no_list(
    empty: Store, shelf: Shelf, one_interpreter: None, tmp_path: Path
) -> None:
    shelf.add("a", "1.0", "py3-none-any")
    model(tmp_path / "artifact" / "model.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    needs = wanted("linux s390x", requirements=["a==1.0"], python="==3.6.*")
    found = static.look_up(empty, needs, *bundle(tmp_path), PATIENCE, plugin(tmp_path, "return {}"))
    assert found.possible
    assert [item for item in found.unchecked if "needs CPython ==3.6.*" in item]


# --- TensorFlow Lite ------------------------------------------------------------------------------------------------


def tflite(file: Path, custom: list[str]) -> bytes:
    """Write a TFLite file of operator codes alone: one of a builtin operator, and custom ones of these names."""
    builder = flatbuffers.Builder()
    names = [builder.CreateString(name) for name in custom]
    codes = []
    for name in [None, *names]:
        builder.StartObject(4)
        if name is not None:
            builder.PrependUOffsetTRelativeSlot(1, name, 0)
        builder.PrependInt32Slot(3, 32 if name is not None else 5, 0)
        codes.append(builder.EndObject())
    builder.StartVector(4, len(codes), 4)
    for code in reversed(codes):
        builder.PrependUOffsetTRelative(code)
    vector = builder.EndVector()
    builder.StartObject(8)
    builder.PrependUint32Slot(0, 3, 0)
    builder.PrependUOffsetTRelativeSlot(1, vector, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(builder.Output()))
    return file.read_bytes()


@pytest.mark.parametrize("custom", [[], ["FlexErf"], ["Mine", "FlexErf"]])
def test_custom_operators_of_a_tflite_file_are_named(
    empty: Store, shelf: Shelf, tmp_path: Path, custom: list[str]
) -> None:
    shelf.add("a", "1.0", "py3-none-any")
    tflite(tmp_path / "artifact" / "model.onnx", custom)
    needs = wanted("macos arm64", requirements=["a==1.0"])
    found = static.look_up(empty, needs, *bundle(tmp_path, "tflite"), PATIENCE, RUNTIMES / "litert.py")
    among = f", among which are {', '.join(sorted(custom))}, which TFLite does not define" if custom else ""
    assert found.possible
    assert f"the model's operators{among}: rt does not list its kernels" in found.unchecked


def test_half_a_tflite_file_is_refused_and_no_half_of_it_read(tmp_path: Path) -> None:
    whole = tflite(tmp_path / "artifact" / "model", ["FlexErf"])
    assert artifact.custom_operators(whole) == ["FlexErf"]
    for length in range(len(whole)):
        with contextlib.suppress(ValueError):
            assert set(artifact.custom_operators(whole[:length])) <= {"FlexErf"[:n] for n in range(8)}
    with pytest.raises(ValueError, match="TFL3"):
        artifact.custom_operators(b"PK" + whole[2:4] + b"ABCD" + whole[8:])


# --- What comes of it -----------------------------------------------------------------------------------------------


def looked_up(possible: bool, runtime: str) -> Record:
    """Return the record of a look-up as the engine makes it."""
    lookup = Lookup(possible=possible, asked="a==1.0", date="2026-11-25")
    return Record(
        cell=f"fw/mlp/onnx/{runtime}/macos-arm64", outcome=Outcome.NOT_RUN if possible else Outcome.FAIL,
        stage=Stage.PREPARE, reach=Reach.STATIC, lookup=lookup, bundle="0" * 64, run="r", started="2026-11-25",
        engine="0", facts={"trained_on": "linux-x86_64"},
    )  # fmt: skip


def test_that_it_could_run_is_no_evidence_and_that_it_cannot_is() -> None:
    def reach(*records: Record) -> tuple[float, float]:
        (rating,) = rate(records, RatingSpec(platforms={"macos": ["macos-*"]}))
        (part,) = [part for part in rating.deployment.components if part.name == "reach"]
        return part.low, part.high

    could, cannot = looked_up(possible=True, runtime="a"), looked_up(possible=False, runtime="b")
    assert reach(could) == (0, 1)
    assert reach(cannot) == (0, 0)
    assert reach(could, cannot) == (0, 1)


def test_what_was_looked_up_was_trained_all_the_same() -> None:
    (rating,) = rate([looked_up(possible=False, runtime="a")], RatingSpec(platforms={"linux": ["linux-*"]}))
    (install,) = [part for part in rating.cross_platform.components if part.name == "install"]
    assert (install.low, install.high) == (1, 1)
