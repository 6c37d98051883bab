"""Which operators of a model a runtime has no kernel for: what its own build says that it has, against what is asked.

The build that is asked is that of the same release for this machine, since no other can be. A runtime that does not
list its kernels is not guessed at.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from portmatrix import environments
from portmatrix.bundle import Manifest
from portmatrix.commands import Patience, output_of
from portmatrix.errors import EnvironmentFailure
from portmatrix.places import Wanted
from portmatrix.plugins import load_file
from portmatrix.static.answers import KIND, asking
from portmatrix.store import Store, digest_of
from portmatrix.types import Frozen
from portmatrix.workers import network_closure


class Source(NamedTuple):
    """Where a list of kernels comes from: the plug-in's file, and who is told what its environment downloads."""

    runtime: Path | None
    announce: Callable[[str], None]


class Compared(NamedTuple):
    """Operators and versions that the runtime lacks, and what could not be compared, each with the reason."""

    lacking: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


class Operator(Frozen):
    """An operator as a model uses it: ``since`` is the opset since which it is what it is in the model's ``opset``."""

    domain: str
    name: str
    opset: int
    since: int | None
    function: bool

    def __str__(self) -> str:
        return f"{self.domain}::{self.name} {self.since or self.opset}"


class Needs(Frozen):
    """What an artifact asks for, as ``artifact`` prints it."""

    read: bool
    versions: dict[str, int]
    operators: tuple[Operator, ...]
    custom: tuple[str, ...]


class Kernels(Frozen):
    """What a runtime's ``kernels()`` returns.

    ``versions`` has the newest version that it reads of the file format (``IR``) and of each domain of operators;
    ``operators`` has for each domain and operator the ranges of opsets ``[first, last]`` that it has a kernel for, none
    where it knows the operator and has no kernel of its own.
    """

    versions: dict[str, int]
    operators: dict[str, dict[str, tuple[tuple[int, int], ...]]]


#: Reads a plug-in's list in the environment of its runtime; what libraries print on the way goes elsewhere.
_LIST = """
import importlib.util, json, os, sys
file, variables = sys.argv[1], json.loads(sys.argv[2])
os.environ.update(variables)
answer, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
os.dup2(2, 1)
spec = importlib.util.spec_from_file_location("runtime", file)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
json.dump(module.kernels(), answer)
answer.close()
"""


def compare(
    store: Store, wanted: Wanted, manifest: Manifest, folder: Path, source: Source, patience: Patience
) -> Compared:
    """Return what the runtime's build lacks for the artifact of the bundle in ``folder``, as far as it can be known."""
    try:
        needs = _needs(store, manifest, folder, patience)
        if not needs.read:
            return Compared(unchecked=(f"the model's operators: the format {manifest.format} is not read for them",))
        kernels, where = _kernels(store, wanted, source, patience)
    except EnvironmentFailure as failure:
        return Compared(unchecked=(f"the model's operators: {failure}",))
    if kernels is None:
        custom = f", among which are {', '.join(needs.custom)}, which TFLite does not define" if needs.custom else ""
        return Compared(unchecked=(f"the model's operators{custom}: {wanted.name} does not list its kernels",))
    told = f"kernels are those of the build for {where}; types and attributes of operators were not compared"
    return Compared(tuple(lacking(needs, kernels)), (told, *_unknown(needs, kernels)))


def _needs(store: Store, manifest: Manifest, folder: Path, patience: Patience) -> Needs:
    """Return what the artifact asks for; raises ``EnvironmentFailure`` if it cannot be read."""
    program = Path(__file__).with_name("artifact.py")
    reader = [hashlib.sha256(program.read_bytes()).hexdigest(), metadata.version("onnx")]
    key = digest_of(["needs", manifest.digest, *reader])
    kept = store.get(KIND, key)
    if kept is None:
        line = [sys.executable, "-I", str(program), str(folder / "artifact" / manifest.entry), manifest.format]
        kept = json.loads(output_of(line, patience, "read the artifact"))
        store.put(KIND, key, kept)
    return Needs.model_validate(kept)


def _kernels(store: Store, wanted: Wanted, source: Source, patience: Patience) -> tuple[Kernels | None, str]:
    """Return what the runtime says that it has kernels for, None if it says nothing; and which build says it.

    Raises ``EnvironmentFailure`` where its environment is not to be had here, or its list is none.
    """
    lister = _lister(source.runtime)
    if lister is None:
        return None, ""
    with asking(store, digest_of(["environment", wanted.spec.model_dump()]), patience):
        built = environments.ensure(store, wanted.spec, source.announce, patience.seconds, patience.stopped)
    if built.site is not None:
        raise EnvironmentFailure(f"{wanted.name} is a container here, which is not asked for its kernels")
    key = digest_of(["kernels", hashlib.sha256(lister.read_bytes()).hexdigest(), built.key])
    kept = store.get(KIND, key)
    if kept is None:
        line = [*network_closure()[0], built.python, "-I", "-c", _LIST, str(lister)]
        variables = json.dumps({**built.env, **wanted.spec.env})
        kept = json.loads(output_of([*line, variables], patience, f"list the kernels of {wanted.name}"))
    try:
        kernels = Kernels.model_validate(kept)
    except ValueError as error:
        problem = str(error).splitlines()[:3]
        raise EnvironmentFailure(f"{lister.name}: kernels() is not as expected: {' '.join(problem)}") from error
    store.put(KIND, key, kernels.model_dump(mode="json"))
    return kernels, f"{sys.platform} {platform.machine()}"


def _lister(runtime: Path | None) -> Path | None:
    """Return the plug-in that lists the kernels of a runtime: its own, or the one that it names in ``KERNELS``.

    A program has no functions in Python, but may rest on a library that another runtime rests on as well.
    """
    if runtime is None:
        return None
    file = runtime.with_name(getattr(load_file("runtime", runtime), "KERNELS", runtime.name))
    return file if hasattr(load_file("runtime", file), "kernels") else None


def lacking(needs: Needs, kernels: Kernels) -> Iterator[str]:
    """Yield the versions and operators that the runtime certainly cannot take."""
    for name, version in needs.versions.items():
        newest = kernels.versions.get(name)
        if newest is not None and version > newest:
            yield f"{name} version {version} (it reads up to {newest})"
    for operator in needs.operators:
        ranges = kernels.operators.get(operator.domain, {}).get(operator.name)
        known = operator.since is not None and not operator.function
        if ranges is None or (known and not _covers(ranges, operator)):
            yield str(operator)


def _unknown(needs: Needs, kernels: Kernels) -> Iterator[str]:
    """Yield what may or may not be lacking."""
    for operator in needs.operators:
        ranges = kernels.operators.get(operator.domain, {}).get(operator.name)
        if ranges is None or _covers(ranges, operator):
            continue
        if operator.function:
            yield f"{operator} has no kernel and is made of others, which were not looked at"
        elif operator.since is None:
            yield f"{operator} is known there and has no kernel; whether it is made of others is not told"


def _covers(ranges: tuple[tuple[int, int], ...], operator: Operator) -> bool:
    """Return whether a range has the operator as it is; of one that ONNX does not know, any version will do."""
    if operator.since is None:
        return bool(ranges)
    return any(first <= operator.since <= last for first, last in ranges)
