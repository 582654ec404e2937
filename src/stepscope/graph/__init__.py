"""Tracing of rules to expression graphs, and the namespaces that evaluate them."""

from stepscope.graph.expression import FUNCTIONS, SYMBOLS, Symbol, Traced, evaluate, order, symbol, trace

__all__ = ["FUNCTIONS", "SYMBOLS", "Symbol", "Traced", "evaluate", "order", "symbol", "trace"]
