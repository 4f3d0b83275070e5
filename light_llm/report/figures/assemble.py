"""All pictures of a run in the order of the page, each with the verdicts that are about it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ..rules.finding import LEVELS
from ..verdicts import Verdict
from ..view import View
from .attention import attention_pictures
from .curves import loss_figure
from .figure import Figure, Section
from .gradients import gradient_pictures
from .landscape import landscape_pictures
from .progress import learning_pictures, machine_pictures
from .stream import stream_pictures

Maker = Callable[[View], list[Figure]]


def _loss(view: View) -> list[Figure]:
    found = loss_figure([view])
    return [found] if found else []


SECTIONS: tuple[tuple[str, str, tuple[Maker, ...]], ...] = (
    ("learning", "What is learned", (_loss, learning_pictures)),
    ("updates", "Gradients and updates", (gradient_pictures,)),
    ("attention", "Attention", (attention_pictures,)),
    ("stream", "Inside the layers", (stream_pictures,)),
    ("landscape", "Landscape and curvature", (landscape_pictures,)),
    ("machine", "The machine", (machine_pictures,)),
)


def run_sections(view: View, verdicts: Sequence[Verdict]) -> list[Section]:
    """The sections that have a picture; a picture without data is left out."""
    made = (Section(id, title, tuple(_judged(makers, view, verdicts))) for id, title, makers in SECTIONS)
    return [section for section in made if section.figures]


def _judged(makers: Iterable[Maker], view: View, verdicts: Sequence[Verdict]) -> Iterable[Figure]:
    for figure in (figure for make in makers for figure in make(view)):
        about = [v for v in verdicts if v.picture == figure.id]
        remarks = tuple((v.level, f"{v.what} {v.advice}".strip()) for v in about)
        level = min((v.level for v in about), key=LEVELS.index, default="info")
        yield replace(figure, remarks=remarks, level=level)
