"""What a training prints on stderr: a bar on a terminal, else a plain line per `log_steps`; evaluations in both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from prosg.training.callbacks import EVAL_CONTRAST, EVAL_CONTRAST_ERROR
from prosg.utils.progress import say
from prosg.utils.tables import counted, duration_text, perplexity_text

__all__ = ["TrainingDisplay", "step_line", "validation_line"]


class TrainingDisplay(TrainerCallback):  # type: ignore[misc]
    """Prints how far a training is, in the process that has it."""

    def __init__(self, count_tokens: Callable[[], int], count_skipped: Callable[[], int], *, bar: bool) -> None:
        """Sets up.

        Args:
            count_tokens: Returns the tokens trained on since the start.
            count_skipped: Returns the steps that were skipped so far.
            bar: Shows a bar instead of lines.
        """
        self.count_tokens, self.count_skipped, self.show_bar = count_tokens, count_skipped, bar
        self.skipped = 0
        self.bar: tqdm[Any] | None = None
        self.first_step, self.began = 0, 0.0  # of this start of the run
        self.tokens, self.since = 0, 0.0  # from which on the speed is measured

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first_step, self.began = state.global_step, time.perf_counter()
        self.skipped = self.count_skipped()
        self._measure_from_here()
        if self.show_bar:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step", leave=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:  # of an evaluation, or of the run's end
            return
        now = time.perf_counter()
        speed = (self.count_tokens() - self.tokens) / max(now - self.since, 1e-9)
        per_step = (now - self.began) / (state.global_step - self.first_step)
        left = per_step * (state.max_steps - state.global_step)
        self._measure_from_here()
        skipped, self.skipped = self.count_skipped() - self.skipped, self.count_skipped()
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}, {speed:,.0f} tokens/s")
        else:
            say(step_line(state.global_step, state.max_steps, logs, speed, left, skipped))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if metrics:
            say(validation_line(state.global_step, state.max_steps, metrics))
        self._measure_from_here()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def _measure_from_here(self) -> None:
        """Speed is that of steps alone: evaluations are left out."""
        self.tokens, self.since = self.count_tokens(), time.perf_counter()


def step_line(step: int, steps: int, logs: Mapping[str, float], speed: float, left: float, skipped: int = 0) -> str:
    """The line of a step: where it is, loss, learning rate, tokens a second, seconds left as text, steps skipped."""
    ahead = f"  {duration_text(float(f'{left:.2g}'))} left" if step < steps else ""
    ahead += f"  {counted(skipped, 'step')} skipped" if skipped else ""
    return (
        f"{_place(step, steps)}  loss {logs['loss']:.3f}  lr {logs['learning_rate']:.1e}  {speed:,.0f} tokens/s{ahead}"
    )


def validation_line(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """The line of an evaluation; `metrics` are named eval_*."""
    shown = {"perplexity": perplexity_text, "exact": _share, "late_perplexity": perplexity_text, "late_exact": _share}
    parts = [
        f"{name.replace('_', ' ')} {text(metrics[f'eval_{name}'])}"
        for name, text in shown.items()
        if f"eval_{name}" in metrics
    ]
    if EVAL_CONTRAST in metrics:
        gap, error = metrics[EVAL_CONTRAST], metrics[EVAL_CONTRAST_ERROR]
        parts.append(f"other minus own, wiped {gap:.4f} ({error:.4f})")
    return f"{_place(step, steps)}  validation: {', '.join(parts)}"


def _place(step: int, steps: int) -> str:
    return f"step {step:>{len(str(steps))}}/{steps}"


def _share(value: float) -> str:
    return f"{value:.3f}"
