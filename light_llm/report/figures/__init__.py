"""The pictures of a run, by subject: pure functions from a View to plain values in plotly's JSON."""

from .assemble import run_sections as run_sections
from .curves import loss_figure as loss_figure
from .figure import Figure as Figure
from .figure import Section as Section
from .figure import Switch as Switch
from .figure import Table as Table
