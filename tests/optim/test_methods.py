"""The optimizer classes: equal to torch's where torch has the method, and right in every corner of the contract."""

import copy
import math
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import CASES, TORCH_TWINS, Case
from tests.tolerances import EPS32, EPS64
from torch import Tensor
from torch.nn import Parameter

from stepscope import optim
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.optim.backends.eager import BLOCK
from stepscope.rules import METHODS

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_twin = pytest.mark.parametrize("case", TORCH_TWINS, ids=str)


def gradients(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float64, *, seed: int = 0, n: int = 30
) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(shape, generator=generator, dtype=torch.float64)
    for _ in range(n):
        yield (bias + torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def parameter(n: int = 50, dtype: torch.dtype = torch.float64) -> Parameter:
    return Parameter(torch.linspace(-1, 1, n, dtype=dtype))


def train(optimizer: torch.optim.Optimizer, p: Parameter, seed: int = 0, n: int = 30) -> None:
    for g in gradients(tuple(p.shape), p.dtype, seed=seed, n=n):
        p.grad = g
        optimizer.step()


# --- against torch ----------------------------------------------------------------------------------------------------


@every_twin
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_torch_step_by_step(case: Case, dtype: torch.dtype) -> None:
    """The single-tensor path of torch, each final rounding at |p| < 4: 4 EPS; measured 0 where kernels use fma
    (x86-64 with AVX2), where both sides call the same ones. Parameters are resynchronised, so errors cannot add up."""
    eps = EPS64 if dtype is torch.float64 else EPS32
    p, q = parameter(1000, dtype), parameter(1000, dtype)
    assert case.theirs is not None
    ours, theirs = case.ours([p], **case.options), case.theirs([q], foreach=False, **case.options)
    for g in gradients((1000,), dtype):
        p.grad, q.grad = g, g.clone()
        ours.step()
        theirs.step()
        torch.testing.assert_close(p, q, rtol=0, atol=4 * eps)
        q.data.copy_(p.data)


@every_twin
def test_checkpoints_go_both_ways(case: Case) -> None:
    """Ten steps with one class, ten more with the other, equal to twenty with torch's alone: 10 x 4 EPS.

    torch's own class loads what it saved, as it may hold it in another precision (mu_product of NAdam).
    """
    assert case.theirs is not None
    for first, second in ((case.ours, case.theirs), (case.theirs, case.ours)):
        p, q = parameter(), parameter()
        reference = case.theirs([q], **case.options)
        start = first([p], **case.options)
        train(start, p, n=10)
        train(reference, q, n=10)
        onward = second([p], **case.options)
        onward.load_state_dict(copy.deepcopy(start.state_dict()))
        if second is case.theirs:
            reference.load_state_dict(copy.deepcopy(reference.state_dict()))
        train(onward, p, seed=1, n=10)
        train(reference, q, seed=1, n=10)
        torch.testing.assert_close(p, q, rtol=0, atol=40 * EPS64)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (optim.SGD, torch.optim.SGD, {"lr": 0.1}),
        (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (optim.AdaGrad, torch.optim.Adagrad, {"lr": 0.1}),
    ],
    ids=["sgd", "momentum", "adagrad"],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's own AdaGrad
def test_sparse_gradients_as_in_torch(ours: type, theirs: type, options: dict) -> None:
    """Rows no example used stay. torch orders AdaGrad's sparse step differently: 8 EPS a step at |p| < 4."""
    torch.manual_seed(0)
    a = torch.nn.Embedding(20, 3, sparse=True, dtype=torch.float64)
    b = copy.deepcopy(a)
    x, y = ours(a.parameters(), **options), theirs(b.parameters(), **options)
    for i in range(10):
        rows = torch.tensor([i % 5, 3, 3, 7])
        for table, optimizer in ((a, x), (b, y)):
            optimizer.zero_grad()
            table(rows).pow(2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=80 * EPS64)


@pytest.mark.parametrize("cls", [c for c in optim.METHODS.values() if not c.sparse], ids=lambda c: c.__name__)
def test_sparse_gradients_are_refused_before_anything_moves(cls: type[optim.RuleOptimizer]) -> None:
    dense, table = parameter(4), torch.nn.Embedding(5, 2, sparse=True)
    dense.grad = torch.ones(4, dtype=torch.float64)
    table(torch.tensor([1])).sum().backward()
    before = dense.detach().clone()
    with pytest.raises(RuntimeError, match="does not support sparse gradients; use SGD or AdaGrad"):
        cls([dense, table.weight]).step()
    assert torch.equal(dense, before)


# --- against the rule -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["msgd", "mssd", "svag", "msvag", "adam_erf", "adam_one_beta"])
def test_class_runs_the_rule(name: str) -> None:
    """The same function on NumPy: a fma or a differently rounded erf may differ, 8 EPS a step over 30 steps."""
    rule, p = METHODS[name], parameter()
    optimizer = optim.METHODS[name]([p])
    theta, state = p.detach().numpy().copy(), {s: np.zeros(50) for s in rule.state}
    for t, g in enumerate(gradients((50,)), start=1):
        p.grad = g
        optimizer.step()
        scalars = rule.step_scalars(t, rule.defaults)
        theta, state = rule.update(NUMPY, g.numpy(), theta, state, rule.defaults, scalars)
    np.testing.assert_allclose(p.detach().numpy(), theta, rtol=0, atol=240 * EPS64)


@every_case
def test_blocks_change_nothing(case: Case) -> None:
    """A large tensor is stepped in blocks; a strided view of the same numbers is not. Elementwise: bit for bit."""
    n = 3 * BLOCK + 17
    p = Parameter(torch.linspace(-1, 1, n))
    q = Parameter(torch.linspace(-1, 1, n).repeat_interleave(2)[::2])
    assert not q.is_contiguous()
    for x in (p, q):
        train(case.ours([x], **case.options, fused=False), x, n=3)
    assert torch.equal(p, q)


@every_case
@pytest.mark.parametrize("shape", [(), (0,), (3, 1, 4)], ids=str)
def test_every_shape(case: Case, shape: tuple[int, ...]) -> None:
    p, q = Parameter(torch.ones(shape, dtype=torch.float64)), Parameter(torch.ones(24, dtype=torch.float64))
    optimizer, flat = case.ours([p], **case.options), case.ours([q], **case.options)
    for g in gradients((24,), n=5):
        p.grad, q.grad = g[: p.numel()].reshape(shape), g
        optimizer.step()
        flat.step()
    assert torch.equal(p.flatten(), q[: p.numel()])


@every_case
def test_transposed_parameters_and_gradients(case: Case) -> None:
    base = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    p, q = Parameter(base.clone()), Parameter(base.t().contiguous().t())
    for x in (p, q):
        optimizer = case.ours([x], **case.options)
        for g in gradients((3, 4), n=5):
            x.grad = g if x is p else g.t().contiguous().t()
            optimizer.step()
    assert torch.equal(p, q)


@every_case
def test_complex_parameters_are_pairs_of_reals(case: Case) -> None:
    z = Parameter(torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2).view(torch.float64))
    c = Parameter(torch.view_as_complex(z.detach().clone()))
    real, cplx = case.ours([z], **case.options), case.ours([c], **case.options)
    for g in gradients((5, 2), n=5):
        z.grad, c.grad = g, torch.view_as_complex(g)
        real.step()
        cplx.step()
    assert torch.equal(torch.view_as_real(c.detach()), z.detach())


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_parameters_keep_float32_state(case: Case, dtype: torch.dtype) -> None:
    """The step is computed in float32 from the 16-bit weights and rounded once."""
    p = Parameter(torch.linspace(-1, 1, 50).to(dtype))
    optimizer = case.ours([p], **case.options)
    for g in gradients((50,), dtype, n=5):
        q = Parameter(p.detach().float())
        wide = case.ours([q], **case.options)
        wide.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        p.grad, q.grad = g, g.float()
        optimizer.step()
        wide.step()
        assert torch.equal(p, q.to(dtype))
    tensors = [v for k, v in optimizer.state[p].items() if k != "step"]
    assert all(v.dtype is torch.float32 for v in tensors)
    reloaded = case.ours([p], **case.options)
    reloaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for name, value in optimizer.state[p].items():
        assert torch.equal(reloaded.state[p][name], value)
        assert reloaded.state[p][name].dtype is value.dtype


# --- the contract of a torch optimizer --------------------------------------------------------------------------------


@every_case
def test_missing_gradients_do_not_count(case: Case) -> None:
    """A parameter whose first gradient comes late starts from its own first sample."""
    p, late, alone = parameter(), parameter(), parameter()
    optimizer, reference = case.ours([p, late], **case.options), case.ours([alone], **case.options)
    for i, g in enumerate(gradients((50,), n=8)):
        p.grad, late.grad = g, (g if i >= 3 else None)
        before = late.detach().clone()
        optimizer.step()
        if i < 3:
            assert torch.equal(late, before)
            assert late not in optimizer.state
        else:
            alone.grad = g
            reference.step()
            assert torch.equal(late, alone)


@every_case
def test_lr_zero_moves_nothing_and_still_averages(case: Case) -> None:
    p = parameter()
    optimizer = case.ours([p], **{**case.options, "lr": 0.0})
    before = p.detach().clone()
    train(optimizer, p, n=3)
    assert torch.equal(p, before)
    assert all(torch.isfinite(v).all() for v in optimizer.state.get(p, {}).values())


@every_case
def test_maximize_climbs(case: Case) -> None:
    """Ascending f is descending -f, bit for bit (weight decay pulls to 0 in both)."""
    options = {k: v for k, v in case.options.items() if k != "maximize"}
    p, q = parameter(), parameter()
    up, down = case.ours([p], maximize=True, **options), case.ours([q], **options)
    for g in gradients((50,), n=5):
        p.grad, q.grad = g, -g
        up.step()
        down.step()
        assert torch.equal(p.grad, g)
    assert torch.equal(p, q)


@every_case
def test_copies_and_pickles_continue_identically(case: Case) -> None:
    p = parameter()
    optimizer = case.ours([p], **case.options)
    train(optimizer, p, n=5)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (q,) = twin.param_groups[0]["params"]
        r = Parameter(p.detach().clone())
        fresh = case.ours([r], **case.options)
        fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(twin, q, seed=1, n=5)
        train(fresh, r, seed=1, n=5)
        assert torch.equal(q, r)
        assert twin.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


@every_case
def test_groups_closures_schedulers(case: Case) -> None:
    p, q = parameter(), parameter()
    optimizer = case.ours([{"params": [p]}, {"params": [q], "lr": 0.0}], **case.options)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def closure() -> float:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = (p - 3).square().sum() + (q - 3).square().sum()
        loss.backward()
        return float(loss.detach())

    before = q.detach().clone()
    expected = float(((p - 3).square().sum() + (q - 3).square().sum()).detach())
    assert optimizer.step(closure) == expected
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == optimizer.defaults["lr"] / 2
    assert torch.equal(q, before)
    assert not torch.equal(p, before)


@every_case
def test_autograd_notices_the_step(case: Case) -> None:
    p = parameter()
    optimizer = case.ours([p], **case.options)
    version = p._version
    loss = (p * p).sum()
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert p._version > version
    assert p.requires_grad
    assert p.grad_fn is None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every_case
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_gradient_stays_where_it_is(case: Case, bad: float) -> None:
    """It reaches its own coordinate's weight (nan) or stops it (inf: no reliable step), and no other coordinate."""
    p, q = parameter(), parameter()
    for x, poison in ((p, True), (q, False)):
        optimizer = case.ours([x], **case.options)
        for i, g in enumerate(gradients((50,), n=4)):
            x.grad = g.clone()
            if poison and i == 2:
                x.grad[7] = bad
            optimizer.step()
    keep = torch.arange(50) != 7
    assert torch.equal(p[keep], q[keep])
    if math.isnan(bad):
        assert torch.isnan(p[7])


@pytest.mark.parametrize(
    ("cls", "options", "text"),
    [
        (optim.MSVAG, {"beta": 1.0}, r"beta must lie in \[0, 1\), got 1.0"),
        (optim.MSVAG, {"lr": -0.1}, r"lr must lie in \[0, inf\), got -0.1"),
        (optim.MSVAG, {"lr": float("nan")}, "lr must lie in"),
        (optim.Adam, {"betas": (0.9, 1.0)}, r"beta2 must lie in \[0, 1\), got 1.0"),
        (optim.Adam, {"eps": -1.0}, "eps must lie in"),
        (optim.AdamW, {"weight_decay": -1.0}, "weight_decay must lie in"),
        (optim.SGD, {"momentum": -0.5}, "momentum must lie in"),
        (optim.SGD, {"nesterov": True}, "Nesterov momentum requires a momentum"),
        (optim.AdaGrad, {"initial_accumulator_value": -1.0}, "initial_accumulator_value must lie in"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(cls: type[optim.RuleOptimizer], options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        cls([parameter()], **options)


def test_a_bad_group_is_not_added() -> None:
    optimizer = optim.MSVAG([parameter()])
    with pytest.raises(ValueError, match="beta must lie in"):
        optimizer.add_param_group({"params": [parameter()], "beta": 2.0})
    assert len(optimizer.param_groups) == 1


def test_a_checkpoint_older_than_an_option_is_read_with_its_default() -> None:
    p = parameter()
    optimizer = optim.RMSProp([p])
    state = copy.deepcopy(optimizer.state_dict())
    del state["param_groups"][0]["centered"]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["centered"] is False


def test_steps_saved_as_numbers_are_read() -> None:
    """Old versions of torch kept `step` as an int."""
    p, q = parameter(), parameter()
    optimizer, reference = optim.Adam([p]), optim.Adam([q])
    train(reference, q, n=3)
    state = copy.deepcopy(reference.state_dict())
    state["state"][0]["step"] = 3
    p.data.copy_(q.data)
    optimizer.load_state_dict(state)
    train(optimizer, p, seed=1, n=2)
    train(reference, q, seed=1, n=2)
    assert torch.equal(p, q)


@pytest.mark.parametrize("cls", sorted({case.ours for case in TORCH_TWINS}, key=lambda cls: cls.__name__))
def test_torchs_options_may_be_given_while_they_are_off(cls: type[optim.RuleOptimizer]) -> None:
    cls([parameter()], foreach=False, fused=None, capturable=False, differentiable=False)
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        cls([parameter()], foreach=True, fused=True)
    with pytest.raises(TypeError, match="no argument 'fussed'"):
        cls([parameter()], fussed=True)


@given(seed=st.integers(0, 2**32 - 1))
def test_tensor_step_size_is_the_number_it_holds(seed: int) -> None:
    p, q = parameter(), parameter()
    train(optim.Adam([p], lr=torch.tensor(0.25)), p, seed=seed, n=3)
    train(optim.Adam([q], lr=0.25), q, seed=seed, n=3)
    assert torch.equal(p, q)


def test_every_named_method_has_a_class_and_a_label() -> None:
    assert set(optim.METHODS) == set(optim.LABELS)
    assert set(optim.METHODS) <= set(METHODS)
    assert {case.ours for case in CASES} == {*optim.METHODS.values(), optim.Dissected}
