"""How large a memory grows while stories are written, and what of it comes from the transitions.

    python experiments/state_growth.py --models DIR/phase1/model DIR/durable/model --tokens 2000 --out growth.json

For each model: rows of the test split, stories sampled and held; the norm of each row's memory (the largest over layers
and heads) at several lengths, and the rows whose logits were not finite. For RWKV-7 also the transition of a token,
S <- S (diag(w) - kk (a kk)^T): its largest singular value, which is above 1 where the matrix is not normal, and the
growth rate of the products over a text, which says whether that adds up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prosg.backbones.rwkv7 import RWKV7
from prosg.checkpoints.load import load_model, require_tokenizer
from prosg.cli.scripts import ScriptParser, positive_float, positive_int, run_script
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import State
from prosg.data.row import Row
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.generation.decode import Step, decode
from prosg.generation.length_control import sentence_ends
from prosg.generation.sampling import Sampling
from prosg.model.prosg import ProSG
from prosg.ops.wkv7 import WKV7
from prosg.utils.io import write_json
from prosg.utils.tables import to_text

MARKS = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)


def norms(state: State) -> Tensor:
    """(B,) the greatest Frobenius norm of a head's memory, over layers and heads."""
    found = []
    for layer in state:
        memory = max((leaf for leaf in layer if leaf.ndim >= 3), key=lambda leaf: leaf[0].numel(), default=layer[2])
        heads = memory.flatten(2) if memory.ndim == 4 else memory.flatten(1).unsqueeze(1)
        found.append(heads.double().norm(dim=-1).amax(-1))
    return torch.stack(found).amax(0)


def stories(model: ProSG, rows: Sequence[Row], encoded: EncodedPrompt, tokens: int, seed: int) -> Iterator[Step]:
    """The steps of held stories of at least so many tokens under encoded prompts, sampled as `prosg curve` does."""
    tokenizer = require_tokenizer(model, "model")
    sampling = Sampling(
        max_tokens=1,
        temperature=0.8,
        seed=seed,
        hold_until=tokens,
        force_marker=["held"] * len(rows),
        end_token=model.special.end,
    )
    return decode(
        model.backbone,
        encoded,
        sampling,
        markers=[tokenizer.encode(row.stages[-1].marker) for row in rows],
        ends_sentence=sentence_ends(tokenizer, model.backbone.config.vocab_size),
        numbers=np.arange(len(rows), dtype=np.uint64),
    )


@torch.no_grad()
def growth(model: ProSG, rows: int, tokens: int, seed: int, tau: float | None) -> tuple[dict[int, list[float]], int]:
    """By length, each row's norm; and the number of rows whose logits were not finite at the end."""
    asked = make_rows(DEMO_KINDS, rows, seed, "test", sentences=(5, 5))
    encoded = model.encode([row.prompt for row in asked], memory="none" if tau is None else "anchor", tau=tau)
    found, broken = {}, 0
    for written, step in enumerate(stories(model, asked, encoded, tokens, seed)):
        if written in MARKS:
            found[written] = norms(step.before.state).tolist()
            broken = step.finite.count(False)
        if written == tokens:
            break
    return found, broken


@torch.no_grad()
def transitions(model: RWKV7, tokens: Tensor) -> list[list[dict[str, float]]]:
    """Per layer and head: the largest singular value of a token's transition, and the rate of the products' growth."""
    seen: list[tuple[Tensor, ...]] = []
    naive = WKV7.kernels["scan"]

    def spy(*arguments: Any) -> Any:
        seen.append(arguments)
        return naive(*arguments)

    WKV7.kernels["scan"] = spy  # type: ignore[index]
    try:
        model(tokens)
    finally:
        WKV7.kernels["scan"] = naive  # type: ignore[index]
    told = []
    for _, w, _, _, a, b, *_ in seen:
        matrices = torch.diag_embed(w.double().exp()) + a.double().unsqueeze(-1) * b.double().unsqueeze(-2)
        largest = torch.linalg.matrix_norm(matrices, ord=2)  # (B, T, H)
        heads = []
        for head in range(matrices.shape[2]):
            product, rate = torch.eye(matrices.shape[-1], dtype=torch.float64), 0.0
            for time in range(matrices.shape[1]):
                product = product @ matrices[0, time, head]
                size = float(torch.linalg.matrix_norm(product, ord=2))
                product, rate = product / size, rate + np.log(size)
            heads.append(
                {
                    "median": float(largest[:, :, head].median()),
                    "largest": float(largest[:, :, head].max()),
                    "rate": rate / matrices.shape[1],
                }
            )
        told.append(heads)
    return told


def main() -> int:
    parser = ScriptParser(__doc__)
    parser.add_argument("--models", nargs="+", type=Path, required=True)
    parser.add_argument("--rows", type=positive_int, default=48)
    parser.add_argument("--tokens", type=positive_int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tau", type=positive_float, help="under an anchor with this window")
    parser.add_out("JSON file for the figures", required=True)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    table = [["model", "rows not finite", *(f"{mark:,}" for mark in MARKS if mark <= options.tokens)]]
    for path in options.models:
        model = load_model(path)
        found, broken = growth(model, options.rows, options.tokens, options.seed, options.tau)
        results[str(path)] = {"norms": found, "not_finite": broken}
        cells = [f"{np.median(row):.3g} ({max(row):.3g})" for row in found.values()]
        table.append([str(path), str(broken), *cells])
        if isinstance(model.backbone, RWKV7):
            row = make_rows(DEMO_KINDS, 1, options.seed, "test", sentences=(60, 60))[0]
            ids = torch.tensor([require_tokenizer(model, "model").encode(row.prompt + row.answer)])
            backbone = load_model(path, kernel="scan").backbone
            assert isinstance(backbone, RWKV7)
            results[str(path)]["transitions"] = transitions(backbone, ids)
        print(to_text(table), flush=True)
    write_json(options.out, results)
    for path, result in results.items():
        for layer, heads in enumerate(result.get("transitions", ())):
            for head, values in enumerate(heads):
                print(path, layer, head, {name: round(value, 4) for name, value in values.items()})
    return 0


if __name__ == "__main__":
    run_script(main)
