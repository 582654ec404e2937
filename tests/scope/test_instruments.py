"""Every column against the slow twin, for optimizers with averages of their own and without."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scope.slow_twin import columns
from tests.tolerances import EPS32, EPS64
from torch import Tensor
from torch.nn import Parameter

from stepscope import Scope, UserError, optim
from stepscope.rules.statistics import HISTOGRAMS, QUANTILE_ERROR, bins_of
from stepscope.scope import INSTRUMENTS, Instrument
from stepscope.scope.instruments import choose, read
from stepscope.scope.series import LAGS
from stepscope.scope.traces import COORDINATES, FIELDS, WIDTHS

STEPS = 8
NUMBERS = ("default", "clipping", "recombinations", "rates", "momentum")  # the groups with one number a tensor
SIZES = {"w": (9, 7), "b": (5,)}


def gradients(seed: int = 0, steps: int = STEPS) -> dict[str, list[Tensor]]:
    """Noise around a mean, with a coordinate that is dead, one that dies and one that is tiny."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in SIZES.items():
        bias = torch.randn(shape, generator=generator, dtype=torch.float64)
        found[name] = [bias + torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(steps)]
        for t, g in enumerate(found[name]):
            g.view(-1)[0] = 0.0
            g.view(-1)[1] *= t < 3
            g.view(-1)[2] *= 1e-9
    return found


# How the twin sees each: betas of the averages, eps, coupled decay that the averages see, decoupled decay.
OURS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"lr": 0.01, "eps": 1e-8}, {"betas": (0.9, 0.999), "eps": 1e-8}),
    "adam-equal-betas": (torch.optim.Adam, {"lr": 0.01, "betas": (0.9, 0.9)}, {"betas": (0.9, 0.9), "eps": 1e-8}),
    "adam-large-eps": (torch.optim.Adam, {"lr": 0.01, "eps": 0.5}, {"betas": (0.9, 0.999), "eps": 0.5}),
    "adam-l2": (
        torch.optim.Adam,
        {"lr": 0.01, "weight_decay": 0.1},
        {"betas": (0.9, 0.999), "eps": 1e-8, "l2": 0.1, "coupled": 0.1},
    ),
    "adam-ascent": (torch.optim.Adam, {"lr": 0.01, "maximize": True}, {"betas": (0.9, 0.999), "eps": 1e-8, "up": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.5}, {"betas": (0.9, 0.999), "eps": 1e-8, "decay": 0.05}),
    "nadam": (torch.optim.NAdam, {"lr": 0.01}, {"betas": (0.9, 0.999), "eps": 1e-8}),
    "our-adamw": (optim.AdamW, {"lr": 0.1, "weight_decay": 0.5}, {"betas": (0.9, 0.999), "eps": 1e-8, "decay": 0.05}),
    "msvag": (optim.MSVAG, {"lr": 0.1, "beta": 0.8}, {"betas": (0.8, 0.8)}),
    "msvag-decoupled": (
        optim.MSVAG,
        {"lr": 0.1, "weight_decay": 0.5, "decoupled": True},
        {"betas": (0.9, 0.9), "decay": 0.05},
    ),
    "adam-one-beta": (optim.AdamOneBeta, {"lr": 0.01}, {"betas": (0.9, 0.9)}),
    "msgd": (optim.MSGD, {"lr": 0.1, "beta": 0.6}, {"betas": (0.6, 0.6)}),
    "sgd": (torch.optim.SGD, {"lr": 0.1}, {"betas": (0.7, 0.7)}),
    "momentum": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
        {"betas": (0.9, 0.9), "coupled": 0.1},
    ),
    "sgd-ascent": (torch.optim.SGD, {"lr": 0.1, "maximize": True}, {"betas": (0.7, 0.7), "uphill": True}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01}, {"betas": (0.7, 0.7)}),
}


def record(
    make: Any,
    options: dict[str, Any],
    samples: dict[str, list[Tensor]],
    dtype: torch.dtype = torch.float64,
    **scope: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Rows of the scope, and the weights before and after each step."""
    model = torch.nn.Module()
    for name, shape in SIZES.items():
        values = torch.linspace(-1.0, 1.3, math.prod(shape), dtype=torch.float64).reshape(shape).to(dtype)
        model.register_parameter(name, Parameter(values))
    optimizer = make(model.parameters(), **options)
    before, after = [], []

    def weights() -> dict[str, np.ndarray]:
        return {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}

    with Scope(optimizer, model, beta=0.7, **scope) as scope_:
        for t in range(len(samples["w"])):
            for name, p in model.named_parameters():
                p.grad = samples[name][t].to(dtype)
            before.append(weights())
            optimizer.step()
            after.append(weights())
    return scope_.rows, before, after


def expected(
    name: str, t: int, samples: dict[str, list[Tensor]], before: Any, after: Any, lr: float, how: dict[str, Any]
) -> dict[str, Any]:
    how = dict(how, adam=how["betas"][0] != how["betas"][1] or how.get("eps", 0.0) > 0)
    l2, sign = how.pop("l2", 0.0), -1.0 if how.pop("up", False) else 1.0
    history = [sign * samples[name][i].numpy() + l2 * before[i][name] for i in range(t)]
    return columns(
        history, before[t - 1][name], after[t - 1][name], lr=lr, raw=sign * samples[name][t - 1].numpy(), **how
    )


@pytest.mark.parametrize("kind", OURS)
def test_every_column_equals_the_slow_twin(kind: str):
    """In float64: v and m^2 carry some 1000 EPS each (1 - 0.999^t cancels), of which their difference keeps 1e-11 here,
    and an update of 1e-3 at weights of 1 carries 1e-13: 1e-9 is loose. Binned columns have a tolerance of
    their own. Step 1, where v - m^2 is nothing but rounding, and constant gradients have a test of their own."""
    make, options, how = OURS[kind]
    samples = gradients()
    rows, before, after = record(make, options, samples, instruments=NUMBERS, clip_value=1.5)
    assert {row["layer"] for row in rows} == {"w", "b", ""}
    for row in (row for row in rows if row["layer"] and row["step"] > 1):
        twin = expected(row["layer"], row["step"], samples, before, after, options["lr"], how | {"clip": 1.5})
        for name, value in twin["exact"].items():
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), (row["step"], name)
        for name, value in twin["binned"].items():
            assert row[name] == binned(name, value), (row["step"], name)
        assert set(row) == {"step", "layer", *twin["exact"], *twin["binned"]}


def binned(name: str, value: float) -> Any:
    """What a column read from a histogram may be: each spread is off by half a bin at most, its logarithm by as much,
    and SVAG's factors, of slope -2 at most, by twice that."""
    if name == "spread_log_mean":
        return pytest.approx(value, abs=math.log(QUANTILE_ERROR) + 1e-9, nan_ok=True)
    return pytest.approx(value, rel=QUANTILE_ERROR**2 - 1 + 1e-9, abs=1e-12, nan_ok=True)


# The names that stored runs have and reports ask for.
CONTRACT = """
grad_abs_mean momentum_abs_mean sigma_mean spread_mean spread_q10 spread_median spread_q90 spread_log_mean
relative_variance_median factor_adam factor_svag factor_exact factor_msvag step_theory_mean step_theory_median
update_abs_mean_per_lr update_abs_median_per_lr update_abs_mean_per_lr_without_decay sign_agreement
variance_negative_share epsilon_dominated_share update_to_weight grad_norm update_norm weight_norm lr
spread_infinite_share nonfinite_share still_share relative_variance_q10 relative_variance_q90 update_abs_q10_per_lr
update_abs_q90_per_lr grad_momentum_cosine decay_dominated_share step_share_of_largest step_share_of_flat_distance
"""
ON_DEMAND = """
clipped_share update_cosine_msgd update_cosine_mssd update_cosine_msvag update_cosine_adam update_ratio_msgd
update_ratio_mssd update_ratio_msvag update_ratio_adam rate_q10 rate_median rate_q90 momentum_abs_q10
momentum_abs_median momentum_abs_q90 grad_sign_flips update_sign_flips update_autocorrelation update_period
spread_octave update_octave momentum_octave momentum_update spread_update
"""


def test_the_columns_are_those_that_readers_know():
    names = [instrument.name for instrument in INSTRUMENTS]
    assert len(names) == len(set(names))
    assert {one.name for one in choose("default")} == set(CONTRACT.split())
    traces = {f"trace_{field}_{place}" for field in FIELDS for place in range(COORDINATES)}
    assert set(names) == {*CONTRACT.split(), *ON_DEMAND.split(), *traces}


def shape(name: str) -> tuple[int, ...]:
    """Of a sum of two tensors."""
    lags = name in ("series_products", "series_newer", "series_older")
    if name in WIDTHS:
        return 2, WIDTHS[name]
    return (2, LAGS + 1) if lags else (2, bins_of(name)) if name in HISTOGRAMS else (2,)


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda i: i.name)
def test_an_instrument_says_what_it_is_and_reads_no_more_than_it_needs(instrument: Any):
    sums = {name: np.ones(shape(name)) for name in instrument.needs}
    with np.errstate(all="ignore"):
        value = instrument.read(sums | {name: np.full(2, 0.5) for name in ("beta1", "beta2") if name in sums})
    assert np.shape(value) == ((2, len(instrument.cells)) if instrument.cells else (2,))
    assert instrument.unit
    assert instrument.formula
    assert instrument.cost >= 1


@pytest.mark.parametrize("kind", ["adam", "adamw", "momentum", "msvag"])
def test_float32_is_right_to_its_precision(kind: str):
    """torch's averages carry some 10 EPS32 = 1e-6 of v after 8 steps; of a spread of 1/30 or more 1e-3 stays right, and
    so do means over spreads. An update is known to EPS32 |theta| / |update| = 1e-5 ... 1e-4 of itself."""
    make, options, how = OURS[kind]
    samples = {name: [g.float().double() for g in values] for name, values in gradients(3).items()}
    rows, before, after = record(make, options, samples, torch.float32)
    for row in (row for row in rows if row["layer"] and row["step"] > 2):
        twin = expected(row["layer"], row["step"], samples, before, after, options["lr"], how)
        for name in twin["exact"].keys() & row.keys():
            value = twin["exact"][name]
            assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-6, nan_ok=True), (row["step"], name)


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, EPS32), (torch.float64, EPS64)], ids=["float32", "float64"])
def test_the_first_step_and_constant_gradients_have_no_spread_but_rounding(dtype: torch.dtype, eps: float):
    """torch keeps v, so v - m^2 of a constant gradient is 16 roundings of v and 2000 of the float64 bias correction
    1 - 0.999^t, which cancels. Our averages keep v - m^2 itself: exactly 0."""
    samples = {name: [values[0]] * STEPS for name, values in gradients().items()}
    rows, *_ = record(torch.optim.Adam, {"lr": 0.01}, samples, dtype)
    assert max(row["spread_mean"] for row in rows if row["layer"]) < math.sqrt(16 * eps + 2000 * EPS64)
    assert min(row["factor_adam"] * 63 for row in rows if row["layer"] == "w") > 62 * (1 - 16 * eps - 2000 * EPS64)
    for make, options in ((optim.MSVAG, {"lr": 0.1}), (torch.optim.SGD, {"lr": 0.1})):
        rows, *_ = record(make, options, samples, dtype)
        for row in (row for row in rows if row["layer"] == "w"):  # one of 63 coordinates is dead: no spread, factor 0
            assert row["spread_mean"] == row["spread_q90"] == row["variance_negative_share"] == 0
            assert math.isnan(row["spread_log_mean"])
            for factor in ("factor_adam", "factor_svag", "factor_exact", "factor_msvag"):
                assert row[factor] == 62 / 63
            assert row["step_theory_mean"] == row["step_theory_median"] == 1


@settings(max_examples=20)
@given(k=st.integers(-20, 20), seed=st.integers(0, 1000), kind=st.sampled_from(["adam", "msvag", "momentum"]))
def test_columns_without_a_unit_ignore_the_unit_of_the_loss(k: int, seed: int, kind: str):
    """States scale exactly by powers of two, Adam's with eps = 0: tolerance zero for all that is not an update."""
    make, options, _ = OURS[kind]
    options = options | ({"eps": 0.0} if kind == "adam" else {"weight_decay": 0.0})
    samples = gradients(seed, 3)
    plain, *_ = record(make, options, samples)
    scaled, *_ = record(make, options, {name: [g * 2.0**k for g in values] for name, values in samples.items()})
    for one, other in zip(plain, scaled, strict=True):
        for name, value in one.items():
            if name.startswith(("spread", "factor", "relative", "step", "sign", "variance")):
                assert other[name] == value or (math.isnan(value) and math.isnan(other[name])), name
            if name in ("grad_abs_mean", "momentum_abs_mean", "sigma_mean"):
                assert other[name] == value * 2.0**k


def test_a_step_size_of_zero_has_no_update_per_step_size():
    rows, *_ = record(torch.optim.Adam, {"lr": 0.0}, gradients())
    for row in (row for row in rows if row["layer"]):
        assert math.isnan(row["update_abs_mean_per_lr"])
        assert math.isnan(row["update_abs_median_per_lr"])
        assert math.isnan(row["update_abs_mean_per_lr_without_decay"])
        assert row["update_norm"] == row["update_to_weight"] == row["lr"] == 0
        assert row["factor_adam"] > 0


def test_nothing_measured_is_nan_and_no_warning():
    needed = {name for instrument in INSTRUMENTS for name in instrument.needs}
    sums = {name: 0 * np.ones(shape(name)) for name in needed}
    values = read(sums | {"beta1": np.full(2, math.nan)}, INSTRUMENTS)
    assert all(np.isnan(value).all() for name, value in values.items() if not name.endswith(("norm", "lr")))


def test_shares_by_octave_are_those_counted_one_by_one():
    """An octave begins a 16th early. The bins' polynomial is off by 0.0009 octaves at most: none is this close to an
    edge here."""
    samples = gradients()
    rows, before, after = record(torch.optim.Adam, {"lr": 0.01}, samples, instruments="histograms")
    row = next(row for row in rows if (row["step"], row["layer"]) == (6, "w"))
    updates = np.abs(after[5]["w"] - before[5]["w"]).ravel() / 0.01
    octaves = np.clip([math.floor(math.log2(u) + 1 / 16) if u > 0 else -41 for u in updates], -41, 25)
    told = {name: value for name, value in row.items() if name.startswith("update_octave")}
    assert told == {f"update_octave[{o}]": pytest.approx((octaves == o).mean()) for o in set(octaves.tolist())}
    assert sum(value for name, value in row.items() if name.startswith("momentum_octave")) == pytest.approx(1)


def test_a_joint_histogram_has_each_coordinate_where_both_its_values_are():
    """SGD: its update is lr g, and m = g at the first step: all lie on the diagonal of |m| and |update| / lr."""
    p = Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = torch.optim.SGD([p], lr=0.5)
    with Scope(optimizer, instruments=["joint", "lr"]) as scope:
        p.grad = torch.tensor([0.3, -0.3, 5.0, 0.0], dtype=torch.float64)
        optimizer.step()
    (row,) = (row for row in scope.rows if row["layer"])
    assert {name: row[name] for name in row if name.startswith("momentum_update")} == {
        "momentum_update[-2,-2]": 0.5,
        "momentum_update[2,2]": 0.25,
        "momentum_update[-40,-40]": 0.25,
    }
    assert {name: row[name] for name in row if name.startswith("spread_update")} == {
        "spread_update[-40,-2]": 0.5,
        "spread_update[-40,2]": 0.25,
    }


def test_what_adam_would_have_done_is_what_it_did():
    """Without epsilon, bar v < m^2: cosine and ratio 1; sign and magnitude have a unit of their own."""
    samples = gradients(1)
    rows, *_ = record(
        torch.optim.Adam, {"lr": 0.01, "eps": 0.0, "betas": (0.9, 0.9)}, samples, instruments="recombinations"
    )
    for row in (row for row in rows if row["layer"] == "b"):
        assert row["update_cosine_adam"] == pytest.approx(1, abs=1e-9)
        assert row["update_ratio_adam"] == pytest.approx(1, abs=1e-9)
        assert row["update_cosine_msgd"] < 1 - 1e-3 or row["step"] == 1


def test_instruments_are_chosen_by_name_by_group_or_are_ones_own():
    own = Instrument("root_size", "1", ("update_abs", "sampled"), lambda s: s["update_abs"] / s["sampled"] + 1, "mean")
    p = Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([p], lr=0.5)
    with Scope(optimizer, instruments=["grad_norm", "rates", own]) as scope:
        p.grad = torch.ones(4)
        optimizer.step()
    (row,) = (row for row in scope.rows if row["layer"])
    assert set(row) == {"step", "layer", "grad_norm", "rate_q10", "rate_median", "rate_q90", "root_size"}
    assert row["root_size"] == 1.5
    assert row["rate_median"] == 0.5
    with pytest.raises(UserError, match="no instrument is called speed: give names of columns, or of groups: default"):
        Scope(optimizer, instruments=["speed"])
