"""Metrics of a run as rows, and the sinks that write them: console, metrics.jsonl, trackers."""

from .background_sink import BackgroundSink as BackgroundSink
from .console import Console as Console
from .console import TimeLeft as TimeLeft
from .metrics import JsonLines as JsonLines
from .metrics import Row as Row
from .metrics import Sink as Sink
from .metrics import read_rows as read_rows
