"""The engine against torch.optim, step by step and over whole maps.

The oracle is torch's single-tensor path on float64 with a correctly rounded square root: on some processors torch hands
`sqrt` to MKL, whose result is now and then one ulp off, which is torch's deviation from IEEE arithmetic and not ours.
"""

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from stepscope import optim
from stepscope.simulate import run, sweep

STEPS = 10_000  # before the burst at 20,210 on a parabola from 0.9, after which rounding decides the path


class ExactRoot(TorchFunctionMode):
    """torch with NumPy's correctly rounded square root in place of its own."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.sqrt, torch.sqrt, torch.Tensor.sqrt_):
            root = torch.from_numpy(np.sqrt(args[0].detach().numpy()))
            return args[0].copy_(root) if func is torch.Tensor.sqrt_ else root
        return func(*args, **(kwargs or {}))


def torch_path(make, start, curvature, steps):
    """Points [step, coordinate, ...] of a torch optimizer on sum(h x^2 / 2)."""
    p = torch.nn.Parameter(torch.as_tensor(start, dtype=torch.float64).clone())
    h = torch.as_tensor(curvature, dtype=torch.float64)
    optimizer, out = make([p]), [p.detach().numpy().copy()]
    with ExactRoot():
        for _ in range(steps):
            p.grad = h * p.detach()
            optimizer.step()
            out.append(p.detach().numpy().copy())
    return np.stack(out)


TWINS = [
    ("sgd", {"lr": 1e-2}, lambda p: torch.optim.SGD(p, lr=1e-2, foreach=False)),
    ("heavy_ball", {"lr": 1e-3}, lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, foreach=False)),
    ("nesterov", {"lr": 1e-3}, lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True, foreach=False)),
    ("adam", {"lr": 1e-3}, lambda p: torch.optim.Adam(p, lr=1e-3, foreach=False)),
    ("adamw", {"lr": 1e-3}, lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=False)),
    ("rmsprop", {"lr": 1e-3}, lambda p: torch.optim.RMSprop(p, lr=1e-3, foreach=False)),
    ("adagrad", {"lr": 1e-2}, lambda p: torch.optim.Adagrad(p, lr=1e-2, foreach=False)),
    ("adadelta", {"lr": 1.0}, lambda p: torch.optim.Adadelta(p, lr=1.0, foreach=False)),
]


@pytest.mark.parametrize(("rule", "numbers", "make"), TWINS, ids=[t[0] for t in TWINS])
def test_a_path_is_bit_identical_to_torch(rule, numbers, make):
    """Tolerance 0: the rules are written in torch's order of operations, and this machine's torch uses fma as we do."""
    if "AVX" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("torch uses no fma here, so that its last bits differ")
    theirs = torch_path(make, [0.9, 0.7], [2.0, 2e-3], STEPS)
    ours = run(rule, "smooth_valley", start=(0.9, 0.7), steps=STEPS, record=("theta",), **numbers).theta
    np.testing.assert_array_equal(ours, theirs)


def test_a_phase_diagram_is_bit_identical_to_torch_on_a_batch():
    """Every lane of a sweep, in whatever block, against torch stepping a (2, B) tensor with one lr at a time."""
    if "AVX" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("torch uses no fma here, so that its last bits differ")
    x, rates = np.linspace(-2, 2, 37), np.geomspace(1e-4, 1, 9)
    ours = sweep("adam", "smooth_valley", start=(x[None, :], 0.5), lr=rates[:, None], steps=400).theta
    for i, lr in enumerate(rates):
        start = np.stack([x, np.full_like(x, 0.5)])
        theirs = torch_path(
            lambda p, lr=lr: torch.optim.Adam(p, lr=float(lr), foreach=False), start, np.array([[2.0], [2e-3]]), 400
        )[-1]
        np.testing.assert_array_equal(ours[:, i], theirs)


OURS = sorted(set(optim.METHODS) - {"sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta"})


@pytest.mark.parametrize("name", OURS)
def test_our_own_optimizers_take_the_same_path(name):
    """The eager optimizer and the compiled kernel run one rule. Factors divide 1 by a tensor, which torch leaves to MKL
    here (an ulp off now and then, like its roots); 500 contracting steps do not amplify that. The others are equal.
    """
    kind = optim.METHODS[name]
    theirs = torch_path(lambda p: kind(p, lr=0.01), [0.9, 0.7], [2.0, 2e-3], 500)
    ours = run(name, "smooth_valley", start=(0.9, 0.7), steps=500, lr=0.01, record=("theta",)).theta
    if name in ("msgd", "mssd", "ssd"):
        np.testing.assert_array_equal(ours, theirs)
    else:
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-13)
