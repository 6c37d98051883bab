"""The pool: every job once, a key's jobs together, in order of rank, and no thread left behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portmatrix.pool import Pool, Take, processors


def collecting(served: list[tuple[str, int]]) -> Callable[[str, Take[int]], None]:
    """Return a ``serve`` that notes every job it gets."""

    def serve(key: str, take: Take[int]) -> None:
        while (job := take()) is not None:
            served.append((key, job))

    return serve


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 99)), max_size=30), st.integers(1, 4))
def test_every_job_is_served_once(jobs: list[tuple[str, int]], slots: int) -> None:
    served: list[tuple[str, int]] = []
    pool = Pool(slots, collecting(served), lambda _key: 0)
    for key, job in jobs:
        pool.add(key, job)
    pool.run()
    assert sorted(served) == sorted(jobs)


def test_one_slot_keeps_a_key_until_it_is_done_and_minds_ranks() -> None:
    served: list[tuple[str, int]] = []
    pool = Pool(1, collecting(served), lambda key: {"first": 0, "second": 1}[key])
    for job in range(3):
        pool.add("second", job)
        pool.add("first", job)
    pool.run()
    assert served == [("first", 0), ("first", 1), ("first", 2), ("second", 0), ("second", 1), ("second", 2)]


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_jobs_may_add_jobs(slots: int) -> None:
    served: list[int] = []

    def serve(key: int, take: Take[int]) -> None:
        while (job := take()) is not None:
            served.append(job)
            if job:
                pool.add(key + 1, job - 1)
                pool.add(key + 2, job - 1)

    pool = Pool(slots, serve, lambda key: key)
    pool.add(0, 4)
    pool.run()
    assert sorted(served) == sorted([4] + [3] * 2 + [2] * 4 + [1] * 8 + [0] * 16)


def test_two_slots_serve_two_keys_at_once() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def serve(_key: str, take: Take[int]) -> None:
        while take() is not None:
            meeting.wait()

    pool = Pool(2, serve, lambda _key: 0)
    pool.add("a", 1)
    pool.add("b", 1)
    pool.run()
    assert not meeting.broken


def test_what_a_slot_raises_ends_the_run_and_is_raised() -> None:
    served: list[int] = []

    def serve(_key: str, take: Take[int]) -> None:
        while (job := take()) is not None:
            served.append(job)
            raise ZeroDivisionError

    pool = Pool(1, serve, lambda _key: 0)
    for job in range(5):
        pool.add("a", job)
    with pytest.raises(ZeroDivisionError):
        pool.run()
    assert served == [0]


def test_stop_hands_out_no_further_job() -> None:
    served: list[int] = []

    def serve(_key: str, take: Take[int]) -> None:
        while (job := take()) is not None:
            served.append(job)
            pool.stop()

    pool = Pool(1, serve, lambda _key: 0)
    for job in range(5):
        pool.add("a", job)
    pool.run()
    assert served == [0]


def test_a_run_leaves_no_thread() -> None:
    before = threading.active_count()
    pool = Pool(4, collecting([]), lambda _key: 0)
    pool.add("a", 1)
    pool.run()
    left = [thread for thread in threading.enumerate() if thread.name.startswith("slot ")]
    for thread in left:
        thread.join(30)
    assert threading.active_count() <= before


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell which a process may use")
def test_processors_that_are_not_for_this_process_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3, 5})
    assert processors() == 2


def test_where_the_system_does_not_tell_all_processors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert processors() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1
