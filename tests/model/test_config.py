"""The module's options: presets, keys of files, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from prosg.model.config import PRESETS, ProSGConfig


def test_presets_are_what_the_experiments_used() -> None:
    plus, paper, static = (PRESETS[name] for name in ("plus", "paper", "static"))
    assert (plus.reads, plus.rank, plus.synthesize, plus.blocks, plus.hidden) == ("all_positions", 8, "both", 2, 0)
    assert plus.memory_tap and plus.state_embedding and plus.final_norm and plus.log_length
    assert (plus.reference_length, plus.alpha, plus.share_stack) == (20.0, 1.0, False)
    assert plus.resolve(96, ()).bottleneck == 24
    assert plus.resolve(2, ()).bottleneck == 1
    assert (paper.reads, paper.rank, paper.synthesize, paper.blocks, paper.hidden) == ("last_input", 1, "a", 1, 0)
    assert paper.state_embedding
    assert not (paper.final_norm or paper.share_stack)
    assert (static.reads, static.rank, static.synthesize) == ("nothing", 64, "none")
    assert all(p.target_modules == () and p.alpha == 1.0 for p in PRESETS.values())
    assert [name for name, p in PRESETS.items() if p.preset != name] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "module.rank.* 1"),
        ({"blocks": -1}, "module.blocks is -1"),
        ({"reference_length": 1.0}, "module.reference_length.*1.0.*above 1"),
        ({"window": -1}, "module.window is -1, must be 0"),
        ({"reads": "last_position", "window": 3}, "module.window is 3, but .*'last_position'; .*'all_positions'"),
        ({"synthesize": "none"}, "module.synthesize.*'none'.*all_positions.* a or both"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProSGConfig.from_preset("plus", **changes)


def test_the_keys_of_the_first_version_are_read() -> None:
    """It spread what a module reads over three keys."""
    plus = PRESETS["plus"].to_dict()
    del plus["reads"]
    for old, reads in (
        ({"preset": "plus", "reading": "attention", "positions": "all"}, "all_positions"),
        ({"preset": "plus", "reading": "attention", "positions": "last"}, "last_position"),
        ({"preset": "plus", "reading": "attention"}, "all_positions"),
    ):
        assert ProSGConfig.from_dict(plus | old) == ProSGConfig.from_preset("plus", reads=reads)
    assert ProSGConfig.from_dict({"preset": "paper", "reading": "last", "synthesize": "a"}).reads == "last_input"
    assert ProSGConfig.from_dict({"preset": "static", "reading": "none", "synthesize": "none"}).reads == "nothing"


def test_presets_and_keys_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="'best'.*paper, plus, static"):
        ProSGConfig.from_preset("best")
    with pytest.raises(ValueError, match="ranks.*reads, rank"):
        ProSGConfig.from_dict({"ranks": 3})


def test_a_projection_that_is_named_twice_is_updated_once() -> None:
    assert ProSGConfig.from_preset("plus", target_modules=("attn.out", "key", "attn_out")).target_modules == (
        "attn_out",
        "key",
    )
