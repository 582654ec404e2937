"""What PyTorch expects of any optimizer: every class, every way of computing a step. torch's Adam is held to it too.

Each test is written against torch's documentation and its own Adam; numbers are compared between ways of computing.
"""

import copy
import gc
import io
import multiprocessing
import pickle
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from stepscope import optim

Make = Callable[..., torch.optim.Optimizer]

ENGINES: dict[str, dict[str, Any]] = {
    "default": {},
    "eager": {"fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
MAKERS: list[Any] = [
    *(
        pytest.param(partial(kind, lr=0.01, **options), id=f"{name}-{engine}")
        for name, kind in optim.METHODS.items()
        for engine, options in ENGINES.items()
        if engine in ("default", "eager") or name in ("sgd", "adam", "msvag", "adagrad")
    ),
    pytest.param(partial(torch.optim.Adam, lr=0.01), id="torch"),
]
DEFAULTS: list[Any] = [
    *(pytest.param(partial(kind, lr=0.01), id=name) for name, kind in optim.METHODS.items()),
    pytest.param(partial(torch.optim.Adam, lr=0.01), id="torch"),
]
pytestmark = pytest.mark.filterwarnings("ignore:fused=True cannot be honoured")  # tested elsewhere
every_engine = pytest.mark.parametrize("make", MAKERS)
every_class = pytest.mark.parametrize("make", DEFAULTS)


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A small net with the same weights each time."""
    generator = torch.Generator().manual_seed(3)
    made = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return made


def backward(model: nn.Module, t: int, scale: float = 1.0) -> Tensor:
    """Gradients of step t."""
    p = next(model.parameters())
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(t), dtype=torch.float64).to(p.dtype)
    loss = (model(x) ** 2).mean()
    (loss * scale).backward()
    return loss.detach()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for t in steps:
        optimizer.zero_grad()
        backward(model, t)
        optimizer.step()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@every_engine
def test_it_trains_and_leaves_gradients_alone(make: Make) -> None:
    model = net()
    optimizer = make(model.parameters())
    first = backward(model, 0)
    for t in range(60):
        optimizer.zero_grad()
        backward(model, t)
        grads = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert backward(model, 0) < first


@every_engine
def test_a_missing_gradient_is_skipped_and_makes_no_state(make: Make) -> None:
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = make([p, q])
    p.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(q, torch.ones(3))
    assert not optimizer.state[q]
    make([q]).step()


@every_engine
def test_a_gradient_of_zeros_makes_no_nan(make: Make) -> None:
    p = nn.Parameter(torch.zeros(3))
    optimizer = make([p])
    for _ in range(3):
        p.grad = torch.zeros(3)
        optimizer.step()
    assert torch.equal(p, torch.zeros(3))


@every_class
def test_the_step_counter_is_a_float32_tensor_of_no_dimensions(make: Make) -> None:
    p = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = make([p])
    for _ in range(3):
        p.grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
    for name, value in optimizer.state[p].items():
        if name == "step":
            assert value.shape == ()
            assert value.dtype is torch.float32
            assert value.item() == 3
        else:
            assert value.shape == p.shape
            assert not value.requires_grad


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")  # the cycle is broken below
@every_engine
def test_no_history_is_left_on_weights_and_state(make: Make) -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = make([p])
    for _ in range(2):
        p.grad = None
        (p**3).sum().backward(create_graph=True)
        optimizer.step()
        assert p.is_leaf
        assert p.grad_fn is None
        assert p.requires_grad
        assert all(not s.requires_grad for s in optimizer.state[p].values())
    p.grad = None


@every_engine
def test_hooks_run_once_a_step_in_order(make: Make) -> None:
    model, seen = net(), []
    optimizer = make(model.parameters())
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append("pre")),
        optimizer.register_step_post_hook(lambda *_: seen.append("post")),
        register_optimizer_step_post_hook(lambda *_: seen.append("all")),
    ]
    train(model, optimizer, range(2))
    for handle in handles:
        handle.remove()
    train(model, optimizer, range(1))
    assert seen in (["pre", "post", "all"] * 2, ["pre", "all", "post"] * 2)


@every_class
def test_the_profiler_names_the_step(make: Make) -> None:
    model = net()
    optimizer = make(model.parameters())
    backward(model, 0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    names = {event.key for event in profile.key_averages()}
    assert f"Optimizer.step#{type(optimizer).__name__}.step" in names


@every_engine
def test_a_closure_runs_with_gradients_and_its_loss_comes_back(make: Make) -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = make([p])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 2
    assert not torch.equal(p, torch.ones(2))
    assert optimizer.step() is None


@every_engine
def test_copies_pickles_and_checkpoints_continue_identically(make: Make) -> None:
    model = net()
    optimizer = make(model.parameters())
    train(model, optimizer, range(3))
    twins = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    fresh = net()
    fresh.load_state_dict(model.state_dict())
    loaded = make(fresh.parameters())
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    twins.append((fresh, loaded))
    train(model, optimizer, range(3, 6))
    for other, its in twins:
        train(other, its, range(3, 6))
        assert torch.equal(weights(other), weights(model))


@every_class
def test_loading_a_state_does_not_tie_two_optimizers_together(make: Make) -> None:
    a, b = net(), net()
    first, second = make(a.parameters()), make(b.parameters())
    train(a, first, range(2))
    b.load_state_dict(a.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    before = copy.deepcopy(first.state_dict()["state"])
    train(b, second, range(2, 5))
    after = first.state_dict()["state"]
    assert all(torch.equal(before[i][name], after[i][name]) for i in before for name in before[i])


@every_class
def test_a_state_of_other_groups_is_refused(make: Make) -> None:
    p, q = (nn.Parameter(torch.ones(2)) for _ in range(2))
    state = make([p]).state_dict()
    with pytest.raises(ValueError, match="group"):
        make([p, q]).load_state_dict(state)


@every_class
def test_state_dict_hooks_and_names(make: Make) -> None:
    model, seen = net(), []
    optimizer = make(list(model.named_parameters()))
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]
    optimizer.register_state_dict_pre_hook(lambda *_: seen.append("save"))
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("load"))
    train(model, optimizer, range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["save", "load"]


@every_engine
def test_a_failed_step_inside_a_closure_changes_nothing(make: Make) -> None:
    model = net()
    optimizer = make(model.parameters())
    train(model, optimizer, range(2))
    before, kept = weights(model).clone(), copy.deepcopy(optimizer.state_dict()["state"])

    def closure() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    after = optimizer.state_dict()["state"]
    assert torch.equal(before, weights(model))
    assert all(torch.equal(kept[i][name], after[i][name]) for i in kept for name in kept[i])


@every_engine
def test_one_optimizer_a_parameter_may_step_inside_backward(make: Make) -> None:
    """In hooks after accumulation, on the autograd thread."""
    model, plain = net(), net()
    owners = {p: make([p]) for p in model.parameters()}

    def hook(p: Tensor) -> None:
        owners[p].step()
        owners[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    optimizer = make(plain.parameters())
    for t in range(4):
        backward(model, t)
        optimizer.zero_grad()
        backward(plain, t)
        optimizer.step()
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-12, atol=1e-12)


@every_class
def test_schedulers_set_the_step_size_and_its_group(make: Make) -> None:
    model = net()
    optimizer = make(model.parameters())
    schedules = [
        torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=20, cycle_momentum=False),
    ]
    for t in range(6):
        train(model, optimizer, range(t, t + 1))
        for schedule in schedules:
            schedule.step()
    assert weights(model).isfinite().all()


@every_engine
def test_groups_have_numbers_of_their_own(make: Make) -> None:
    p, q = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    optimizer = make([{"params": [p]}, {"params": [q], "lr": 0.0}])
    r = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer.add_param_group({"params": [r], "lr": 0.02})
    for x in (p, q, r):
        x.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    assert torch.equal(q, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(1 - r.detach(), 2 * (1 - p.detach()), rtol=1e-5, atol=0)


@every_engine
def test_mixed_dtypes_shapes_and_layouts_in_one_group(make: Make) -> None:
    """What a kernel cannot step is stepped by other means: same numbers as one optimizer for each."""
    forms = [
        lambda: torch.ones(3, dtype=torch.float64),
        lambda: torch.ones(2, 3),
        lambda: torch.ones(()),
        lambda: torch.ones(0, 2),
        lambda: torch.ones(4, dtype=torch.bfloat16),
        lambda: torch.ones(4, dtype=torch.float16),
        lambda: torch.ones(3, dtype=torch.complex64),
        lambda: torch.ones(6, 4)[:, ::2],
        lambda: torch.ones(3, 5).t(),
        lambda: torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    ]
    together, apart = [nn.Parameter(f()) for f in forms], [nn.Parameter(f()) for f in forms]
    one, many = make(together), [make([p]) for p in apart]
    for t in range(3):
        for p, q in zip(together, apart, strict=True):
            p.grad = (torch.ones_like(p) * (t + 1)).clone(memory_format=torch.preserve_format)
            q.grad = p.grad.clone()
        one.step()
        for optimizer in many:
            optimizer.step()
    for p, q in zip(together, apart, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
        assert p.isfinite().all()
        # Adadelta's first steps are smaller than an ulp of a 16-bit 1.
        assert p.numel() == 0 or p.element_size() == 2 or not torch.equal(p, torch.ones_like(p))


@every_engine
def test_a_strided_view_leaves_its_neighbours_alone(make: Make) -> None:
    base = torch.zeros(8, 6)
    p = nn.Parameter(base[1:7:2, 1:5:2])
    optimizer = make([p])
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    mask = torch.zeros(8, 6, dtype=torch.bool)
    mask[1:7:2, 1:5:2] = True
    assert (base[~mask] == 0).all()
    assert (base[mask] != 0).all()


@every_engine
def test_a_gradient_of_other_strides_is_read_in_its_own_order(make: Make) -> None:
    p, q = (nn.Parameter(torch.arange(12.0).view(3, 4)) for _ in range(2))
    one, two = make([p]), make([q])
    for t in range(3):
        g = torch.sin(torch.arange(12.0) + t).view(3, 4)
        p.grad, q.grad = g.t().contiguous().t(), g.clone()
        one.step()
        two.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@every_engine
def test_a_scaler_skips_steps_with_infinities(make: Make) -> None:
    """With and without unscaling by hand. The scale is a power of two, so that unscaled gradients are exact."""
    for by_hand in (False, True):
        model, plain = net(torch.float32), net(torch.float32)
        optimizer, reference = make(model.parameters()), make(plain.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
        for t in range(4):
            optimizer.zero_grad()
            p = next(model.parameters())
            x = torch.randn(16, 4, generator=torch.Generator().manual_seed(t), dtype=torch.float64).float()
            scaler.scale((model(x) ** 2).mean()).backward()
            if t == 2:
                p.grad[0, 0] = float("inf")
                before, kept = weights(model).clone(), copy.deepcopy(optimizer.state_dict()["state"])
            if by_hand:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            if t == 2:
                after = optimizer.state_dict()["state"]
                assert torch.equal(before, weights(model))
                assert all(torch.equal(kept[i][n], after[i][n]) for i in kept for n in kept[i])
            else:
                train(plain, reference, range(t, t + 1))
        torch.testing.assert_close(weights(model), weights(plain), rtol=1e-5, atol=1e-6)


@every_engine
def test_a_tensor_step_size_is_read_at_every_step(make: Make) -> None:
    if make.keywords.get("foreach"):
        pytest.skip("torch refuses a tensor lr with foreach, and so do we")
    model, plain = net(), net()
    lr = torch.tensor(0.01, dtype=torch.float64)
    optimizer, reference = make(model.parameters(), lr=lr), make(plain.parameters())
    for t in range(4):
        lr.fill_(0.01 * (t + 1))
        for group in reference.param_groups:
            group["lr"] = 0.01 * (t + 1)
        train(model, optimizer, range(t, t + 1))
        train(plain, reference, range(t, t + 1))
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-10, atol=1e-12)


@every_engine
def test_state_that_was_cleared_begins_anew(make: Make) -> None:
    p, q = (nn.Parameter(torch.ones(4)) for _ in range(2))
    optimizer = make([p])
    for _ in range(3):
        p.grad = torch.full((4,), 2.0)
        optimizer.step()
    optimizer.state.clear()
    with torch.no_grad():
        p.fill_(1.0)
    fresh = make([q])
    for _ in range(2):
        p.grad, q.grad = torch.arange(4.0), torch.arange(4.0)
        optimizer.step()
        fresh.step()
    assert torch.equal(p, q)


@every_engine
def test_weights_moved_by_hand_between_steps_are_stepped_where_they_are(make: Make) -> None:
    p, q = (nn.Parameter(torch.ones(4)) for _ in range(2))
    one, two = make([p]), make([q])
    for t in range(5):
        g = torch.cos(torch.arange(4.0) * t)
        p.grad, q.grad = g.clone(), g.clone()
        if t == 2:
            p.data = p.data.clone()
        if t == 3:
            for name, value in one.state[p].items():
                if name != "step":
                    value.data = value.data.clone()
        if t == 4:
            p.share_memory_()
        one.step()
        two.step()
    assert torch.equal(p, q)


@every_class
def test_neither_gradients_nor_optimizers_are_kept_alive(make: Make) -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = make([p])
    for _ in range(3):
        p.grad = torch.ones(4)
        optimizer.step()
    gradient, self = weakref.ref(p.grad), weakref.ref(optimizer)
    p.grad = None
    assert gradient() is None
    del optimizer
    gc.collect()
    assert self() is None


@every_class
def test_a_compiled_function_may_step(make: Make) -> None:
    """torch.compile's own front end; what it would print for the rest of the function is not of interest here."""
    model, plain = net(), net()
    optimizer, reference = make(model.parameters()), make(plain.parameters())
    step = torch.compile(optimizer.step, backend="eager")
    for t in range(4):
        optimizer.zero_grad()
        backward(model, t)
        step()
    train(plain, reference, range(4))
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-12, atol=1e-12)


@every_class
def test_capturable_steps_are_the_plain_ones(make: Make) -> None:
    """Numbers of the step come from a table on the device, in float64. (torch's Adam has this on accelerators only.)"""
    if make.func is torch.optim.Adam:
        pytest.skip("torch refuses capturable=True on the CPU")
    model, plain = net(), net()
    train(model, make(model.parameters(), capturable=True), range(5))
    train(plain, make(plain.parameters()), range(5))
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-10, atol=1e-12)


@every_class
def test_nothing_is_drawn_from_the_random_numbers(make: Make) -> None:
    model = net()
    optimizer = make(model.parameters())
    backward(model, 0)
    before = torch.get_rng_state()
    optimizer.step()
    assert torch.equal(before, torch.get_rng_state())


@every_class
def test_threads_step_optimizers_of_their_own(make: Make) -> None:
    models = [net() for _ in range(4)]

    def work(model: nn.Module) -> None:
        optimizer = make(model.parameters())
        train(model, optimizer, range(10))

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(weights(models[0]), weights(model)) for model in models)


def _child(p: nn.Parameter, optimizer: torch.optim.Optimizer, pipe: Any) -> None:
    optimizer.step()
    pipe.send(p.detach()[::9999].tolist())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["adam", "msvag", "sgd"])
def test_a_forked_child_may_step(name: str) -> None:
    """As in a data loader's worker: the child has none of its parent's threads, which have stepped before."""
    torch.set_num_threads(2)
    try:
        p = nn.Parameter(torch.linspace(-1, 1, 300_000))
        optimizer = optim.METHODS[name]([p], lr=0.01)
        p.grad = torch.linspace(0, 1, 300_000)
        optimizer.step()
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        child = context.Process(target=_child, args=(p, optimizer, theirs))
        child.start()
        assert ours.poll(60)
        end = ours.recv()
        child.join(60)
        optimizer.step()
        assert child.exitcode == 0
        assert end == p.detach()[::9999].tolist()
    finally:
        torch.set_num_threads(1)


@every_class
def test_numbers_out_of_range_and_no_parameters_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match=r"lr|learning rate"):
        make([nn.Parameter(torch.ones(1))], lr=-1.0)
    with pytest.raises(ValueError, match="empty"):
        make([])
    with pytest.raises(TypeError):
        make(nn.Parameter(torch.ones(1)))
    with pytest.raises(ValueError, match="leaf"):
        make([nn.Parameter(torch.ones(1)) * 2])


@every_class
def test_foreach_and_fused_exclude_each_other(make: Make) -> None:
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        make([nn.Parameter(torch.ones(1))], foreach=True, fused=True)


@every_class
def test_a_step_of_size_zero_with_zero_gradients_only_makes_state(make: Make) -> None:
    """As distributed checkpoints do, to have something to load into."""
    model = net()
    optimizer = make(model.parameters(), lr=0.0)
    before = weights(model).clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(before, weights(model))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@every_class
def test_gradients_flow_through_a_differentiable_step(make: Make) -> None:
    """d(loss after the step)/d(lr) against a difference quotient: its error is (1e-6)^2 and 1e-16 / 1e-6."""
    options = {"differentiable": True}

    # torch forbids an in-place change of a leaf that requires grad, so the parameter is made a plain tensor
    def loss(lr: Tensor) -> Tensor:
        p = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
        q = p.clone()
        optimizer = make([nn.Parameter(torch.ones(1, dtype=torch.float64))], lr=lr, **options)
        optimizer.param_groups[0]["params"] = [q]
        for t in (1.0, 2.0):
            q.grad = torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64) * t
            optimizer.step()
        return (q**2).sum()

    lr = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(lr), lr)
    up, down = (loss(torch.tensor(0.01 + h, dtype=torch.float64)).detach() for h in (1e-6, -1e-6))
    torch.testing.assert_close(slope, (up - down) / 2e-6, rtol=1e-6, atol=1e-8)
