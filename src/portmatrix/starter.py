"""A suite of one's own, to begin with: the files that ``portmatrix init`` writes."""

from __future__ import annotations

import shutil
from pathlib import Path

from portmatrix.errors import UserError

#: Templates, in the layout of a suite.
TEMPLATES = Path(__file__).with_name("starter_files")


def write_starter(folder: Path) -> list[Path]:
    """Write the templates into ``folder`` and return the files written; raises ``UserError`` rather than overwrite."""
    templates = sorted(file for file in TEMPLATES.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    pairs = [(template, folder / template.relative_to(TEMPLATES)) for template in templates]
    there = [str(place) for _, place in pairs if place.exists()]
    if there:
        raise UserError(f"{', '.join(there)}: already there; name another folder")
    for template, place in pairs:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(template, place)
    return [place for _, place in pairs]
