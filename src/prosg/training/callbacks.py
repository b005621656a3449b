"""Callbacks of the Trainer: a log of every step, early stopping, progress for the caller."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from transformers import TrainerCallback

from prosg.model.contrast import Contrast
from prosg.training.config import StopRule
from prosg.utils.distributed import is_first
from prosg.utils.io import write_lines
from prosg.utils.progress import say
from prosg.utils.write_errors import write_errors

__all__ = ["EVAL_CONTRAST", "EVAL_CONTRAST_ERROR", "EarlyStopping", "NoiseWarning", "ProgressReporter", "StepLog"]

EVAL_CONTRAST, EVAL_CONTRAST_ERROR = "eval_other_minus_own_wiped", "eval_other_minus_own_wiped_error"
"""Metrics of `prosg.model.contrast`, in an evaluation's line."""
PATIENCE = 3
"""Evaluations in a row within noise after which a training says so."""


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


class NoiseWarning(TrainerCallback):  # type: ignore[misc]
    """Says once, early, that a module does not learn to tell prompts apart: its loss alone does not show that."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        lines = [row for row in state.log_history if EVAL_CONTRAST in row]
        seen = [Contrast(row[EVAL_CONTRAST], row[EVAL_CONTRAST_ERROR], 0) for row in lines]
        if len(seen) == PATIENCE and all(gap.is_noise for gap in seen):
            say(
                f"note: in {PATIENCE} evaluations another prompt's update did as well as a prompt's own (other minus "
                f"own, wiped: {seen[-1].mean:.4f}, standard error {seen[-1].error:.4f} nats a token): the module does "
                "not tell prompts apart yet. If it stays so, train longer or with more kinds of prompt, raise "
                "perturbation.wipe_last, or lower optim.lr"
            )


class ProgressReporter(TrainerCallback):  # type: ignore[misc]
    """Calls a function with the step and the newest metrics, every tenth step and after every evaluation."""

    def __init__(self, report: Callable[[int, dict[str, Any]], None]) -> None:
        self.report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % 10 == 0:
            self.report(state.global_step, {})

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.report(state.global_step, metrics or {})
