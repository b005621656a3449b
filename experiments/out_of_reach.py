"""What a module's update alone tells of a prompt: answers are read from the initial state, the prompt out of reach.

    python experiments/out_of_reach.py --module runs/real/plus --rows test.jsonl --out out-of-reach.json

By kind of row, in nats per token and with 95 % bootstrap intervals over rows: what the answers cost under their own
update, under that of another row of the kind, with nothing, and with the prompt itself in reach and no update. An
answer's first token is left out: the prompt's own logits predict it. Late stages likewise, and how often each of
their tokens is the likeliest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from prosg.checkpoints.load import load_model, require_tokenizer
from prosg.data.collate import collate
from prosg.data.encode import EncodedRow, encode_rows
from prosg.data.row import read_rows
from prosg.evaluation.formatting import amount
from prosg.evaluation.report.cells import signed
from prosg.evaluation.statistics import compare, mean_of
from prosg.model.objective import AnswerScores
from prosg.model.perplexity import batches_by_length
from prosg.model.prosg import ProSG
from prosg.model.scoring import score_in_one_call
from prosg.utils.io import write_json
from prosg.utils.tables import to_text

BATCH = 16
CONDITIONS = ("own", "other", "nothing", "prompt")


@torch.no_grad()
def scored(model: ProSG, rows: Sequence[EncodedRow]) -> dict[str, tuple[AnswerScores, dict[str, Tensor]]]:
    """Scores of one batch under each condition, and the batch. A row's other one is the next."""
    batch = collate(rows, late_weight=1.0)
    texts = (batch["prompt"], batch["prompt_lengths"], batch["answer"], batch["answer_lengths"])
    partners = torch.tensor([*range(1, len(rows)), 0])
    other, own = model.score_wiped(*texts, partners)
    empty = torch.zeros_like(batch["prompt_lengths"])
    nothing = score_in_one_call(model.backbone, texts[0], empty, *texts[2:], None)[0].scores
    prompt = model.score_after(*texts, memory="none")
    return dict(zip(CONDITIONS, ((scores, batch) for scores in (own, other, nothing, prompt)), strict=True))


def measure(model: ProSG, rows: Sequence[EncodedRow]) -> dict[str, dict[str, dict[str, float]]]:
    """Condition -> "answer", "late" (nats per token) and "exact" (1 or 0) -> row -> value."""
    found: dict[str, dict[str, dict[str, float]]] = {
        name: {"answer": {}, "late": {}, "exact": {}} for name in CONDITIONS
    }
    for indices in batches_by_length(rows, BATCH):
        for name, (scores, batch) in scored(model, [rows[i] for i in indices]).items():
            place = torch.arange(batch["answer"].shape[1])
            valid = (batch["weights"] > 0) & (place > 0)
            late = valid & (place >= batch["late_start"].unsqueeze(1))
            known = valid & (place >= batch["late_text"].unsqueeze(1))
            for number, i in enumerate(indices):
                nll, key = scores.nll[number].double(), str(i)
                found[name]["answer"][key] = float(nll[valid[number]].mean())
                if rows[i].has_stages:
                    found[name]["late"][key] = float(nll[late[number]].mean())
                    found[name]["exact"][key] = float(bool((scores.hits | ~known)[number].all()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", required=True, help="an adapter, or what its training left")
    parser.add_argument("--rows", required=True, help="jsonl rows, at least two of each kind")
    parser.add_argument("--out", required=True, help="the JSON file to write: every row's values")
    options = parser.parse_args()
    model = load_model(options.module)
    rows = read_rows(options.rows)
    values, table = {}, [["kind", "rows", "own", *(f"{name} - own" for name in CONDITIONS[1:]), "late exact, own"]]
    for kind in dict.fromkeys(row.kind for row in rows):
        chosen = [row for row in rows if row.kind == kind]
        encoded, _ = encode_rows(chosen, require_tokenizer(model, options.module), model.special)
        values[kind] = found = measure(model, encoded)
        for part in ("answer", "late"):
            own = found["own"][part]
            if own and (mean := mean_of(own)) is not None:
                exact = mean_of(found["own"]["exact"]) if part == "late" else None
                gaps = [signed(compare(found[name][part], own)) for name in CONDITIONS[1:]]
                cells = [str(len(own)), f"{mean.mean:.3f}", *gaps, "" if exact is None else amount(exact.mean)]
                table.append([f"{kind}, {part}", *cells])
        print(to_text(table), flush=True)
    write_json(options.out, {"module": options.module, "rows": options.rows, "values": values})


if __name__ == "__main__":
    main()
