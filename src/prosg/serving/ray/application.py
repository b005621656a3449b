"""The application of Ray Serve: an ingress, and replicas that have an engine each."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ray import exceptions, serve
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message

from prosg.serving.api.app import inner_app
from prosg.serving.api.edge import layers
from prosg.serving.api.errors import ApiError, retry_after
from prosg.serving.api.keys import KeyRing, open_keys
from prosg.serving.api.metrics import HttpMetrics
from prosg.serving.api.options import ApiOptions
from prosg.serving.api.service import Plan, run_service
from prosg.serving.ray.calls import Call, answered
from prosg.serving.ray.metrics import merged
from prosg.serving.ray.options import ReplicaOptions
from prosg.serving.ray.relay import LostReplicaError, Relay

__all__ = ["make_application"]

HELD = 1024
"""Stored prompts of which Serve knows that a replica has them; those used longest ago are forgotten."""
CONSTRUCTOR_TRIES = 2
LOST = (
    exceptions.RayActorError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.WorkerCrashedError,
    ReplicaUnavailableError,
)
"""Errors of a call whose replica is gone, not of what it was asked."""


class Replica:
    """A model with its engine, and the application in front of it."""

    def __init__(self, plan: Plan) -> None:
        """Loads the model and starts the engine."""
        _log_to_stderr()
        self._open = ExitStack()
        self._service = self._open.enter_context(run_service(plan))
        self._app = inner_app(self._service)

    async def answer(self, call: Call) -> AsyncGenerator[Message]:
        """Answers a request; where it was about a stored prompt, Serve is told that this replica has it now."""
        state: dict[str, Any] = {}
        async for message in answered(self._app, call, state):
            if message["type"] == "http.response.start" and "prompt" in state:
                await self.hold(state["prompt"])
            yield message

    @serve.multiplexed(max_num_models_per_replica=HELD)  # type: ignore[untyped-decorator]
    async def hold(self, prompt: str) -> str:
        """Notes a prompt as one that this replica has: its store keeps the prompts themselves, bounded by bytes."""
        return prompt

    async def metrics(self) -> tuple[str, str]:
        """This replica's name and counters."""
        return serve.get_replica_context().replica_tag, self._service.metrics.text().decode()

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self._open.close()


@dataclass(frozen=True)
class _Front:
    """What the edge needs to know."""

    options: ApiOptions
    keys: KeyRing | None
    metrics: HttpMetrics


class Ingress:
    """Lets requests in, and has the replicas answer them."""

    def __init__(self, replicas: DeploymentHandle[Any], options: ApiOptions) -> None:
        """Reads the keys."""
        _log_to_stderr()
        self._replicas = replicas
        self._front = _Front(options, open_keys(options), HttpMetrics())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        app: ASGIApp = Relay(self._answer, self._metrics, self._front.options.timeout)
        for layer, options in layers(self._front):
            app = layer(app, **options)
        return app

    async def _answer(self, call: Call) -> AsyncGenerator[Message]:
        chosen = self._replicas.options(stream=True, multiplexed_model_id=call.prompt)
        messages = chosen.answer.remote(call)
        try:
            async for message in messages:
                yield message
        except BackPressureError:
            raise ApiError(
                429, "too many requests wait; try again later", code="overloaded", headers=retry_after(1.0)
            ) from None
        except LOST as error:
            raise LostReplicaError(type(error).__name__) from None
        finally:
            messages.cancel()

    async def _metrics(self) -> bytes:
        found: list[tuple[str, str]] = await self._replicas.broadcast("metrics").results_async()
        return merged({"": self._front.metrics.text().decode()} | dict(found))


def make_application(plan: Plan, options: ReplicaOptions) -> serve.Application:
    """Creates the application.

    Args:
        plan: What every replica is made of; its paths have to lead to the same files on all machines.
        options: How many replicas, and what each of them takes.
    """
    rows, queue = plan.engine["max_rows"], plan.engine["queue"]
    replicas = serve.deployment(
        Replica,
        name="replica",
        num_replicas=options.replicas,
        ray_actor_options={"num_cpus": options.replica_cpus, "num_gpus": options.replica_gpus},
        # No more than it writes at once: a prompt that many ask for then goes to other replicas, too.
        max_ongoing_requests=rows,
        max_queued_requests=queue * options.replicas,
        graceful_shutdown_timeout_s=plan.api.drain,
        max_constructor_retry_count=CONSTRUCTOR_TRIES,
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=(rows + queue) * options.replicas,
        graceful_shutdown_timeout_s=plan.api.drain,
    )
    return ingress.bind(replicas.bind(plan), plan.api)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
