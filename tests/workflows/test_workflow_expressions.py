"""Expressions of workflows: evaluated as GitHub does, and anything that is not understood is an error."""

from __future__ import annotations

from typing import Any

import pytest
from workflow_expressions import NotUnderstood, evaluate, holds, interpolate

CONTEXTS = {
    "github": {"event_name": "push", "ref": "refs/heads/main", "event": {"number": 7}},
    "needs": {"plan": {"result": "success", "outputs": {"runs": "0", "run": '{"include": [{"name": "a"}]}'}}},
    "inputs": {},
    "matrix": {"name": "linux"},
}


def functions(*, success: bool = True, cancelled: bool = False) -> dict[str, Any]:
    return {
        "success": lambda: success,
        "failure": lambda: not success,
        "always": lambda: True,
        "cancelled": lambda: cancelled,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("github.ref", "refs/heads/main"),
        ("'it''s'", "it's"),
        ("github.event_name == 'PUSH'", True),
        ("github.event_name != 'push'", False),
        ("needs.plan.outputs.runs != '0'", False),
        ("needs.plan.outputs.runs == 0", True),
        ("!needs.plan.outputs.runs", False),
        ("inputs.suite || '.'", "."),
        ("github.event.pull_request.number || github.ref", "refs/heads/main"),
        ("github.event.number == 7 && 'seven' || 'other'", "seven"),
        ("github.event_name == 'pull_request' && 'HEAD^' || ''", ""),
        ("(true || false) && null", None),
        ("null == ''", True),
        ("contains('abc', 'B')", True),
        ("fromJSON(needs.plan.outputs.run)", {"include": [{"name": "a"}]}),
    ],
)
def test_an_expression_has_the_value_that_github_gives_it(text: str, value: Any) -> None:
    assert evaluate(text, CONTEXTS) == value


def test_values_are_put_into_text() -> None:
    assert interpolate("bundles-${{ matrix.name }}-${{ github.event.number }}", CONTEXTS) == "bundles-linux-7"
    assert interpolate("${{ fromJSON(needs.plan.outputs.run) }}", CONTEXTS) == {"include": [{"name": "a"}]}
    assert interpolate("plain", CONTEXTS) == "plain"


@pytest.mark.parametrize(
    "text",
    [
        "matrix.nmae",
        "needs.report.result",
        "needs.plan.outputs.other",
        "secrets.TOKEN",
        "hashFiles('x')",
        "github.event_name = 'push'",
        "github.event_name == ",
        "matrix.name matrix.name",
        "matrix['name']",
        "'a' < 'b'",
    ],
)
def test_what_is_not_understood_or_not_defined_is_an_error(text: str) -> None:
    with pytest.raises(NotUnderstood):
        evaluate(text, CONTEXTS)


def test_a_condition_without_a_status_function_asks_for_success_too() -> None:
    assert holds("github.event_name == 'push'", CONTEXTS, functions())
    assert not holds("github.event_name == 'push'", CONTEXTS, functions(success=False))
    assert holds("always() && github.event_name == 'push'", CONTEXTS, functions(success=False))
    assert holds("${{ !cancelled() }}", CONTEXTS, functions(success=False))
    assert not holds("!cancelled()", CONTEXTS, functions(cancelled=True))
