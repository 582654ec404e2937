"""Where rows go: one sink or several, each served whatever becomes of the others."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["Memory", "Outlets"]


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


class Outlets:
    """Sinks. The first failure of one is raised when all of them have been served."""

    def __init__(self, sinks: Iterable[Any] = ()) -> None:
        self._sinks = tuple(sinks)

    def write(self, rows: Sequence[tuple[int, str, Mapping[str, float]]]) -> None:
        """Write rows; where one is refused, the next may be taken."""
        _all(lambda item: item[0].write(*item[1]), [(sink, row) for row in rows for sink in self._sinks])

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell those that take events."""
        _all(lambda sink: sink.event(kind, **data), [sink for sink in self._sinks if hasattr(sink, "event")])

    def flush(self) -> None:
        """Flush all."""
        _all(lambda sink: sink.flush(), self._sinks)


def _all(act: Callable[[Any], None], items: Iterable[Any]) -> None:
    failures = []
    for item in items:
        try:
            act(item)
        except Exception as failure:
            failures.append(failure)
    if failures:
        raise failures[0]
