"""Sentences that say what the tables show, made from their numbers and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prosg.evaluation.measured import OWN, PHASE1, RIVALS, Bin, Line, Measured, verdict

__all__ = ["FAR_TOKENS", "amount", "findings", "join", "mean_only", "with_seeds"]

FAR_TOKENS = 500
"""Controls are judged from here on: nearer, the recurrent state alone may hold the prompt."""


def amount(share: float) -> str:
    """A share as .98, 0 or 1.0; rounding makes nothing perfect, nor zero (.998, .002)."""
    if share in (0, 1):
        return "1.0" if share else "0"
    digits = 2 if 0.005 <= share < 0.995 else 3
    return f"{min(max(share, 0.001), 0.999):.{digits}f}".removeprefix("0")


def with_seeds(values: Sequence[float | None], write: Callable[[float], str] = amount) -> str:
    """The mean over seeds, and each where there are several; "-" for none."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return mean_only(known, write)
    return f"{mean_only(known, write)} ({'/'.join(map(write, known))})"


def mean_only(values: Sequence[float | None], write: Callable[[float], str] = amount) -> str:
    """The mean of what there is; "-" for nothing."""
    known = [value for value in values if value is not None]
    return write(sum(known) / len(known)) if known else "-"


def join(words: Iterable[str]) -> str:
    """a, b and c."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def distances(bins: Sequence[Bin]) -> str:
    """46, 180 and 550 tokens."""
    return f"{join(f'{where.tokens:,}' for where in bins)} tokens"


def _compare(measured: Measured, ours: Line, theirs: Line, bins: Sequence[Bin]) -> dict[str, list[Bin]]:
    """The bins by what their intervals allow to say of ours against theirs."""
    found: dict[str, list[Bin]] = {}
    for where in bins:
        found.setdefault(verdict(measured.differences(ours, theirs, where)), []).append(where)
    return found


def findings(measured: Measured) -> list[str]:
    """What came out, one sentence or two per question."""
    said = []
    if PHASE1 in measured.lines:
        each = [f"{_late(measured, PHASE1, where)} at {where.tokens:,}" for where in measured.bins]
        said.append(f"Phase 1 alone, late stage exactly right: {join(each)} tokens.")
    if OWN in measured.lines:
        each = [f"{_late(measured, OWN, where)} at {where.tokens:,}" for where in measured.bins]
        said.append(f"`plus`, its own update: {join(each)} tokens.")
    far = [where for where in measured.bins if where.tokens >= FAR_TOKENS]
    for system in ("plus", "paper"):
        if Line(system, "own") in measured.lines:
            said += _carries(measured, system, far)
    if OWN in measured.lines:
        said.append(_beside_rivals(measured))
    if len(measured.seeds) == 1:
        said.append("One seed: the intervals are over prompts and say nothing of the spread between trainings.")
    return said


def _late(measured: Measured, line: Line, where: Bin) -> str:
    mean = measured.mean(line, where)
    return "-" if mean is None else amount(mean)


def _carries(measured: Measured, system: str, far: Sequence[Bin]) -> list[str]:
    """Whether the update carries its prompt, by its controls."""
    own = Line(system, "own")
    names = {"other": "another prompt's update", "mean": "the mean update", "none": "no update"}
    controls = {Line(system, update): name for update, name in names.items() if Line(system, update) in measured.lines}
    if Line(system, "none") not in controls and PHASE1 in measured.lines:
        controls[PHASE1] = "phase 1"
    swapped = [line for line in controls if line.update in ("other", "mean")]
    if not swapped:
        return []
    if not far:
        return [f"`{system}`: no distance of {FAR_TOKENS} tokens or more was measured, so its controls are not judged."]
    lines = {own: "its own update", **controls, Line(system, "own", "wiped"): "its own with the prompt's state wiped"}
    each = [
        f"{name} {'/'.join(_late(measured, line, where) for where in far)}"
        for line, name in lines.items()
        if line in measured.lines
    ]
    better = {line: _compare(measured, own, line, far).get("better", []) for line in controls}
    numbers = f"`{system}` at {distances(far)}: {join(each)}."
    everywhere = [where for where in far if all(where in found for found in better.values())]
    rivals = join(controls.values())
    if everywhere:
        at = "each of these distances" if everywhere == far else distances(everywhere)
        return [f"{numbers} Its own is better than {rivals} at {at}: there the update carries what the prompt said."]
    if not any(better[line] for line in swapped):
        return [
            f"{numbers} Its own is at none of these distances better than {join(controls[s] for s in swapped)}: these "
            "controls show no prompt content in the update."
        ]
    some = [f"{controls[line]} at {distances(found)}" for line, found in better.items() if found]
    return [
        f"{numbers} Its own is better than {join(some)}, but nowhere than all of {rivals}: "
        "whether the update carries its prompt stays open."
    ]


def _beside_rivals(measured: Measured) -> str:
    if not measured.rivals:
        return (
            "No rival was measured in this run, so nothing here says that an update is better than training phase 1 "
            "further against perturbed states, or than a static adapter; `--full` measures them."
        )
    bins = [where for where in measured.bins if measured.values(OWN, where)]
    by_rival = {rival: _compare(measured, OWN, rival, bins) for rival in measured.rivals}
    best, level = [], []
    for where in bins:
        said = {rival: next(word for word, found in by_rival[rival].items() if where in found) for rival in by_rival}
        if set(said.values()) == {"better"}:
            best.append(where)
        elif "worse" not in said.values():
            equal = [rival for rival, word in said.items() if word == "no clear difference"]
            strongest = max(equal, key=lambda rival: measured.mean(rival, where) or 0.0, default=None)
            level += [f'{where.tokens:,} ("{strongest}")'] if strongest else []
    parts = []
    if best:
        all_of_them = "every rival" if len(measured.rivals) == len(RIVALS) else "every rival that was measured"
        parts.append(f"better than {all_of_them} at {distances(best)}")
    if level:
        parts.append(f"not clearly different from the best of them at {join(level)} tokens")
    for rival, found in by_rival.items():
        if "worse" in found:
            parts.append(f'worse than "{rival}" at {distances(found["worse"])}')
    return f"Beside the rivals, on the same prompts, `plus` with its own update is {'; '.join(parts)}."
