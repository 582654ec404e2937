"""Work that several threads share."""

import multiprocessing
import signal
import threading
import time
from typing import Any

import pytest
import torch
from torch import nn

from stepscope import optim
from stepscope.optim.backends import team


@pytest.fixture
def own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a torch that has no OpenMP library of the kind that can be entered."""
    monkeypatch.setattr(team, "_openmp", lambda: None)


def stepped(size: int, steps: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.randn(size, generator=generator))
    optimizer = optim.Adam([p], lr=0.1)
    for _ in range(steps):
        p.grad = torch.randn(size, generator=generator)
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("size", [1 << 17, 1 << 22])
def test_our_threads_and_torchs_come_to_the_same_bits(size: int, request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        theirs = stepped(size)
        request.getfixturevalue("own_threads")
        assert torch.equal(stepped(size), theirs)
        torch.set_num_threads(1)
        assert torch.equal(stepped(size), theirs)
    finally:
        torch.set_num_threads(before)


def _last_step_with_two_threads() -> list[float]:
    """torch's own operations run in one thread, which a forked child can do as well."""
    torch.set_num_threads(1)
    p = nn.Parameter(torch.ones(1 << 18))
    p.grad = torch.arange(1 << 18, dtype=torch.float32)
    optimizer = optim.Adam([p], lr=0.1)
    optimizer.step()
    torch.set_num_threads(2)
    optimizer.step()
    torch.set_num_threads(1)
    return p.detach()[:: 1 << 12].tolist()


def _child(queue: Any) -> None:
    queue.put(_last_step_with_two_threads())


def test_a_forked_child_steps():
    """Its parent has used torch's threads, which it has lost."""
    expected = _last_step_with_two_threads()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,), daemon=True)
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)


def test_an_interrupt_waits_for_all_threads(own_threads: None):
    """They write to memory that is free afterwards."""
    began, ended = threading.Event(), threading.Event()

    def work(_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            began.wait(10)
            signal.raise_signal(signal.SIGINT)
            return
        began.set()
        time.sleep(0.2)
        ended.set()

    call = team.Call.__new__(team.Call)
    call._run = work  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        call(None, 2, letting_go=True)
    assert ended.is_set()


def test_gradients_that_another_thread_replaces_are_read_or_not_but_never_freed():
    """Large ones, for which Python's lock is let go of."""
    size = 1 << 22
    p = nn.Parameter(torch.ones(size))
    p.grad = torch.ones(size)
    optimizer = optim.SGD([p], lr=2.0**-10)
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            p.grad = torch.ones(size)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(64):
            optimizer.step()
    finally:
        stop.set()
        thread.join()
    assert torch.equal(p.detach(), torch.full((size,), 1 - 64 * 2.0**-10))
