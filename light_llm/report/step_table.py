"""The numbers of many steps in little memory: columns that grow, of each step what was written last."""

import math
from array import array
from collections.abc import Sequence

from .rows import Row, Steps
from .tolerant import Numbers, finite, mapping, whole

_COLUMNS = (
    *("loss", "bits_per_byte", "lr", "grad_norm", "weight_norm", "clipped"),
    *("tokens", "seconds", "tok_per_sec", "mfu", "memory"),
)
_TABLES = ("grad_norms", "update_ratios", "phases")  # columns by name
_Key = tuple[str, str]  # a column, or a table and a name in it
_MISSING = math.nan  # what is written is finite


class StepTable:
    """Takes rows of kind step one by one; a hundred thousand of them are some ten million numbers of 8 bytes."""

    def __init__(self) -> None:
        self.places: dict[int, int] = {}  # of each step in the columns
        self.columns: dict[_Key, array[float]] = {}

    def add(self, row: Row) -> None:
        """A row; one of a step that was there before takes its place."""
        step = whole(row.get("step"))
        if step is None:
            return
        was_there, place = step in self.places, self.places.setdefault(step, len(self.places))
        if was_there:
            for column in self.columns.values():
                if place < len(column):
                    column[place] = _MISSING
        for name in _COLUMNS:
            value = row.get(name)
            self._put((name, ""), place, float(value) if isinstance(value, bool) else finite(value))
        for table in _TABLES:
            for name, value in mapping(row.get(table)).items():
                self._put((table, name), place, finite(value))

    def steps(self) -> Steps:
        """All of it, in the order of the steps."""
        order = [self.places[step] for step in sorted(self.places)]
        clipped = self._column(("clipped", ""), order)
        return Steps(
            step=tuple(sorted(self.places)),
            clipped=tuple(None if c is None else bool(c) for c in clipped),
            grad_norms=self._table("grad_norms", order),
            update_ratios=self._table("update_ratios", order),
            phases=self._table("phases", order),
            **{name: self._column((name, ""), order) for name in _COLUMNS if name != "clipped"},
        )

    def _table(self, table: str, order: Sequence[int]) -> dict[str, Numbers]:
        return {name: self._column((table, name), order) for of, name in self.columns if of == table}

    def _put(self, key: _Key, place: int, value: float | None) -> None:
        if value is None:
            return
        column = self.columns.get(key)
        if column is None:
            column = self.columns[key] = array("d")
        if place < len(column):
            column[place] = value
        else:
            column.extend([_MISSING] * (place - len(column)))
            column.append(value)

    def _column(self, key: _Key, order: Sequence[int]) -> Numbers:
        column = self.columns.get(key, array("d"))
        n = len(column)
        return tuple(None if i >= n or math.isnan(v := column[i]) else v for i in order)
