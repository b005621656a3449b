"""What every test runs under: checked shapes, fixed seeds, no network, one thread."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from support.first_calls import forget_calls, install_checks

# Before the first import of prosg: from here on its annotations, shapes included, are checked.
install_checks("prosg", "beartype.beartype")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Read by the `rwkv` package when it is imported: plain PyTorch, nothing compiled.
os.environ["RWKV_JIT_ON"] = "0"
os.environ["RWKV_CUDA_ON"] = "0"

# Models are tiny and tests run side by side: more threads only wait for each other.
torch.set_num_threads(1)

SHARED_DATA = Path(os.environ.get("PROSG_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    forget_calls()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """The folder of public data that lies beside the checkout; tests that read it are skipped where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no shared data in {SHARED_DATA}; set PROSG_SHARED_DATA")
    return SHARED_DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
