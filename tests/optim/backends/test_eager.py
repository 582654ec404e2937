"""The torch namespace against NumPy's, and where it must differ."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tolerances import EPS64

from stepscope.graph import FUNCTIONS, PRIMITIVES
from stepscope.graph.numpy_namespace import NUMPY
from stepscope.optim.backends.eager import TORCH

ONE_ARGUMENT = [name for name, arity in FUNCTIONS.items() if arity == 1]


@pytest.mark.parametrize("name", ONE_ARGUMENT)
@given(x=st.floats(1e-6, 300))
def test_functions_agree_with_numpy(name: str, x: float) -> None:
    """Two libraries, each within 4 ulps of the truth for these arguments."""
    ours = getattr(TORCH, name)(torch.tensor(x, dtype=torch.float64)).item()
    assert ours == pytest.approx(float(getattr(NUMPY, name)(x)), rel=8 * EPS64, abs=8 * EPS64)


def test_both_namespaces_have_the_closed_list_and_no_more() -> None:
    assert set(FUNCTIONS) == set(vars(NUMPY)) - set(PRIMITIVES) == set(vars(TORCH)) - {"exponent", "mantissa"}


def test_sign_of_zero_is_zero_and_of_nan_is_nan() -> None:
    signs = TORCH.sign(torch.tensor([-2.0, -0.0, 0.0, 3.0, math.inf, math.nan]))
    np.testing.assert_array_equal(signs.numpy(), [-1, 0, 0, 1, 1, math.nan])


def test_scalars_and_tensors_mix() -> None:
    x = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    assert TORCH.where(True, 1.5, x) == 1.5
    assert torch.equal(TORCH.where(False, 1.5, x), x)
    assert torch.equal(TORCH.max(x, 0.5), torch.tensor([0.5, 2.0], dtype=torch.float64))
    assert torch.equal(TORCH.min(0.5, x), torch.tensor([-1.0, 0.5], dtype=torch.float64))
    for a, b in ((3.0, x), (x, 3.0), (x, x)):
        torch.testing.assert_close(TORCH.fma(a, b, x), a * b + x, rtol=2 * EPS64, atol=0)
