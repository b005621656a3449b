"""Requests made of the OpenAPI description: whatever a client sends, the server does not fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prosg.model.prosg import ProSG
from support.api import Served, served

ROUTES = {
    "/v1/chat/completions": {"post"},
    "/v1/completions": {"post"},
    "/v1/prompts": {"get", "post"},
    "/v1/prompts/upload": {"post"},
    "/v1/prompts/{prompt}": {"get", "delete"},
    "/v1/prompts/{prompt}/content": {"get"},
    "/v1/models": {"get"},
    "/v1/models/{model}": {"get"},
    "/health": {"get"},
    "/ready": {"get"},
    "/metrics": {"get"},
}


@pytest.fixture(scope="module")
def short(demo: ProSG) -> Iterator[Served]:
    """A server of short answers."""
    with served(demo, template="world", max_output_tokens=8, default_output_tokens=4) as server:
        yield server


def test_the_description_has_every_route_and_its_errors(short: Served) -> None:
    described = short.get("/openapi.json")
    assert {path: set(methods) for path, methods in described["paths"].items()} == ROUTES
    assert described["components"]["schemas"]["ChatBody"]["additionalProperties"] is False
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for route in (route for methods in described["paths"].values() for route in methods.values()):
        assert route["summary"] and "422" not in route["responses"] and "4XX" in route["responses"]


@pytest.mark.slow
def test_no_request_makes_the_server_fail(short: Served) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    schema: Any = schemathesis.openapi.from_dict(short.get("/openapi.json"))

    for found in schema.get_all_operations():
        operation = found.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[*hypothesis.HealthCheck],
        )
        def send(case: Any) -> None:
            reply = short.client.request(**case.as_transport_kwargs(base_url="http://127.0.0.1:8000"))
            assert reply.status_code < 500, reply.text

        send()
