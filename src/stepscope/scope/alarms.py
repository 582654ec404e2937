"""Alarms: what a recorded step looks like when something is wrong, and what usually helps.

A rule looks at the columns of one layer, at those of all layers of a step, or at what was noted of the run. It must
hold for some recorded steps in a row. An alarm is raised once a layer, and again only after the rule has not held for
100 recorded steps. Rules whose columns are not recorded keep silent.

All layers and steps of a table are tested at once; only where a rule holds, or has held, is there more to do.
"""
# Long because half of it is one table: what each rule says, and what helps.

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepscope.scope.rows import Table, Taken

__all__ = ["ALARMS", "FURTHER", "Alarm", "Alarms", "Rule"]

log = logging.getLogger("stepscope.alarms")

Values = Mapping[str, float]

CALM = 100  # recorded steps until an alarm may be raised again
MOST = 1000  # alarms that are kept


@dataclass(frozen=True)
class Rule:
    """When to raise an alarm.

    when: the same in words, before the threshold.
    test(values, threshold): on the columns in `needs`, numbers or arrays.  patience: recorded steps in a row for which
    it must hold.  says: what was seen; {layer}, {steps} and the columns may be named.  helps: what usually helps.
    weights: only for layers with a matrix or kernel among their tensors.
    """

    id: str
    when: str
    needs: tuple[str, ...]
    threshold: float
    test: Callable[[Mapping[str, Any], float], Any]
    patience: int
    says: str
    helps: str
    weights: bool = False


@dataclass(frozen=True)
class Alarm:
    """What was raised: the rule's id, the step and the layer ("" for the run), the numbers it rests on, and in words
    what was seen and what usually helps."""

    id: str
    step: int
    layer: str
    evidence: dict[str, float]
    text: str
    helps: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.text} {self.helps}"


ALARMS: tuple[Rule, ...] = (
    Rule(
        "not_finite",
        "share of coordinates with an infinity or NaN above it",
        ("nonfinite_share",),
        0.0,
        lambda v, limit: v["nonfinite_share"] > limit,
        1,
        "{layer}: {nonfinite_share:.2%} of the coordinates have an infinity or NaN in gradient, mean or weights.",
        "Lower the learning rate, clip the gradient's norm, and look for divisions, logarithms and roots of 0 in the "
        "model or loss.",
    ),
    Rule(
        "dead_tensor",
        "norm of the gradient at it",
        ("grad_norm", "nonfinite_share"),
        0.0,
        lambda v, limit: (v["grad_norm"] <= limit) & (v["nonfinite_share"] == 0),
        20,
        "{layer}: its gradient has been exactly 0 for {steps} recorded steps.",
        "A detached graph, units that are never active or a factor of 0 cut it off: look at what its output feeds, and "
        "at the initial values of biases.",
    ),
    Rule(
        "epsilon_dominated",
        "of the coordinates with a gradient, share where epsilon exceeds sqrt(v) above it",
        ("epsilon_dominated_share", "still_share"),
        0.5,
        lambda v, limit: (
            (v["epsilon_dominated_share"] - v["still_share"] > limit * (1 - v["still_share"])) & (v["still_share"] < 1)
        ),
        20,
        "{layer}: epsilon is larger than sqrt(v) for {epsilon_dominated_share:.0%} of the coordinates "
        "({still_share:.0%} have no gradient at all): their steps are those of momentum SGD, "
        "smaller than the learning rate says.",
        "Lower eps to 1e-8 or less, or scale the loss up.",
        weights=True,
    ),
    Rule(
        "update_too_large",
        "size of the update to that of the weights above it",
        ("update_to_weight", "lr"),
        2.0,
        lambda v, limit: v["update_to_weight"] > limit,
        1,
        "{layer}: a step changes the weights by {update_to_weight:.2g} of their size.",
        "Lower the learning rate, or warm it up; ratios near 0.001 are usual.",
        weights=True,
    ),
    Rule(
        "learning_rate_zero",
        "step size at it, with a gradient",
        ("lr", "grad_norm"),
        0.0,
        lambda v, limit: (v["lr"] <= limit) & (v["grad_norm"] > 0),
        20,
        "{layer}: the learning rate is 0, and the gradient is not.",
        "Look at the schedule: its length, its warm-up, and whether it is stepped once a batch or once an epoch.",
    ),
    Rule(
        "decay_dominates",
        "share of coordinates that weight decay moves further than the gradient does above it",
        ("decay_dominated_share",),
        0.5,
        lambda v, limit: v["decay_dominated_share"] > limit,
        20,
        "{layer}: weight decay moves {decay_dominated_share:.0%} of the coordinates further than the gradient does.",
        "Lower weight_decay, or keep it off this tensor; with Adam, AdamW's decoupled decay is meant by most recipes.",
    ),
    Rule(
        "clipped_always",
        "share of clipped coordinates above it",
        ("clipped_share",),
        0.5,
        lambda v, limit: v["clipped_share"] > limit,
        20,
        "{layer}: {clipped_share:.0%} of the gradient's coordinates are at the clipping value: the step is that of "
        "their signs.",
        "Raise the value, or clip the norm instead.",
    ),
    Rule(
        "variance_negative",
        "share of v < m^2 above it, and steps of over 1.5 times the learning rate",
        ("variance_negative_share", "update_abs_mean_per_lr_without_decay"),
        0.5,
        lambda v, limit: (v["variance_negative_share"] > limit) & (v["update_abs_mean_per_lr_without_decay"] > 1.5),
        5,
        "{layer}: v < m^2 for {variance_negative_share:.0%} of the coordinates, so that steps exceed the learning rate "
        "({update_abs_mean_per_lr_without_decay:.2g} of it on average).",
        "The gradient grows faster than the average of its square can follow: choose beta2 >= beta1 (2 - beta1), or "
        "equal betas, and look for what makes the gradient grow.",
    ),
    Rule(
        "oscillation",
        "correlation of neighbouring updates below it",
        ("update_autocorrelation",),
        -0.5,
        lambda v, limit: v["update_autocorrelation"] < limit,
        10,
        "{layer}: each step takes back the one before (correlation {update_autocorrelation:.2f} over {steps} recorded "
        "steps).",
        "Lower the learning rate: it is at the limit of stability along some direction.",
    ),
    Rule(
        "edge_of_stability",
        "largest preconditioned eigenvalue to its limit above it",
        ("stability_ratio",),
        1.0,
        lambda v, limit: v["stability_ratio"] > limit,
        3,
        "The largest curvature that the optimizer sees is {stability_ratio:.2f} of what its learning rate can stand.",
        "Loss may fall for long at this edge, but unevenly: a lower learning rate or a warm-up makes it smooth.",
    ),
)
"""Rules on the columns of one row. Those that look at several rows are in FURTHER."""

VANISHED = 1e-6  # of the largest mean |g| among the layers
JUMP = 100.0  # times the usual norm
FADED = 1e-3  # of the largest lr |g| of a layer: it has converged, or its schedule ends; small steps are meant then
DIVERGED = 2.0  # times the loss of the first notes

_VANISHES = Rule(
    "gradient_vanishes",
    "mean |g| to that of the largest layer below it",
    ("grad_abs_mean",),
    VANISHED,
    lambda v, limit: v["share"] < limit,
    10,
    "{layer}: its mean |g| is {share:.1g} of the largest layer's: gradients vanish on the way, or explode elsewhere.",
    "Use residual connections or normalisation, and activations that do not saturate; check the initial scale.",
    weights=True,
)
_TOO_SMALL = Rule(
    "update_too_small",
    "size of the update to that of the weights, where neither gradient nor learning rate has died away, below it",
    ("update_to_weight", "lr", "grad_norm"),
    1e-7,
    lambda v, limit: (v["update_to_weight"] < limit) & (v["push"] > FADED),
    20,
    "{layer}: steps change the weights by {update_to_weight:.2g} of their size, about what rounding does.",
    "Raise the learning rate; keep weights in float32 if they are in 16 bits; check that gradients are not scaled "
    "away.",
    weights=True,
)
_JUMPS = Rule(
    "gradient_jump",
    "norm of the gradient to its usual size, the geometric mean of the layer's last 50 steps, above it",
    ("grad_norm",),
    JUMP,
    lambda v, limit: v["ratio"] > limit,
    1,
    "{layer}: the gradient's norm, {grad_norm:.3g}, is {ratio:.3g} times the usual one.",
    "Look at this step's batch for outliers and broken labels; clipping the norm limits the damage.",
)
_BROKEN = Rule(
    "loss_not_finite",
    "a noted loss that is not finite",
    (),
    0.0,
    lambda v, limit: not math.isfinite(v["loss"]),
    1,
    "the loss is {loss}.",
    "Look for the first layer with an alarm, for infinities in the data, and for logarithms and divisions in the loss.",
)
_DIVERGES = Rule(
    "loss_diverges",
    "average of the last ten losses to that of the first ten above it",
    (),
    DIVERGED,
    lambda v, limit: v["loss"] > limit * v["at_first"] > 0,
    1,
    "the loss, {loss:.3g} on average, is {ratio:.2g} times that of the first steps.",
    "Lower the learning rate or warm it up; check the sign of the loss and of the step (maximize).",
)
FURTHER = (_VANISHES, _TOO_SMALL, _JUMPS, _BROKEN, _DIVERGES)
"""Rules that look at several rows, or at notes."""


class _State:
    """Of a rule and a layer: in a row, and since it was raised."""

    __slots__ = ("calm", "held", "raised")

    def __init__(self) -> None:
        self.held, self.calm, self.raised = 0, 0, False


class _Found(NamedTuple):
    """An alarm by its place: in a table, the step's and the layer's."""

    step: int
    layer: int
    rule: int
    alarm: Alarm


class Alarms:
    """Judges what is recorded, step after step.

    call: told of every alarm.  matrices: whether a layer has a matrix or kernel among its tensors.
    raised: the alarms so far, the last 1000.
    """

    def __init__(
        self, call: Callable[[Alarm], None] | None = None, matrices: Callable[[str], bool] = lambda layer: True
    ) -> None:
        self.raised: list[Alarm] = []
        self._call, self._matrices = call, matrices
        self._states: dict[str, dict[str, _State]] = {rule.id: {} for rule in (*ALARMS, *FURTHER)}
        self._usual: dict[str, tuple[float, int]] = {}  # mean ln |g|, and of how many steps
        self._largest: dict[str, float] = {}  # lr |g|
        self._losses: dict[str, tuple[float, float, int]] = {}  # of the first ten, of the last ten, number

    def state(self) -> dict[str, Any]:
        """All that later judgements depend on, for `load`."""
        states = {
            rule: {layer: (one.held, one.calm, one.raised) for layer, one in layers.items()}
            for rule, layers in self._states.items()
        }
        return {
            "raised": list(self.raised),
            "states": states,
            "usual": dict(self._usual),
            "largest": dict(self._largest),
            "losses": dict(self._losses),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.raised = list(state["raised"])
        for rule, layers in state["states"].items():
            self._states[rule] = {layer: _State() for layer in layers}
            for layer, (held, calm, raised) in layers.items():
                one = self._states[rule][layer]
                one.held, one.calm, one.raised = held, calm, raised
        self._usual, self._losses = dict(state["usual"]), dict(state["losses"])
        self._largest = dict(state.get("largest", {}))  # checkpoints made before there was such a thing lack it

    def taken(self, taken: Taken) -> list[Alarm]:
        """Judge tables, and rows of the run as a whole.  Returns the alarms they raise."""
        found: list[Alarm] = []
        for table in _side_by_side(taken.tables):
            found += self._judged(table)
        for step, layer, values in taken.notes:
            for rule in ALARMS:
                if values.keys() >= set(rule.needs):
                    found += self._judge(rule, step, layer, values)
        return self._raise(found)

    def _judged(self, table: Table) -> list[Alarm]:
        """The alarms of a table in the order of its steps, layers, and rules."""
        columns = dict(zip(table.columns, np.moveaxis(table.values, -1, 0), strict=True))
        weights = np.array([self._matrices(layer) for layer in table.layers], bool)
        found: list[_Found] = []
        with np.errstate(all="ignore"):
            for number, rule in enumerate(ALARMS):
                if columns.keys() >= set(rule.needs):
                    holds = rule.test(columns, rule.threshold)
                    found += self._tracked(number, rule, table, holds & weights if rule.weights else holds)
            if "grad_norm" in columns:
                ratio = self._to_usual(table.layers, columns["grad_norm"])
                if columns.keys() >= set(_TOO_SMALL.needs):
                    push = columns["lr"] * columns["grad_norm"]
                    further = {"push": self._to_largest(table.layers, np.where(ratio > JUMP, 0.0, push), push)}
                    holds = _TOO_SMALL.test({**columns, **further}, _TOO_SMALL.threshold) & weights
                    found += self._tracked(len(ALARMS) + 2, _TOO_SMALL, table, holds, further)
                holds, further = _JUMPS.test({"ratio": ratio}, JUMP), {"ratio": ratio}
                found += self._tracked(len(ALARMS), _JUMPS, table, holds, further, ("grad_norm",))
            if "grad_abs_mean" in columns and weights.any():
                size = np.where(np.isfinite(columns["grad_abs_mean"]) & weights, columns["grad_abs_mean"], 0.0)
                largest = np.broadcast_to(size.max(1, keepdims=True), size.shape)
                further = {"share": size / largest, "largest_grad_abs_mean": largest}
                holds = _VANISHES.test(further, VANISHED) & (size > 0)
                found += self._tracked(len(ALARMS) + 1, _VANISHES, table, holds, further, ("grad_abs_mean",))
        return [one.alarm for one in sorted(found, key=lambda one: one[:3])]

    def _tracked(
        self,
        number: int,
        rule: Rule,
        table: Table,
        holds: NDArray[np.bool_],
        further: Mapping[str, NDArray[np.float64]] | None = None,
        evidence: Iterable[str] = (),
    ) -> list[_Found]:
        """Follow a rule through a table, where it holds or has held.

        further: values that it looks at beside the columns.  evidence: columns it rests on beside its needs.
        """
        states = self._states[rule.id]
        some = holds.any(0)
        if not states and not some.any():
            return []
        found: list[_Found] = []
        known = np.array([layer in states for layer in table.layers], bool)
        for i in np.flatnonzero(some | known).tolist():
            for place, held in enumerate(holds[:, i].tolist()):

                def values(place: int = place, i: int = i) -> dict[str, float]:
                    more = {name: float(array[place, i]) for name, array in (further or {}).items()}
                    return dict(zip(table.columns, table.values[place, i].tolist(), strict=True)) | more

                names = (*rule.needs, *evidence, *(further or ()))
                raised = self._follow(rule, int(table.steps[place]), table.layers[i], held, values, names)
                found += [_Found(place, i, number, alarm) for alarm in raised]
        return found

    def _to_usual(self, layers: Sequence[str], norms: NDArray[np.float64]) -> NDArray[np.float64]:
        """The norms [step, layer] to their usual sizes, NaN where that is not known yet; let them in."""
        before = [self._usual.get(layer, (0.0, 0)) for layer in layers]
        usual, count = np.array([mean for mean, _ in before]), np.array([n for _, n in before])
        there = (norms > 0) & (norms < math.inf)
        logs = np.log(np.where(there, norms, 1.0))
        ratios = np.full(norms.shape, math.nan)
        for step, seen in enumerate(there):
            known = seen & (count >= 10)
            ratios[step, known] = np.exp(logs[step, known] - usual[known])
            count = count + seen
            usual = usual + seen * (logs[step] - usual) / np.clip(count, 1, 50)
        self._usual |= dict(zip(layers, zip(usual.tolist(), count.tolist(), strict=True), strict=True))
        return ratios

    def _to_largest(
        self, layers: Sequence[str], seen: NDArray[np.float64], sizes: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The sizes [step, layer] to the largest that was seen so far, NaN where that is 0; let those seen in."""
        before = np.array([self._largest.get(layer, 0.0) for layer in layers])
        largest = np.maximum.accumulate(np.vstack([before, np.where(np.isfinite(seen), seen, 0.0)]))[1:]
        self._largest |= dict(zip(layers, largest[-1].tolist(), strict=True))
        return sizes / np.where(largest > 0, largest, math.nan)

    def noted(self, step: int, values: Values) -> list[Alarm]:
        """Judge what was noted of the run: every value whose name ends with "loss"."""
        found: list[Alarm] = []
        for name, loss in values.items():
            if not name.endswith("loss"):
                continue
            where = "" if name == "loss" else name
            found += self._judge(_BROKEN, step, where, {"loss": loss})
            if not math.isfinite(loss):
                continue
            first, last, count = self._losses.get(name, (0.0, 0.0, 0))
            count += 1
            last += (loss - last) / min(count, 10)
            first = last if count <= 10 else first
            self._losses[name] = (first, last, count)
            if count > 20 and first > 0:
                found += self._judge(_DIVERGES, step, where, {"loss": last, "at_first": first, "ratio": last / first})
        return self._raise(found)

    def _judge(self, rule: Rule, step: int, layer: str, values: Values) -> list[Alarm]:
        return self._follow(rule, step, layer, bool(rule.test(values, rule.threshold)), lambda: values)

    def _follow(
        self,
        rule: Rule,
        step: int,
        layer: str,
        holds: bool,
        row: Callable[[], Values],
        evidence: Iterable[str] | None = None,
    ) -> list[Alarm]:
        """The alarm that a rule raises at a step of a layer, if it does.

        row: gives the values.  evidence: those the alarm rests on; the rule's needs, or all where it has none.
        """
        states = self._states[rule.id]
        state = states.get(layer)
        if not holds:
            if state is not None:
                state.held, state.calm = 0, state.calm + 1
                if state.calm >= CALM or not state.raised:
                    del states[layer]  # as if it had never held
            return []
        if state is None:
            state = states[layer] = _State()
        state.held, state.calm = state.held + 1, 0
        if state.raised or state.held < rule.patience:
            return []
        state.raised = True
        values = row()
        names = (rule.needs or values) if evidence is None else evidence
        proof = {name: float(values[name]) for name in names if name in values}
        told: dict[str, Any] = {**values, "layer": layer or "the run", "steps": state.held}
        said = rule.says.format(**told)
        return [Alarm(rule.id, step, layer, {**proof, "threshold": rule.threshold}, said, rule.helps)]

    def _raise(self, alarms: list[Alarm]) -> list[Alarm]:
        """Keep them, log them, and tell of them."""
        if alarms:
            self.raised = [*self.raised, *alarms][-MOST:]
        for alarm in alarms:
            log.warning("%s: %s", alarm.id, alarm)
            if self._call is not None:
                self._call(alarm)
        return alarms


def _side_by_side(tables: Sequence[Table]) -> list[Table]:
    """Tables of the same steps as one: all layers of a step are compared with each other."""
    alike: dict[bytes, list[Table]] = {}
    for table in tables:
        alike.setdefault(table.steps.tobytes(), []).append(table)
    return [
        some[0]
        if len(some) == 1
        else some[0]._replace(
            layers=tuple(layer for table in some for layer in table.layers),
            values=np.concatenate([table.values for table in some], 1),
        )
        for some in alike.values()
    ]
