"""What a module's update alone tells of a prompt: answers are read from the initial state, the prompt out of reach.

    python experiments/out_of_reach.py --module runs/real/plus --rows test.jsonl --train train.jsonl \\
        --out out-of-reach.json

By kind of row, in nats per token and with 95 % bootstrap intervals over rows: what the answers cost under their own
update, under that of another row of the kind, under the mean of training prompts' updates (with --train), with
nothing, and with the prompt itself in reach and no update. An answer's first token is left out: the prompt's own
logits predict it. Late stages likewise, and how often each of their tokens is the likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prosg.checkpoints.load import load_model, require_tokenizer
from prosg.cli.scripts import ScriptParser, run_script
from prosg.core.encoded import EncodedPrompt
from prosg.core.update import Update, mean_update
from prosg.data.collate import collate
from prosg.data.encode import EncodedRow, encode_rows
from prosg.data.row import Row, read_rows
from prosg.evaluation.controls import encode_training
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
CONDITIONS = ("own", "other", "mean", "nothing", "prompt")


@torch.no_grad()
def scored(
    model: ProSG, rows: Sequence[EncodedRow], mean: Update | None
) -> dict[str, tuple[AnswerScores, dict[str, Tensor]]]:
    """Scores of one batch under each condition, and the batch. A row's other one is the next."""
    batch = collate(rows, late_weight=1.0)
    texts = (batch["prompt"], batch["prompt_lengths"], batch["answer"], batch["answer_lengths"])
    partners = torch.tensor([*range(1, len(rows)), 0])
    other, own = model.score_wiped(*texts, partners)
    empty = torch.zeros_like(batch["prompt_lengths"])
    nothing = score_in_one_call(model.backbone, texts[0], empty, *texts[2:], None)[0].scores
    prompt = model.score_after(*texts, memory="none")
    found = {"own": own, "other": other, "nothing": nothing, "prompt": prompt}
    if mean is not None:
        # Each row alone: a mean update is as large as the matrices that it changes. The logits are not counted.
        start = EncodedPrompt((), mean, torch.zeros(1, model.backbone.config.vocab_size))
        alone = [
            score_in_one_call(model.backbone, texts[0][i], empty[i], texts[2][i], texts[3][i], start)[0].scores
            for i in torch.arange(len(rows)).split(1)
        ]
        found["mean"] = AnswerScores(torch.cat([one.nll for one in alone]), torch.cat([one.hits for one in alone]))
    return {name: (scores, batch) for name, scores in found.items()}


def as_trained(model: ProSG, rows: Sequence[Row], module: str) -> list[EncodedRow]:
    """Rows in the template that the module was trained with."""
    return encode_rows(rows, require_tokenizer(model, module), model.special, own=model.own_template)[0]


def mean_of_kind(model: ProSG, kind: str, rows: Sequence[Row], module: str) -> Update | None:
    """The mean update of a kind's training prompts; None without any."""
    encoded = as_trained(model, [row for row in rows if row.kind == kind], module)
    if not encoded:
        return None
    read = encode_training(model, kind, [row.prompt for row in encoded], "update")
    return mean_update((one.update for one in read if one.update is not None), 1)


def measure(model: ProSG, rows: Sequence[EncodedRow], mean: Update | None) -> dict[str, dict[str, dict[str, float]]]:
    """Condition -> "answer", "late" (nats per token) and "exact" (1 or 0) -> row -> value."""
    found: dict[str, dict[str, dict[str, float]]] = {
        name: {"answer": {}, "late": {}, "exact": {}} for name in CONDITIONS if name != "mean" or mean is not None
    }
    for indices in batches_by_length(rows, BATCH):
        for name, (scores, batch) in scored(model, [rows[i] for i in indices], mean).items():
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
    parser = ScriptParser(__doc__)
    parser.add_argument("--module", required=True, help="an adapter, or what its training left")
    parser.add_argument("--rows", required=True, help="jsonl rows, at least two of each kind")
    parser.add_argument("--train", nargs="*", default=[], help="jsonl rows whose prompts' mean update is measured, too")
    parser.add_out("the JSON file to write: every row's values", required=True)
    options = parser.parse_args()
    model = load_model(options.module)
    rows, trained = read_rows(options.rows), [row for path in options.train for row in read_rows(path)]
    shown = [name for name in CONDITIONS[1:] if name != "mean" or trained]
    values, table = {}, [["kind", "rows", "own", *(f"{name} - own" for name in shown), "exact: own", "other"]]
    for kind in dict.fromkeys(row.kind for row in rows):
        chosen = [row for row in rows if row.kind == kind]
        encoded = as_trained(model, chosen, options.module)
        values[kind] = found = measure(model, encoded, mean_of_kind(model, kind, trained, options.module))
        for part in ("answer", "late"):
            own = found["own"][part]
            if own and (mean := mean_of(own)) is not None:
                gaps = [signed(compare(found[name][part], own)) if name in found else "" for name in shown]
                exact = [mean_of(found[name]["exact"]) if part == "late" else None for name in ("own", "other")]
                cells = [str(len(own)), f"{mean.mean:.3f}", *gaps]
                cells += ["" if one is None else amount(one.mean) for one in exact]
                table.append([f"{kind}, {part}", *cells])
        print(to_text(table), flush=True)
    write_json(options.out, {"module": options.module, "rows": options.rows, "values": values})


if __name__ == "__main__":
    run_script(main)
