"""RWKV-4's recurrence in plain PyTorch; see `wkv4`."""

from prosg.ops.wkv4_scan import wkv4_scan

wkv4_torch = wkv4_scan
