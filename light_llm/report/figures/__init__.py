"""The figures of a run, by subject: pure functions from a `RunLog` to plain values in plotly's JSON.

`run_sections` finds each module here that has a `SECTION` (a key of TITLES) and a function `make_figures`.
"""

import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from types import ModuleType

from ..rules import LEVELS, HealthNote
from ..run_log import RunLog
from .learning import loss_figure as loss_figure
from .plot import Figure, Section

# `SECTION` of a module -> title. Within a section, modules come in alphabetical order.
TITLES = {
    "learning": "Learning",
    "updates": "Gradients and updates",
    "attention": "Attention",
    "maps": "Attention maps",
    "stream": "Layers",
    "landscape": "Curvature",
    "machine": "Machine",
}
SENTENCES = {
    "maps": "Each row is a token of held-out text, and each column a token it can attend to; the colours go from 0 to "
    "1 in all maps. · is a space, ⏎ a new line, ⇥ a tab.",
}
FOLDED = ("maps", "stream")  # sections that are closed at first, unless a note in them asks for attention


def run_sections(log: RunLog, notes: Sequence[HealthNote]) -> list[Section]:
    """Return the sections that have at least one figure."""
    sections = []
    for id, title in TITLES.items():
        modules = [module for module in _find_modules() if module.SECTION == id]
        figures = [figure for module in modules for figure in module.make_figures(log) if figure]
        if figures:
            with_notes = tuple(_with_notes(figure, notes) for figure in figures)
            is_calm = all(figure.level not in ("bad", "watch") for figure in with_notes)
            sections.append(Section(id, title, with_notes, SENTENCES.get(id, ""), id in FOLDED and is_calm))
    return sections


@cache
def _find_modules() -> tuple[ModuleType, ...]:
    """Import the modules of this package that make figures."""
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return tuple(module for module in modules if hasattr(module, "SECTION"))


def _with_notes(figure: Figure, notes: Sequence[HealthNote]) -> Figure:
    about = [note for note in notes if note.figure == figure.id]
    remarks = tuple((note.level, f"{note.message} {note.advice}".strip()) for note in about)
    return replace(figure, remarks=remarks, level=min((n.level for n in about), key=LEVELS.index, default="info"))
