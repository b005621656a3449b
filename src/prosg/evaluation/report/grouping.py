"""Which systems of a run differ only in their condition: one model under its own update and under the controls."""

from __future__ import annotations

import dataclasses
import json

from prosg.evaluation.controls import Condition
from prosg.evaluation.results import Run, SystemResult

__all__ = ["CONDITIONS", "by_model"]

CONDITIONS = {
    str(condition): condition.label
    for state in ("kept", "wiped")
    for condition in (Condition(update, state) for update in ("own", "other", "mean", "none"))
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
        condition = Condition(system.config.update, system.config.state)
        groups.setdefault(json.dumps(options, sort_keys=True), {})[str(condition)] = system
    return [group for group in groups.values() if len(group) > 1]
