"""Effects in plain words: a sentence each, a headline for all, and what the choice of the Adam cell changes.

Comparisons of methods in pairs likewise.
"""

from collections.abc import Sequence
from typing import Final

from stepscope.experiments.arms import label
from stepscope.experiments.effects import Comparison, Contrast, Effect

__all__ = ["adam_cells", "compared", "comparison", "headline", "sentence"]

ACTING: Final = {"sign": "taking the sign", "variance_adaptation": "adapting to the variance"}
INGREDIENT: Final = {"sign": "the sign", "variance_adaptation": "variance adaptation", "interaction": "the interaction"}
OTHER_ADAM: Final = "The paper's Adam also differs in beta2, the uncorrected variance and epsilon"


def sentence(effect: Effect) -> str:
    """The effect as one plain sentence with its numbers, and a second one if seeds had to be left out.

    For example "Taking the sign lowers the final training loss by a factor 0.42 [0.31, 0.58] (95 % interval, 10 seeds,
    Holm-corrected p = 0.0004)."
    """
    text = _interaction(effect) if effect.effect == "interaction" else _main_effect(effect)
    return f"{text[0].upper()}{text[1:]}.{_left_out(effect)}"


def headline(problem: str, effects: Sequence[Effect]) -> str:
    """Which ingredient matters on this problem and with what certainty, from the effects with one Adam cell."""
    outcomes = dict.fromkeys(effect.outcome.name for effect in effects)
    clauses = (_what_matters([effect for effect in effects if effect.outcome.name == name]) for name in outcomes)
    return f"On {problem}, {'; '.join(clauses)}."


def comparison(found: Comparison) -> str:
    """A method against the baseline as one plain sentence, and a second one if seeds had to be left out."""
    method, thing = label(found.method), _thing(found)
    against = f"in the place of {label(found.baseline)}"
    if found.verdict == "no difference":
        text = f"{method} {against} makes no difference to {thing}: {_size(found)}{_margin(found)} {_certainty(found)}"
    elif found.verdict == "cannot tell":
        text = _undecided(found, f"whether {method} {against} changes {thing}", "both methods")
    else:
        verb = "raises" if _is_above(found) else "lowers"
        small = ", certain but small," if found.negligible else ""
        text = f"{method} {against} {verb} {thing} by {_size(found, signed=False)}{small} {_certainty(found)}"
    return f"{text[0].upper()}{text[1:]}.{_left_out(found, 'this comparison')}"


def compared(problem: str, found: Sequence[Comparison]) -> str:
    """Which methods help or hurt against the baseline, outcome by outcome."""
    clauses = []
    for name in dict.fromkeys(one.outcome.name for one in found):
        rows = [one for one in found if one.outcome.name == name]
        words = []
        for verdict, verb in (("helps", "improved by"), ("hurts", "made worse by")):
            named = [f"{label(one.method)} ({_evidence(one)})" for one in rows if one.verdict == verdict]
            words += [f"{verb} {', '.join(named)}"] if named else []
        for verdict, verb in (("no difference", "not changed by"), ("cannot tell", "undecided for")):
            named = [label(one.method) for one in rows if one.verdict == verdict]
            words += [f"{verb} {', '.join(named)}"] if named else []
        clauses.append(f"{_thing(rows[0])} is {', '.join(words)}")
    return f"On {problem}, against {label(found[0].baseline)}: {'; '.join(clauses)}."


def adam_cells(paper: Sequence[Effect], matched: Sequence[Effect]) -> str:
    """Whether the verdicts change when the paper's Adam is replaced by the matched cell."""
    changed = [
        f"{INGREDIENT[one.effect]} for {_thing(one)} ({one.verdict} -> {other.verdict})"
        for one, other in zip(paper, matched, strict=True)
        if one.verdict != other.verdict
    ]
    instead = "with one beta and the corrected variance of Eq. 22 instead, the conclusion"
    return f"{OTHER_ADAM}; {instead} {'differs in ' + ', '.join(changed) if changed else 'is the same'}."


def _main_effect(effect: Effect) -> str:
    acting, thing = ACTING[effect.effect], _thing(effect)
    if effect.verdict == "no difference":
        return f"{acting} makes no difference to {thing}: {_size(effect)}{_margin(effect)} {_certainty(effect)}"
    if effect.verdict == "cannot tell":
        return _undecided(effect, f"whether {acting} changes {thing}", "all four methods")
    verb = "raises" if _is_above(effect) else "lowers"
    small = ", certain but small," if effect.negligible else ""
    return f"{acting} {verb} {thing} by {_size(effect, signed=False)}{small} {_certainty(effect)}"


def _interaction(effect: Effect) -> str:
    both, thing = "sign and variance adaptation", _thing(effect)
    if effect.verdict == "no difference":
        return f"{both} act independently on {thing}: {_size(effect)}{_margin(effect)} {_certainty(effect)}"
    if effect.verdict == "cannot tell":
        question = f"whether {both} reinforce each other or interfere in {thing}"
        return _undecided(effect, question, "all four methods")
    verb = "reinforce each other" if effect.verdict == "helps" else "interfere"
    side = "above" if _is_above(effect) else "below"
    if effect.outcome.scale == "ratio":
        place = f"at {_size(effect).removeprefix('a factor ')} times"
    else:
        place = f"{_size(effect, signed=False)} {side}"
    together = f"together they leave {thing} {place} what their separate effects would give"
    return f"{both} {verb}: {together} {_certainty(effect)}"


def _undecided(effect: Contrast, question: str, methods: str) -> str:
    absent = [label(method) for method, seeds in effect.missing.items() if seeds is None]
    if absent:
        return f"it cannot be told {question}: no step size that was tried is stable for {' and '.join(absent)}"
    count = len(effect.per_seed)
    if count == 0:
        return f"it cannot be told {question}: no seed finished with {methods}"
    if count == 1:
        return f"one seed cannot tell {question} ({_size(effect)})"
    return f"{count} seeds cannot tell {question}: {_size(effect)} {_certainty(effect)}"


def _what_matters(effects: Sequence[Effect]) -> str:
    """One clause on both ingredients for one outcome."""
    *main, interaction = effects
    decided = [effect for effect in main if _matters(effect)]
    if len(decided) == 2:
        both = " and ".join(f"{ACTING[effect.effect]} {effect.verdict} ({_evidence(effect)})" for effect in decided)
        text = f"both ingredients matter for {_thing(interaction)}: {both}"
    elif decided:
        (one,) = decided
        (other,) = (effect for effect in main if effect is not one)
        rest = "makes next to no difference" if other.negligible else "remains undecided"
        matters = f"{INGREDIENT[one.effect]} is the ingredient that matters for {_thing(one)}"
        text = f"{matters}: it {one.verdict} ({_evidence(one)}), while {INGREDIENT[other.effect]} {rest}"
    elif all(effect.negligible for effect in main):
        matters = "makes more than a negligible difference"
        text = f"neither the sign nor variance adaptation {matters} to {_thing(interaction)}"
    else:
        matters = f"matters for {_thing(interaction)}"
        text = f"{_seeds(interaction)} cannot tell whether the sign or variance adaptation {matters}"
    if _matters(interaction):
        verb = "reinforce each other" if interaction.verdict == "helps" else "interfere"
        text += f", {'and' if decided else 'but'} the two {verb} ({_evidence(interaction)})"
    return text


def _matters(effect: Effect) -> bool:
    return effect.verdict in ("helps", "hurts") and not effect.negligible


def _thing(effect: Contrast) -> str:
    part = "training" if effect.outcome.name == "train_loss" else "test"
    return f"the final {part} {effect.outcome.unit}"


def _seeds(effect: Contrast) -> str:
    count = len(effect.per_seed)
    return f"{count} seed{'' if count == 1 else 's'}"


def _is_above(effect: Contrast) -> bool:
    assert effect.estimate is not None
    return effect.estimate > (1 if effect.outcome.scale == "ratio" else 0)


def _size(effect: Contrast, signed: bool = True) -> str:
    """The estimate and its interval: "a factor 0.42 [0.31, 0.58]", "1.2 points [0.4, 2.0]" or "0.03 [0.01, 0.05]"."""
    assert effect.estimate is not None
    numbers = (
        [effect.estimate] if effect.low is None or effect.high is None else [effect.estimate, effect.low, effect.high]
    )
    if effect.outcome.scale == "ratio":
        return f"a factor {_with_interval(numbers)}"
    if not signed and effect.estimate < 0:
        numbers = [-numbers[0], *(-number for number in reversed(numbers[1:]))]
    if effect.outcome.is_share:
        return _with_interval([100 * number for number in numbers], " points")
    return _with_interval(numbers)


def _with_interval(numbers: Sequence[float], unit: str = "") -> str:
    """Three significant digits each: "0.42 [0.31, 0.58]", or the number alone where there is no interval."""
    rounding = 1e-9 * max(map(abs, numbers))
    shown = (0.0 if abs(number) < rounding else number for number in numbers)
    head, *interval = (f"{number:#.3g}".rstrip(".") for number in shown)
    return f"{head}{unit} [{', '.join(interval)}]" if interval else f"{head}{unit}"


def _margin(effect: Contrast) -> str:
    if effect.low == effect.high:
        return " on every seed"
    return (
        ", inside the 5 % that count as none"
        if effect.outcome.scale == "ratio"
        else ", inside the half point that counts as none"
    )


def _p(effect: Contrast) -> str:
    assert effect.p_holm is not None
    return "p < 0.0001" if effect.p_holm < 1e-4 else f"p = {effect.p_holm:.2g}"


def _certainty(effect: Contrast) -> str:
    interval = "the same on every seed" if effect.low is None else "95 % interval"
    return f"({interval}, {_seeds(effect)}, Holm-corrected {_p(effect)})"


def _evidence(effect: Contrast) -> str:
    return f"{_size(effect)}, {_seeds(effect)}, {_p(effect)}"


def _left_out(effect: Contrast, where: str = "all four methods") -> str:
    """Which runs did not finish, and that their seeds are not in the numbers: they would make the method look worse."""
    absent: dict[tuple[int, ...], list[str]] = {}
    for method, seeds in effect.missing.items():
        if seeds:
            absent.setdefault(seeds, []).append(label(method))
    parts = [
        f"{' and '.join(labels)} did not finish on seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
        for seeds, labels in absent.items()
    ]
    return f" {'; '.join(parts)}: left out for {where}." if parts else ""
