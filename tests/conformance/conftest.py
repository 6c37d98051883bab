"""The order of the conformance tests: all of one plug-in one after the other, so that its worker starts once."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _place(item: pytest.Item) -> tuple[bool, str, str, str]:
    """Return what to sort by: after all other tests, by plug-in, by what the test is about."""
    if HERE not in item.path.parents:
        return (False, "", "", "")
    mark = item.get_closest_marker("xdist_group")
    named = getattr(item, "callspec", None)
    return (True, item.path.name, mark.args[0] if mark else "", named.id if named else "")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort, after pytest has sorted by what fixtures share."""
    items.sort(key=_place)
