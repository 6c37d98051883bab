"""The engine's end of a worker in a container: ``python -m portmatrix.attach JSON`` stands for the worker's process.

It makes the container that the JSON describes, hands its own input to it and the container's output and log back, and
ends with the container's status, or with the one that it is told to where there was none. The container stays, for the
engine to ask how it ended and to remove it. Once the input has ended, nobody will: then it is removed here.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from typing import Any

import docker
from docker.errors import DockerException
from docker.utils.socket import STDERR, frames_iter
from requests.exceptions import RequestException

#: How long a container may go on after its input has ended, in seconds: longer than the engine waits itself.
_GRACE_SECONDS = 10.0
_STREAM = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
_CHUNK = 1 << 16


class Container:
    """A container from its making to its end."""

    def __init__(self, name: str, platform: str, config: dict[str, Any]) -> None:
        """Make it; raises ``DockerException`` or ``RequestException`` where Docker does not."""
        self._docker = docker.from_env().api
        self._name = name
        self._input_ended = False
        self._docker.create_container_from_config(config, name, platform)  # type: ignore[no-untyped-call]

    def run(self) -> int:
        """Start it, pass everything on until it ends, and return its status.

        Raises like the constructor, and ``BrokenPipeError`` when nobody listens any more.
        """
        stream = self._docker.attach_socket(self._name, _STREAM)
        connection = stream._sock  # the SDK hands out the reading side alone
        connection.settimeout(None)
        # Only now: what it says before anybody listens is lost.
        self._docker.start(self._name)
        threading.Thread(target=self._pass_input, args=(connection,), daemon=True).start()
        try:
            for channel, data in frames_iter(stream, tty=False):  # type: ignore[no-untyped-call]
                _write_all(2 if channel == STDERR else 1, data)
            return int(self._docker.wait(self._name, timeout=None)["StatusCode"])
        except BrokenPipeError:
            self._input_ended = True
            raise
        finally:
            if self._input_ended:
                self._remove()

    def _pass_input(self, connection: Any) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(0, _CHUNK):
                connection.sendall(data)
        self._input_ended = True
        with contextlib.suppress(OSError):
            connection.shutdown(1)
        giving_up = threading.Timer(_GRACE_SECONDS, self._remove)
        giving_up.daemon = True
        giving_up.start()

    def _remove(self) -> None:
        # From a second thread as well, so not through the same connections.
        with contextlib.suppress(DockerException, RequestException), contextlib.closing(docker.from_env()) as client:
            client.api.remove_container(self._name, force=True, v=True)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def main() -> int:
    """Run the container that the first argument describes, and return the status to end with."""
    order = json.loads(sys.argv[1])
    try:
        return Container(order["name"], order["platform"], order["config"]).run()
    except (DockerException, RequestException, OSError) as error:
        print(f"Docker: {error}", file=sys.stderr)
        return int(order["failed"])


if __name__ == "__main__":
    # At once: the thread that reads the input may be at it still, and has nothing to finish.
    sys.stderr.flush()
    os._exit(main())
