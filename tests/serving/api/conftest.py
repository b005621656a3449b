"""One model for all tests of the server; without the packages of the extra `serve` there are none."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from prosg.checkpoints.load import load_model
from prosg.model.prosg import ProSG

if TYPE_CHECKING:
    from support.api import Served

collect_ignore_glob = [] if find_spec("fastapi") and find_spec("prometheus_client") else ["test_*.py"]


@pytest.fixture(scope="session")
def demo() -> ProSG:
    return load_model("demo")


@pytest.fixture(scope="module")
def server(demo: ProSG) -> Iterator[Served]:
    """The packaged model, which writes prompts as they are."""
    from support.api import served

    with served(demo) as server:
        yield server


@pytest.fixture(scope="module")
def chat_server(demo: ProSG) -> Iterator[Served]:
    """The same under a template with roles."""
    from support.api import served

    with served(demo, template="world") as server:
        yield server
