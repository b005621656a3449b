"""Name tables: tensors' names between BlinkDL's layout and Hugging Face's."""

from __future__ import annotations

from prosg.backbones.layouts import RWKV4_LAYOUT, from_hf, to_hf
from support.checkpoints import small_rwkv4


def test_names_go_both_ways() -> None:
    there = {name: to_hf(name, RWKV4_LAYOUT.names) for name in small_rwkv4().state_dict()}
    assert len(set(there.values())) == len(there)
    assert all(from_hf(hf or "", RWKV4_LAYOUT.names) == name for name, hf in there.items())
    assert there["blocks.2.att.time_mix_r"] == "rwkv.blocks.2.attention.time_mix_receptance"
    assert to_hf("lm_head.weight", RWKV4_LAYOUT.names) is None
