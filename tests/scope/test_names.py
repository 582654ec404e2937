"""What tensors are called."""

import torch
from torch import nn

from stepscope.scope.names import names_of, plain_name


def test_wrappers_leave_no_trace():
    for name in ("module.a.weight", "_orig_mod.module.a.weight", "module._orig_mod.a._orig_mod.weight"):
        assert plain_name(name) == "a.weight"
    assert plain_name("_fsdp_wrapped_module.a._checkpoint_wrapped_module.weight") == "a.weight"
    assert plain_name("a.module.weight") == "a.module.weight"


def test_a_wrapped_model_gives_the_names_of_the_model():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain = ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert list(names_of(optimizer, model).values()) == plain
    assert list(names_of(optimizer, nn.DataParallel(model)).values()) == plain


def test_without_a_model_tensors_have_the_names_given_to_the_optimizer_or_numbers():
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    assert list(names_of(torch.optim.SGD([p, q], lr=0.1), None).values()) == ["parameter.0", "parameter.1"]
    named = torch.optim.SGD([("module.p", p), ("q", q)], lr=0.1)
    assert list(names_of(named, None).values()) == ["p", "q"]


def test_tensors_that_are_not_in_the_model_are_numbered():
    model, extra = nn.Linear(2, 2), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([*model.parameters(), extra], lr=0.1)
    assert list(names_of(optimizer, model).values()) == ["weight", "bias", "parameter.2"]


def test_names_that_would_be_shared_stay_whole():
    model = nn.Module()
    model.module = nn.Linear(2, 1, bias=False)
    model.weight = nn.Parameter(torch.ones(1))
    model.bias = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert sorted(names_of(optimizer, model).values()) == ["bias", "module.weight", "weight"]
