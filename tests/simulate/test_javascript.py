"""The programs for the browser, run by Node, against the compiled engine: the same bits at every step."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.node import needs_node, node

from stepscope.graph.elementary import rewrite
from stepscope.rules import METHODS
from stepscope.simulate import LANDSCAPES, find, run
from stepscope.simulate.javascript import curves_module, landscape_module, path_module
from stepscope.simulate.landscapes import graph_of
from stepscope.simulate.noise import keys
from stepscope.simulate.run import columns_of
from stepscope.simulate.tables import table
from stepscope.theory import factors
from stepscope.theory.orbits import heavy_ball_limit, preconditioned_limit

pytestmark = needs_node

DRIVER = """
const cases = JSON.parse(fs.readFileSync("cases.json", "utf8"));
for (const [i, one] of cases.entries()) {
  const program = (await import(`./p${i}.mjs`)).default(R);
  const C = program.constants.map((name) => one.constants[name]);
  const T = program.scalars.map((s) =>
    one.tables ? Float64Array.from(one.tables[s.name])
               : R.table(s.value, s.needs.map((name) => one.constants[`hyper.${name}`]), one.steps + 1));
  const W = program.carried.length + 1;
  const count = Math.ceil(one.steps / one.every) + 1;
  const rows = new Float64Array(count * W);
  const S = new Float64Array(program.carried.length);
  one.start.forEach((x, j) => { S[j] = x; });
  const key = R.noiseKey(one.seed);
  for (let t = 0; t < one.steps || t === 0; ) {
    const end = Math.min(one.steps, t + one.chunk);
    program.advance(S, t, end, one.every, one.steps, C, T, key, rows);
    t = end;
    if (one.steps === 0) break;
  }
  const looked = [];
  const out = new Float64Array(program.columns.length);
  for (let r = 0; r < count; r++) {
    program.look(rows, r * W, Math.min(r * one.every, one.steps), C, T, key, out);
    looked.push(...out);
  }
  give(`rows${i}`, rows);
  give(`looked${i}`, looked);
}
"""


def browser(folder: Path, cases):
    """The recorded rows and columns of each case, by name, as the browser computes them."""
    modules, described = {}, []
    for i, (rule, landscape, steps, every, noise, numbers) in enumerate(cases):
        place, method = find(landscape), METHODS[rule]
        modules[f"p{i}"] = path_module(method, place, noise)
        constants = {f"hyper.{n}": v for n, v in method.defaults.items()}
        constants |= {f"param.{n}": v for n, v in place.params.items()} | {"sigma": 0.3}
        for name, value in numbers.items():
            constants[f"hyper.{name}" if f"hyper.{name}" in constants else f"param.{name}"] = value
        tables = {
            name: table(one, np.array([[constants[f"hyper.{h}"] for h in one.needs]]).reshape(1, -1), steps)[0].tolist()
            for name, one in method.scalars.items()
        }
        described.append(
            {"constants": constants, "tables": tables, "steps": steps, "every": every, "chunk": 70, "seed": 11}
            | {"start": list(place.start)}
        )
    (folder / "cases.json").write_text(json.dumps(described))
    out = node(folder, DRIVER, modules)
    result = []
    for i, (rule, landscape, steps, every, _noise, _numbers) in enumerate(cases):
        count = -(-steps // every) + 1
        names = names_of(rule, len(find(landscape).variables))
        result.append(dict(zip(names, out[f"looked{i}"].reshape(count, -1).T, strict=True)))
    return result


def names_of(rule: str, dims: int) -> list[str]:
    columns = columns_of(METHODS[rule])
    return [n for c in columns for n in (["loss"] if c == "loss" else [f"{c}.{i}" for i in range(dims)])]


def compare(cases, found):
    for (rule, landscape, steps, every, noise, numbers), ours in zip(cases, found, strict=True):
        path = run(
            rule, landscape, steps=steps, every=every, noise=noise, sigma=0.3 if noise else 0.0, seed=11, **numbers
        )
        wanted = {}
        for name, values in path.columns.items():
            wanted |= {name: values} if values.ndim == 1 else {f"{name}.{i}": c for i, c in enumerate(values.T)}
        assert set(ours) == set(wanted)
        for name, column in wanted.items():
            np.testing.assert_array_equal(ours[name], column, err_msg=f"{rule} on {landscape}: {name}")


ON_ALL = ("adam", "msvag", "adam_erf")


@pytest.mark.parametrize("rule", METHODS)
def test_every_rule_has_the_engines_bits(rule: str, tmp_path: Path):
    """Tolerance 0, for every column of every step: the point, the loss, the gradient, the state, the view.

    Three rules on every landscape, each other one on every third. The step scalars are the host's here; how far the
    browser's own are from them is tested in graph/test_javascript.
    """
    some = list(LANDSCAPES)[list(METHODS).index(rule) % 3 :: 3]
    cases = [(rule, landscape, 150, 1, None, {}) for landscape in (LANDSCAPES if rule in ON_ALL else some)]
    cases += [
        (rule, "x^2 + 0.1 sin(8x) y + exp(-y^2)", 100, 7, noise, {}) for noise in ("additive", "relative", "shift")
    ]
    cases += [(rule, "ellipse", 33, 5, "shift", {"angle": 0.7, "lr": 0.02}), (rule, "saddle", 0, 1, None, {})]
    compare(cases, browser(tmp_path, cases))


def test_long_paths_have_the_engines_bits(tmp_path: Path):
    """20,000 steps and the burst at 20,210: nothing has drifted by the time rounding decides."""
    cases = [
        ("adam", "x^2 + 1e-3 y^2", 24_000, 500, None, {"lr": 1e-3}),
        ("rmsprop", "smooth_valley", 20_000, 100, None, {"lr": 0.025}),
        ("msvag", "rosenbrock", 20_000, 100, None, {"lr": 1e-4}),
        ("heavy_ball", "beale", 20_000, 100, None, {"lr": 1e-4}),
    ]
    compare(cases, browser(tmp_path, cases))


def test_the_noise_is_the_engines(tmp_path: Path):
    from stepscope.simulate.noise import normals

    seeds, steps = [0, 7, -3, 123456789, 2**40], [0, 1, 5, 1000, 999_999, 2**33]
    out = node(
        tmp_path,
        f"""
        const y = [];
        for (const seed of {seeds}) for (const t of {steps}) for (const n of [1, 2, 3, 10]) {{
          const out = new Float64Array(n); R.normals(R.noiseKey(seed), t, out); y.push(...out);
        }}
        give('y', y);
        """,
    )["y"]
    wanted = [float(z[0]) for s in seeds for t in steps for n in (1, 2, 3, 10) for z in normals(keys([s]), t, n)]
    np.testing.assert_array_equal(out, wanted)


def test_a_landscape_by_itself_is_the_engines(tmp_path: Path):
    """Loss and gradient at scattered points, against the engine's own single step there."""
    rng = np.random.default_rng(2)
    modules = {f"l{i}": landscape_module(place) for i, place in enumerate(LANDSCAPES.values())}
    script, points = "", {}
    for i, place in enumerate(LANDSCAPES.values()):
        points[f"x{i}"] = np.stack([rng.uniform(*box, 20) for box in place.view], axis=1)
        n = len(place.variables)
        script += f"""{{
          const f = (await import('./l{i}.mjs')).default(R).of({list(place.params.values())});
          const x = given('x{i}'), y = [];
          const out = new Float64Array({n});
          for (let j = 0; j < x.length; j += {n}) {{
            const p = x.subarray(j, j + {n}); f.gradient(p, out); y.push(f.loss(p), ...out);
          }}
          give('y{i}', y);
        }}"""
    out = node(tmp_path, script, modules, **{name: x.reshape(-1) for name, x in points.items()})
    for i, (name, place) in enumerate(LANDSCAPES.items()):
        mine = out[f"y{i}"].reshape(20, -1)
        for x, row in zip(points[f"x{i}"], mine, strict=True):
            path = run("sgd", name, start=[float(v) for v in x], steps=0, record=("loss", "g"))
            assert row.tolist() == [path.loss[0], *path["g"][0]], name
        assert len(rewrite([graph_of(place)[1]])) == 1


def test_the_curves_are_the_theory(tmp_path: Path):
    """svag: the same operations; adam: one root more; erf's polynomial is good to 2 ulp, SciPy's to 1."""
    eta = np.geomspace(1e-4, 1e4, 200)
    out = node(
        tmp_path,
        "import make from './c.mjs'; for (const [n, f] of Object.entries(make(R))) give(n, given('eta').map(f));",
        {"c": curves_module()},
        eta=eta,
    )
    x = np.linspace(0, 0.99, 100)
    limits = node(
        tmp_path,
        "import make from './c.mjs'; const f = make(R); for (const n of ['average_limit', 'buffer_limit']) "
        "give(n, given('x').map(f[n]));",
        {"c": curves_module()},
        x=x,
    )
    assert limits["average_limit"].tolist() == preconditioned_limit(x).tolist()
    assert limits["buffer_limit"].tolist() == heavy_ball_limit(x).tolist()
    np.testing.assert_array_max_ulp(out["adam_factor"], factors.adam_factor(eta), 1)
    np.testing.assert_array_max_ulp(out["svag_factor"], factors.svag_factor(eta), 1)
    np.testing.assert_array_max_ulp(out["exact_factor"], factors.exact_factor(eta), 4)


def test_the_curvature_is_the_slope_of_the_gradient(tmp_path: Path):
    """Central differences over h = 1e-5: their own error is h^2 times a fourth derivative, and 1e-16/h of rounding of a
    gradient of the size found. 1e-5 of the largest entry covers both; points within h of a kink are left out.
    """
    rng = np.random.default_rng(3)
    for name, place in LANDSCAPES.items():
        n, h = len(place.variables), 1e-5
        points = np.stack([rng.uniform(*box, 10) for box in place.view], axis=1)
        script = f"""
          const f = (await import('./l.mjs')).default(R).of({list(place.params.values())});
          const out = new Float64Array({n * n});
          const low = new Float64Array({n}), high = new Float64Array({n}), exact = [], differences = [];
          for (let j = 0; j < given('x').length; j += {n}) {{
            const p = given('x').slice(j, j + {n});
            f.curvature(p, out);
            exact.push(...out);
            for (let i = 0; i < {n}; i++) {{
              const at = p[i];
              p[i] = at - {h}; f.gradient(p, low);
              p[i] = at + {h}; f.gradient(p, high);
              p[i] = at;
              differences.push(...high.map((v, k) => (v - low[k]) / {2 * h}));
            }}
          }}
          give('exact', exact); give('differences', differences);"""
        found = node(tmp_path, script, {"l": landscape_module(place)}, x=points.reshape(-1))
        exact, slopes = (found[key].reshape(-1, n, n) for key in ("exact", "differences"))
        np.testing.assert_array_equal(exact.shape, slopes.shape)
        scale = max(1.0, float(np.abs(exact).max()))
        assert float(np.abs(exact - slopes.transpose(0, 2, 1)).max()) <= 1e-5 * scale, name


def test_names_a_user_typed_never_reach_the_text():
    """A formula is parsed into a graph; what is printed is made of numbers, operators and our own names."""
    text = path_module(METHODS["adam"], find("x1^2 + 2 sin(x2) * |x1|"), None)
    assert "x1" not in text
    assert set("`\\$") & set(text) == set()
