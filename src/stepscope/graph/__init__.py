"""Expression graphs: tracing of rules, typed formulas, gradients, and the backends that evaluate them."""

from stepscope.graph.expression import FUNCTIONS, PRIMITIVES, SYMBOLS, Symbol, Traced, evaluate, order, symbol, trace
from stepscope.graph.formula import FormulaError, parse
from stepscope.graph.gradient import gradient

__all__ = [
    "FUNCTIONS",
    "PRIMITIVES",
    "SYMBOLS",
    "FormulaError",
    "Symbol",
    "Traced",
    "evaluate",
    "gradient",
    "order",
    "parse",
    "symbol",
    "trace",
]
