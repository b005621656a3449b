"""Running the replicas: Ray where it does not run yet, Serve's proxy, the application, and their end."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import ray
from ray import serve
from ray.exceptions import RayError

from prosg.serving.api.server import listen
from prosg.serving.api.service import Plan
from prosg.serving.ray.application import make_application
from prosg.serving.ray.options import ReplicaOptions
from prosg.utils.outside import plain_reason

__all__ = ["serve_replicas"]

NAME = "prosg"
QUIET = {"log_level": "WARNING"}
"""Of Serve's own logs: the ingress has a line for each request, as `prosg serve` has."""
OBJECT_STORE = 128 << 20
"""Bytes of memory for what Ray passes between processes, where it is started here: replies are small."""

PROXY_READY = "60"
"""Seconds within which Serve's proxy has to answer, three times over. The default is 5, in which a busy core does not
finish the proxy's imports, and the proxy is killed."""


def serve_replicas(plan: Plan, options: ReplicaOptions, when_ready: Callable[[str, int], None]) -> None:
    """Serves with several replicas until SIGTERM or Ctrl-C; then running requests have `drain` seconds to end.

    Args:
        plan: What every replica is made of.
        options: How many, and what each takes.
        when_ready: Called with the host and the port when all replicas are ready.

    Raises:
        ValueError: for an address that cannot be had, and where the replicas cannot be started or ended.
    """
    with listen(plan.api.host, plan.api.port) as listener:
        host, port = listener.getsockname()[:2]
    with _ray(options) as is_ours, _signals() as ended:
        try:
            serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=QUIET)
            serve.run(make_application(plan, options), name=NAME, logging_config=QUIET)
        except (RuntimeError, RayError) as error:
            reason = _reason() or plain_reason(error)
            with suppress(ValueError):  # what matters is why they did not start
                _end(is_ours)
            raise ValueError(f"the replicas cannot be started: {reason}") from None
        when_ready(host, port)
        ended.wait()
        _end(is_ours)


def _end(is_ours: bool) -> None:
    """Ends the replicas. ValueError where they may go on: Serve's controller, which would end them, can have died."""
    try:
        if is_ours:
            serve.shutdown()
        else:
            serve.delete(NAME)  # a cluster may have other applications
    except (RuntimeError, RayError) as error:
        if not is_ours:  # else they end with Ray
            raise ValueError(
                f"the replicas may still run in the Ray cluster, as the application {NAME}: {plain_reason(error)}"
            ) from None


@contextmanager
def _ray(options: ReplicaOptions) -> Iterator[bool]:
    """Joins the Ray cluster that RAY_ADDRESS names, or starts one on this machine, which ends with the block.

    Yields:
        Whether it was started here.
    """
    is_ours = not os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # requests that look alike are requests all the same
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", PROXY_READY)
    local = {
        "num_cpus": max(os.cpu_count() or 1, math.ceil(options.replicas * options.replica_cpus)),
        "object_store_memory": OBJECT_STORE,
        "include_dashboard": False,
    }
    try:
        ray.init(logging_level="warning", **(local if is_ours else {}))
    except Exception as error:  # Ray's own have no narrower type
        raise ValueError(f"Ray cannot be {'started' if is_ours else 'joined'}: {plain_reason(error)}") from None
    try:
        yield is_ours
    finally:
        ray.shutdown()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set."""
    ended = threading.Event()
    before = {one: signal.signal(one, lambda *_: ended.set()) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _reason() -> str:
    """The last line of what Serve says of a deployment that failed; "" where it says nothing, or is dead."""
    try:
        application = serve.status().applications.get(NAME)
    except (RuntimeError, RayError):
        return ""
    deployments = [] if application is None else [*application.deployments.values()]
    lines = [line.strip() for one in deployments for line in one.message.splitlines() if line.strip()]
    return next((line for line in lines if "Error" in line), lines[-1] if lines else "")
