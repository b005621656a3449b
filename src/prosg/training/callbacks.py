"""Callbacks of the Trainer: a log of every step, early stopping, progress for the caller."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from transformers import TrainerCallback

from prosg.training.config import StopRule
from prosg.utils.distributed import is_first
from prosg.utils.io import write_lines
from prosg.utils.progress import say
from prosg.utils.write_errors import write_errors

__all__ = ["EarlyStopping", "ProgressReporter", "StepLog"]


class StepLog(TrainerCallback):  # type: ignore[misc]
    """steps.jsonl: one line per optimiser step, cut back to the checkpoint at a resume. The first process writes it."""

    def __init__(self, path: Path, measure: Callable[[], Mapping[str, float]]) -> None:
        """`measure` is called after every step, in every process, for the fields of the step's line."""
        self.path = path
        self.measure = measure
        self.file: TextIO | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not is_first():
            return
        lines: list[str] = []
        missing = set(range(1, state.global_step + 1))
        if self.path.exists():
            for line in self.path.read_text("utf-8", errors="replace").split("\n"):
                try:
                    step = json.loads(line)["step"]
                    if step <= state.global_step:
                        lines.append(line)
                        missing.discard(step)
                except (ValueError, LookupError, TypeError):  # cut by a kill, or damaged: the other lines stay
                    continue
        if missing:
            print(f"{self.path}: lacks {len(missing)} of the first {state.global_step} steps", file=sys.stderr)
        write_lines(self.path, lines)
        self.file = self.path.open("a", buffering=1, encoding="utf-8")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        line = {"step": state.global_step, **self.measure()}
        if self.file is not None:
            with write_errors(self.path):
                self.file.write(json.dumps(line) + "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.file is not None:
            self.file.close()


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Stops training by a rule. It reads only the logged history, so that a resumed run stops at the same step."""

    def __init__(self, rule: StopRule) -> None:
        self.rule = rule

    def _values(self, history: Sequence[Mapping[str, Any]]) -> list[float]:
        """The metric's values, negated where smaller is better."""
        key = f"eval_{self.rule.metric}"
        return [self._sign * row[key] for row in history if key in row]

    @property
    def _sign(self) -> float:
        return -1.0 if self.rule.falling else 1.0

    def has_reached(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the last `rule.times` evaluations of a history all reached `rule.value`."""
        times = self.rule.times
        last = self._values(history)[-times:] if times else []
        return len(last) == times > 0 and all(value >= self._sign * self.rule.value for value in last)

    def has_ended(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether training stops after a history: the value was reached, or patience has run out."""
        values = self._values(history)
        evaluations_since_best = len(values) - 1 - values.index(max(values)) if values else 0
        return self.has_reached(history) or 0 < self.rule.patience <= evaluations_since_best

    def _reason(self, history: Sequence[Mapping[str, Any]]) -> str:
        """Why training stops after a history."""
        rule = self.rule
        if not self.has_reached(history):
            return f"no better {rule.metric} in {rule.patience} evaluations"
        limit = "at most" if rule.falling else "at least"
        return f"{rule.metric} is {limit} {rule.value:g}" + f", {rule.times} times in a row" * (rule.times > 1)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if self.has_ended(state.log_history):
            if is_first() and state.global_step < state.max_steps:
                say(f"step {state.global_step}/{state.max_steps}  stops here: {self._reason(state.log_history)}")
            control.should_training_stop = True
            control.should_save = True
        return control


class ProgressReporter(TrainerCallback):  # type: ignore[misc]
    """Calls a function with the step and the newest metrics, every tenth step and after every evaluation."""

    def __init__(self, report: Callable[[int, dict[str, Any]], None]) -> None:
        self.report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % 10 == 0:
            self.report(state.global_step, {})

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.report(state.global_step, metrics or {})
