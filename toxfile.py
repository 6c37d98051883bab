"""tox's inline plug-in: an environment for every exporter and runtime, and the commands of ``bench``, from the files.

Runs in tox's own interpreter, where portmatrix is not installed: names are read from the files without importing them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from tox.config.loader.memory import MemoryLoader
from tox.config.sets import ConfigSet
from tox.config.types import Command
from tox.plugin import impl
from tox.session.state import State

ROOT = Path(__file__).parent


def exporters() -> Iterator[str]:
    """Yield the names of the frameworks: the exporters' files."""
    for file in sorted((ROOT / "exporters").glob("*.py")):
        yield file.stem


def runtimes() -> Iterator[str]:
    """Yield the names of the runtimes: a file's own for the key "" of its ENVIRONMENTS, else with the key behind it."""
    for file in sorted((ROOT / "runtimes").glob("*.py")):
        for suffix in _environments(file):
            yield f"{file.stem}-{suffix}" if suffix else file.stem


def _environments(file: Path) -> Iterator[str]:
    """Yield the keys of the dictionary that a runtime's file calls ENVIRONMENTS; none if it has no such literal.

    portmatrix itself reports a file that is broken; here it only must not hide the others.
    """
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError):
        return
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name("ENVIRONMENTS")], value=ast.Dict(keys)):
                yield from (str(ast.literal_eval(key)) for key in keys if key is not None)
            case ast.AnnAssign(target=ast.Name("ENVIRONMENTS"), value=ast.Dict(keys)):
                yield from (str(ast.literal_eval(key)) for key in keys if key is not None)


def benchmarks() -> Iterator[str]:
    """Yield the programs in ``benchmarks/`` that say how they are called; other files there are parts of these."""
    for file in sorted((ROOT / "benchmarks").glob("*.py")):
        if f"python benchmarks/{file.name}" in file.read_text(encoding="utf-8"):
            yield f"benchmarks/{file.name}"


def generated() -> dict[str, tuple[str, list[str]]]:
    """Return description and command of every environment that a plug-in brings, by name."""
    found = {
        f"export-{name}": (f"train and export everything in {name}", ["portmatrix", "export", f"{name}/*"])
        for name in exporters()
    }
    for name in runtimes():
        found[f"run-{name}"] = (f"run everything that {name} takes", ["portmatrix", "run", f"*/{name}/*"])
    return found


@impl
def tox_extend_envs() -> Iterable[str]:
    """Add the environments to tox's list."""
    return tuple(generated())


@impl
def tox_add_core_config(core_conf: ConfigSet, state: State) -> None:  # noqa: ARG001 - the signature is tox's
    """Give the environments their descriptions and commands; what follows ``--`` is passed on."""
    passed = list(state.conf.pos_args(None) or ())
    for name, (description, command) in generated().items():
        loader = MemoryLoader(description=description, commands=[Command([*command, *passed])])
        state.conf.memory_seed_loaders[name].append(loader)
    bench = [Command(["python", program, *passed]) for program in benchmarks()]
    state.conf.memory_seed_loaders["bench"].append(MemoryLoader(commands=bench))
