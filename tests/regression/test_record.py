"""What the package computes on tiny fixed models stays what it was: logits, losses, data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from regression.record import SMALL_STEPS, logits, losses, sets

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())
"""Written by `python tests/regression/record.py --small`; to be written again when a change is meant."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_logits_of_every_backbone() -> None:
    found = {name: values["values"] for name, values in logits().items()}
    assert found.keys() == RECORDED["logits"].keys()
    for name, values in found.items():
        # Sums in fp32 differ by the processor.
        assert values == pytest.approx(RECORDED["logits"][name], rel=1e-6, abs=5e-6), name


def test_first_losses_of_every_recipe() -> None:
    found = losses(SMALL_STEPS)
    assert found.keys() == RECORDED["losses"].keys()
    for name, values in found.items():
        assert values == pytest.approx(RECORDED["losses"][name], rel=1e-3), name


def test_bytes_of_data_sets() -> None:
    assert sets(None) == RECORDED["sets"]
