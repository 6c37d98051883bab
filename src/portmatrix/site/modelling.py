"""The page on modelling: families of models by frameworks, and for each what came of it from the training to a runtime.

It is the first table of the survey, made by trying: whether a framework can express a family, what accuracy it reaches,
by how many paths it leaves the framework, and in how many runtimes it then works.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from portmatrix import survey
from portmatrix.render.text import one_line
from portmatrix.site.page import Context, Page
from portmatrix.site.templates import fill
from portmatrix.spec import SurveyEntry
from portmatrix.types import CONCLUSIVE, UNKNOWN, WORKING, Outcome, Reach, Record, Stage


class Standing(Enum):
    """What became of a family in a framework: a colour, which it shares with an outcome, a mark, and its words."""

    WORKS = ("PASS", "✓", "works")
    DETOUR = ("DEGRADED", "≈", "works by a detour")
    STUCK = ("FAIL", "✗", "works in no runtime")
    NOT_EXPORTED = ("XFAIL", "⊘", "trained, leaves by no path")
    NOT_TRAINED = ("XFAIL", "∅", "could not be trained")
    UNKNOWN = ("NOT_RUN", "·", "not run")

    @property
    def outcome(self) -> str:
        """The outcome in whose colour it is shown."""
        return self.value[0]

    @property
    def mark(self) -> str:
        """Its mark."""
        return self.value[1]

    @property
    def words(self) -> str:
        """What it says."""
        return self.value[2]


class Field(NamedTuple):
    """One family in one framework.

    ``accuracies`` are the lowest and the highest that its trained models reached on held-out samples. Of the ``paths``
    that were tried ``exported`` wrote an artifact, of the ``runtimes`` that were given one ``working`` run it right on
    some target. ``archived`` says that all of its bundles come from an archive. ``why`` says, where it was not trained
    or leaves by no path, what stood in the way.
    """

    framework: str
    model: str
    standing: Standing
    accuracies: tuple[float, float] | None
    exported: int
    paths: int
    working: int
    runtimes: int
    archived: bool
    why: str


class Column(NamedTuple):
    """How many of a framework's families were trained, leave it, and work somewhere; out of those tried."""

    framework: str
    trained: int
    exported: int
    working: int
    tried: int


class _Tally:
    """What the records of one family in one framework say, gathered in one pass."""

    def __init__(self) -> None:
        self.low, self.high = 1.0, 0.0
        self.trained = self.made = self.failed = self.passed = False
        self.exported: set[str] = set()
        self.unexported: set[str] = set()
        self.working: set[str] = set()
        self.given: set[str] = set()
        self.reasons: dict[Stage, str] = {}

    def add(self, record: Record) -> None:
        _, _, path, runtime, _ = record.id
        conclusive = record.outcome in CONCLUSIVE
        if record.accuracy is not None:
            self.low, self.high = min(self.low, record.accuracy), max(self.high, record.accuracy)
        if record.bundle is not None:
            self.trained = True
            self.made |= not record.archived
            self.exported.add(path)
        elif conclusive and record.stage is Stage.EXPORT:
            self.trained = True
            self.unexported.add(path)
        elif conclusive and record.stage is Stage.TRAIN:
            self.failed = True
        if conclusive and record.stage in (Stage.TRAIN, Stage.EXPORT):
            self.reasons.setdefault(record.stage, record.expected or record.reason)
        if conclusive and record.bundle is not None and record.reach is not Reach.STATIC:
            self.given.add(runtime)
            if record.outcome in WORKING:
                self.working.add(runtime)
                self.passed |= record.outcome is not Outcome.DEGRADED


def page(context: Context) -> Page:
    """Return the page."""
    fields = measured(context.records)
    frameworks = sorted({framework for framework, _ in fields})
    known = list(context.spec.models)
    models = [*known, *sorted({model for _, model in fields} - set(known))]
    rows = [(model, [fields.get((framework, model)) for framework in frameworks]) for model in models]
    told = survey.load()
    body = fill(
        "modelling.html.j2",
        columns=[_column(framework, fields.values()) for framework in frameworks],
        rows=[(model, row) for model, row in rows if any(row)],
        accuracies={model: asked.accuracy for model, asked in context.spec.models.items()},
        standings=[standing for standing in Standing if any(field.standing is standing for field in fields.values())],
        survey=told,
        said=[_said(framework, context.spec.ratings.survey, told) for framework in frameworks],
    )
    return Page("modelling.html", "Modelling", body, entry="Modelling")


def _said(framework: str, entries: Mapping[str, SurveyEntry], told: survey.Survey) -> str:
    """Return the survey's stars for modelling of the framework, or of what it follows; empty where it gave none."""
    entry = entries.get(framework)
    stars = told.stars.get("modelling", {}).get(entry.toolkit) if entry else None
    if entry is None or stars is None:
        return ""
    return f"{'follows ' if entry.successor else ''}{entry.toolkit}: {stars:g} of 5"


def measured(records: Iterable[Record]) -> dict[tuple[str, str], Field]:
    """Return what is known of each framework and model, in the order of their names."""
    tallies: dict[tuple[str, str], _Tally] = {}
    for record in records:
        framework, model = record.id[:2]
        if UNKNOWN not in (framework, model):
            tallies.setdefault((framework, model), _Tally()).add(record)
    return {key: _field(*key, tally) for key, tally in sorted(tallies.items())}


def _field(framework: str, model: str, tally: _Tally) -> Field:
    standing = _standing(tally)
    stage = {Standing.NOT_TRAINED: Stage.TRAIN, Standing.NOT_EXPORTED: Stage.EXPORT}.get(standing)
    return Field(
        framework,
        model,
        standing,
        accuracies=(tally.low, tally.high) if tally.high >= tally.low else None,
        exported=len(tally.exported),
        paths=len(tally.exported | tally.unexported),
        working=len(tally.working),
        runtimes=len(tally.given),
        archived=bool(tally.exported) and not tally.made,
        why=one_line(tally.reasons.get(stage, ""), 300) if stage else "",
    )


def _standing(tally: _Tally) -> Standing:
    """Return what became of a family; a model that was trained once was trained, whatever else was tried."""
    if tally.working:
        return Standing.WORKS if tally.passed else Standing.DETOUR
    if tally.given:
        return Standing.STUCK
    if tally.trained and not tally.exported:
        return Standing.NOT_EXPORTED
    if tally.failed and not tally.trained:
        return Standing.NOT_TRAINED
    return Standing.UNKNOWN


def _column(framework: str, fields: Iterable[Field]) -> Column:
    own = [field for field in fields if field.framework == framework and field.standing is not Standing.UNKNOWN]
    return Column(
        framework,
        trained=sum(field.standing is not Standing.NOT_TRAINED for field in own),
        exported=sum(field.exported > 0 for field in own),
        working=sum(field.working > 0 for field in own),
        tried=len(own),
    )
