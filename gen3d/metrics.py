"""Measured numbers: with a definition, a direction and, where there is one, a 95 % interval."""

import math
from dataclasses import dataclass

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution: half a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Metric:
    """One measured number of an evaluation.

    Attributes:
        name: short name, the key in metrics.json.
        value: the number; None when it could not be computed.
        definition: one line that says what is counted and over which denominator.
        better: "higher", "lower", or the value that is best (50 for 1-NNA).
        citation: where the definition comes from.
    """

    name: str
    value: float | None
    definition: str
    better: str | float
    citation: str = ""


@dataclass(frozen=True)
class Estimate(Metric):
    """A metric with its 95 % confidence interval.

    Attributes:
        interval: lower and upper end in the unit of `value`; None when there is no value.
    """

    interval: tuple[float, float] | None = None


def percentage(
    name: str, count: int, total: int, definition: str, better: str | float = "higher", citation: str = ""
) -> Estimate:
    """100 count / total with its Wilson interval; None when `total` is 0."""
    value = 100 * count / total if total else None
    return Estimate(name, value, definition, better, citation, wilson_interval(count, total))


def wilson_interval(count: int, total: int) -> tuple[float, float] | None:
    """95 % score interval of a proportion, in percent (Wilson, J. Am. Stat. Assoc. 22, 209, 1927)."""
    if not total:
        return None
    p, shrink = count / total, 1 / (1 + Z95 * Z95 / total)
    centre = shrink * (p + Z95 * Z95 / (2 * total))
    half = shrink * Z95 * math.sqrt(p * (1 - p) / total + Z95 * Z95 / (4 * total * total))
    # at none and at all the ends coincide with p, but for rounding
    low = 0.0 if count == 0 else 100 * (centre - half)
    high = 100.0 if count == total else 100 * (centre + half)
    return low, high
