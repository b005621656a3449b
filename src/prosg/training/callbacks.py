"""What looks on while a model trains: the log of every step, the stop rule, the caller's display."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prosg.training.config import StopRule
from prosg.utils.distributed import is_first
from prosg.utils.io import write_lines

__all__ = ["Report", "StepLog", "Stop"]


class StepLog(TrainerCallback):  # type: ignore[misc]
    """steps.jsonl: one line per optimiser step, cut back to the checkpoint at a resume. The first process writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.take: Callable[[], dict[str, Any]]
        """what the trainer says of the step, in every process"""
        self.file: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not is_first():
            return
        lines = []
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= state.global_step:
                        lines.append(line)
                except json.JSONDecodeError:  # cut by a kill
                    break
        write_lines(self.path, lines)
        self.file = self.path.open("a", buffering=1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        row = {"step": state.global_step} | self.take()
        if self.file is not None:
            self.file.write(json.dumps(row) + "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.file is not None:
            self.file.close()


class Stop(TrainerCallback):  # type: ignore[misc]
    """The stop rule. It looks at the logged history alone, so a resumed run stops where it would have stopped."""

    def __init__(self, rule: StopRule) -> None:
        self.rule = rule

    def reached(self, history: Sequence[dict[str, Any]]) -> bool:
        """Whether the value was reached, `times` times in a row, at the end of a history."""
        values = self._values(history)
        last = values[-self.rule.times :] if self.rule.times else []
        return len(last) == self.rule.times > 0 and all(v >= self._sign * self.rule.value for v in last)

    @property
    def _sign(self) -> float:
        return -1.0 if self.rule.falling else 1.0

    def _values(self, history: Sequence[dict[str, Any]]) -> list[float]:
        key = f"eval_{self.rule.metric}"
        return [self._sign * row[key] for row in history if key in row]

    def ended(self, history: Sequence[dict[str, Any]]) -> bool:
        """Whether training stops at the end of a history."""
        values = self._values(history)
        stale = len(values) - 1 - values.index(max(values)) if values else 0
        return self.reached(history) or (self.rule.patience > 0 and stale >= self.rule.patience)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if self.ended(state.log_history):
            control.should_training_stop = True
            control.should_save = True
        return control


class Report(TrainerCallback):  # type: ignore[misc]
    """Hands (step, newest metrics) to a function of the caller's."""

    def __init__(self, tell: Callable[[int, dict[str, Any]], None]) -> None:
        self.tell = tell

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % 10 == 0:
            self.tell(state.global_step, {})

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.tell(state.global_step, metrics or {})
