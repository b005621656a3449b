"""Put a demo run's model into the package, and record what it scores.

    python scripts/make_demo_model.py runs/demo-rwkv4/seed-1

`prosg generate demo` answers with it; a test holds it to the recorded scores.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from prosg.checkpoints.adapter import load_adapter, save_adapter
from prosg.checkpoints.load import demo_model, load_model
from prosg.evaluation.controls import Condition
from prosg.evaluation.curve import forgetting_curve

ROWS, SEED, SENTENCES = 192, 11, (5, 60)
CONDITIONS = (Condition("own"), Condition("other"), Condition("own", "wiped"), Condition("none"))


def scores() -> list[dict[str, object]]:
    """The packaged model's late accuracy on test rows of a seed of its own, fp32."""
    result = forgetting_curve(
        load_model("demo"),
        labels={"system": "demo"},
        conditions=CONDITIONS,
        size=ROWS,
        sentences=SENTENCES,
        seed=SEED,
        free=False,
    )
    kept = ("update", "state", "sentences", "distance_tokens", "n", "late_accuracy")
    return [{key: row[key] for key in kept} for row in result.rows if row["kind"] == "all"]


def main(run: Path) -> None:
    """Copy phase 1 and `plus` of a run into the package, and score them there."""
    folder = demo_model().parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copytree(run / "phase1" / "model", folder / "base")
    model, _ = load_adapter(run / "plus" / "adapter")
    save_adapter(model, folder / "plus", base="../base")
    torch.set_num_threads(1)
    (folder / "scores.json").write_text(json.dumps({"seed": SEED, "rows": scores()}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
