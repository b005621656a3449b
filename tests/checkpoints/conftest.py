"""A small backbone and its weights, for files to hold."""

from __future__ import annotations

import pytest
from torch import Tensor

from prosg.backbones.rwkv4 import RWKV4
from support.checkpoints import small_rwkv4


@pytest.fixture
def model() -> RWKV4:
    return small_rwkv4()


@pytest.fixture
def weights(model: RWKV4) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
