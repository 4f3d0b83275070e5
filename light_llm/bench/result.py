"""What was measured, as values: figures with unit and spread, what they were measured on, and the JSON of both."""

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..plain import DIGEST, canonical, read_plain, sealed

KIND, FORMAT = "light-llm bench", 1
UNITS = ("GFLOP/s", "GB/s", "tokens/s", "GB")
TAKEN = ("best", "median", "peak")
BUSY = 1.25  # repetitions further apart than this: something else was running
LONGEST = 120  # characters of a text in a result
MOST = 200  # figures in a result


@dataclass(frozen=True)
class Figure:
    """One number: what it is of, its unit, and how far apart the repetitions were. All finite and above 0."""

    name: str  # its kind and what it is of: "training micro"
    unit: str
    value: float
    low: float  # of the repetitions
    high: float
    times: int  # repetitions
    taken: str  # which of them is the value: the best, the median, or the peak of all
    how: str  # shapes and number format

    @classmethod
    def of(cls, name: str, unit: str, found: Sequence[float], taken: str, how: str) -> "Figure":
        """The figure of several repetitions, as many digits as mean something.

        >>> figure = Figure.of("memory read", "GB/s", [31.0, 34.0, 33.0], "best", "256 MB")
        >>> figure.value, figure.low, figure.high, figure.busy
        (34.0, 31.0, 34.0, False)
        """
        value = statistics.median(found) if taken == "median" else max(found)
        value, low, high = (float(f"{x:.6g}") for x in (value, min(found), max(found)))
        return cls(name, unit, value, low, high, len(found), taken, how)

    @property
    def kind(self) -> str:
        """The first word of its name: what its neighbours in a table have in common."""
        return self.name.partition(" ")[0]

    @property
    def busy(self) -> bool:
        """Whether the repetitions are too far apart for a quiet machine."""
        return self.high > BUSY * self.low


@dataclass(frozen=True)
class Result:
    """The figures of one machine, and all that decides what they mean. Nothing in it says whose machine it is."""

    machine: str  # the processor's or GPU's product name
    device: str  # cpu, or the kind of accelerator
    system: str
    cores: int  # that the process may use
    threads: int  # that it computed with
    light_llm: str
    python: str
    torch: str
    quick: bool
    seconds: float  # that measuring took
    figures: tuple[Figure, ...] = ()
    left_out: tuple[str, ...] = field(default=())  # sentences

    def figure(self, name: str) -> Figure | None:
        """The figure of that name, if it was measured."""
        return next((figure for figure in self.figures if figure.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, without the digest."""
        return {"kind": KIND, "format": FORMAT, **asdict(self)}

    def to_json(self) -> bytes:
        """As a file, with a digest that shows damage."""
        return sealed(self.to_dict())


def read_result(path: Path) -> Result:
    """The result in a file that `--json` wrote. Raises DataError for any other file, and for a damaged one."""
    try:
        values = read_plain(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); name a file of: light-llm bench --json FILE"
        ) from None
    except ValueError as error:
        raise DataError(f"{path} {_NOT_OURS} ({error}); make one with: light-llm bench --json FILE") from None
    return result_of(values, str(path))


_NOT_OURS = "is no result of light-llm bench"


def result_of(values: Any, where: str) -> Result:
    """The result in plain values, each of them checked.

    Args:
        where: what they were read from, for a message.

    Raises:
        DataError: they are something else, of a later version, changed since they were written, or cannot be.
    """
    if not isinstance(values, Mapping) or values.get("kind") != KIND:
        raise DataError(f"{where} {_NOT_OURS}; make one with: light-llm bench --json FILE")
    if values.get("format") != FORMAT:
        raise DataError(f"{where} was written by another version of light-llm bench; read it with that one, or update")
    rest = {key: value for key, value in values.items() if key != DIGEST}
    try:
        same = hashlib.sha256(canonical(rest)).hexdigest() == values.get(DIGEST)
    except (ValueError, TypeError):  # NaN and infinity, which canonical JSON does not have
        same = False
    if not same:
        raise DataError(f"{where} is not as it was written: its digest does not fit; ask for the file again")
    try:
        return _result(rest)
    except ValueError as error:
        raise DataError(f"{where} has values that no measurement gives: {error}") from None


def _result(values: Mapping[str, Any]) -> Result:
    _check_names("the result", values, {"kind", "format", *(f.name for f in fields(Result))})
    for name in ("machine", "device", "system", "light_llm", "python", "torch"):
        _check_text(name, values[name])
    for name in ("cores", "threads"):
        _check_count(name, values[name])
    _check_positive("seconds", values["seconds"])
    if not isinstance(values["quick"], bool):
        raise ValueError("quick is neither true nor false")
    for name in ("figures", "left_out"):
        if not isinstance(values[name], list) or len(values[name]) > MOST:
            raise ValueError(f"{name} is no list of at most {MOST}")
    figures = tuple(_figure(one) for one in values["figures"])
    if len({figure.name for figure in figures}) < len(figures):
        raise ValueError("two figures have one name")
    for line in values["left_out"]:
        _check_text("left_out", line)
    rest = {k: v for k, v in values.items() if k not in ("kind", "format", "figures", "left_out")}
    return Result(**rest, figures=figures, left_out=tuple(values["left_out"]))


def _figure(values: Any) -> Figure:
    if not isinstance(values, Mapping):
        raise ValueError("a figure is no table")
    _check_names("a figure", values, {f.name for f in fields(Figure)})
    for name in ("name", "how"):
        _check_text(name, values[name])
    for name, known in (("unit", UNITS), ("taken", TAKEN)):
        if values[name] not in known:
            raise ValueError(f"the {name} of a figure is none of {', '.join(known)}")
    for name in ("value", "low", "high"):
        _check_positive(name, values[name])
    _check_count("times", values["times"])
    if not values["low"] <= values["value"] <= values["high"]:
        raise ValueError(f"the value of {values['name']} is not between its least and its greatest")
    return Figure(**values)


def _check_names(what: str, values: Mapping[str, Any], wanted: set[str]) -> None:
    if set(values) != wanted:
        raise ValueError(f"{what} lacks or has too much of {', '.join(sorted(set(values) ^ wanted))[:LONGEST]}")


def _check_text(name: str, value: Any) -> None:
    """A short line of text, which can be printed: a file from elsewhere must not send commands to a terminal."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST or not value.isprintable():
        raise ValueError(f"{name} is no line of at most {LONGEST} letters")


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
        raise ValueError(f"{name} is no count")


def _check_positive(name: str, value: Any) -> None:
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e18
    if not right or not math.isfinite(value):
        raise ValueError(f"{name} is no number above 0")
