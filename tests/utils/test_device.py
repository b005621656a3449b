"""Devices by name."""

from __future__ import annotations

import pytest

from prosg.utils.device import resolve_device


def test_devices() -> None:
    for name in ("auto", "cpu"):
        resolve_device(name)
    with pytest.raises(ValueError, match="auto, cpu, cuda"):
        resolve_device("gpu")
