"""Whatever a manifest, a .npy file or a request may hold, the runner answers it: thousands of damaged ones, tried on a
runner that the compiler's own checks end at the first access outside of memory.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Speak
from spoken import check, points, stub_bundle

#: What is put into the midst of a file: what JSON and .npy headers are made of, where it hurts.
PIECES = [
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"-", b"0", b"-1", b"1e999", b"\\", b"\\u0000"),
    *(b"\\ud800", b"\\udc00", b"../", b"/", b"%s%n", b"4294967296", b"9223372036854775808", b"99999999999999999999"),
    *(b"'descr'", b"'|O'", b"'>f8'", b"'|b1'", b"(", b"()", b"(1,)", b"(0,)", b"(4294967296,4294967296)", b"True"),
    b"(0,18446744073709551615)",
    b"[" * 200,
    b'{"a":' * 80,
    b"\xff",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
]


def damaged(chance: random.Random, content: bytes) -> bytes:
    """Return the content with up to eight changes: bits turned, pieces cut out, put in, said twice, the end cut off."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        at, other = sorted(chance.randrange(len(changed) + 1) for _ in range(2))
        match chance.randrange(6):
            case 0 if changed:
                changed[at - 1] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at : at + chance.choice([1, 2, 8, 64])]
            case 2:
                changed[at:at] = chance.choice(PIECES)
            case 3:
                changed[at : at + chance.choice([1, 4, 8])] = chance.choice(PIECES)
            case 4:
                changed[at:at] = changed[at:other][:200]
            case _:
                del changed[other:]
    return bytes(changed)


def npy_files() -> Iterator[bytes]:
    """Yield .npy files of several dtypes, byte orders, shapes and versions."""
    for dtype in ("<f4", ">f8", "<i8", ">u2", "|b1", "<f2"):
        yield npy(np.arange(12).reshape(4, 3).astype(dtype))
    yield npy(np.asfortranarray(np.ones((4, 3, 2))))
    yield npy(np.zeros((4, 0)))
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.zeros(4), version=(2, 0))
    yield stream.getvalue()


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def is_an_answer(answer: dict[str, Any]) -> bool:
    """Whether it is good, or says in one line why it is not."""
    reason = answer.get("reason", "")
    return bool(answer["ok"] or (reason and "\n" not in reason and len(reason.encode()) <= 500))


#: A status that is none of the runner's own.
CAUGHT = 86
SANITIZER = {
    "ASAN_OPTIONS": f"allocator_may_return_null=1:exitcode={CAUGHT}",
    "UBSAN_OPTIONS": f"exitcode={CAUGHT}",
}


def test_damaged_requests_are_answered(speak: Speak, sanitized: Path, tmp_path: Path) -> None:
    chance = random.Random(2016)
    whole = json.dumps(stub_bundle(tmp_path / "bundle").request(tmp_path / "out")).encode()
    spoken = speak(sanitized, env=SANITIZER)
    for _ in range(1500):
        line = damaged(chance, whole).replace(b"\n", b"")
        assert is_an_answer(spoken.ask(line)), line
    assert spoken.end() == 0, spoken.log.read_text(errors="replace")[-4000:]


def test_damaged_requests_to_measure_are_answered(speak: Speak, sanitized: Path, tmp_path: Path) -> None:
    chance = random.Random(2018)
    whole = json.dumps(stub_bundle(tmp_path / "bundle").symbolic().measuring(2, samples=1)).encode()
    spoken = speak(sanitized, env=SANITIZER)
    for _ in range(500):
        line = damaged(chance, whole).replace(b"\n", b"")
        assert is_an_answer(spoken.ask(line)), line
    assert spoken.end() == 0, spoken.log.read_text(errors="replace")[-4000:]


def test_damaged_samples_are_refused_or_read_as_numpy_does(speak: Speak, sanitized: Path, tmp_path: Path) -> None:
    chance = random.Random(2017)
    made = stub_bundle(tmp_path / "bundle")
    request = made.request(tmp_path / "out")
    sample = made.folder / made.manifest["sets"][0]["inputs"]["x"]
    files = list(npy_files())
    spoken = speak(sanitized, env=SANITIZER)
    read = 0
    for _ in range(1500):
        sample.write_bytes(damaged(chance, chance.choice(files)))
        answer = spoken.ask(request)
        assert is_an_answer(answer)
        if answer["ok"]:
            read += 1
            written, own = np.load(tmp_path / "out" / answer["outputs"][0]["y"]), np.load(sample)
            np.testing.assert_array_equal(written, own.astype(own.dtype.newbyteorder("=")), strict=True)
    assert read > 0
    assert spoken.end() == 0, spoken.log.read_text(errors="replace")[-4000:]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_manifests_are_refused(seed: int, sanitized: Path, tmp_path: Path) -> None:
    chance = random.Random(seed)
    made = stub_bundle(tmp_path / "bundle")
    whole = json.dumps(made.manifest, ensure_ascii=False).encode()
    for _ in range(30):
        (made.folder / "manifest.json").write_bytes(damaged(chance, whole))
        ran = check(sanitized, made.folder, env=SANITIZER)
        assert ran.returncode in {0, 1, 2, 3}, ran.stderr


def test_the_checks_would_tell(sanitized: Path, tmp_path: Path) -> None:
    # A runtime that says of its output that it is larger than it is.
    ran = check(sanitized, stub_bundle(tmp_path / "bundle", "lie", points()).folder, env=SANITIZER)
    assert ran.returncode == CAUGHT
    assert "heap-buffer-overflow" in ran.stderr
