"""What is said where Ray or Serve's controller has died; a stand-in for Ray, which need not be installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from prosg.serving.api.options import ApiOptions
from prosg.serving.api.service import Plan
from prosg.serving.ray.options import ReplicaOptions

RUNNING, APPLICATION = "prosg.serving.ray.running", "prosg.serving.ray.application"


class RayError(Exception):
    """As `ray.exceptions.RayError`, of which all of Ray's errors are kinds."""


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    stand_in = MagicMock()
    stand_in.exceptions.RayError = RayError
    for name, module in (("ray", stand_in), ("ray.exceptions", stand_in.exceptions), (APPLICATION, MagicMock())):
        monkeypatch.setitem(sys.modules, name, module)
    return stand_in


@pytest.fixture
def running(ray: MagicMock, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.delitem(sys.modules, RUNNING, raising=False)
    yield importlib.import_module(RUNNING)
    sys.modules.pop(RUNNING)  # the next to import it shall have Ray itself


def serve(running: ModuleType, when_ready: Any = print) -> None:
    plan = Plan(MagicMock(), {}, ApiOptions(port=0), "demo")
    running.serve_replicas(plan, ReplicaOptions(replicas=2), when_ready)


def deployment(message: str) -> SimpleNamespace:
    return SimpleNamespace(deployments={"Replica": SimpleNamespace(message=message)})


@pytest.mark.parametrize("dead", [RayError("The actor died unexpectedly"), RuntimeError("no controller")])
def test_the_first_error_is_told_where_the_controller_has_died(
    dead: Exception, ray: MagicMock, running: ModuleType
) -> None:
    ray.serve.run.side_effect = RayError("the worker crashed")
    ray.serve.status.side_effect = ray.serve.shutdown.side_effect = dead
    with pytest.raises(ValueError, match=r"^the replicas cannot be started: the worker crashed$"):
        serve(running)
    ray.shutdown.assert_called_once()


def test_what_a_deployment_says_is_told(ray: MagicMock, running: ModuleType) -> None:
    ray.serve.run.side_effect = RuntimeError("deploying failed")
    ray.serve.status.return_value.applications = {"prosg": deployment("Traceback\n  ValueError: no memory\nat last")}
    with pytest.raises(ValueError, match=r"^the replicas cannot be started: ValueError: no memory$"):
        serve(running)
    ray.serve.shutdown.assert_called_once()


@pytest.mark.parametrize("joined", [False, True])
def test_an_end_without_a_controller(
    joined: bool, ray: MagicMock, running: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replicas of a Ray of our own end with it; of a cluster it is said that they may go on."""
    monkeypatch.setenv("RAY_ADDRESS", "auto" if joined else "")
    ray.serve.shutdown.side_effect = ray.serve.delete.side_effect = RayError("The actor died")
    signals = pytest.raises(ValueError, match="may still run in the Ray cluster") if joined else None

    def stop(host: str, port: int) -> None:
        running.signal.raise_signal(running.signal.SIGTERM)

    if signals is None:
        serve(running, stop)
    else:
        with signals:
            serve(running, stop)
    ray.shutdown.assert_called_once()
