"""Handing rows and notes on: a sink in memory, several sinks at once, notes that lie on a device."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from stepscope.scope.rows import Taken

__all__ = ["Memory", "number", "plain", "serve", "written"]


class Memory:
    """A sink that keeps rows as dictionaries: step, layer and the values."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, step: int, layer: str, values: Mapping[str, float]) -> None:
        """Keep one row."""
        self.rows.append({"step": step, "layer": layer, **values})

    def flush(self) -> None:
        """Rows are there at once."""

    def close(self) -> None:
        """Rows stay."""


def serve(sinks: Iterable[Any], act: Callable[[Any], None]) -> None:
    """Do this to every sink, then raise the first failure."""
    failure = None
    for sink in sinks:
        try:
            act(sink)
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure


def written(sink: Any, taken: Taken) -> Exception | None:
    """Write all rows to a sink, as blocks where it takes them.

    Returns the first failure: where one row is not taken, the next ones may be.
    """
    failure: Exception | None = None

    def attempt(write: Callable[..., None], *arguments: Any) -> None:
        nonlocal failure
        try:
            write(*arguments)
        except Exception as error:
            failure = failure or error

    if not hasattr(sink, "write_block"):
        for row in taken.rows(getattr(sink, "columns", None)):
            attempt(sink.write, *row)
        return failure
    for table in taken.tables:
        attempt(sink.write_block, table.steps, table.layers, table.columns, table.values)
        for (place, i), values in table.cells.items():
            attempt(sink.write, int(table.steps[place]), table.layers[i], values)
    for row in taken.notes:
        attempt(sink.write, *row)
    return failure


def number(value: Any) -> float | Tensor:
    """A number, or a copy of one that is on a device: reading it now would wait for the device."""
    if not isinstance(value, Tensor):
        return float(value)
    there: Tensor = value.detach()
    return float(there) if there.device.type == "cpu" else there.clone()


def plain(values: Mapping[str, float | Tensor]) -> dict[str, float]:
    """The same, read."""
    return {name: float(value) for name, value in values.items()}
