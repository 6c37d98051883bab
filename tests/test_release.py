"""What a release needs: the changelog's section, one wheel and sdist of the tag's version, and a wheel that works."""

from __future__ import annotations

import importlib.util
import re
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from ruamel.yaml import YAML

from portmatrix import __version__

ROOT = Path(__file__).parents[1]
CHANGELOG = """# Changelog

## [Unreleased] 0.2.0

- not yet

## [0.1.1] - 2026-12-01

### Fixed

- a fault

## [0.1.0] - 2026-11-30

"""


@pytest.fixture(scope="module")
def release() -> ModuleType:
    """The program ``scripts/release.py`` as a module."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["release"] = module
    spec.loader.exec_module(module)
    return module


def wheel(folder: Path, *, command: str = "print('here')", requires: str = "") -> Path:
    """Write a wheel of the name ``portmatrix`` whose command runs ``command``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "portmatrix-0.1.1-py3-none-any.whl"
    info = "portmatrix-0.1.1.dist-info"
    metadata = "Metadata-Version: 2.1\nName: portmatrix\nVersion: 0.1.1\n"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("portmatrix_made.py", f"def main():\n    import sys\n    {command}\n")
        made.writestr(f"{info}/METADATA", metadata + (f"Requires-Dist: {requires}\n" if requires else ""))
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{info}/entry_points.txt", "[console_scripts]\nportmatrix = portmatrix_made:main\n")
        made.writestr(f"{info}/RECORD", "")
    return file


def test_the_notes_are_the_section_without_its_heading(release: ModuleType) -> None:
    assert release.notes(CHANGELOG, "0.1.1") == "### Fixed\n\n- a fault\n"


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("0.2.0", r"expected a heading '## \[0.2.0\] - YYYY-MM-DD', found: \[Unreleased\] 0.2.0; \[0.1.1\]"),
        ("0.1.0", "the section of 0.1.0 is empty"),
        ("0.1", "expected a heading"),
    ],
    ids=["not released", "empty", "part of a version"],
)
def test_without_a_section_there_is_no_release(release: ModuleType, version: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        release.notes(CHANGELOG, version)


def test_the_changelog_of_this_project_has_sections(release: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"expected a heading .* found: .*[0-9]"):
        release.notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), "99.0.0")


def test_the_citation_is_of_this_version() -> None:
    told = YAML(typ="safe", pure=True).load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(told["version"]) == __version__


@pytest.mark.parametrize("tag", ["0.1.0", "v0.1", "v0.1.0-rc.1", "v0.1.0;echo", "vv0.1.0"])
def test_what_is_no_tag_of_a_release(release: ModuleType, tag: str) -> None:
    with pytest.raises(ValueError, match="is no tag of a release"):
        release.version_of(tag)


def test_a_tag_says_a_version(release: ModuleType) -> None:
    assert [release.version_of(tag) for tag in ("v0.1.0", "v1.20.3rc1")] == ["0.1.0", "1.20.3rc1"]


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["portmatrix-0.1.1-py3-none-any.whl"],
        ["portmatrix-0.1.1-py3-none-any.whl", "portmatrix-0.1.0-py3-none-any.whl", "portmatrix-0.1.1.tar.gz"],
        ["portmatrix-0.1.1-py3-none-any.whl", "portmatrix-0.1.0.tar.gz"],
    ],
    ids=["nothing", "no sdist", "an old wheel", "an old sdist"],
)
def test_other_than_one_of_each_is_refused(
    release: ModuleType, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert release.main(["try", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: ")


def test_a_tag_of_another_version_is_refused(
    release: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel(tmp_path)
    (tmp_path / "portmatrix-0.1.1.tar.gz").touch()
    assert release.main(["try", str(tmp_path), "--tag", "v0.1.2"]) == 2
    assert "the tag is v0.1.2, but the distributions are of version 0.1.1" in capsys.readouterr().err


def test_a_wheel_that_works_passes(release: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel(tmp_path)
    (tmp_path / "portmatrix-0.1.1.tar.gz").touch()
    assert release.main(["try", str(tmp_path), "--tag", "v0.1.1"]) == 0
    said = capsys.readouterr().out
    assert "ok portmatrix list cells" in said
    assert said.endswith("9 passed, 0 failed\n")


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ({"command": "sys.exit('models' in sys.argv)"}, r"--help: it printed nothing.*list models: exit status 1"),
        ({"requires": "portmatrix-no-such-library"}, r"whl: exit status 1"),
    ],
    ids=["commands that fail or say nothing", "a requirement that nobody has"],
)
def test_a_wheel_that_does_not_work_is_found(
    release: ModuleType,
    fault: dict[str, str],
    wrong: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel(tmp_path, **fault)
    (tmp_path / "portmatrix-0.1.1.tar.gz").touch()
    assert release.main(["try", str(tmp_path)]) == 1
    assert re.search(wrong, capsys.readouterr().out, re.DOTALL)
