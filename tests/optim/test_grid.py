"""Any point of the grid as a torch optimizer, on every backend; rules of one's own; variances from within the batch."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from tests.cases import POINTS
from torch import Tensor
from torch.nn import Parameter

from stepscope import optim
from stepscope.optim.backends import cpu
from stepscope.rules import CHOICES, Point, Rule, compose

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def options(point: Point) -> dict[str, Any]:
    chosen = {part: getattr(point, part) for part in CHOICES}
    decay = {} if point.decay == "none" else {"weight_decay": 0.1}
    return {**chosen, **decay, "bias_correction": point.bias_correction, "lr": 0.01, "betas": (0.8, 0.9)}


def needs_variance(optimizer: optim.Dissected) -> bool:
    return "batch_variance" in optimizer._rule(optimizer.param_groups[0]).state


def check_point(point: Point, dtype: torch.dtype, device: str = "cpu") -> None:
    """Steps of a point of the grid, compiled and eagerly.

    Resynchronised after each step. Roots and reciprocals are an ulp off now and then in torch's own library; a step
    multiplies at most three of them, so it is right to 8 ulp of itself, and theta, below 4 beside it, to 2 of its own;
    a 16-bit theta may round either way, 4. State: products of the same order on both sides, 8 ulp.
    """
    generator = torch.Generator().manual_seed(0)
    eps, wide = torch.finfo(dtype).eps, torch.finfo(cpu.state_dtype(dtype)).eps

    def normal() -> Tensor:
        return torch.randn(333, generator=generator, dtype=torch.float64).clamp(-3.9, 3.9).to(device, dtype)

    p = Parameter(normal())
    q = Parameter(p.detach().clone())
    ours, eager = (optim.Dissected([x], **options(point), fused=fused) for x, fused in ((p, True), (q, False)))
    assert ours.engine(p) == "compiled"
    for _ in range(8):
        before = p.detach().double().clone()
        p.grad = normal()
        q.grad = p.grad.clone()
        variance = normal().abs() + 0.01
        for optimizer, x in ((ours, p), (eager, q)):
            if needs_variance(optimizer):
                optimizer.set_batch_variance(x, variance)
            optimizer.step()
        step = (q.detach().double() - before).abs()
        allowed = (2 if eps == wide else 4) * eps * torch.clamp(before.abs() + step, min=1) + 8 * wide * step
        assert ((p.detach().double() - q.detach().double()).abs() <= allowed).all()
        for name in ours._rule(ours.param_groups[0]).state:
            torch.testing.assert_close(ours.state[p][name], eager.state[q][name], rtol=8 * wide, atol=1e-30)
            ours.state[p][name].copy_(eager.state[q][name])
        p.data.copy_(q.data)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_every_point_is_stepped_alike_compiled_and_eagerly(point: Point, dtype: torch.dtype) -> None:
    check_point(point, dtype)


def trained(optimizer: torch.optim.Optimizer, p: Parameter, n: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        optimizer.step()
    return p.detach()


def parameter() -> Parameter:
    return Parameter(torch.linspace(-1, 1, 20, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "choices"),
    [
        (optim.MSGD, {"direction": "m"}),
        (optim.SSD, {"direction": "sign_g"}),
        (optim.MSSD, {"direction": "sign_m"}),
        (optim.SVAG, {"direction": "g", "factor": "svag"}),
        (optim.MSVAG, {"direction": "m", "factor": "svag_rho"}),
        (optim.AdamErf, {"direction": "sign_m", "factor": "erf_rho"}),
        (optim.AdamOneBeta, {"direction": "sign_m", "factor": "adam"}),
        (optim.Signum, {"direction": "sign_m"}),
        (optim.Grams, {"direction": "sign_g_abs_m", "variance": "two_emas", "base": "root_v"}),
        (optim.AdaBelief, {"direction": "m", "variance": "belief", "base": "deviation"}),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_named_methods_are_their_points_bit_for_bit(make: Any, choices: dict[str, str]) -> None:
    p, q = parameter(), parameter()
    assert torch.equal(
        trained(make([p], lr=0.01, weight_decay=0.1, decoupled=True), p),
        trained(optim.Dissected([q], lr=0.01, weight_decay=0.1, decay="decoupled", **choices), q),
    )


def test_lion_is_a_point_bit_for_bit() -> None:
    """betas = (0.8, 0.9): the average's share of the blend is 0.8/0.9."""
    p, q = parameter(), parameter()
    point = optim.Dissected([q], lr=0.01, direction="sign_nesterov", bias_correction=False, beta=0.9, blend=0.8 / 0.9)
    assert torch.equal(trained(optim.Lion([p], lr=0.01, betas=(0.8, 0.9)), p), trained(point, q))


def test_nesterovs_blend_follows_the_average_unless_given() -> None:
    for choice, numbers in (("ema", {"beta": 0.7}), ("two_emas", {"betas": (0.7, 0.9)})):
        p, q = parameter(), parameter()
        chosen = {"direction": "nesterov", "factor": "svag", "variance": choice, **numbers}
        assert torch.equal(
            trained(optim.Dissected([p], **chosen), p), trained(optim.Dissected([q], **chosen, blend=0.7), q)
        )


def test_groups_are_points_of_their_own_and_survive_copies_and_checkpoints() -> None:
    def fresh() -> tuple[optim.Dissected, list[Parameter]]:
        ps = [parameter(), parameter(), parameter()]
        groups = [
            {"params": [ps[0]]},
            {"params": [ps[1]], "direction": "sign_m", "factor": "erf_rho", "decay": "l2", "weight_decay": 0.1},
            {"params": [ps[2]], "variance": "belief", "base": "deviation", "mask": "cautious", "lr": 0.01},
        ]
        return optim.Dissected(groups, lr=0.1), ps

    def go(optimizer: optim.Dissected, ps: list[Parameter], seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(4):
            for p in ps:
                p.grad = torch.randn(20, generator=generator, dtype=torch.float64)
            optimizer.step()
        return [p.detach() for p in ps]

    optimizer, ps = fresh()
    go(optimizer, ps, 0)
    alone = parameter()
    trained_alone = optim.AdamErf([alone], lr=0.1, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for i in range(3):
            g = torch.randn(20, generator=generator, dtype=torch.float64)
            if i == 1:
                alone.grad = g
        trained_alone.step()
    assert torch.equal(ps[1], alone)

    twins = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    other, others = fresh()
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(ps, others, strict=True):
        q.data.copy_(p.data)
    expected = go(optimizer, ps, 1)
    for twin in twins:
        found = go(twin, [group["params"][0] for group in twin.param_groups], 1)
        assert all(map(torch.equal, found, expected))
    assert all(map(torch.equal, go(other, others, 1), expected))
    assert {type(group[part]) for group in optimizer.param_groups for part in CHOICES} == {str}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"direction": "sign m"}, "unknown direction 'sign m': did you mean 'sign_m'"),
        ({"base": "tensor_rms"}, "a rule sees one coordinate"),
        ({"decay": "L2"}, "decay must be one of none, l2, decoupled, got 'L2'"),
        ({"weight_decay": 0.1}, "weight_decay is 0.1, but decay is 'none': choose 'l2' or 'decoupled'"),
        ({"beta": 1.0}, r"beta must lie in \[0, 1\)"),
        ({"factor": "nsr", "lambda_": -1.0}, r"lambda_ must lie in \[0, inf\)"),
        ({"base": "root_v", "eps": -1e-8}, r"eps must lie in \[0, inf\)"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name_and_nothing_is_added(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        optim.Dissected([parameter()], **wrong)
    optimizer = optim.Dissected([parameter()])
    with pytest.raises(ValueError, match=text):
        optimizer.add_param_group({"params": [parameter()], **wrong})
    assert len(optimizer.param_groups) == 1


# --- variances from within the batch ----------------------------------------------------------------------------------


def chunks(seed: int, sizes: list[int]) -> list[Tensor]:
    """Gradients of single examples, by micro-batch: [example, coordinate]."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 1e-3, 10.0], dtype=torch.float64)
    return [1e3 + scale * torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in sizes]


def accumulated(sizes: list[int], seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Gradient and variance as the optimizer sees them."""
    p = Parameter(torch.zeros(3, dtype=dtype))
    optimizer = optim.Dissected([p], direction="g", factor="svag", variance="batch")
    with optimizer.within_batch() as batch:
        for chunk in chunks(seed, sizes):
            p.grad = chunk.mean(0).to(dtype)
            batch.add(examples=len(chunk))
    return p.grad, optimizer.state[p]["batch_variance"]


def test_the_gradient_is_the_mean_and_its_variance_is_textbook() -> None:
    """Equal micro-batches: the variance of their means, over their number. The mean is up to 1e6 deviations:
    differences lose 6 of 16 digits, squares would have lost 12."""
    parts = chunks(0, [8] * 6)
    g, variance = accumulated([8] * 6)
    means = np.array([part.mean(0).numpy() for part in parts])
    np.testing.assert_allclose(g.numpy(), torch.cat(parts).mean(0).numpy(), rtol=1e-15)
    np.testing.assert_allclose(variance.numpy(), means.var(0, ddof=1) / 6, rtol=1e-8)


def test_the_variance_is_unbiased_with_micro_batches_of_any_sizes() -> None:
    """Its mean over 4000 batches against sigma^2 / N. A sample variance with 3 degrees of freedom has a relative
    deviation of sqrt(2/3): 5 standard errors are 6.5 %."""
    sizes, n = [1, 2, 5, 8], 4000
    total = sum((accumulated(sizes, seed)[1] for seed in range(n)), torch.zeros(3, dtype=torch.float64))
    expected = torch.tensor([1.0, 1e-6, 100.0], dtype=torch.float64) / sum(sizes)
    assert ((total / n / expected - 1).abs() < 5 * (2 / 3 / n) ** 0.5).all()


def test_float32_keeps_the_variance_where_squares_would_lose_it() -> None:
    """m = 1000, sigma = 1e-3 .. 10: g itself is rounded to 6e-5, so 1 % needs sigma >= 6e-3: the other two."""
    exact, rough = accumulated([4] * 8)[1], accumulated([4] * 8, dtype=torch.float32)[1]
    torch.testing.assert_close(rough[[0, 2]].double(), exact[[0, 2]], rtol=1e-2, atol=0)
    assert (rough >= 0).all()


def test_a_parameter_that_takes_part_late_had_zero_gradients_before() -> None:
    p, q = Parameter(torch.zeros(1)), Parameter(torch.zeros(1))
    optimizer = optim.Dissected([p, q], direction="g", factor="svag", variance="batch")
    with optimizer.within_batch() as batch:
        for i in range(4):
            p.grad = torch.ones(1)
            q.grad = torch.full((1,), 2.0) if i in (2, 3) else None
            batch.add()
    assert (p.grad, q.grad) == (torch.ones(1), torch.ones(1))
    assert float(optimizer.state[p]["batch_variance"]) == 0
    assert float(optimizer.state[q]["batch_variance"]) == pytest.approx(np.var([0, 0, 2, 2], ddof=1) / 4)


def test_svag_and_msvag_step_with_the_variance_of_their_batch() -> None:
    """theta -= lr g^3/(g^2 + s), a line of NumPy; at the first step rho is 1, so M-SVAG's is the same."""
    for direction, factor in (("g", "svag"), ("m", "svag_rho")):
        p = Parameter(torch.zeros(3, dtype=torch.float64))
        optimizer = optim.Dissected([p], lr=0.1, direction=direction, factor=factor, variance="batch")
        parts = [part - 1e3 for part in chunks(1, [3, 3, 4])]
        with optimizer.within_batch() as batch:
            for part in parts:
                p.grad = part.mean(0)
                batch.add(examples=len(part))
        optimizer.step()
        n = np.array([3, 3, 4])[:, None]
        means = np.array([part.mean(0).numpy() for part in parts])
        g = (n * means).sum(0) / 10
        s = (n * (means - g) ** 2).sum(0) / (2 * 10)
        np.testing.assert_allclose(p.detach().numpy(), -0.1 * g**3 / (g**2 + s), rtol=1e-12)
        assert float(optimizer.state[p]["step"]) == 1


def test_real_backward_passes_through_a_model() -> None:
    """The mean over micro-batches is the gradient of the whole batch, to rounding of float32 sums of 12 terms."""
    torch.manual_seed(0)
    model, whole = torch.nn.Linear(5, 2), torch.nn.Linear(5, 2)
    whole.load_state_dict(model.state_dict())
    x, y = torch.randn(12, 5), torch.randn(12, 2)
    optimizer = optim.Dissected(model.parameters(), direction="m", factor="svag_rho", variance="batch")
    with optimizer.within_batch() as batch:
        for a, b in zip(x.split(5), y.split(5), strict=True):
            torch.nn.functional.mse_loss(model(a), b).backward()
            batch.add(examples=len(a))
    torch.nn.functional.mse_loss(whole(x), y).backward()
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    optimizer.step()


def test_complex_parameters_have_variances_of_both_parts() -> None:
    z = Parameter(torch.zeros(2, dtype=torch.complex128))
    optimizer = optim.Dissected([z], direction="g", factor="svag", variance="batch")
    with optimizer.within_batch() as batch:
        for value in (1 + 1j, 3 + 1j):
            z.grad = torch.full((2,), value, dtype=torch.complex128)
            batch.add()
    assert torch.equal(z.grad, torch.full((2,), 2 + 1j, dtype=torch.complex128))
    assert torch.equal(optimizer.state[z]["batch_variance"], torch.full((2,), 1 + 0j, dtype=torch.complex128))
    optimizer.step()
    np.testing.assert_allclose(z.detach().numpy(), np.full(2, -0.1 * (8 / 5 + 1j)), rtol=1e-14)


def test_a_step_without_its_variance_is_refused_before_anything_moves() -> None:
    p, q = parameter(), parameter()
    optimizer = optim.Dissected(
        [{"params": [q]}, {"params": [p], "factor": "svag", "variance": "batch"}], direction="g", lr=0.1
    )
    p.grad = q.grad = torch.ones_like(p)
    before = q.detach().clone()
    with pytest.raises(RuntimeError, match="needs the variance of this gradient, of shape"):
        optimizer.step()
    optimizer.set_batch_variance(p, torch.ones_like(p))
    twin = copy.deepcopy(optimizer)
    optimizer.step()
    twin.param_groups[0]["params"][0].grad = None  # only what has a gradient is asked for
    twin.step()
    with pytest.raises(RuntimeError, match="needs the variance of this gradient"):
        optimizer.step()  # it served its step
    assert torch.equal(q, before - 0.1)


def test_batches_that_say_nothing_about_variance_are_refused() -> None:
    p = parameter()
    optimizer = optim.Dissected([p], direction="g", factor="svag", variance="batch")

    def batch_of(count: int, examples: float) -> None:
        with optimizer.within_batch() as batch:
            for _ in range(count):
                p.grad = torch.ones_like(p)
                batch.add(examples)

    with pytest.raises(ValueError, match="two micro-batches at least, got 1"):
        batch_of(1, 5)
    with pytest.raises(ValueError, match="more than 0 examples, got 0"):
        batch_of(2, 0)
    assert p.grad is None
    with pytest.raises(ValueError, match="has the shape"):
        optimizer.set_batch_variance(p, torch.ones(3))
    with pytest.raises(ValueError, match="no parameter of a group with variance='batch'"):
        optim.Dissected([p]).set_batch_variance(p, torch.ones_like(p))


# --- rules of one's own -----------------------------------------------------------------------------------------------


def _cube_root(k: Any, g: Any, m: Any) -> Any:
    return k.sign(m) * k.exp(k.log(k.max(k.abs(m), 1e-30)) / 3)


class CubeRoot(optim.OwnRule):
    """theta -= lr sign(m) |m|^(1/3)."""

    rule = compose(_cube_root, name="cube root", lr=0.01)


Renamed = optim.from_rule(CubeRoot.rule, "Renamed")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("make", [CubeRoot, Renamed])
def test_a_rule_of_ones_own_is_an_optimizer_on_every_backend(make: type[optim.OwnRule], fused: bool) -> None:
    """Against NumPy: 5 steps of numbers of a few ulp from exp and log."""
    p = parameter()
    optimizer = make([p], beta=0.5, fused=fused)
    assert optimizer.engine(p) == ("compiled" if fused else "eager: fused=False")
    theta, total, weights = p.detach().numpy().copy(), np.zeros(20), 0.0
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        p.grad = torch.randn(20, generator=generator, dtype=torch.float64)
        optimizer.step()
        total, weights = 0.5 * total + p.grad.numpy(), 0.5 * weights + 1
        theta -= 0.01 * np.cbrt(total / weights)
    np.testing.assert_allclose(p.detach().numpy(), theta, rtol=0, atol=1e-14)
    twin = pickle.loads(pickle.dumps(optimizer))
    assert type(twin) is make
    assert torch.equal(twin.param_groups[0]["params"][0], p)


def test_a_rule_of_ones_own_has_its_numbers_checked() -> None:
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\)"):
        CubeRoot([parameter()], beta=2.0)
    with pytest.raises(TypeError, match="CubeRoot has no argument 'bta'"):
        CubeRoot([parameter()], bta=0.5)
    with pytest.raises(ValueError, match="has weight decay built in"):
        optim.from_rule(compose("m", decay="l2"))


def test_a_rule_written_out_in_full_is_an_optimizer_too() -> None:
    """Without compose: an update, and numbers with ranges."""
    from stepscope.rules import Hyper, View

    def update(k: Any, g: Any, theta: Any, state: Any, hyper: Any, scalars: Any) -> Any:
        speed = hyper["drag"] * state["speed"] - hyper["lr"] * k.tanh(g)
        return theta + speed, {"speed": speed}

    def view(k: Any, g: Any, state: Any, hyper: Any, scalars: Any) -> View:
        return View(k.tanh(g), None, None, 1.0)

    rule = Rule("clipped", "", (Hyper("lr", 0.1), Hyper("drag", 0.9, 0.0, 1.0)), ("speed",), {}, update, view)
    p = parameter()
    before = p.detach().clone()
    optimizer = optim.from_rule(rule)([p], weight_decay=0.5, decoupled=True)
    p.grad = torch.full_like(p, 0.3)
    optimizer.step()
    np.testing.assert_allclose(p.detach(), before * 0.95 - 0.1 * np.tanh(0.3), rtol=1e-14)
