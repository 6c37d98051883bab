"""Answers of indexes, kept in the store with their day: asked for once, used for a while, and when nobody answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from portmatrix.commands import Patience
from portmatrix.errors import EnvironmentFailure
from portmatrix.store import Store, digest_of
from portmatrix.types import Lookup

#: The kind of the store's documents that hold answers.
KIND = "lookups"
#: Changes when answers change their meaning, so that old ones are not taken for new ones.
FORM = 1
#: How long an answer is used again. The files of a version are published with it or within days, and never changed
#: then: after a week an index says what it said before.
REUSED_DAYS = 7
#: How long whoever did not answer is not asked the same again: the cells of one runtime on one target share a silence,
#: and whoever has mended the network and starts another run does not.
SILENT_SECONDS = 60


def answer(store: Store, question: Sequence[Any], ask: Callable[[Path], Lookup], patience: Patience) -> Lookup:
    """Return the answer to a question: a kept one that is not too old, else what ``ask`` finds, else an older one.

    ``ask`` gets a scratch folder. Two engines do not ask the same at the same time. An older answer keeps its date, and
    ``unchecked`` says why it is given. Raises ``EnvironmentFailure`` if there is none.
    """
    key = digest_of([FORM, *question])
    with _alone(store.lock(f"lookup-{key[:16]}"), patience):
        kept = _kept(store, key)
        if kept is not None and 0 <= (today() - date.fromisoformat(kept.date)).days < REUSED_DAYS:
            return kept
        try:
            with asking(store, key, patience), store.scratch("lookup") as scratch:
                found = ask(scratch)
        except EnvironmentFailure as failure:
            if kept is None:
                raise
            why = f"whether it is still so: {failure}; this is what was answered on {kept.date}"
            return kept.model_copy(update={"unchecked": (*kept.unchecked, why)})
        store.put(KIND, key, found.model_dump(mode="json"))
        return found


def today() -> date:
    """Return the day, in UTC."""
    return datetime.now(timezone.utc).date()


@contextmanager
def asking(store: Store, key: str, patience: Patience) -> Iterator[None]:
    """Ask inside of this: an ``EnvironmentFailure`` is raised at once again to whoever asks the same a moment later."""
    noted = store.get(KIND, silence := digest_of([key, "silence"])) or {}
    if 0 <= time.time() - noted.get("at", 0) < SILENT_SECONDS:
        raise EnvironmentFailure(noted["why"], noted["log_tail"], unavailable=noted["unavailable"])
    try:
        yield
    except EnvironmentFailure as failure:
        if not patience.stopped():
            told = {"why": str(failure), "log_tail": failure.log_tail, "unavailable": failure.unavailable}
            store.put(KIND, silence, {"at": time.time(), **told})
        raise


@contextmanager
def _alone(lock: FileLock, patience: Patience) -> Iterator[None]:
    deadline = time.monotonic() + patience.seconds
    while not lock.is_locked:
        if patience.stopped() or time.monotonic() >= deadline:
            raise EnvironmentFailure("gave up while another engine was asking the same")
        with suppress(Timeout):
            lock.acquire(timeout=0.5)
    try:
        yield
    finally:
        lock.release()


def _kept(store: Store, key: str) -> Lookup | None:
    """Return the answer that is kept, or None if there is none or it cannot be read."""
    try:
        kept = Lookup.model_validate(store.get(KIND, key))
        date.fromisoformat(kept.date)
    except ValueError:
        return None
    return kept
