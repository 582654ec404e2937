"""The compiled step against the eager one, and what a raw-pointer kernel must not forget."""

import copy
import pickle
import threading
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import CASES

from stepscope import optim
from stepscope.optim import base
from stepscope.optim.backends import compiled, eager
from stepscope.rules import METHODS, decayed

RULES = [*METHODS.values(), decayed(METHODS["msvag"], decoupled=False), decayed(METHODS["adam"], decoupled=True)]
FORMATS = [torch.float64, torch.float32]


@pytest.mark.parametrize("dtype", FORMATS, ids=["float64", "float32"])
@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.name}-{len(r.hyper)}")
def test_one_step_is_the_eager_step(rule, dtype):
    """Resynchronised after each step. torch leaves roots and reciprocals to MKL, an ulp off now and then; theta is
    below 4 and the step below 1, so both round to within 2 eps.
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1003, dtype=dtype, generator=generator)
    ours, theirs = {s: torch.zeros_like(a) for s in rule.state}, {s: torch.zeros_like(a) for s in rule.state}
    hyper = rule.defaults | {"lr": 0.01} | ({"weight_decay": 0.1} if "weight_decay" in rule.defaults else {})
    for t in range(1, 30):
        b, g = a.clone(), torch.randn(1003, dtype=dtype, generator=generator)
        scalars = rule.step_scalars(t, hyper)
        compiled.Prepared(rule, dtype, hyper, scalars).step(b, g, ours)
        eager.step_tensor(rule, a, g, theirs, hyper, scalars)
        torch.testing.assert_close(b, a, rtol=0, atol=2 * torch.finfo(dtype).eps)
        for name in rule.state:
            torch.testing.assert_close(ours[name], theirs[name], rtol=4 * torch.finfo(dtype).eps, atol=1e-30)
            ours[name].copy_(theirs[name])


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 70), offset=st.integers(0, 3))
def test_every_length_is_stepped_whole_and_nothing_beyond(n, offset):
    """Vectors and the rest; a slice of a larger tensor starts at any address."""
    rule = METHODS["adam"]
    memory = torch.ones(n + 8)
    theta, g = memory[offset : offset + n], torch.linspace(1, 2, n)
    state = {s: torch.zeros(n) for s in rule.state}
    compiled.Prepared(rule, theta.dtype, rule.defaults, rule.step_scalars(1, rule.defaults)).step(theta, g, state)
    torch.testing.assert_close(theta, torch.full((n,), 0.999), rtol=0, atol=1e-6)
    assert torch.all(memory[:offset] == 1)
    assert torch.all(memory[offset + n :] == 1)


def test_threads_change_nothing():
    """Elementwise: parts of 65,536 elements on 1 or 3 threads give the same bits."""
    rule, n = METHODS["msvag"], 300_001
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            theta = torch.linspace(-1, 1, n)
            state = {s: torch.zeros(n) for s in rule.state}
            for t in (1, 2, 3):
                g = torch.sin(t * torch.linspace(0, 9, n))
                numbers = rule.step_scalars(t, rule.defaults)
                compiled.Prepared(rule, theta.dtype, rule.defaults, numbers).step(theta, g, state)
            results.append(theta)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fused_optimizer_trains_like_the_eager_one(case):
    """30 steps of a small problem; differences of an ulp a step do not grow here."""

    def trained(**more):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 53, dtype=torch.float64))
        optimizer = case.ours([p], **case.options, **more)
        for t in range(30):
            p.grad = torch.cos(p.detach() * (t + 1))
            optimizer.step()
        return p.detach()

    torch.testing.assert_close(trained(fused=True), trained(), rtol=1e-9, atol=1e-12)


def test_autograd_notices_the_step():
    """A kernel writes behind torch's back, so it must say so: a backward through the old value is refused."""
    p = torch.nn.Parameter(torch.ones(4))
    loss = (p * p).sum()
    optimizer = optim.Adam([p], fused=True)
    p.grad = torch.ones(4)
    before = p._version
    optimizer.step()
    assert p._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["adam", "msvag", "msgd", "ssd", "adam_erf"])
def test_broken_gradients_propagate_as_in_the_eager_step(method, bad):
    def stepped(**more):
        p = torch.nn.Parameter(torch.ones(20))
        optimizer = optim.METHODS[method]([p], lr=0.1, **more)
        for _ in range(2):
            p.grad = torch.ones(20)
            p.grad[7] = bad
            optimizer.step()
        return p.detach().numpy()

    np.testing.assert_array_equal(np.isnan(stepped(fused=True)), np.isnan(stepped()))
    np.testing.assert_allclose(stepped(fused=True), stepped(), rtol=1e-6)


ODD = {
    "bfloat16": lambda: torch.ones(6, 4, dtype=torch.bfloat16),
    "strided": lambda: torch.ones(6, 8)[:, ::2],
    "complex": lambda: torch.ones(5, dtype=torch.complex64),
}


@pytest.mark.parametrize("make", ODD.values(), ids=list(ODD))
def test_what_cannot_be_compiled_is_stepped_eagerly_with_one_warning(make):
    base._warn_once.cache_clear()
    p = torch.nn.Parameter(make())
    q = torch.nn.Parameter(make())
    ours, theirs = optim.Adam([p], lr=0.1, fused=True), optim.Adam([q], lr=0.1)
    p.grad = torch.ones_like(p)
    with pytest.warns(UserWarning, match="others are taken eagerly"):
        ours.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.step()
    for _ in range(2):
        q.grad = torch.ones_like(q)
        theirs.step()
    assert torch.equal(p, q)


def test_without_a_compiler_steps_are_eager_with_one_warning(monkeypatch: pytest.MonkeyPatch):
    base._warn_once.cache_clear()
    monkeypatch.setattr(compiled, "available", lambda: False)
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.warns(UserWarning, match="needs llvmlite"):
        optim.SGD([p], lr=0.5, fused=True).step()
    assert torch.equal(p, torch.full((3,), 0.5))


def test_copies_pickles_and_loaded_states_go_on_identically():
    p = torch.nn.Parameter(torch.linspace(-1, 1, 40))
    optimizer = optim.MSVAG([p], lr=0.1, fused=True)
    p.grad = torch.linspace(0, 1, 40)
    optimizer.step()
    twins = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    fresh = torch.nn.Parameter(p.detach().clone())
    loaded = optim.MSVAG([fresh], lr=0.1, fused=True)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step()
    for other in (*twins, loaded):
        q = other.param_groups[0]["params"][0]
        q.grad = torch.linspace(0, 1, 40)
        other.step()
        assert torch.equal(q, p)


def test_several_threads_may_step_at_once():
    """Each its own parameters, one rule: the kernel is shared, nothing else."""
    ends = {}

    def work(i):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 5000))
        optimizer = optim.Adam([p], lr=0.01, fused=True)
        for _ in range(50):
            p.grad = p.detach() * 2
            optimizer.step()
        ends[i] = p.detach()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(ends[0], ends[i]) for i in range(6))


def test_a_gradient_that_is_the_parameter_itself_is_read_before_it_is_written():
    """Nobody should do this, and the eager backend survives it."""
    ends = []
    for fused in (True, False):
        p = torch.nn.Parameter(torch.linspace(1, 2, 203))
        p.grad = p.detach()
        optim.MSVAG([p], lr=0.1, fused=fused).step()
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=1e-6, atol=0)
