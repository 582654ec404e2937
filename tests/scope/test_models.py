"""Attached to architectures of every kind: training ends in the same bits, and detaching leaves nothing behind."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.cases import bits
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from stepscope import Scope, optim


class Transformer(nn.Module):
    """LayerNorm, dropout, attention; embedding and head are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.encoder(self.embedding(x))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(20, 8), nn.LSTM(8, 8, 2, batch_first=True), nn.Linear(8, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(x))[0])


class Residual(nn.Module):
    """BatchNorm, whose running averages the forward pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, bias=False)) for _ in range(3)
        )
        self.head = nn.Linear(4, 20)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x.float().reshape(-1, 1, 6, 6))
        for block in self.blocks:
            y = y + block(y)
        return self.head(y.mean((2, 3)))


class Mixed(nn.Module):
    """A frozen layer, one that is never used, and parameters that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.unused, self.head = nn.Linear(6, 6), nn.Linear(3, 3), nn.Linear(6, 20)
        self.frozen.requires_grad_(False)
        self.scale, self.shift = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.frozen(x.float() / 20)) * self.scale + self.shift)


MODELS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "transformer": (Transformer, {"head.weight"}),
    "lstm": (Recurrent, set()),
    "resnet": (Residual, set()),
    "frozen": (Mixed, {"frozen.weight", "frozen.bias", "unused.weight", "unused.bias"}),
}
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "ours": lambda p: optim.MSVAG(p, lr=0.05),
}


class Training:
    """A model and its optimizer from fixed seeds, with steps of every usual kind."""

    def __init__(self, model: str, optimizer: str) -> None:
        torch.manual_seed(0)
        self.model = MODELS[model][0]()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.generator = torch.Generator().manual_seed(1)

    def loss(self, rows: int = 6) -> Tensor:
        x = torch.randint(20, (6 * rows, 6), generator=self.generator)
        out = self.model(x).reshape(-1, 20)
        return nn.functional.cross_entropy(out, x.reshape(-1)[-out.shape[0] :])

    def plain(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def accumulated(self) -> None:
        self.optimizer.zero_grad()
        for _ in range(3):
            (self.loss() / 3).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        self.optimizer.step()

    def autocast(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.loss()
        loss.backward()
        self.optimizer.step()

    def state(self) -> Any:
        gradients = [p.grad for p in self.model.parameters()]
        return bits([self.model.state_dict(), self.optimizer.state_dict(), gradients, torch.get_rng_state()])


KINDS = ("plain", "accumulated", "autocast")
# Not every processor has an LSTM in bfloat16.
WAYS = [(model, kind) for model in MODELS for kind in KINDS if (model, kind) != ("lstm", "autocast")]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("model", "kind"), WAYS)
def test_training_ends_in_the_same_bits_and_every_trained_tensor_is_measured(model: str, optimizer: str, kind: str):
    bare, watched = Training(model, optimizer), None
    for _ in range(4):
        getattr(bare, kind)()
    expected = bare.state()  # the global random numbers among it
    watched = Training(model, optimizer)
    with Scope(watched.optimizer, watched.model, every=2) as scope:
        for _ in range(4):
            getattr(watched, kind)()
        norms = {name: p.grad.norm() for name, p in watched.model.named_parameters() if p.grad is not None}
    assert watched.state() == expected
    names = {name for name, _ in watched.model.named_parameters()} - MODELS[model][1]
    rows = [row for row in scope.rows if row["layer"]]
    assert {(row["step"], row["layer"]) for row in rows} == {(t, name) for t in (1, 2, 4) for name in names}
    for row in rows:
        assert row["nonfinite_share"] == 0
        if row["step"] == 4:
            assert row["grad_norm"] == pytest.approx(float(norms[row["layer"]]), rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_exceptions_of_the_users_own_pass_untouched(model: str):
    """From the loss, from a hook on a gradient, and from a step hook: the very object, and training can go on."""
    training = Training(model, "adam")
    error = KeyError("of the user's own")

    def fail(*_: Any) -> None:
        raise error

    used = next(p for name, p in training.model.named_parameters() if p.requires_grad and "unused" not in name)
    with Scope(training.optimizer, training.model) as scope:
        for register in (
            used.register_hook,
            training.optimizer.register_step_pre_hook,
            training.optimizer.register_step_post_hook,
        ):
            handle = register(fail)
            with pytest.raises(KeyError) as caught:
                training.plain()
            assert caught.value is error
            handle.remove()
            training.plain()
        seen = scope.steps
    assert seen == 4  # three that went through, and the one whose own post hook failed after ours
    with pytest.raises(KeyError) as caught, Scope(training.optimizer, training.model):
        fail()
    assert caught.value is error
    assert not training.optimizer._optimizer_step_pre_hooks
    assert not training.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_detaching_removes_every_hook_and_frees_everything(model: str, optimizer: str):
    """Nothing but the scope itself refers to what it kept, and nothing of the training refers to the scope."""
    training = Training(model, optimizer)
    training.plain()

    def tensors() -> int:
        gc.collect()
        return sum(type(x) in (Tensor, nn.Parameter) for x in gc.get_objects())

    before = tensors()
    scope = Scope(training.optimizer, training.model).attach()
    for _ in range(3):
        training.plain()
    scope.detach()
    assert tensors() == before
    hooks = [
        hook
        for module in training.model.modules()
        for hook in (
            *module._forward_hooks.values(),
            *module._backward_hooks.values(),
            *module._forward_pre_hooks.values(),
        )
    ]
    hooks += [hook for p in training.model.parameters() for hook in (p._backward_hooks or ())]
    hooks += [p for p in training.model.parameters() if getattr(p, "_post_accumulate_grad_hooks", None)]
    hooks += [*training.optimizer._optimizer_step_pre_hooks, *training.optimizer._optimizer_step_post_hooks]
    assert hooks == []
    gone = weakref.ref(scope)
    del scope
    gc.collect()
    assert gone() is None


# --- torch.compile and steps inside the backward pass -----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # torch's own, on importing its compiler
@pytest.mark.parametrize("model", ["lstm", "frozen"])
def test_a_compiled_model_has_its_own_names_and_trains_the_same(model: str):
    states, names = [], []
    for watched in (False, True):
        training = Training(model, "adam")
        compiled = torch.compile(training.model, backend="aot_eager")
        training.model = compiled
        if watched:
            with Scope(training.optimizer, compiled) as scope:
                for _ in range(3):
                    training.plain()
            names = sorted({row["layer"] for row in scope.rows} - {""})
        else:
            for _ in range(3):
                training.plain()
        states.append(training.state())
    assert states[0] == states[1]
    own = MODELS[model][0]()
    assert names == sorted({name for name, _ in own.named_parameters()} - MODELS[model][1])


def test_optimizers_that_step_inside_the_backward_pass_are_watched_together():
    """One optimizer a tensor, which steps as soon as the gradient is there and frees it: it saves memory."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    small = {p: torch.optim.Adam([p], lr=0.01) for p in models[0].parameters()}
    whole = torch.optim.Adam(models[1].parameters(), lr=0.01)

    def step_now(p: Tensor) -> None:
        small[p].step()
        small[p].zero_grad()

    for p in small:
        p.register_post_accumulate_grad_hook(step_now)
    with Scope(list(small.values()), models[0]) as scope, Scope(whole, models[1]) as expected:
        for t in range(3):
            x = torch.randn(5, 3, generator=torch.Generator().manual_seed(t))
            models[0](x).square().mean().backward()
            whole.zero_grad()
            models[1](x).square().mean().backward()
            whole.step()
    rows = sorted((row for row in scope.rows if row["layer"]), key=lambda r: (r["step"], r["layer"]))
    theirs = sorted((row for row in expected.rows if row["layer"]), key=lambda r: (r["step"], r["layer"]))
    assert len(rows) == len(theirs)
    for row, other in zip(rows, theirs, strict=True):  # torch's roots round by an ulp otherwise at another address
        assert row.pop("layer") == other.pop("layer")
        assert row == pytest.approx(other, rel=1e-5, nan_ok=True)
