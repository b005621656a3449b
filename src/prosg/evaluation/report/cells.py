"""What stands in the cells of a report's tables: one seed with its interval, or several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prosg.evaluation.findings import amount
from prosg.evaluation.results import Mean, Run, System
from prosg.model.perplexity import summarize

__all__ = [
    "late_perplexity_of",
    "numbers",
    "of_seeds",
    "pairs_of",
    "perplexity_of",
    "share",
    "signed",
    "tokens_at",
    "verdict",
]


def share(mean: Mean | None, interval: bool = True) -> str:
    """A mean as .98 [.95, 1.0]; - where there is none."""
    if mean is None:
        return "-"
    return f"{amount(mean.mean)} [{amount(mean.low)}, {amount(mean.high)}]" if interval else amount(mean.mean)


def of_seeds(systems: Sequence[System], value: Callable[[System], Mean | None]) -> str:
    """One seed's mean with its interval; of several the mean, and each apart."""
    found = [mean for system in systems if (mean := value(system)) is not None]
    if len(found) < 2:
        return share(found[0] if found else None)
    return f"{amount(sum(mean.mean for mean in found) / len(found))} ({'/'.join(amount(mean.mean) for mean in found)})"


def numbers(systems: Sequence[System], value: Callable[[System], float | None], digits: int = 3) -> str:
    """The mean over systems, and each where there are several."""
    found = [number for system in systems if (number := value(system)) is not None]
    if not found:
        return "-"
    mean = f"{sum(found) / len(found):.{digits}f}"
    return mean if len(found) == 1 else f"{mean} ({'/'.join(f'{number:.{digits}f}' for number in found)})"


def signed(mean: Mean | None) -> str:
    """A difference with its sign and interval."""
    if mean is None:
        return "-"
    return f"{mean.mean:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]"


def verdict(means: Sequence[Mean | None]) -> str:
    """Better or worse only where every seed's interval excludes zero."""
    there = [mean for mean in means if mean is not None]
    if not there:
        return "not measured"
    if all(mean.low > 0 for mean in there):
        return "better"
    return "worse" if all(mean.high < 0 for mean in there) else "no clear difference"


def perplexity_of(system: System) -> float | None:
    """Over all answer tokens."""
    return summarize(list(system.scores.values())).perplexity if system.scores else None


def late_perplexity_of(system: System) -> float | None:
    """Over the tokens of last stages."""
    return summarize(list(system.scores.values())).late_perplexity if system.scores else None


def pairs_of(run: Run, label: str) -> list[tuple[System, System]]:
    """A label's seeds, each with the reference of its seed (or the only one)."""
    references = {system.config.seed: system for system in run.of(run.reference)}
    only = next(iter(references.values())) if len(references) == 1 else None
    return [(s, r) for s in run.of(label) if (r := references.get(s.config.seed, only)) is not None]


def tokens_at(systems: Sequence[System], sentences: int) -> int:
    """Mean distance of the stories of so many sentences."""
    found = [system.distances[sentences] for system in systems if sentences in system.distances]
    return round(sum(found) / len(found))
