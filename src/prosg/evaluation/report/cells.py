"""Cells of a report's tables: a share with its interval, the mean over seeds, a signed difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from prosg.evaluation.formatting import amount
from prosg.evaluation.results import Run, SystemResult
from prosg.evaluation.statistics import LEAST_CLAIMED, Mean
from prosg.model.perplexity import summarize
from prosg.utils.tables import perplexity_text

__all__ = [
    "TOO_FEW",
    "late_perplexity_of",
    "numbers",
    "of_seeds",
    "pairs_of",
    "perplexity_of",
    "share",
    "signed",
    "verdict",
    "whole",
]

TOO_FEW = "too few rows"
NOT_FINITE = "not finite"


def share(mean: Mean | None, interval: bool = True) -> str:
    """A mean as .98 [.95, 1.0]; - where there is none."""
    if mean is None:
        return "-"
    return f"{amount(mean.mean)} [{amount(mean.low)}, {amount(mean.high)}]" if interval else amount(mean.mean)


def of_seeds(systems: Sequence[SystemResult], value: Callable[[SystemResult], Mean | None], brief: bool = False) -> str:
    """One seed's mean with its interval; of several seeds the mean, and each apart. `brief`: the mean alone."""
    means = [mean for system in systems if (mean := value(system)) is not None]
    if len(means) < 2:
        return share(means[0] if means else None, interval=not brief)
    text = amount(sum(mean.mean for mean in means) / len(means))
    return text if brief else f"{text} ({'/'.join(amount(mean.mean) for mean in means)})"


def whole(number: float) -> str:
    """A number of tokens."""
    return f"{number:,.0f}"


def numbers(
    systems: Sequence[SystemResult],
    value: Callable[[SystemResult], float | None],
    text: Callable[[float], str] = perplexity_text,
    brief: bool = False,
) -> str:
    """The mean over systems, and each where there are several, as `text` writes them."""
    values = [number for system in systems if (number := value(system)) is not None]
    if not values:
        return "-"
    mean = text(sum(values) / len(values))
    return mean if brief or len(values) == 1 else f"{mean} ({'/'.join(map(text, values))})"


def signed(mean: Mean | None) -> str:
    """A difference with its sign and interval."""
    if mean is None:
        return "-"
    if not math.isfinite(mean.mean):
        return NOT_FINITE
    return f"{mean.mean:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]"


def verdict(means: Sequence[Mean | None]) -> str:
    """ "better" or "worse" only where every seed's interval excludes zero, and is over `LEAST_CLAIMED` rows or more.

    "not finite" where a value is no number, as the likelihood of a model whose logits are none.
    """
    measured = [mean for mean in means if mean is not None]
    if not measured:
        return "not measured"
    if not all(math.isfinite(mean.mean) for mean in measured):
        return NOT_FINITE
    if min(mean.n for mean in measured) < LEAST_CLAIMED:
        return TOO_FEW
    if all(mean.low > 0 for mean in measured):
        return "better"
    return "worse" if all(mean.high < 0 for mean in measured) else "no clear difference"


def perplexity_of(system: SystemResult) -> float | None:
    """Over all answer tokens."""
    return summarize(list(system.scores.values())).perplexity if system.scores else None


def late_perplexity_of(system: SystemResult) -> float | None:
    """Over the tokens of last stages."""
    return summarize(list(system.scores.values())).late_perplexity if system.scores else None


def pairs_of(run: Run, label: str) -> list[tuple[SystemResult, SystemResult]]:
    """A label's seeds, each with the reference of its seed (or the only one)."""
    references = {system.config.seed: system for system in run.of(run.reference)}
    only = next(iter(references.values())) if len(references) == 1 else None
    return [(s, r) for s in run.of(label) if (r := references.get(s.config.seed, only)) is not None]
