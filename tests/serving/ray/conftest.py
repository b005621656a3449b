"""Without the packages of the extra `serve` there are no tests of replicas."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from prosg.checkpoints.load import load_model
from prosg.model.prosg import ProSG

collect_ignore_glob = [] if find_spec("fastapi") and find_spec("prometheus_client") else ["test_*.py"]


@pytest.fixture(scope="session")
def demo() -> ProSG:
    return load_model("demo")
