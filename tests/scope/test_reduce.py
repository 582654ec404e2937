"""The packed sums do not depend on how tensors are cut, shared and threaded."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.tolerances import EPS32
from torch import Tensor, nn

from stepscope.graph.numpy_namespace import NUMPY
from stepscope.optim.moments import Numbers
from stepscope.rules.statistics import BINS, EVERYWHERE, HISTOGRAMS, PLAIN, SAMPLE_BLOCK, Step, statistics
from stepscope.scope import reduce as module
from stepscope.scope.reduce import Observed, reduce

NUMBERS = Numbers(
    lr=0.5,
    eps=1e-3,
    decay=0.125,
    raw=False,
    mean_correction=1.0,
    second_correction=1.0,
    correction=1.25,
    odds=0.05,
    flip=False,
)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def observed(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0, **numbers: Any) -> Observed:
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    p = nn.Parameter(normal())
    return Observed(normal(), normal(), normal() ** 2, p - normal() / 8, p, NUMBERS._replace(**numbers))


def same(a: module.Sums, b: module.Sums) -> None:
    assert a.keys() == b.keys()
    for name in a:
        start = 1 if name in HISTOGRAMS else 0  # what bin 0 holds has no meaning
        np.testing.assert_array_equal(a[name][..., start:], b[name][..., start:], err_msg=name)


def test_sums_are_those_of_the_statistics():
    o = observed((50,))
    found = statistics(NUMPY, Step(*(x.detach().numpy() for x in o[:5])), o.numbers.shared(), raw=False)
    sums = reduce([o])
    for name, term in found.sums.items():
        assert sums[name] == pytest.approx(term.sum(), rel=1e-14), name
    for name, bins in found.bins.items():
        np.testing.assert_array_equal(sums[name][0, 1:], np.bincount(bins.astype(int), minlength=BINS)[1:])
    assert [sums[name][0] for name in ("numel", "broken", "lr", "eps")] == [50, 0, 0.5, 1e-3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_compiled_pass_is_the_eager_one(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """Sums of at most 32,768 sampled terms in either order: 1e-6. A quotient that is estimated is an ulp or two off, so
    that of 30,000 spreads a few lie on the other side of an edge; other counts are exact."""
    tensors = [observed(shape, dtype, i) for i, shape in enumerate([(100_003,), (7, 9), (1,), (33_000,)])]
    tensors[1].g[3, 3] = np.nan
    tensors[3].second[5] = np.inf
    compiled = reduce(tensors)
    monkeypatch.setattr(module.cpu, "available", lambda: False)
    eager = reduce(tensors)
    for name, value in eager.items():
        if name == "spread_histogram":
            assert np.abs(value[:, 1:] - compiled[name][:, 1:]).sum() <= 20
        elif name == "update_histogram":
            np.testing.assert_array_equal(value[:, 1:], compiled[name][:, 1:])
        else:
            np.testing.assert_allclose(compiled[name], value, rtol=1e-6, err_msg=name)
    assert eager["broken"].tolist() == [0, 1, 0, 0]


def test_the_sample_of_a_large_tensor_is_every_third_block():
    n = 3 * 8_192 + 500
    o = observed((n,))
    keep = (torch.arange(n) // SAMPLE_BLOCK) % 3 == 0
    whole, sampled = reduce([o]), reduce([Observed(*(x.detach()[keep] for x in o[:5]), o.numbers)])
    assert sampled["numel"] < 16_384
    for name in PLAIN.terms[EVERYWHERE:]:
        assert whole[name] == pytest.approx(sampled[name], rel=1e-12), name
    np.testing.assert_array_equal(whole["spread_histogram"][:, 1:], sampled["spread_histogram"][:, 1:])
    assert whole["grad_square"] == pytest.approx(float((o.g**2).sum()), rel=1e-12)


def test_raw_averages_are_corrected_and_turned_around_for_ascent():
    o = observed((50,))
    raw = o._replace(
        mean=o.mean * 0.5,
        second=(o.second + o.mean**2) * 0.25,
        g=-o.g,
        numbers=o.numbers._replace(raw=True, mean_correction=0.5, second_correction=0.25, flip=True),
    )
    one, other = reduce([o]), reduce([raw])
    for name in one.keys() - {"beta1", "beta2"}:
        np.testing.assert_allclose(other[name], one[name], rtol=1e-9, err_msg=name)


def test_tensors_together_are_the_tensors_one_by_one():
    """Whatever their order, numbers, dtypes and shapes."""
    tensors = [
        observed((3, 4)),
        observed((5,), torch.float32, 1),
        observed((2,), seed=2, lr=0.25),
        observed((7,), torch.bfloat16, 3),
        observed((6, 2), seed=4),
        observed((1,), torch.float32, 5, lr=0.25),
    ]
    together = reduce(tensors)
    for i, o in enumerate(tensors):
        same({name: values[i : i + 1] for name, values in together.items()}, reduce([o]))


def test_number_of_threads_and_tensors_that_share_an_operation_change_no_bit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CPU_PIECE", 1000)
    tensors = [observed((size,), torch.float32, size) for size in (10, 2500, 999, 1000, 1001, 4321)]
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(reduce(tensors))
    finally:
        torch.set_num_threads(threads)
    same(found[0], found[1])
    same(found[0], found[2])
    for i, o in enumerate(tensors):
        same({name: values[i : i + 1] for name, values in found[0].items()}, reduce([o]))


def test_a_million_coordinates_are_summed_in_float64():
    """Blocks of 1024 terms are summed in float32 (some 70 roundings a lane), blocks in float64: 8 EPS of a sum of
    positive terms; measured 0.2. A running float32 sum would be wrong by 1000 EPS."""
    o = observed((1 << 20,), torch.float32)
    sums = reduce([o])
    exact = reduce([Observed(*(x.double() for x in o[:5]), o.numbers)])
    for name in ("grad_abs", "grad_square", "momentum_abs", "sigma", "update_square", "theta_square"):
        assert sums[name] == pytest.approx(exact[name], rel=8 * EPS32), name
    assert sums["sampled"] == sums["sign_agreed"] + sums["sign_opposed"] == 1 << 14


def test_strides_do_not_matter():
    o = observed((4, 3, 5, 5))
    strided = Observed(
        o.g.contiguous(memory_format=torch.channels_last),
        o.mean.mT.contiguous().mT,
        o.second,
        o.before.contiguous(memory_format=torch.channels_last),
        o.after,
        o.numbers,
    )
    same(reduce([o]), reduce([strided]))


def test_broken_coordinates_are_left_out_of_a_tensor_of_several_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CPU_PIECE", 16)
    o, whole = observed((100,)), observed((30,), seed=1)
    keep = torch.ones(100, dtype=torch.bool)
    for place, (field, value) in {
        3: ("g", np.nan),
        40: ("mean", np.inf),
        41: ("second", np.nan),
        77: ("after", -np.inf),
    }.items():
        getattr(o, field)[place] = value
        keep[place] = False
    found = reduce([o, whole])
    expected = reduce([Observed(*(x[keep] for x in o[:5]), o.numbers), whole])
    counted = {"broken": [3, 0], "numel": [100, 30]}  # a second average alone breaks no norm
    for name in found:
        if name in HISTOGRAMS:
            np.testing.assert_array_equal(found[name][:, 1:], expected[name][:, 1:])
        elif name not in ("grad_square", "update_square", "theta_square"):
            np.testing.assert_allclose(found[name], counted.get(name, expected[name]), rtol=1e-14, err_msg=name)


def test_squares_too_large_for_float32_do_not_throw_coordinates_away():
    """The gradient is finite, its square is not: the norm is infinite, the rest is as it is."""
    o = observed((5,), torch.float32)
    o.g[0] = 1e30
    sums = reduce([o])
    assert sums["grad_square"] == np.inf
    assert (sums["sampled"], sums["broken"]) == (5, 0)
    assert sums["grad_abs"] == pytest.approx(1e30)
