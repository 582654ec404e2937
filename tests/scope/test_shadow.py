"""Shadow averages against weighted sums over the whole history."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stepscope.scope import shadow
from stepscope.scope.shadow import Sample, Shadow


def check(average: shadow.Average, history: list[Tensor], beta: float) -> None:
    """Ten roundings a step at most, forgotten at the rate of the average: 1e-13 is loose in float64."""
    w = beta ** np.arange(len(history) - 1, -1, -1.0)
    w /= w.sum()
    g = torch.stack([h.reshape(-1) for h in history]).numpy()
    m = w @ g
    np.testing.assert_allclose(average.m.numpy(), m, atol=1e-13)
    np.testing.assert_allclose(average.S.numpy(), w @ (g - m) ** 2, atol=1e-13)
    assert average.t == len(history)


@given(
    pattern=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=8), block=st.integers(1, 9)
)
def test_every_pattern_of_missing_gradients(pattern: list[list[bool]], block: int):
    """Each tensor has the averages of the gradients it had, however buffers are shared, split and cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shadow, "BLOCK", block)
        generator = torch.Generator().manual_seed(0)
        tensors = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in [(3,), (2, 2), (1,), (7,)]]
        histories: list[list[Tensor]] = [[] for _ in tensors]
        averages = Shadow()
        for present in pattern:
            samples = {}
            for p, history, here in zip(tensors, histories, present, strict=True):
                if here:
                    history.append(torch.randn(p.shape, generator=generator, dtype=p.dtype))
                    samples[p] = Sample(history[-1], 0.7)
            averages.update(samples)
        found = averages.averages()
        assert set(map(id, found)) == {id(p) for p, history in zip(tensors, histories, strict=True) if history}
        for p, history in zip(tensors, histories, strict=True):
            if history:
                check(found[p], history, 0.7)


def test_decay_rates_and_dtypes_do_not_mix():
    tensors = [nn.Parameter(torch.zeros(3, dtype=dtype)) for dtype in (torch.float64, torch.float64, torch.float16)]
    averages = Shadow()
    for g in (1.0, 3.0):
        betas = (0.5, 0.9, 0.5)
        averages.update({p: Sample(torch.full_like(p, g), beta) for p, beta in zip(tensors, betas, strict=True)})
    a, b, c = averages.averages().values()
    assert [x.m[0].item() for x in (a, b)] == pytest.approx([(0.5 + 3) / 1.5, (0.9 + 3) / 1.9])
    assert c.m.dtype is torch.float32
    assert c.beta == 0.5


def test_a_tensor_that_changes_its_size_starts_again():
    p, q = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    averages = Shadow()
    averages.update({p: Sample(torch.ones(3), 0.9), q: Sample(torch.ones(2), 0.9)})
    p.data = torch.zeros(5)
    averages.update({p: Sample(torch.ones(5), 0.9), q: Sample(torch.ones(2), 0.9)})
    found = averages.averages()
    assert (found[p].t, found[p].m.numel()) == (1, 5)
    assert found[q].t == 2
