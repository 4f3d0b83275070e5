"""The figures of a run, by subject: pure functions from a `RunLog` to plain values in plotly's JSON.

Each module here with a `SECTION` and a function `make_figures` is found by `sections`; no other list names them.
"""

from .curves import loss_figure as loss_figure
from .plot import Figure as Figure
from .sections import run_sections as run_sections
