"""Which systems of a run differ only in their condition: one model under its own update and under the controls."""

from __future__ import annotations

import dataclasses
import json

from prosg.evaluation.results import Run, SystemResult

__all__ = ["CONDITIONS", "by_model"]

CONDITIONS = {
    f"{update}{state}": f"{name}{', state wiped' * bool(state)}"
    for state in ("", ", wiped")
    for update, name in {"own": "own update", "other": "another prompt's", "mean": "the mean", "none": "none"}.items()
}
"""Condition -> what tables call it."""


def by_model(run: Run) -> list[dict[str, SystemResult]]:
    """Systems that differ in whose update acts and which state is kept, and in nothing else: condition -> system."""
    groups: dict[str, dict[str, SystemResult]] = {}
    for system in run.systems:
        if system.config.endpoint:
            continue
        options = dataclasses.asdict(system.config)
        for name in ("label", "update", "state"):
            options.pop(name)
        condition = system.config.update + (", wiped" if system.config.state == "wiped" else "")
        groups.setdefault(json.dumps(options, sort_keys=True), {})[condition] = system
    return [group for group in groups.values() if len(group) > 1]
