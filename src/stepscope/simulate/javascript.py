"""A rule on a landscape, and a landscape by itself, as JavaScript modules that compute in the browser.

A module's default export is a function of the runtime (graph/runtime.js), so that its text can be loaded from a server
or lie in a page. A path's program has the engine's own layout (program.py): `t` counts the steps taken, a row is the
point after t steps with everything carried, then its loss.
"""

from collections.abc import Sequence
from functools import lru_cache

from stepscope.graph.expression import SYMBOLS, as_symbol, symbol
from stepscope.graph.gradient import gradient
from stepscope.graph.javascript import RUNTIME, Printer, elementary, scalar
from stepscope.rules import Rule, parts
from stepscope.simulate.landscapes import Landscape, graph_of
from stepscope.simulate.program import build
from stepscope.simulate.run import columns_of

__all__ = ["curves_module", "landscape_module", "path_module"]

_HEAD = f"export default ({{ {', '.join(RUNTIME)} }}) => {{\n"


def _indented(lines: Sequence[str], by: int) -> str:
    return "".join(f"{' ' * by}{line}\n" for line in lines)


def _names(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def _constant(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in ("hyper", "param", "sigma")


@lru_cache(maxsize=256)
def path_module(rule: Rule, landscape: Landscape, noise: str | None = None) -> str:
    """The program of one rule on one landscape.

    Exports: carried, columns, constants, normals (how many a step), scalars (name, needs, value(t, ...)), and

    - advance(S, t, end, every, last, C, T, key, rows): carries S from step t to `end` and writes row ceil(t / every) at
      each multiple of `every` and at `last`.  C: the constants' values.  T: the scalars' tables.
    - look(S, at, t, C, T, key, out): the columns of the step that is taken from the row at S[at...].
    """
    program = build(rule, landscape, columns_of(rule), (), noise)
    carried, columns = list(program.carried), list(program.columns)
    roots = [*program.carried.values(), *program.columns.values()]
    after, looked = roots[: len(carried)], roots[len(carried) :]
    loss = looked[columns.index("loss")]
    places = {name: f"a{i}" for i, name in enumerate(carried)}
    constants = {name: f"c{i}" for i, name in enumerate(program.inputs)}
    scalars = {f"scalars.{name}": f"s{i}" for i, name in enumerate(program.scalars)}
    normals = {f"noise.{i}": f"z{i}" for i in range(program.normals)}
    inputs = places | constants | scalars | normals
    draw = (
        ["normals(key, t, Z);", *(f"const z{i} = Z[{i}];" for i in range(program.normals))] if program.normals else []
    )
    tables = [f"const s{i} = T{i}[t < n{i} ? t : n{i}];" for i in range(len(scalars))]
    opened = [f"const c{i} = C[{i}];" for i in range(len(constants))]
    opened += [f"const T{i} = T[{i}], n{i} = T{i}.length - 1;" for i in range(len(scalars))]
    opened += [f"const Z = new Float64Array({program.normals});"] if program.normals else []

    text = _HEAD + _indented(elementary(roots), 2)
    text += "  return {\n"
    text += f"    carried: {_names(carried)},\n    columns: {_names(columns)},\n"
    text += f"    constants: {_names(list(constants))},\n    normals: {program.normals},\n"
    listed = [
        f'{{ name: "{name}", needs: {_names(one.needs)}, value: {scalar(one.value, one.needs)} }}'
        for name, one in program.scalars.items()
    ]
    text += f"    scalars: [{', '.join(listed)}],\n"

    printer = Printer([*after, loss], inputs)
    fixed = printer.invariants([*after, loss], _constant)
    step, new = printer.statements(after)
    row, (value,) = printer.statements([loss])
    width = len(carried) + 1
    text += "    advance(S, t, end, every, last, C, T, key, rows) {\n"
    text += _indented([f"let a{i} = S[{i}];" for i in range(len(carried))] + opened + fixed, 6)
    text += "      for (; ; t++) {\n"
    text += _indented([*draw, *tables, *step], 8)
    text += "        if (t % every === 0 || t === last) {\n"
    text += _indented([*row, f"const q = Math.ceil(t / every) * {width};"], 10)
    text += _indented([f"rows[q + {i}] = a{i};" for i in range(len(carried))], 10)
    text += f"          rows[q + {width - 1}] = {value};\n        }}\n        if (t >= end) break;\n"
    text += _indented([f"const b{i} = {one};" for i, one in enumerate(new)], 8)
    text += _indented([f"a{i} = b{i};" for i in range(len(new))], 8)
    text += "      }\n"
    text += _indented([f"S[{i}] = a{i};" for i in range(len(carried))], 6)
    text += "    },\n"

    printer = Printer(looked, inputs)
    steps, values = printer.statements(looked)
    text += "    look(S, at, t, C, T, key, out) {\n"
    text += _indented([f"const a{i} = S[at + {i}];" for i in range(len(carried))], 6)
    text += _indented([*opened, *draw, *tables, *steps], 6)
    text += _indented([f"out[{i}] = {one};" for i, one in enumerate(values)], 6)
    return text + "    },\n  };\n};\n"


@lru_cache(maxsize=256)
def landscape_module(landscape: Landscape) -> str:
    """The program of one landscape. Exports: params, and of(C) with C the parameters' values, which gives

    loss(x), gradient(x, out) and curvature(x, out), the second derivatives row by row, of a point x, an array.
    """
    points, loss, slopes = graph_of(landscape)
    curvature = [second for slope in slopes for second in gradient(slope, points)]
    roots = [loss, *slopes, *curvature]
    inputs = {str(point.args[0]): f"x[{i}]" for i, point in enumerate(points)}
    inputs |= {f"param.{name}": f"c{i}" for i, name in enumerate(landscape.params)}
    printer = Printer(roots, inputs, "k")
    fixed = printer.invariants(roots, _constant)
    text = (
        _HEAD
        + _indented(elementary(roots), 2)
        + f"  return {{\n    params: {_names(list(landscape.params))},\n    of(C) {{\n"
    )
    text += _indented([f"const c{i} = C[{i}];" for i in range(len(landscape.params))] + fixed, 6)
    text += "      return {\n        loss(x) {\n"
    one = Printer(roots[:1], inputs)
    one.known.update(printer.known)
    lines, (value,) = one.statements(roots[:1])
    text += _indented([*lines, f"return {value};"], 10)
    for name, wanted in (("gradient", slopes), ("curvature", curvature)):
        text += f"        }},\n        {name}(x, out) {{\n"
        one = Printer(wanted, inputs)
        one.known.update(printer.known)
        lines, values = one.statements(wanted)
        text += _indented([*lines, *(f"out[{i}] = {v};" for i, v in enumerate(values))], 10)
    return text + "        },\n      };\n    },\n  };\n};\n"


@lru_cache(maxsize=1)
def curves_module() -> str:
    """The factors of the decomposition as functions of the spread eta = sigma / |mean| >= 0, and the limits of stable
    steps (theory.orbits.LIMITS) as functions of a decay or a momentum.
    """
    from stepscope.theory.orbits import LIMITS  # brings SciPy along, which nothing else here needs

    x = symbol("x")
    names = ("adam_factor", "svag_factor", "exact_factor")
    curves = {name: as_symbol(getattr(parts, name)(SYMBOLS, x * x)) for name in names}
    curves |= {name: as_symbol(limit(x)) for name, limit in LIMITS.items()}
    text = _HEAD + _indented(elementary(list(curves.values())), 2) + "  return {\n"
    for name, root in curves.items():
        lines, (value,) = Printer([root], {"x": "x"}).statements([root])
        text += f"    {name}(x) {{\n{_indented([*lines, f'return {value};'], 6)}    }},\n"
    return text + "  };\n};\n"
