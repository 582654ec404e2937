"""The compiled step against the eager one, and what a raw-pointer kernel must not forget."""

import collections
import copy
import math
import pickle
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import CASES, RULES
from torch import Tensor

from stepscope import optim
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.optim import base, dispatch
from stepscope.optim.backends import cpu, eager
from stepscope.optim.sums import Request
from stepscope.rules import METHODS, Rule
from stepscope.rules.statistics import HISTOGRAMS, TERMS, Numbers, Step, bins_of, selection, statistics
from stepscope.scope.reduce import Observed, reduce

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64]


def run(
    rule: Rule,
    thetas: Sequence[Tensor],
    gs: Sequence[Tensor],
    states: Sequence[Mapping[str, Tensor]],
    hyper: Mapping[str, float],
    t: int,
) -> None:
    """One compiled step of many tensors."""
    program = cpu.program(rule, thetas[0].dtype, False, None)
    inputs = {f"hyper.{name}": value for name, value in hyper.items()}
    inputs |= {f"scalars.{name}": value for name, value in rule.step_scalars(t, hyper).items()}
    streams = [list(thetas), list(gs), *([state[name] for state in states] for name in rule.state)]
    cpu.launch(program, cpu.Batch(streams), [program.shared(inputs)] * len(thetas))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.name}-{len(r.hyper)}")
def test_one_step_is_the_eager_step(rule: Rule, dtype: torch.dtype):
    """Resynchronised after each step. torch leaves roots and reciprocals to MKL, an ulp off now and then; theta is
    below 4 and the step below 1, so both round to within 2 eps of the dtype that theta is kept in. Roundings on the
    border of a 16-bit number go either way: an ulp of theta, 4 eps there. State: Adadelta squares a step that holds
    two such roots, a quotient and a product, so twice 3.5 eps and the rounding of the square. A momentum of quotients
    below 10 may cancel, and carries some theta beyond 4: an ulp more there.
    """
    generator = torch.Generator().manual_seed(0)
    real = torch.float32 if dtype.is_complex else dtype

    def normal() -> Tensor:
        x = torch.randn(2006 if dtype.is_complex else 1003, generator=generator, dtype=torch.float64).to(real)
        return torch.view_as_complex(x.view(-1, 2)) if dtype.is_complex else x.clamp(-3.9, 3.9)

    a = normal()
    kept = cpu.state_dtype(dtype)
    ours, theirs = ({s: torch.zeros_like(a, dtype=kept) for s in rule.state} for _ in range(2))
    hyper = rule.defaults | {"lr": 0.01} | ({"weight_decay": 0.1} if "weight_decay" in rule.defaults else {})
    eps, wide = torch.finfo(dtype).eps, torch.finfo(kept).eps
    far = rule.name.startswith("rmsprop") and "momentum_buffer" in rule.state
    for t in range(1, 30):
        b, g = a.clone(), normal()
        run(rule, [b], [g], [ours], hyper, t)
        eager.step_tensor(rule, a, g, theirs, hyper, rule.step_scalars(t, hyper))
        torch.testing.assert_close(b, a, rtol=eps if far else 0, atol=(2 if eps == wide else 4) * eps)
        for name in rule.state:
            cancels = far and name == "momentum_buffer"
            torch.testing.assert_close(ours[name], theirs[name], rtol=8 * wide, atol=40 * wide if cancels else 1e-30)
            ours[name].copy_(theirs[name])
        a.copy_(b)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 3)), min_size=1, max_size=9), half=st.booleans())
def test_every_length_is_stepped_whole_and_nothing_beyond(lengths: list[tuple[int, int]], half: bool):
    """Vectors and the rest; slices of a larger tensor start at any address."""
    rule, dtype = METHODS["adam"], torch.bfloat16 if half else torch.float32
    memory = torch.ones(len(lengths), 80, dtype=dtype)
    thetas = [memory[i, offset : offset + n] for i, (n, offset) in enumerate(lengths)]
    gs = [torch.linspace(1, 2, len(theta)).to(dtype) for theta in thetas]
    states = [{s: torch.zeros(len(theta)) for s in rule.state} for theta in thetas]
    run(rule, thetas, gs, states, rule.defaults | {"lr": 0.25}, 1)
    for row, (n, offset) in zip(memory, lengths, strict=True):
        torch.testing.assert_close(row[offset : offset + n], torch.full((n,), 0.75, dtype=dtype), rtol=0, atol=1e-6)
        assert torch.all(row[:offset] == 1)
        assert torch.all(row[offset + n :] == 1)


def test_threads_change_nothing():
    """Elementwise, and sums are apart for each chunk: 1 or 3 threads give the same bits."""
    n = 300_001
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            p = torch.nn.Parameter(torch.linspace(-1, 1, n))
            optimizer, found = optim.MSVAG([p]), []
            for t in (1, 2, 3):
                p.grad = torch.sin(t * torch.linspace(0, 9, n))
                optimizer.request_sums(Request(measure=True))
                optimizer.step()
                (part,) = optimizer.step_sums.measured
                found += [torch.from_numpy(x).clone() for x in part.counted]
            results.append([p.detach(), *found])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


def test_a_bfloat16_is_rounded_to_the_nearest_and_ties_to_even():
    """Against torch's own conversion, over every bit pattern of the upper half and the hard lower ones."""
    high = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32) << 16
    values = torch.cat([(high | low).view(torch.float32) for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    rule = compose_copy()
    for dtype in (torch.bfloat16, torch.float16):
        g, theta = torch.zeros(len(values), dtype=dtype), torch.zeros(len(values), dtype=dtype)
        run(rule, [theta], [g], [{"x": values.clone()}], {}, 1)
        expected = values.to(dtype)
        assert torch.equal(theta.isnan(), expected.isnan())
        ok = ~expected.isnan()
        assert torch.equal(theta[ok].view(torch.int16), expected[ok].view(torch.int16))


def compose_copy() -> Rule:
    """Theta becomes the state x."""
    return Rule("copy", "", (), ("x",), {}, lambda k, g, theta, state, *_: (state["x"], dict(state)), None)


def test_a_tensor_without_elements_is_no_trouble():
    p, q = torch.nn.Parameter(torch.ones(0, 3)), torch.nn.Parameter(torch.ones(2))
    optimizer = optim.Adam([p, q], lr=0.5)
    for _ in range(2):
        p.grad, q.grad = torch.ones(0, 3), torch.ones(2)
        optimizer.step()
    assert optimizer.state[p]["step"] == 2
    torch.testing.assert_close(q.detach(), torch.zeros(2), atol=1e-6, rtol=0)


def test_changing_numbers_compile_nothing_new():
    p = torch.nn.Parameter(torch.ones(5))
    optimizer = optim.Adam([p])
    cpu.program.cache_clear()
    for t in range(50):
        optimizer.param_groups[0]["lr"] = 1 / (t + 1)
        p.grad = torch.ones(5)
        optimizer.step()
    assert cpu.program.cache_info().misses == 1


def test_weights_gradients_and_states_may_move_between_steps():
    """Addresses are read anew: whatever was replaced, the step is the eager one."""

    def trained(**options: Any) -> list[Tensor]:
        p, q = torch.nn.Parameter(torch.linspace(0, 1, 6).view(2, 3)), torch.nn.Parameter(torch.ones(4))
        optimizer = optim.MSVAG([p, q], lr=0.1, **options)
        for t in range(1, 12):
            p.grad, q.grad = torch.cos(t * p.detach()), torch.sin(t + q.detach())
            if t == 3:
                p.data = p.data.clone() + 1
            if t == 4:
                optimizer.state[q]["m"] = optimizer.state[q]["m"] * 2
            if t == 5:
                optimizer.state[p]["S"].data = optimizer.state[p]["S"] + 1
            if t == 6:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            if t == 7:
                p.data = p.data.t()  # same memory, another shape
                p.grad = p.grad.t()
                for name in ("m", "S"):
                    optimizer.state[p][name] = optimizer.state[p][name].t()
            if t == 8:
                q.grad = None
            if t == 9:
                optimizer.state.pop(q)
            if t == 10:
                q.grad = q.grad.repeat_interleave(2)[::2]
            optimizer.step()
        return [p.detach(), q.detach()]

    for ours, theirs in zip(trained(), trained(fused=False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_step_says_how_it_is_taken():
    p, q = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(8)[::2])
    optimizer = optim.Adam([p, q])
    assert optimizer.engine(p) == "compiled"
    assert optimizer.engine(q) == "eager: strided tensors"
    assert optim.Adam([p], fused=False).engine(p) == "eager: fused=False"
    with pytest.raises(ValueError, match="none of this optimizer's parameters"):
        optimizer.engine(torch.ones(1))


@pytest.mark.parametrize("method", optim.METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_measured_step_is_the_plain_one_and_its_sums_are_those_of_a_second_pass(method: str, dtype: torch.dtype):
    """Bit for bit the same step. The sums see numbers that a second pass can only see rounded in 16 bits: none here,
    the update is taken from what is stored. Sums to 1e-6; of 40,000 spreads some may be an ulp from an edge."""
    everything = selection([*TERMS, *HISTOGRAMS])
    generator = torch.Generator().manual_seed(1)
    sizes = [(300, 250), (17,), (1,)]
    ps, qs = ([torch.nn.Parameter(torch.ones(n, dtype=dtype)) for n in sizes] for _ in range(2))
    ours, plain = (optim.METHODS[method](x, lr=0.01, maximize=True) for x in (ps, qs))
    averages: dict[Tensor, Any] = {}
    for _ in range(4):
        before = [p.detach().clone() for p in ps]
        for p, q in zip(ps, qs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            q.grad = p.grad.clone()
        ours.request_sums(Request(measure=True, averages=averages, chosen=everything))
        ours.step()
        plain.step()
        assert all(map(torch.equal, ps, qs))
    (part,) = ours.step_sums.measured
    layout = dispatch._layout(ours._rule(ours.param_groups[0]))
    observed = [
        Observed(
            p.grad,
            ours.state[p][layout.mean] if layout else averages[p].m,
            ours.state[p][layout.second] if layout else averages[p].S,
            old,
            p.detach(),
            numbers,
        )
        for p, old, numbers in zip(ps, before, part.numbers, strict=True)
    ]
    first, second = reduce([], [part], everything), reduce(observed, chosen=everything)
    for name, value in second.items():
        if name in HISTOGRAMS:
            assert np.abs(first[name][:, 1:] - value[:, 1:]).sum() <= 20, name
        else:
            np.testing.assert_allclose(first[name], value, rtol=1e-6, err_msg=name)


def test_averages_beside_a_rule_are_kept_at_every_step_asked_for():
    """As the shadow averages of a foreign optimizer: weighted sums over the history, in float64 to 1e-13."""
    p = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer, averages, history = optim.SGD([p], lr=0.1), {}, []
    for t in range(6):
        p.grad = torch.cos(torch.arange(5.0, dtype=torch.float64) + t)
        history.append(p.grad.clone())
        optimizer.request_sums(Request(measure=t == 5, beta=0.5, averages=averages))
        optimizer.step()
        assert (optimizer.step_sums is None) == (t < 5)
    w = 0.5 ** torch.arange(5.0, -1, -1, dtype=torch.float64)
    w /= w.sum()
    g = torch.stack(history)
    torch.testing.assert_close(averages[p].m, w @ g, rtol=0, atol=1e-13)
    torch.testing.assert_close(averages[p].S, w @ (g - w @ g) ** 2, rtol=0, atol=1e-13)
    assert averages[p].t == 6


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

    torch.testing.assert_close(trained(fused=True), trained(fused=False), rtol=1e-9, atol=1e-12)


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

    np.testing.assert_array_equal(np.isnan(stepped(fused=True)), np.isnan(stepped(fused=False)))
    np.testing.assert_allclose(stepped(fused=True), stepped(fused=False), rtol=1e-6)


def test_what_cannot_be_compiled_is_stepped_eagerly_with_one_warning():
    base._warn_once.cache_clear()
    p, q = (torch.nn.Parameter(torch.ones(6, 8)[:, ::2]) for _ in range(2))
    ours, theirs = optim.Adam([p], lr=0.1, fused=True), optim.Adam([q], lr=0.1, fused=False)
    p.grad = torch.ones_like(p)
    with pytest.warns(UserWarning, match="fused=True cannot be honoured for strided tensors"):
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
    monkeypatch.setattr(cpu, "available", lambda: False)
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.warns(UserWarning, match="llvmlite cannot be loaded"):
        optim.SGD([p], lr=0.5).step()
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


@pytest.mark.parametrize("field", Step._fields)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_block_that_cannot_be_trusted_is_measured_again_and_nothing_is_counted_twice(field: str, bad: float):
    """One number among three blocks, with squares that overflow or none. Against NumPy: sums to float32's rounding of
    1024 terms; of 2500 places a few may be an ulp from an edge. What falls into bin 0 has no meaning."""
    chosen = selection([*TERMS, *HISTOGRAMS])
    rng = np.random.default_rng(0)
    g, mean, second, before = (rng.standard_normal(2500).astype(np.float32) for _ in range(4))
    arrays = Step(g, mean, np.abs(second), before, before - np.float32(0.01) * mean)
    getattr(arrays, field)[1500] = bad
    program = cpu.measuring(torch.float32, torch.float32, False, chosen)
    numbers = Numbers(per_lr=100.0, odds=0.05)
    batch = cpu.Batch([[torch.from_numpy(x)] for x in arrays])
    counted = cpu.launch(program, batch, [program.shared(cpu.named(numbers))])
    assert counted is not None
    with np.errstate(all="ignore"):
        expected = statistics(NUMPY, arrays, numbers, raw=False, chosen=chosen)
        for j, name in enumerate(chosen.terms):
            total = np.broadcast_to(expected.sums[name], 2500).sum(dtype=np.float64)
            np.testing.assert_allclose(counted.sums[0, j], total, rtol=1e-5, atol=1e-5, err_msg=name)
    for h, name in enumerate(chosen.histograms):
        bins = np.bincount(expected.bins[name].astype(int), minlength=bins_of(name))[1:]
        found = counted.counts[0, program.starts[h] + 1 :][: len(bins)]
        assert found.sum() == bins.sum(), name
        assert np.abs(found.astype(int) - bins).sum() <= 6, name


def test_sums_without_histograms_over_many_chunks():
    """As with histograms, and nothing is written where no counts are."""
    found = []
    for chosen in (selection(TERMS), selection([*TERMS, *HISTOGRAMS])):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(3 * cpu.CHUNK + 5))
        p.grad = torch.randn_like(p)
        optimizer = optim.Adam([p])
        optimizer.request_sums(Request(measure=True, chosen=chosen))
        optimizer.step()
        assert optimizer.step_sums is not None
        found.append(optimizer.step_sums.measured[0].counted)
    assert found[0].counts.shape == (1, 0)
    np.testing.assert_array_equal(found[0].sums, found[1].sums)


def test_steps_are_remembered_for_a_few_kinds_of_requests_only():
    p = torch.nn.Parameter(torch.randn(5))
    optimizer = optim.Adam([p])
    for _ in range(20):
        p.grad = torch.randn(5)
        optimizer.request_sums(Request(measure=True, only={p}))
        optimizer.step()
    assert optimizer._dispatcher is not None
    assert len(optimizer._dispatcher._ready) <= dispatch._KINDS
    assert len(optimizer._dispatcher._missed) <= dispatch._KINDS


@pytest.mark.parametrize("count", [2, 40])
def test_state_that_is_kept_in_another_mapping_or_with_a_number_for_its_step(count: int):
    """Old checkpoints had numbers; what is no dict is asked anew at every step."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(3)) for _ in range(count)]
    reference = [torch.nn.Parameter(p.detach().clone()) for p in params]
    ours, theirs = optim.Adam(params), torch.optim.Adam(reference, foreach=False)
    for step in range(5):
        for p, q in zip(params, reference, strict=True):
            p.grad = torch.randn(3)
            q.grad = p.grad.clone()
        if step == 2:
            ours.state[params[0]] = collections.UserDict(ours.state[params[0]])
            ours.state[params[1]]["step"] = 2
        ours.step()
        theirs.step()
    for p, q in zip(params, reference, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)  # a few roundings of float32
