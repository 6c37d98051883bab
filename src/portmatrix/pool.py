"""A bounded pool of slots that serve jobs grouped by key, so that what is dear to start is started seldom.

A key stands for a worker's environment: a slot that has opened one keeps taking its jobs until none is left. Jobs may
add further jobs while the pool runs.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Job = TypeVar("Job")
Take = Callable[[], Job | None]


def processors() -> int:
    """Return how many processors this process may use: as many slots, or threads of a runtime, work at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Behind:
    """A second thread that finishes one piece of work while its owner is at the next; never more than one behind.

    A piece is handed over by ``later`` and begun by ``go``, which the owner calls when it is about to wait anyway. Use
    as a context manager, which ends when the last piece is done. What a piece raised is raised in the owner's thread:
    by the next ``later``, or at the end.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._work: Callable[[], None] | None = None
        self._begun: Future[None] | None = None

    def later(self, work: Callable[[], None]) -> None:
        """Take over ``work``, when the piece before it is done."""
        self._catch_up()
        self._work = work

    def go(self) -> None:
        """Begin the work handed over last, if it has not begun yet."""
        work, self._work = self._work, None
        if work is not None:
            self._begun = self._thread.submit(work)

    def _catch_up(self) -> None:
        self.go()
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._catch_up()
        finally:
            self._thread.shutdown()


class Pool(Generic[Key, Job]):
    """Jobs by key, served by up to ``slots`` threads at a time.

    ``serve(key, take)`` is called in a slot's thread; it calls ``take()`` for one job after another until that gives
    None. A key with a smaller ``rank(key)`` is served before others; among equals the one that the fewest slots are
    busy with, then the one with the most jobs.
    """

    def __init__(self, slots: int, serve: Callable[[Key, Take[Job]], None], rank: Callable[[Key], int]) -> None:
        self._slots = slots
        self._serve = serve
        self._rank = rank
        self._jobs: dict[Key, deque[Job]] = {}
        self._busy: dict[Key, int] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._feeding = False
        self._error: BaseException | None = None
        self._living = 0
        self._all_ended = threading.Event()
        self._all_ended.set()

    def add(self, key: Key, job: Job) -> None:
        """Add a job; from any thread, before or during ``run``."""
        with self._changed:
            self._jobs.setdefault(key, deque()).append(job)
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out no further jobs; slots end with the job they are at."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def run(self, feed: Callable[[], None] = lambda: None) -> None:
        """Serve until no job is left and no slot could add one; raises the first exception that ``serve`` raised.

        ``feed`` is called in this thread and adds jobs while the slots are at work already.
        """
        self._living = self._slots
        self._feeding = True
        self._all_ended.clear()
        for number in range(self._slots):
            threading.Thread(target=self._live, name=f"slot {number}").start()
        try:
            feed()
            self._end_of_feed()
            self.join()
        except BaseException:
            self.stop()
            raise
        if self._error is not None:
            raise self._error

    def _end_of_feed(self) -> None:
        with self._changed:
            self._feeding = False
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until every slot has ended; short waits keep ^C answered on every system.

        Not by ``Thread.join``: up to Python 3.12 a thread whose join ^C interrupts is taken for ended from then on.
        """
        while not self._all_ended.wait(timeout=0.5):
            pass

    def _live(self) -> None:
        try:
            self._slot()
        finally:
            with self._changed:
                self._living -= 1
                if not self._living:
                    self._all_ended.set()

    def _slot(self) -> None:
        while (key := self._next_key()) is not None:
            try:
                self._serve(key, lambda key=key: self._take(key))  # type: ignore[misc]
            except BaseException as error:  # carried over to the thread that called run()
                self._error = self._error or error
                self.stop()
            finally:
                with self._changed:
                    self._busy[key] -= 1
                    self._changed.notify_all()

    def _next_key(self) -> Key | None:
        with self._changed:
            while not self._stopped:
                waiting = [key for key, jobs in self._jobs.items() if jobs]
                if waiting:
                    best = min(waiting, key=self._order)
                    self._busy[best] = self._busy.get(best, 0) + 1
                    return best
                if not self._feeding and not any(self._busy.values()):
                    break
                self._changed.wait()
            self._changed.notify_all()
            return None

    def _order(self, key: Key) -> tuple[int, int, int]:
        return self._rank(key), self._busy.get(key, 0), -len(self._jobs[key])

    def _take(self, key: Key) -> Job | None:
        with self._changed:
            # What has been opened for the key is kept open as long as the feed could bring more of it.
            while self._feeding and not self._stopped and not self._jobs.get(key):
                self._changed.wait()
            jobs = self._jobs.get(key)
            return jobs.popleft() if jobs and not self._stopped else None
