"""Packages for Node.js, installed by the real npm from a registry on this machine's own loopback."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from portmatrix import npm
from portmatrix.commands import Patience
from portmatrix.errors import EnvironmentFailure

PATIENCE = Patience(120)
#: A package that requires another, whose scripts would leave a file behind, and one that requires two versions.
PACKAGES: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {"1.0.0": {}, "2.0.0": {}},
    "@scope/asks": {"1.2.3-rc.1": {"dependencies": {"plain": "^1.0.0"}}},
    "scripted": {"1.0.0": {"scripts": {"preinstall": "touch SCRIPT_RAN", "postinstall": "touch SCRIPT_RAN"}}},
    "both": {"1.0.0": {"dependencies": {"plain": "2.0.0", "@scope/asks": "1.2.3-rc.1"}}},
}


def tarball(manifest: Mapping[str, Any]) -> bytes:
    """Return a package as registries keep it: one file below ``package/``."""
    content = json.dumps(manifest).encode()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


class Registry(http.server.BaseHTTPRequestHandler):
    """Answers npm with the packages above; for the package ``slow`` never."""

    def do_GET(self) -> None:
        """Answer with a package's versions, with one of its archives, or that there is none."""
        path = self.path.lstrip("/").replace("%2f", "/")
        name, _, version = path.removesuffix(".tgz").partition("/-/")
        if name == "slow":
            self.server.gate.wait()  # type: ignore[attr-defined]
        if name not in PACKAGES:
            self._send(404, json.dumps({"error": "Not found"}).encode())
        elif version:
            self._send(200, tarball(self._manifest(name, version)))
        else:
            self._send(200, json.dumps(self._packument(name)).encode())

    def _manifest(self, name: str, version: str) -> dict[str, Any]:
        return {"name": name, "version": version, **PACKAGES[name][version]}

    def _packument(self, name: str) -> dict[str, Any]:
        address = f"http://127.0.0.1:{self.server.server_address[1]}"
        versions = {}
        for version in PACKAGES[name]:
            manifest = self._manifest(name, version)
            digest = base64.b64encode(hashlib.sha512(tarball(manifest)).digest()).decode()
            dist = {"tarball": f"{address}/{name}/-/{version}.tgz", "integrity": f"sha512-{digest}"}
            versions[version] = {**manifest, "dist": dist, "hasInstallScript": "scripts" in manifest}
        return {"name": name, "dist-tags": {"latest": list(versions)[-1]}, "versions": versions}

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The registry, and an npm that knows no other and has no user."""
    if shutil.which("npm") is None:
        pytest.skip("there is no npm on PATH: apt-get install --no-install-recommends nodejs npm")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        server.gate = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_address[1]}/")
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
        monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
        monkeypatch.setenv("npm_config_fetch_retries", "0")
        yield
        server.gate.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def install(folder: Path, *requirements: str) -> dict[str, str]:
    return npm.install(folder, requirements, PATIENCE, lambda _text: None)


def test_installs_what_is_required_and_what_that_requires(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "environment"
    assert install(folder, "@scope/asks@1.2.3-rc.1") == {"@scope/asks": "1.2.3-rc.1", "plain": "1.0.0"}
    manifest = json.loads((folder / "node_modules" / "plain" / "package.json").read_text())
    assert manifest["version"] == "1.0.0"


def test_two_versions_of_one_package_are_both_named(tmp_path: Path) -> None:
    assert install(tmp_path, "both@1.0.0") == {
        "@scope/asks": "1.2.3-rc.1",
        "@scope/asks/node_modules/plain": "1.0.0",
        "both": "1.0.0",
        "plain": "2.0.0",
    }


def test_what_was_installed_is_noted(tmp_path: Path) -> None:
    found = install(tmp_path, "@scope/asks@1.2.3-rc.1")
    noted = json.loads((tmp_path / npm.LOCK).read_text())
    assert noted == {"requirements": ["@scope/asks@1.2.3-rc.1"], "installed": found}
    assert npm.installed(tmp_path) == found


def test_an_older_version_is_installed_as_required(tmp_path: Path) -> None:
    assert install(tmp_path, "plain@1.0.0") == {"plain": "1.0.0"}


def test_no_script_of_a_package_is_run(tmp_path: Path) -> None:
    install(tmp_path / "here", "scripted@1.0.0")
    assert not list(tmp_path.rglob("SCRIPT_RAN"))


def test_says_beforehand_what_it_installs(tmp_path: Path) -> None:
    said: list[str] = []
    npm.install(tmp_path, ["plain@1.0.0"], PATIENCE, said.append)
    assert said == ["installing npm packages: plain@1.0.0"]


def test_nothing_required_needs_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install(tmp_path) == {}


@pytest.mark.parametrize(
    ("requirement", "reason"),
    [
        ("plain@3.0.0", "No matching version found for plain@3.0.0"),
        ("absent@1.0.0", "absent"),
    ],
    ids=["no such version", "no such package"],
)
def test_what_is_not_there_is_refused_in_npms_words(tmp_path: Path, requirement: str, reason: str) -> None:
    with pytest.raises(EnvironmentFailure) as failed:
        install(tmp_path, requirement)
    assert str(failed.value).startswith("could not install npm packages: ")
    assert reason in str(failed.value)
    assert "npm error code" in failed.value.log_tail
    assert not failed.value.unavailable
    assert not (tmp_path / npm.LOCK).exists()


@pytest.mark.parametrize(
    "requirement", ["plain", "plain@^1.0.0", "plain@latest", "file:plain", "plain@1.0.0 x", "-g@1.0.0"]
)
def test_anything_but_an_exact_version_is_refused(tmp_path: Path, requirement: str) -> None:
    with pytest.raises(EnvironmentFailure, match="no exact npm requirement"):
        install(tmp_path, requirement)
    assert not (tmp_path / "node_modules").exists()


def test_without_npm_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFailure, match=r"apt-get install .* npm") as failed:
        install(tmp_path, "plain@1.0.0")
    assert failed.value.unavailable


def test_a_registry_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="within 3 s"):
        npm.install(tmp_path, ["slow@1.0.0"], Patience(3), lambda _text: None)
