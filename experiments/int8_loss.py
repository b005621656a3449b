"""What weights in 8 bits lose on running text: the next token's distribution with them and without.

    python experiments/int8_loss.py MODEL TEXT [--tokens 8192] [--window 512] [--out FILE]

MODEL is a native checkpoint or a folder that transformers loads; TEXT a file. The matrices are quantised as `--quantize
int8` does it. Printed: share of tokens whose likeliest next token stays, mean KL divergence, negative log-likelihood.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prosg.backbones.layers import quantise_matrix
from prosg.checkpoints.load import load_model
from prosg.cli.scripts import ScriptParser, file_to_read, positive_int, run_script
from prosg.utils.environment import processor
from prosg.utils.io import write_json


def narrow(model: nn.Module) -> None:
    """Rounds the matrices to what int8 and its scales say; embeddings stay."""
    seen = set()
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            q, scale = quantise_matrix(module.weight.detach())
            module.weight = nn.Parameter(q.float() * scale.unsqueeze(1), requires_grad=False)


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    return torch.cat([model.backbone(row.unsqueeze(0)).logits.float() for row in ids])


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=file_to_read)
    parser.add_argument("--target-modules", nargs="+", default=[], help="for a model that transformers runs")
    parser.add_argument("--tokens", type=positive_int, default=8192)
    parser.add_argument("--window", type=positive_int, default=512)
    parser.add_argument("--name", default="", help="what the figures call the model; its folder by default")
    parser.add_out("JSON file for the figures")
    args = parser.parse_args()
    model = load_model(args.model, dtype="fp32", target_modules=args.target_modules)
    ids = model.tokenizer.encode(args.text.read_text("utf-8")[: 8 * args.tokens])[: args.tokens]
    if len(ids) < args.window:
        raise ValueError(f"{args.text}: has {len(ids)} tokens; at least one window of {args.window} is needed")
    rows = torch.tensor(ids[: len(ids) // args.window * args.window]).view(-1, args.window)
    exact = logits(model, rows)
    narrow(model.backbone if not hasattr(model.backbone, "model") else model.backbone.model)
    rounded = logits(model, rows)
    right, log_p, log_q = rows[:, 1:], exact[:, :-1].log_softmax(-1), rounded[:, :-1].log_softmax(-1)
    figures = {
        "tokens": right.numel(),
        "top-1 agreement": float((log_p.argmax(-1) == log_q.argmax(-1)).float().mean()),
        "KL divergence, nats": float((log_p.exp() * (log_p - log_q)).sum(-1).mean()),
        "negative log-likelihood, fp32": float(-log_p.gather(-1, right.unsqueeze(-1)).mean()),
        "negative log-likelihood, int8": float(-log_q.gather(-1, right.unsqueeze(-1)).mean()),
    }
    for name, value in figures.items():
        print(f"{name:32}{value:.4f}" if isinstance(value, float) else f"{name:32}{value:,}")
    if args.out:
        rows_out = [{"model": args.name or args.model.name, **figures, "machine": processor()}]
        write_json(args.out, rows_out)


if __name__ == "__main__":
    run_script(main)
