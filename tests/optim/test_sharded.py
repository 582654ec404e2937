"""Sharded parameters: two processes train one net in shards (FSDP2) and end where one process ends."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn

from stepscope import optim

METHODS = ("sgd", "adam", "msvag", "mssd")


def _net() -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return net


def _train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for t in steps:
        x = torch.randn(12, 5, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        optimizer.zero_grad()
        (net(x) ** 2).mean().backward()
        optimizer.step()


def _work(rank: int, folder: str) -> None:
    """Every process sees the same data, so that averaging over processes changes no gradient."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name in METHODS:
        net = _net()
        fully_shard(net)
        optimizer = optim.METHODS[name](net.parameters(), lr=0.05)
        _train(net, optimizer, range(3))
        saved = copy.deepcopy(get_optimizer_state_dict(net, optimizer))
        resumed = optim.METHODS[name](net.parameters(), lr=0.05)
        set_optimizer_state_dict(net, resumed, saved)
        _train(net, resumed, range(3, 6))
        weights: list[Any] = [p.full_tensor() for p in net.parameters()]  # type: ignore[attr-defined]
        if rank == 0:
            torch.save(weights, Path(folder, name))
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed with gloo")
def test_sharded_training_is_the_whole_one_also_from_a_checkpoint() -> None:
    """In float64; a sum over two processes and a mean round a few times: 1e-13 of weights below 10."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_work, (folder,), nprocs=2)
        for name in METHODS:
            net = _net()
            _train(net, optim.METHODS[name](net.parameters(), lr=0.05), range(6))
            for whole, sharded in zip(net.parameters(), torch.load(Path(folder, name)), strict=True):
                torch.testing.assert_close(sharded, whole.detach(), rtol=1e-12, atol=1e-12)
