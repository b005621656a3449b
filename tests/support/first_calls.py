"""Checks of types and shapes on the first calls of a function in each test: on every call they are most of the time."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from types import CodeType
from typing import Any

import jaxtyping

__all__ = ["forget_calls", "install_checks"]

CHECKED = 8
"""Calls of a function that are checked in a test."""

_calls: Counter[CodeType] = Counter()


def install_checks(package: str, checker: str) -> None:
    """Makes functions of a package, imported from here on, check the arguments of their first calls by annotations.

    Args:
        package: Its name.
        checker: Path of the decorator that checks, as `jaxtyping.install_import_hook` takes it.
    """
    always = jaxtyping.jaxtyped

    def jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
        every = always(typechecker=typechecker)
        return lambda target: every(target) if isinstance(target, type) else _first_calls(target, every)

    jaxtyping.jaxtyped = jaxtyped  # type: ignore[assignment]  # the import hook's decorator looks it up by this name
    jaxtyping.install_import_hook(package, checker)


def forget_calls() -> None:
    """Begins to count anew."""
    _calls.clear()


def _first_calls(function: Callable[..., Any], check: Callable[[Any], Any]) -> Callable[..., Any]:
    code, checked = function.__code__, None

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        nonlocal checked
        if _calls[code] >= CHECKED:
            return function(*args, **options)
        _calls[code] += 1
        if checked is None:  # only now: functions within functions are made anew at each call
            checked = check(function)
        return checked(*args, **options)

    return call
