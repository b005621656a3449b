"""The other packages that run the same checkpoints, compared with prosg before they are timed; the machine's limits."""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _common import medians

from prosg.backbones import BACKBONES
from prosg.backbones.native import NativeBackbone
from prosg.checkpoints.backbone import save_backbone
from prosg.cli.scripts import ScriptParser, positive_int
from prosg.utils.allocation import keep_freed_memory

SIZES = {"rwkv4": "169M", "rwkv7": "0.1B"}
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "int8": 5e-2}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TEXT = [5, 17, 3, 88]
"""What the packages are compared on."""


def random_model(version: str, small: bool, folder: Path) -> Path:
    """A `.pth` of random weights."""
    kind = BACKBONES[version]
    model = kind.model(kind.sizes["debug" if small else SIZES[version]])
    model.reset_parameters(torch.Generator().manual_seed(0))
    path = folder / f"{version}.pth"
    save_backbone(model, path, overwrite=True)
    return path


def rwkv_peer(path: Path, version: str, dtype: str, model: NativeBackbone) -> Any:
    """The `rwkv` package's model of a file, compared with `model`, or None where it is not installed."""
    os.environ |= {"RWKV_V7_ON": "1" if version == "rwkv7" else "0", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
    try:
        spec = importlib.util.find_spec("rwkv.model")
    except ImportError:
        return None
    # Once more for each version: which one its class serves is settled when it is imported.
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if version == "rwkv7":
        peer = module.RWKV(model=str(path.with_suffix("")), strategy=f"cpu {dtype}")
    else:
        peer = module.RWKV(str(path), f"cpu {dtype}", verbose=False)
    theirs, ours = peer.forward(TEXT, None)[0], model(torch.tensor([TEXT])).logits[0, -1].float()
    gap = float((theirs.float() - ours).abs().max() / ours.abs().max())
    assert gap <= TOLERANCE[dtype], f"prosg and rwkv differ by {gap:.1e}"
    return peer


def transformers_peer(version: str, dtype: str, model: NativeBackbone) -> Any:
    """transformers' own RWKV-4 with the weights of `model`, or None where it is not installed; it has no other RWKV."""
    if version != "rwkv4":
        return None
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        save_backbone(model, Path(folder) / "hf")
        return AutoModelForCausalLM.from_pretrained(Path(folder) / "hf", dtype=TYPES[dtype]).eval()


def machine(dtype: str, repeats: int) -> tuple[float, float]:
    """Bytes a second that a core reads, the fastest way known, and its operations a second in a matrix product."""
    big, one = torch.randn(100_000, 1024), torch.randn(1, 1024)
    square = torch.randn(1024, 1024).to(TYPES.get(dtype, torch.float32))
    from prosg.ops.linear import linear

    taken = medians({"sum": big.sum, "row": lambda: linear(one, big), "product": lambda: square @ square}, repeats, 1)
    return 4 * big.numel() / min(taken["sum"], taken["row"]), 2 * 1024**3 / taken["product"]


def shapes_parser(description: str | None, types: Sequence[str], repeats: int) -> argparse.ArgumentParser:
    """The options of what is measured at the published shapes."""
    parser = ScriptParser(description)
    parser.add_out("JSON file for the rows")
    parser.add_argument("--versions", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--types", nargs="+", choices=types, default=types)
    parser.add_argument("--repeats", type=positive_int, default=repeats)
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the script")
    return parser


def begin(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Reads the options, and sets up one thread."""
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    return args
