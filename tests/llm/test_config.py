"""Checks of endpoints' options and of caps."""

from __future__ import annotations

import re
from typing import Any

import pytest

from prosg.llm.config import BudgetConfig, EndpointConfig, check_budget, check_endpoint, require_key

FREE, PRICED = EndpointConfig(model="m"), EndpointConfig(model="m", output_price=1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": ""}, ("model is missing",)),
        ({"base_url": "http://127.0.0.1:8000/v1/chat/completions/"}, ("base_url", "leave that out")),
        ({"base_url": "localhost"}, ("endpoint.base_url", "http://")),
        ({"base_url": "http://me:secret@host/v1"}, ("endpoint.base_url", "environment variable")),
        ({"extra": {"n": 3, "stream": True}}, ("endpoint.extra", "n, stream")),
        ({"extra": {"max_tokens": 9}}, ("endpoint.extra", "max_tokens")),
        ({"timeout": 0.0}, ("endpoint.timeout is 0", "above 0")),
        ({"timeout": float("nan")}, ("endpoint.timeout is nan", "finite")),
        ({"base_url": "http://host:99999/v1"}, ("endpoint.base_url", "http://")),
        ({"concurrency": 0}, ("endpoint.concurrency is 0", "at least 1")),
        ({"attempts": 0}, ("endpoint.attempts is 0", "at least 1")),
        ({"backoff": -1.0}, ("endpoint.backoff is -1", "0 or more")),
        ({"input_price": -1.0}, ("endpoint.input_price is -1", "0 or more")),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        check_endpoint("endpoint", EndpointConfig(**{"model": "m", **options}))
    assert all(word in str(error.value) for word in words)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("caps", "endpoint", "words"),
    [
        ({"requests": 0, "tokens": 1}, FREE, ("budget.requests is 0", "above 0")),
        ({"requests": 1, "tokens": 0}, FREE, ("budget.tokens is 0",)),
        ({"requests": 1}, FREE, ("budget.tokens is missing",)),
        ({"requests": 1, "tokens": 1}, PRICED, ("budget.money is missing", "prices")),
        ({"requests": 1, "tokens": 1, "money": 0.0}, PRICED, ("budget.money is 0",)),
        ({"requests": 1, "tokens": 1, "money": 1.0}, FREE, ("budget.money is set", "price")),
    ],
)
def test_caps_that_are_missing_or_let_nothing_through(
    caps: dict[str, Any], endpoint: EndpointConfig, words: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        check_budget(BudgetConfig(**caps), endpoint)
    assert all(word in str(error.value) for word in words)


def test_a_key_has_to_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(ValueError, match=r"judge\.api_key_env names A_KEY"):
        require_key("judge", EndpointConfig(api_key_env="A_KEY"))
    require_key("judge", EndpointConfig(api_key_env=""))
    monkeypatch.setenv("A_KEY", " x\n")
    require_key("judge", EndpointConfig(api_key_env="A_KEY"))
    for value in ("\n", "kéy", "a\nb"):
        monkeypatch.setenv("A_KEY", value)
        with pytest.raises(ValueError, match=r"judge\.api_key_env names A_KEY"):
            require_key("judge", EndpointConfig(api_key_env="A_KEY"))
