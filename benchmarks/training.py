"""A training step beside transformers and the machine's limit, on one core.

    python benchmarks/training.py [--out FILE] [--shape small|169m] [--versions rwkv4 rwkv7] [--types fp32 bf16]

A step is forward, backward and AdamW on 4 rows of 256 tokens, half of them prompt, half answer: phase 1 trains the
whole model on the answers, phase 2 the module (`plus`) of a frozen one. The peer is transformers' RwkvForCausalLM
(RWKV-4, phase 1), which reads prompt and answer in one call. Random weights of the published shapes; before anything is
timed the peers' losses are compared. Systems take turns, and what counts is the processor's time of one thread, since
machines are shared; medians.

The limit: the operations of the matrix products that a step cannot do without, over the core's rate in a large one,
measured in the same run. Memory, in a process of its own: the most that was resident beyond an idle process, over what
a step cannot do without: weights, gradients, moments, and what autograd keeps for the backward pass.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import commit, medians, write_rows
from torch import Tensor, nn

from prosg.backbones import BACKBONES
from prosg.checkpoints.backbone import save_backbone
from prosg.cli.scripts import ScriptParser, positive_int, rows_before, run_script
from prosg.model.config import PRESETS
from prosg.model.prosg import ProSG
from prosg.training.precision import narrowed
from prosg.utils.allocation import keep_freed_memory
from prosg.utils.environment import processor

SIZES = {"small": {"rwkv4": "demo", "rwkv7": "demo"}, "169m": {"rwkv4": "169M", "rwkv7": "0.1B"}}
BATCH, TOKENS = 4, 256
PROMPT = TOKENS // 2
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-3}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make(shape: str, version: str, phase: int) -> ProSG:
    """A model of random weights, of which the phase's part is trained."""
    kind = BACKBONES[version]
    backbone = kind.model(kind.sizes[SIZES[shape][version]])
    backbone.reset_parameters(torch.Generator().manual_seed(0))
    for weight in backbone.parameters() if phase == 2 else ():  # as files have them, which are bf16
        weight.data = weight.data.bfloat16().float()
    backbone.requires_grad_(phase == 1)
    return ProSG(backbone, None if phase == 1 else PRESETS["plus"], seed=0)


def transformers_model(model: ProSG) -> nn.Module | None:
    """The same model as transformers runs it; None where it has no such type."""
    try:
        from transformers import RwkvForCausalLM
    except ImportError:
        return None
    if model.backbone.config.model_type != "rwkv4":
        return None
    with tempfile.TemporaryDirectory() as folder:
        save_backbone(model.backbone, Path(folder) / "hf")
        return RwkvForCausalLM.from_pretrained(Path(folder) / "hf", dtype=torch.float32).train()


def texts(model: ProSG) -> Tensor:
    return torch.randint(
        1, model.backbone.config.vocab_size, (BATCH, TOKENS), generator=torch.Generator().manual_seed(1)
    )


def loss_of(model: ProSG, tokens: Tensor) -> Tensor:
    """Of the second half of each row, after the first."""
    half = tokens.shape[1] // 2
    lengths, weights = torch.full((BATCH,), half), torch.ones(BATCH, half)
    prompt, answer = tokens.split(half, 1)
    loss: Tensor = model(
        prompt=prompt, prompt_lengths=lengths, answer=answer, answer_lengths=lengths, weights=weights
    ).loss
    return loss


def peer_loss(peer: nn.Module, tokens: Tensor) -> Tensor:
    labels = tokens.masked_fill(torch.arange(tokens.shape[1]) < tokens.shape[1] // 2, -100)
    loss: Tensor = peer(input_ids=tokens, labels=labels, use_cache=False).loss
    return loss


class Step:
    """A training step of one system."""

    def __init__(self, module: nn.Module, loss: Callable[[Tensor], Tensor], dtype: str) -> None:
        self.loss, self.dtype = loss, dtype
        trained = [p for p in module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def __call__(self, tokens: Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bf16"):
            loss = self.loss(tokens)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())


def operations(model: ProSG, phase: int) -> float:
    """Of a step's matrix products: 2 for each number of a matrix and token, once forward and for each gradient."""
    backbone = model.backbone
    blocks = sum(p.numel() for p in backbone.blocks.parameters() if p.dim() == 2)
    head = backbone.head.weight.numel()
    prompt, answer = BATCH * PROMPT, BATCH * (TOKENS - PROMPT)
    if phase == 1:
        return 6.0 * (blocks * (prompt + answer) + head * answer)
    read = sum(p.numel() for name, p in model.synthesizer.named_parameters() if "from_" in name and p.dim() == 2)
    return 2.0 * blocks * prompt + 4.0 * (blocks + head) * answer + 4.0 * read * prompt


def rate(dtype: str) -> float:
    """The core's operations a second in a large matrix product."""
    square = torch.randn(1024, 1024).to(TYPES[dtype])
    seconds = medians({"product": lambda: square @ square}, 5, 1, time.process_time)["product"]
    return 2 * 1024**3 / seconds


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def memory(shape: str, version: str, phase: int, dtype: str) -> dict[str, float]:
    """Peak of a step in this process, and what it cannot do without."""
    idle = resident("VmRSS")
    model = make(shape, version, phase)
    with narrowed(model.backbone, dtype):
        weights = sum(p.nbytes for p in model.parameters())
        trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        step, tokens = Step(model, partial(loss_of, model), dtype), texts(model)
        step(tokens[:, :4])  # from here on there are moments
        storages = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages.setdefault(storage.data_ptr(), storage.nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            step(tokens)
    return {"peak": resident("VmHWM") - idle, "needed": weights + 3 * trained + sum(storages.values())}


def measure(shape: str, version: str, phase: int, dtype: str, repeats: int) -> list[dict[str, Any]]:
    model = make(shape, version, phase)
    tokens = texts(model)
    systems = {"prosg": Step(model, partial(loss_of, model), dtype)}
    peer = transformers_model(model) if phase == 1 else None
    if peer is not None:
        systems["transformers"] = Step(peer, partial(peer_loss, peer), dtype)
    with narrowed(model.backbone, dtype):
        losses = {name: step(tokens) for name, step in systems.items()}  # the warm-up, too
        gap = max(losses.values()) / min(losses.values()) - 1
        assert gap <= TOLERANCE[dtype], f"losses differ by {gap:.1e}: {losses}"
        speed = rate(dtype)
        steps = {name: partial(step, tokens) for name, step in systems.items()}
        taken = medians(steps, repeats, 1, time.process_time, warm_up=False)
    best = operations(model, phase) / speed
    same = {"version": version, "phase": phase, "dtype": dtype, "batch": BATCH, "tokens": TOKENS, "shape": shape}
    rows = []
    for name, seconds in taken.items():
        row = {"quantity": "step", "system": name, "value": BATCH * TOKENS / seconds, "unit": "tokens/s"}
        rows.append(row | {"limit": BATCH * TOKENS / best, "share": best / seconds, "rate": speed} | same)
    if shape == "small":  # libraries are most of its process
        return rows
    command = [sys.executable, __file__, "--memory", shape, version, str(phase), dtype]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    row = {"quantity": "memory", "system": "prosg", "value": found["peak"] / 1e9, "unit": "GB"}
    return [*rows, row | {"needed": found["needed"] / 1e9, "share": found["peak"] / found["needed"]} | same]


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_out("JSON file for the rows; those of other measurements in it stay", merges=True)
    parser.add_argument("--shape", choices=SIZES, default="169m")
    parser.add_argument("--versions", nargs="+", choices=["rwkv4", "rwkv7"], default=["rwkv4", "rwkv7"])
    parser.add_argument("--phases", type=int, nargs="+", choices=[1, 2], default=[1, 2])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=positive_int, default=3)
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    keep_freed_memory(of_any_size=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.memory:
        shape, version, phase, dtype = args.memory
        print(json.dumps(memory(shape, version, int(phase), dtype)))
        return
    print(f"{processor()}; torch {torch.__version__}; one thread; {args.shape}")
    print(f"{'':8}{'phase':>6} {'':6}{'':14}{'tokens/s':>10}{'limit':>8}{'share':>7}")
    rows = rows_before(args.out)
    keys = ("quantity", "system", "version", "phase", "dtype", "shape")
    for version in args.versions:
        for phase in args.phases:
            for dtype in args.types:
                for row in measure(args.shape, version, phase, dtype, args.repeats):
                    bound = f"{row['limit']:8.0f}" if "limit" in row else f"{row['needed']:8.2f}"
                    name = row["system"] if row["quantity"] == "step" else "peak, GB"
                    figures = f"{row['value']:10.2f}{bound}{row['share']:7.2f}"
                    print(f"{version:8}{phase:6} {dtype:6}{name:14}{figures}", flush=True)
                    rows = [old for old in rows if any(old.get(key) != row[key] for key in keys)]
                    rows.append(row | {"machine": processor(), "commit": commit()})
                if args.out:
                    write_rows(args.out, rows)


if __name__ == "__main__":
    run_script(main)
