"""Numbers as a reader wants to see them. Rounding happens here and nowhere else."""

import math

__all__ = ["compact", "count", "factor", "number", "p_value", "plus_minus", "signed", "tick"]

MISSING = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _decimals(value: float, digits: int) -> int:
    """Decimal places that show ``digits`` significant digits of a non-zero value (after rounding: 0.0999 -> 0.10)."""
    exponent = int(f"{abs(value):.{digits - 1}e}".rpartition("e")[2])
    return max(0, digits - 1 - exponent)


def _is_plain(value: float) -> bool:
    """Whether a size reads better as 0.00123 than as 1.23·10⁻³."""
    return 1e-4 <= abs(value) < 1e6


def _power(value: float, digits: int) -> str:
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")  # 1.0 times a power of ten is that power
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
    return f"{mantissa}·{power}".replace("-", "−") if float(mantissa) != 1 else power


def _short_power(value: float, digits: int) -> str:
    mantissa, dot, power = _power(value, digits).partition("·")
    return f"{mantissa.rstrip('0').rstrip('.')}{dot}{power}" if dot else mantissa


def number(value: float | None, digits: int = 3) -> str:
    """A value with ``digits`` significant digits, trailing zeros kept.

    >>> number(0.012345), number(1.2e-7), number(12345.6), number(0.0), number(None), number(float("inf"))
    ('0.0123', '1.20·10⁻⁷', '12,346', '0', '–', '∞')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if not _is_plain(value):
        return _power(value, digits)
    return f"{value:,.{_decimals(value, digits)}f}".replace("-", "−")


def compact(value: float | None, digits: int = 2) -> str:
    """As `number`, without trailing zeros: for settings such as a step size.

    >>> compact(0.0316), compact(0.1), compact(1.0), compact(3.16e-5), compact(1e-5), compact(250.0)
    ('0.032', '0.1', '1', '3.2·10⁻⁵', '10⁻⁵', '250')
    """
    if value is None or not math.isfinite(value) or value == 0:
        return number(value)
    if not _is_plain(value):
        return _short_power(value, digits)
    text = f"{value:,.{_decimals(value, digits)}f}".replace("-", "−")
    return text.rstrip("0").rstrip(".") if "." in text else text


def plus_minus(mean: float | None, deviation: float | None) -> str:
    """Mean and standard deviation with the decimals that the deviation's first two digits ask for.

    A mean without a deviation (one seed) stands alone.

    >>> plus_minus(0.012345, 0.00123), plus_minus(97.31, 0.21), plus_minus(1.2e-5, 2e-6), plus_minus(0.5, None)
    ('0.0123 ±\xa00.0012', '97.31 ±\xa00.21', '(1.20 ±\xa00.20)·10⁻⁵', '0.500')
    """
    if mean is None or not math.isfinite(mean) or deviation is None or not math.isfinite(deviation):
        return number(mean)
    if deviation == 0 or mean == 0:
        return f"{number(mean)} ± {number(deviation, 2)}"
    if not _is_plain(mean):
        exponent = math.floor(math.log10(abs(mean)))
        unit = 10.0**exponent
        return f"({plus_minus(mean / unit, deviation / unit)})·10{str(exponent).translate(_SUPERSCRIPT)}"
    # The mean keeps two significant digits even where the deviation is larger than it.
    decimals = min(8, max(_decimals(deviation, 2), _decimals(mean, 2) if deviation > abs(mean) else 0))
    return f"{mean:,.{decimals}f} ± {deviation:,.{decimals}f}".replace("-", "−")


def factor(value: float | None) -> str:
    """A ratio.

    >>> factor(0.4231), factor(1.0), factor(12.34), factor(None)
    ('×0.42', '×1.00', '×12', '–')
    """
    if value is None or not math.isfinite(value):
        return number(value)
    # Ratios near one differ in their distance from one: two decimals, more only for small ratios.
    return f"×{value:.2f}" if 0.1 <= value < 10 else f"×{number(value, 2)}"


def signed(value: float | None, decimals: int | None = None) -> str:
    """A difference with its sign: three significant digits, or as many ``decimals`` as asked for.

    >>> signed(0.42314), signed(-1.5, decimals=2), signed(0.0), signed(0.001, decimals=2)
    ('+0.423', '−1.50', '0', '0.00')
    """
    if value is None or not math.isfinite(value) or value == 0:
        return number(value)
    if decimals is None:
        return ("+" if value > 0 else "") + number(value)
    words = f"{value:+,.{decimals}f}".replace("-", "−")
    return words if words.strip("+−0.") else words[1:]


def p_value(value: float | None) -> str:
    """
    >>> p_value(0.0321), p_value(0.00002), p_value(1.0), p_value(None)
    ('0.032', '< 0.001', '1', '–')
    """
    if value is None or math.isnan(value):
        return MISSING
    return "< 0.001" if value < 0.001 else compact(value)


def count(value: float | None, noun: str = "", plural: str = "") -> str:
    """
    >>> count(27722), count(1, "seed"), count(3, "seed"), count(2, "class", "classes")
    ('27,722', '1 seed', '3 seeds', '2 classes')
    """
    if value is None:
        return MISSING
    text = f"{value:,.0f}"
    return f"{text} {noun if value == 1 else plural or noun + 's'}" if noun else text


def tick(value: float, *, powers_from: float = 1e6) -> str:
    """A label on an axis: as short as it can be without loss; sizes from ``powers_from`` on are powers of ten.

    >>> tick(0.001), tick(0.0001), tick(20000.0), tick(1e4, powers_from=1e4), tick(0.25), tick(-3.0)
    ('0.001', '10⁻⁴', '20,000', '10⁴', '0.25', '−3')
    """
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < powers_from:
        return _short_power(value, 2)
    return f"{value:,.6f}".rstrip("0").rstrip(".").replace("-", "−")
