"""The Triton step against the eager one. Without a GPU, Triton's interpreter steps tensors of the CPU."""

import copy
import logging
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tests.cases import CASES, NO_TRITON, POINTS, RULES
from tests.optim.test_grid import check_point
from torch import Tensor

from stepscope import optim
from stepscope.optim import base
from stepscope.optim.backends import cpu, cuda, devices, eager
from stepscope.optim.sums import Request
from stepscope.rules import METHODS, Point, Rule
from stepscope.rules.statistics import BINS, HISTOGRAMS, PLAIN, SAMPLE_BLOCK, Numbers, bins_of, selection

pytestmark = pytest.mark.skipif(bool(NO_TRITON), reason=NO_TRITON)

GPU = torch.cuda.is_available()
MEASURED = selection([*PLAIN.terms, *HISTOGRAMS, "move_square", "move_adam", "adam_square"])
DEVICE = torch.device("cuda", 0) if GPU else torch.device("cpu")
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64]


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch):
    """Tensors of this device are stepped by Triton. Its interpreter computes with NumPy, which would warn of 0/0."""
    if not GPU:
        monkeypatch.setitem(devices._BACKENDS, "cpu", cuda)
    with np.errstate(all="ignore"):
        yield


def numbers(rule: Rule, hyper: dict[str, float], t: int) -> dict[str, float]:
    """What all elements share at step t."""
    inputs = {f"hyper.{name}": value for name, value in hyper.items()}
    return inputs | {f"scalars.{name}": value for name, value in rule.step_scalars(t, hyper).items()}


def hyper_of(rule: Rule) -> dict[str, float]:
    return rule.defaults | {"lr": 0.01} | ({"weight_decay": 0.1} if "weight_decay" in rule.defaults else {})


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.name}-{len(r.hyper)}")
def test_one_step_is_the_eager_step(rule: Rule, dtype: torch.dtype):
    """Resynchronised after each step. The interpreter rounds a fused product twice and torch leaves roots to MKL, so
    each of the few operations behind a step below 1 may differ by an ulp: theta, below 4, rounds to within 2 eps of
    its own precision; on the border of a 16-bit number either way, an ulp of theta, 4 eps. State: sums of two such
    products, of which the larger may be the smaller's 4 times: 8 eps, and the sums' cancellation, an eps of 4.
    """
    generator = torch.Generator().manual_seed(0)
    real = torch.float32 if dtype.is_complex else dtype

    def normal() -> Tensor:
        x = torch.randn(2006 if dtype.is_complex else 1003, generator=generator, dtype=torch.float64).to(real)
        return (torch.view_as_complex(x.view(-1, 2)) if dtype.is_complex else x.clamp(-3.9, 3.9)).to(DEVICE)

    a = normal()
    kept = cpu.state_dtype(dtype)
    ours, theirs = ({s: torch.zeros_like(a, dtype=kept) for s in rule.state} for _ in range(2))
    hyper = hyper_of(rule)
    eps, wide = torch.finfo(dtype).eps, torch.finfo(kept).eps
    program = cuda.program(rule, dtype, False, None)
    far = rule.name.startswith("rmsprop") and "momentum_buffer" in rule.state  # as in test_cpu.py
    for t in range(1, 7):
        b, g = a.clone(), normal()
        batch = cuda.Batch([[b], [g], *([ours[name]] for name in rule.state)])
        cuda.launch(program, batch, [program.shared(numbers(rule, hyper, t))])
        eager.step_tensor(rule, a, g, theirs, hyper, rule.step_scalars(t, hyper))
        torch.testing.assert_close(b, a, rtol=eps if far else 0, atol=(2 if eps == wide else 4) * eps)
        for name in rule.state:
            torch.testing.assert_close(
                ours[name], theirs[name], rtol=8 * wide, atol=(40 if far and name == "momentum_buffer" else 4) * wide
            )
            ours[name].copy_(theirs[name])
        a.copy_(b)


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_every_point_of_the_grid_is_stepped_as_eagerly(point: Point):
    """The interpreter rounds a fused product twice, as NumPy does: within what `check_point` allows for roots."""
    check_point(point, torch.float32, DEVICE.type)


def measured_twice(rule: str, layout: cpu.Layout | None, sizes: list[int], spoil: bool) -> tuple[Any, Any, Any]:
    """One measured step of the same tensors by the CPU's kernel and by Triton's: the program and what they counted."""
    generator = torch.Generator().manual_seed(3)
    method = METHODS[rule]
    streams: Any = [[torch.randn(n, generator=generator) for n in sizes] for _ in range(2)]
    streams += [[torch.rand(n, generator=generator) for n in sizes] for _ in method.state]
    if layout is None:
        streams += [[torch.rand(n, generator=generator) for n in sizes] for _ in range(2)]
    if spoil:
        for g in streams[1]:
            g[:: max(len(g) // 3, 1)] = torch.tensor([torch.nan, torch.inf, 0.0, 1.0])[
                torch.arange(len(g[:: max(len(g) // 3, 1)])) % 4
            ]
        streams[-2][0][1:9:2] = 0  # no mean, hence no spread or an infinite one
        streams[-1][0][1:9:4] = 0
    inputs = numbers(method, hyper_of(method), 5) | {"number.weight": 0.3}
    inputs |= cpu.named(
        Numbers(ascent=-1.0, mean_scale=1.2, second_scale=1.1, per_lr=100.0, eps=1e-3, decay=1e-4, odds=0.1)
    )
    found = []
    for backend in (cpu, cuda):
        mine = [[t.clone().to(DEVICE if backend is cuda else "cpu") for t in column] for column in streams]
        program = backend.program(
            method, torch.float32, layout is None, layout or cpu.Layout(*cpu.MEAN_KEPT, raw=False), MEASURED
        )
        found.append(backend.launch(program, backend.Batch(mine), [program.shared(inputs)] * len(sizes)))
    return program, *found


SIGNED = {"grad_momentum": ("grad_square_sampled", "momentum_square"), "move_adam": ("move_square", "adam_square")}


def program_of(rule: str, layout: cpu.Layout | None) -> tuple[Any, ...]:
    """What the program of the measured step is made from."""
    streams = layout or cpu.Layout(*cpu.MEAN_KEPT, raw=False)
    return METHODS[rule], torch.float32, layout is None, streams, MEASURED


@pytest.mark.parametrize("spoil", [False, True], ids=["clean", "broken"])
@pytest.mark.parametrize(
    ("rule", "layout"),
    [
        ("msvag", cpu.Layout("state.m", "state.S", False)),
        ("adam", cpu.Layout("state.exp_avg", "state.exp_avg_sq", True)),
        ("sgd", None),
    ],
)
def test_statistics_are_those_of_the_cpu(rule: str, layout: cpu.Layout | None, spoil: bool):
    """Tensors shorter than a block, of many chunks, and one so long that blocks are sampled, its last one not whole.

    Sums of rounded positive terms agree to 1e-6, others to that share of what their terms may add up to. Of 300,000
    places some lie an ulp from an edge, and what one bin lacks its neighbour has.
    """
    sizes = [1, 1000, 1024, 9000, 3 * (1 << 15) + 5 * SAMPLE_BLOCK + 17, 17]
    program, theirs, ours = measured_twice(rule, layout, sizes, spoil)
    sums = [dict(zip(MEASURED.terms, found.sums.T, strict=True)) for found in (theirs, ours)]
    for name in MEASURED.terms:
        one, other = SIGNED.get(name, (name, name))
        scale = np.sqrt(sums[0][one] * sums[0][other])
        assert np.all(np.abs(sums[1][name] - sums[0][name]) <= 1e-6 * scale), name
    assert ours.counts.shape == (len(sizes), sum(map(bins_of, MEASURED.histograms)))
    cpus = cpu.program(*program_of(rule, layout)).starts
    for i, name in enumerate(MEASURED.histograms):
        start, end = 1, bins_of(name)
        mine = ours.counts[:, program.starts[i] + start : program.starts[i] + end]
        others = theirs.counts[:, cpus[i] + start : cpus[i] + end]
        assert np.abs(mine - others).sum() <= 20, name
        assert np.abs(mine.sum(-1) - others.sum(-1)).max() == 0, name


def test_a_second_pass_measures_what_the_cpu_s_does():
    """The same streams, weights in bfloat16 and averages in float32. Sums to 1e-6, a few places at an edge."""
    generator = torch.Generator().manual_seed(4)
    sizes = [5, 20000]
    streams = [[torch.randn(n, generator=generator).to(torch.bfloat16) for n in sizes] for _ in range(5)]
    for field in (1, 2):
        streams[field] = [x.float() ** 2 for x in streams[field]]
    found, programs = [], []
    for backend, device in ((cpu, torch.device("cpu")), (cuda, DEVICE)):
        program = backend.measuring(torch.bfloat16, torch.float32, False, PLAIN)
        programs.append(program)
        inputs = cpu.named(Numbers(per_lr=10.0))
        there = [[x.to(device) for x in column] for column in streams]
        found.append(backend.launch(program, backend.Batch(there), [program.shared(inputs)] * 2))
    np.testing.assert_allclose(found[1].sums, found[0].sums, rtol=1e-6, atol=1e-3)  # a signed sum of 20,000 terms
    for i, (ours, theirs) in enumerate(zip(*([p.starts for p in programs]), strict=True)):
        if i < len(PLAIN.histograms):
            first, second = (f.counts[:, a + 1 : a + BINS] for f, a in ((found[0], ours), (found[1], theirs)))
            assert np.abs(first - second).sum() <= 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_length_is_stepped_whole_and_nothing_beyond(dtype: torch.dtype):
    """Blocks and the rest; slices of a larger tensor start at any address."""
    rule = METHODS["adam"]
    lengths = [(1, 0), (3, 1), (16, 0), (1023, 2), (1024, 0), (1025, 3), (8192, 1), (8193, 0), (9000, 5)]
    memory = torch.ones(len(lengths), 9100, dtype=dtype, device=DEVICE)
    thetas = [memory[i, offset : offset + n] for i, (n, offset) in enumerate(lengths)]
    gs = [torch.linspace(1, 2, len(theta), device=DEVICE).to(dtype) for theta in thetas]
    states = [[torch.zeros(len(theta), device=DEVICE) for theta in thetas] for _ in rule.state]
    program = cuda.program(rule, dtype, False, None)
    shared = program.shared(numbers(rule, rule.defaults | {"lr": 0.25}, 1))
    cuda.launch(program, cuda.Batch([thetas, gs, *states]), [shared] * len(thetas))
    for row, (n, offset) in zip(memory, lengths, strict=True):
        torch.testing.assert_close(row[offset : offset + n], torch.full_like(row[:n], 0.75), rtol=0, atol=1e-6)
        assert torch.all(row[:offset] == 1)
        assert torch.all(row[offset + n :] == 1)


def test_a_16_bit_number_is_rounded_to_the_nearest_and_ties_to_even():
    """Against torch's own conversion, over every bit pattern of the upper half and the hard lower ones."""
    high = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32) << 16
    values = torch.cat([(high | low).view(torch.float32) for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).to(DEVICE)
    rule = Rule("copy", "", (), ("x",), {}, lambda k, g, theta, state, *_: (state["x"], dict(state)), None)
    for dtype in (torch.bfloat16, torch.float16):
        theta = torch.zeros(len(values), dtype=dtype, device=DEVICE)
        program = cuda.program(rule, dtype, False, None)
        g, x = torch.zeros_like(theta), values.clone()  # a batch keeps nothing alive
        cuda.launch(program, cuda.Batch([[theta], [g], [x]]), [program.shared({})])
        expected = values.to(dtype)
        ok = ~expected.isnan()
        assert torch.equal(theta.isnan(), ~ok)
        assert torch.equal(theta[ok].view(torch.int16), expected[ok].view(torch.int16))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_optimizer_trains_like_the_eager_one(case):
    """Several dtypes, groups and shapes; 12 steps of a small problem. An ulp a step does not grow here, but where a
    sign or a ratio of two rounded numbers is taken: 1e-5 of float32, and of bfloat16 an ulp."""

    def trained(**more: Any) -> list[Tensor]:
        shapes = [((3, 5), torch.float64), ((40,), torch.float32), ((), torch.float32), ((8, 2), torch.bfloat16)]
        ps = [
            torch.nn.Parameter(torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=dtype, device=DEVICE).view(shape))
            for shape, dtype in shapes
        ]
        ps.append(torch.nn.Parameter(torch.ones(6, 4, device=DEVICE).t()))  # dense, but not in the usual order
        optimizer = case.ours([{"params": ps[:2]}, {"params": ps[2:], "lr": 0.02}], **case.options, **more)
        for t in range(12):
            for p in ps if t != 3 else ps[1:]:
                p.grad = torch.cos(p.detach() * (t + 1))
            if t == 3:
                ps[0].grad = None  # its counter stays behind
            optimizer.step()
        assert more["fused"] is False or all(optimizer.engine(p) == "compiled" for p in ps)
        return [p.detach() for p in ps]

    for ours, theirs in zip(trained(fused=True), trained(fused=False), strict=True):
        loose = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2.0**-7}[ours.dtype]
        torch.testing.assert_close(ours, theirs, rtol=loose, atol=loose)


def test_weights_gradients_and_states_may_move_between_steps():
    """Addresses are read anew: whatever was replaced, the step is the eager one."""

    def trained(**options: Any) -> list[Tensor]:
        p = torch.nn.Parameter(torch.linspace(0, 1, 6, device=DEVICE).view(2, 3))
        q = torch.nn.Parameter(torch.ones(4, device=DEVICE))
        optimizer = optim.MSVAG([p, q], lr=0.1, **options)
        for t in range(1, 10):
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
                q.grad = None
            if t == 8:
                optimizer.state.pop(q)
            if t == 9:
                q.grad = q.grad.repeat_interleave(2)[::2]
            optimizer.step()
        return [p.detach(), q.detach()]

    for ours, theirs in zip(trained(), trained(fused=False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_what_has_not_changed_is_not_sent_again_and_nothing_is_compiled_again(monkeypatch: pytest.MonkeyPatch):
    """The step's numbers travel at each step, the tables of addresses and chunks only when they change."""
    sent: list[int] = []
    send = cuda._send
    monkeypatch.setattr(cuda, "_send", lambda array, *more: sent.append(array.dtype.itemsize) or send(array, *more))
    p = torch.nn.Parameter(torch.ones(5, device=DEVICE))
    p.grad = torch.ones(5, device=DEVICE)
    optimizer = optim.Adam([p])
    cpu.program.cache_clear()
    for t in range(20):
        optimizer.param_groups[0]["lr"] = 1 / (t + 1)
        optimizer.step()
    assert sent == [4, 8, 8] + [4] * 19
    old = p.grad
    p.grad = torch.ones(5, device=DEVICE)
    optimizer.step()
    assert sent[-2:] == [4, 8]
    assert old is not p.grad
    assert cpu.program.cache_info().misses == 1


def test_capturable_steps_count_and_compute_their_numbers_on_the_device():
    """As the other ones do on the host: float64 there and here, rounded once. The rate may be a tensor that changes."""

    def trained(method: str, **options: Any) -> list[Tensor]:
        ps = [torch.nn.Parameter(torch.linspace(-1, 1, n, device=DEVICE)) for n in (7, 1030)]
        rate = torch.tensor(0.1, device=DEVICE) if options.get("capturable") else 0.1
        optimizer = optim.METHODS[method](ps, lr=rate, **options)
        for t in range(6):
            for p in ps[t == 2 :]:
                p.grad = torch.cos(p.detach() * (t + 1))
            if t == 2:
                ps[0].grad = None
            if t == 4 and options.get("capturable"):
                rate.mul_(0.5)
            elif t == 4:
                optimizer.param_groups[0]["lr"] = 0.05
            if t == 5 and options.get("capturable"):
                averages: dict[Tensor, Any] = {}
                optimizer.request_sums(Request(measure=True, averages=averages))
            optimizer.step()
        if options.get("capturable"):
            assert optimizer.step_sums.measured[0].counted.sums.shape[0] == 2
            assert all(optimizer.engine(p) == "compiled" for p in ps)
            assert all(state["step"].device == DEVICE for state in optimizer.state.values())
        return [p.detach() for p in ps]

    for method in ("adam", "msvag", "sgd", "adagrad"):
        for ours, theirs in zip(trained(method, capturable=True), trained(method), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_autograd_notices_the_step():
    """A kernel writes behind torch's back, so it must say so: a backward through the old value is refused."""
    p = torch.nn.Parameter(torch.ones(4, device=DEVICE))
    loss = (p * p).sum()
    optimizer = optim.Adam([p], fused=True)
    p.grad = torch.ones(4, device=DEVICE)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["adam", "msvag", "msgd", "ssd", "adam_erf"])
def test_broken_gradients_propagate_as_in_the_eager_step(method: str, bad: float):
    def stepped(**more: Any) -> Any:
        p = torch.nn.Parameter(torch.ones(20, device=DEVICE))
        optimizer = optim.METHODS[method]([p], lr=0.1, **more)
        for _ in range(2):
            p.grad = torch.ones(20, device=DEVICE)
            p.grad[7] = bad
            optimizer.step()
        return p.detach().cpu().numpy()

    np.testing.assert_array_equal(np.isnan(stepped(fused=True)), np.isnan(stepped(fused=False)))
    np.testing.assert_allclose(stepped(fused=True), stepped(fused=False), rtol=1e-6)


def test_without_triton_steps_are_eager_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A warning for whom asked for fused=True, a line in the log for others."""
    monkeypatch.setattr(cuda, "available", lambda: False)
    cuda.unusable.cache_clear()
    base._warn_once.cache_clear()
    base._inform_once.cache_clear()
    try:
        p = torch.nn.Parameter(torch.ones(3, device=DEVICE))
        p.grad = torch.ones(3, device=DEVICE)
        with pytest.warns(UserWarning, match="fused=True cannot be honoured for Triton cannot be imported"):
            optim.SGD([p], lr=0.5, fused=True).step()
        with warnings.catch_warnings(), caplog.at_level(logging.INFO, "stepscope.optim"):
            warnings.simplefilter("error")
            for _ in range(2):
                optimizer = optim.SGD([p], lr=0.125)
                optimizer.step()
        assert [record.message for record in caplog.records if "Triton cannot be imported" in record.message] == [
            "stepscope steps CUDA tensors eagerly, several times slower: Triton cannot be imported."
        ]
        assert optimizer.engine(p) == "eager: Triton cannot be imported"
        torch.testing.assert_close(p.detach().cpu(), torch.full((3,), 0.25))
    finally:
        cuda.unusable.cache_clear()


def test_a_compiler_that_fails_is_an_obstacle_and_no_error(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise OSError("no C compiler")

    monkeypatch.setattr(cuda, "launch", fail)
    cuda.unusable.cache_clear()
    try:
        p = torch.ones(3, device=DEVICE)
        assert cuda.obstacle(p, p, []) == "Triton cannot compile here (OSError: no C compiler)"
    finally:
        cuda.unusable.cache_clear()


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@needs_gpu
def test_a_scaler_skips_and_unscales():
    """GradScaler finds infinities itself; a skipped step changes nothing."""
    p, q = (torch.nn.Parameter(torch.linspace(-1, 1, 100, device=DEVICE)) for _ in range(2))
    ours, theirs = optim.Adam([p], lr=0.1), optim.Adam([q], lr=0.1, fused=False)
    for x, optimizer in ((p, ours), (q, theirs)):
        scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
        for t in range(4):
            optimizer.zero_grad()
            scaler.scale((x * (t + 1) if t != 2 else x * torch.inf).sum()).backward()
            before = x.detach().clone()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(before, x) == (t == 2)
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@needs_gpu
@pytest.mark.parametrize("method", ["adam", "msvag", "sgd"])
def test_a_cuda_graph_replays_the_step(method: str):
    """Replays are steps: counters, bias corrections and a rate that is changed in place go on; gradients too."""
    ends = []
    for graphed in (True, False):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 5000, device=DEVICE))
        p.grad = torch.zeros_like(p)
        rate = torch.tensor(0.1, device=DEVICE)
        optimizer = optim.METHODS[method]([p], lr=rate, capturable=True, fused=None if graphed else False)

        def step(p: Tensor = p, optimizer: Any = optimizer) -> None:
            p.grad = torch.cos(p.detach())  # elsewhere, in the graph's own memory
            optimizer.step()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        if graphed:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
        for t in range(20):
            if t == 10:
                rate.mul_(0.1)
            graph.replay() if graphed else step()
        ends.append(p.detach().clone())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


@needs_gpu
def test_numbers_of_one_step_are_not_baked_into_a_graph():
    p = torch.nn.Parameter(torch.ones(10, device=DEVICE))
    p.grad = torch.ones_like(p)
    optimizer = optim.Adam([p])
    optimizer.step()
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="capturable=True"), torch.cuda.graph(graph):
        optimizer.step()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_two_devices_are_stepped_where_they_are():
    ps = [torch.nn.Parameter(torch.ones(50, device=f"cuda:{i}")) for i in (0, 1)]
    optimizer = optim.Adam(ps, lr=0.1, fused=True)
    for _ in range(3):
        for p in ps:
            p.grad = torch.cos(p.detach())
        optimizer.step()
    assert torch.equal(ps[0].cpu(), ps[1].cpu())
