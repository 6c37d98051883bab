"""Plug-ins are held to their Protocols, and a broken one is named and hides nobody."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_suite import TINY, Assemble

from portmatrix.errors import PluginError
from portmatrix.plugins import EnvironmentSpec, NoWay, Plugins, Way, discover, load_file
from portmatrix.spec import OptionSpec, TargetDefinition
from portmatrix.suite import plugin_folders, this_machine
from portmatrix.types import Batch, PathKind, PlatformSpec, Reach

RUNTIME = (TINY / "runtimes" / "plain.py").read_text()
Discover = Callable[..., Plugins]


@pytest.fixture
def discover_with(assemble: Assemble) -> Discover:
    """Discovers tiny's plug-ins with further files among them, by their path in the suite."""

    def find(**files: str) -> Plugins:
        root = assemble("runtimes/plain")
        for name, text in files.items():
            (root / f"{name.replace('__', '/')}.py").write_text(text)
        return discover(plugin_folders(root), this_machine())

    return find


def why_broken(plugins: Plugins) -> str:
    (broken,) = plugins.broken
    assert plugins.exporters.keys() >= {"linear"}
    assert plugins.runtimes.keys() >= {"plain"}
    assert plugins.targets.keys() >= {"here"}
    return broken.why


def test_tiny_is_whole(discover_with: Discover) -> None:
    found = discover_with()
    assert not found.broken
    graph = found.exporters["linear"].paths["graph"]
    assert (graph.kind, graph.format, graph.batch) == (PathKind.ONNX, "npz-graph", Batch.DYNAMIC)
    assert found.exporters["linear"].layout == "channels-first"
    assert found.runtimes["plain"].formats == ("npz-linear", "npz-graph")
    assert found.targets["here"].way == Way(reach=Reach.NATIVE)
    assert found.data["points"].views == ("plane",)


@pytest.mark.parametrize(
    "file", sorted((TINY / "faults").rglob("*.py")), ids=lambda file: f"{file.parent.name}-{file.stem}"
)
def test_a_fault_of_a_tiny_plugin_is_the_one_it_is_there_for(file: Path) -> None:
    kind = file.parent.name.removesuffix("s")
    if file.stem == "no_function":
        with pytest.raises(PluginError):
            load_file(kind, file)
    else:
        load_file(kind, file)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("def degraded(session)", "def degrade(session)", r"degraded\(session\) is missing"),
        ("def run(session, inputs)", "def run(inputs)", r"run\(inputs\) should be run\(session, inputs\)"),
        ("FORMATS = ", "FORMAT = ", "FORMATS is missing"),
        ('"": {"requirements"', '"": {"require"', "require: Extra inputs are not permitted"),
        ('"": {', '"": {"python": "three", ', "'three' is no version specifier such as"),
        ('"numpy=="', '"numpy = "', "is no requirement such as"),
        ('"": {', '"": {"memory_mb": 0, ', "memory_mb: Input should be greater than 0"),
        ('{"": {', '{"a/b": {', "is no name"),
        ('{"": {', '[{"": {', "SyntaxError"),
        ("import numpy\n", "import numpy\nraise SystemExit\n", "does not load: SystemExit"),
        ("import numpy\n", "import nonsense\n", "does not load: ModuleNotFoundError: No module named 'nonsense'"),
        ("ENVIRONMENTS = {", "ENVIRONMENTS = 5, {", "AttributeError"),
    ],
)
def test_a_broken_runtime_is_named_with_what_is_wrong(old: str, new: str, why: str, discover_with: Discover) -> None:
    assert old in RUNTIME
    found = discover_with(runtimes__bad=RUNTIME.replace(old, new, 1))
    assert re.search(why, why_broken(found))
    assert "bad" not in found.runtimes


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("PATHS = {}", "ENVIRONMENT is missing"),
        ("def train(:", "SyntaxError"),
        ("", r"train\(model, data, seed\) is missing"),
    ],
)
def test_a_broken_exporter_is_named_with_what_is_wrong(text: str, why: str, discover_with: Discover) -> None:
    assert re.search(why, why_broken(discover_with(exporters__bad=text)))


@pytest.mark.parametrize("declared", ['{"kind": "magic"}', '{"format": "A b"}', '{"batch": "both"}', '{"speed": 1}'])
def test_a_wrong_path_is_named_by_its_key(declared: str, discover_with: Discover) -> None:
    text = (TINY / "exporters" / "linear.py").read_text()
    wrong = f"{text}\nPATHS['native'] = {{**PATHS['native'], **{declared}}}\n"
    assert declared.split('"')[1] in why_broken(discover_with(exporters__bad=wrong))


def test_a_target_that_raises_or_is_nowhere_is_broken_alone(discover_with: Discover) -> None:
    text = (TINY / "targets" / "here.py").read_text()
    raising = text.replace("return [", "raise OSError('no docker'); return [")
    assert "no docker" in why_broken(discover_with(targets__bad=raising))


def test_a_target_out_of_reach_says_why(discover_with: Discover) -> None:
    found = discover_with(targets__away=(TINY / "faults" / "targets" / "away.py").read_text())
    assert found.targets["away"].way == NoWay(why="there is no such machine here", install="buy one")


def test_a_target_says_how_its_runner_reaches_it(discover_with: Discover) -> None:
    text = (TINY / "targets" / "here.py").read_text()
    usual, other = discover_with(targets__usual=text), "\nRUNNER_REACH = 'emulated'\nRUNNER_NEEDS = ('roots', 'qemu')\n"
    assert (usual.targets["usual"].runner_reach, usual.targets["usual"].runner_needs) == (Reach.NATIVE, ())
    found = discover_with(targets__other=text + other).targets["other"]
    assert (found.runner_reach, found.runner_needs) == (Reach.EMULATED, ("roots", "qemu"))


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ("RUNNER_REACH = 'magic'", "RUNNER_REACH is 'magic'; expected one of native, container, emulated, remote"),
        ("RUNNER_NEEDS = 'qemu'", "RUNNER_NEEDS is 'qemu'; expected a tuple of words"),
        ("RUNNER_NEEDS = ('qemu', '--docker')", "expected a tuple of words"),
        ("RUNNER_NEEDS = ('a; rm',)", "expected a tuple of words"),
    ],
)
def test_a_target_that_says_it_wrongly_is_broken(declared: str, why: str, discover_with: Discover) -> None:
    text = (TINY / "targets" / "here.py").read_text()
    assert why in why_broken(discover_with(targets__bad=f"{text}\n{declared}\n"))


KIND = """
PLATFORM = {"os": "linux", "arch": "x86_64"}
RUNNER = "self-hosted"
COST = "a machine"
OPTIONS = {"host": {"required": True}}


def reach(host):
    if "options" not in host:
        raise KeyError("options")
    return [{"reach": "remote", "place": "board", "options": host["options"]}]
"""


def entry(name: str, **options: str) -> TargetDefinition:
    platform = PlatformSpec(os="linux", arch="arm64", libc="musl")
    return TargetDefinition(name=name, kind="behind", platform=platform, options=options)


def with_kind(assemble: Assemble, *entries: TargetDefinition, kind: str = KIND) -> Plugins:
    root = assemble("runtimes/plain")
    (root / "targets" / "behind.py").write_text(kind)
    return discover(plugin_folders(root), this_machine(), entries)


def test_a_kind_of_target_is_no_target(assemble: Assemble) -> None:
    found = with_kind(assemble)
    assert not found.broken
    assert found.targets.keys() == {"here"}
    assert found.kinds == {"behind": {"host": OptionSpec(required=True)}}


def test_entries_make_targets_of_a_kind(assemble: Assemble) -> None:
    found = with_kind(assemble, entry("pi", host="me@pi"), entry("po", host="me@po"))
    assert not found.broken
    assert found.targets.keys() == {"here", "pi", "po"}
    pi, po = found.targets["pi"], found.targets["po"]
    assert pi.platform == PlatformSpec(os="linux", arch="arm64", libc="musl")
    assert pi.way == Way(reach=Reach.REMOTE, place="board", options={"host": "me@pi"})
    assert pi.digest != po.digest


def test_an_entry_takes_no_files_name(assemble: Assemble) -> None:
    found = with_kind(assemble, entry("here", host="me@pi"))
    assert found.targets["here"].way == Way(reach=Reach.NATIVE)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("True", "behind.py: OPTIONS maps the name of each option to what it takes; got True"),
        ('{"host": {"type": "text"}}', "type: Input should be 'string', 'integer' or 'boolean'"),
    ],
)
def test_a_kind_with_wrong_options_is_broken(options: str, why: str, assemble: Assemble) -> None:
    found = with_kind(assemble, entry("pi"), kind=KIND.replace('{"host": {"required": True}}', options))
    assert why in why_broken(found)
    assert found.targets.keys() == {"here"}


def test_a_runtime_has_a_name_for_each_version(discover_with: Discover) -> None:
    text = RUNTIME.replace("ENVIRONMENTS = {", 'ENVIRONMENTS = {"1.17": {"requirements": ["numpy<2"]}, ')
    found = discover_with(runtimes__two=text)
    assert {"two", "two-1.17"} <= found.runtimes.keys()
    assert found.runtimes["two-1.17"].environment.packages == ("numpy",)


@pytest.mark.parametrize("name", ["runtimes__-bad", "runtimes__b d", "exporters__ä"])
def test_a_file_name_must_be_a_name(name: str, discover_with: Discover) -> None:
    assert "is no name" in why_broken(discover_with(**{name: RUNTIME}))


def test_a_digest_is_of_the_source_and_of_the_data_files(assemble: Assemble) -> None:
    root = assemble("runtimes/plain")
    (root / "data" / "table.csv").write_text("1")
    data = root / "data" / "points.py"
    data.write_text(data.read_text().replace("FILES = []", 'FILES = ["table.csv"]'))
    before = discover(plugin_folders(root), this_machine())
    (root / "data" / "table.csv").write_text("2")
    with (root / "runtimes" / "plain.py").open("a") as stream:
        stream.write("#")
    after = discover(plugin_folders(root), this_machine())
    assert after.data["points"].digest != before.data["points"].digest
    assert after.runtimes["plain"].digest != before.runtimes["plain"].digest
    assert after.exporters["linear"].digest == before.exporters["linear"].digest


def test_a_dockerfile_that_a_suite_lacks_is_the_reference_suite_s(assemble: Assemble) -> None:
    root = assemble("runtimes/plain")
    file = root / "runtimes" / "plain.py"
    file.write_text(file.read_text() + '\nENVIRONMENTS[""].update(container="caffe", interpreter=False)\n')
    folders = plugin_folders(root)
    found = discover(folders, this_machine()).runtimes["plain"].environment.dockerfile
    assert found == folders["dockerfiles"] / "caffe.Dockerfile"
    assert found.is_file()
    own = root / "dockerfiles" / "caffe.Dockerfile"
    own.parent.mkdir()
    own.touch()
    assert discover(folders, this_machine()).runtimes["plain"].environment.dockerfile == own


def test_an_environment_names_its_packages() -> None:
    spec = EnvironmentSpec(requirements=("onnx-runtime[x]==1.2", "numpy>=1,<2; python_version > '3'"))
    assert spec.packages == ("onnx-runtime", "numpy")
