"""Put a demo run's model into the package, and record what it scores.

    python scripts/make_demo_model.py runs/demo-rwkv4/seed-1

`prosg generate demo` answers with it; a test holds it to the recorded scores.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from prosg.checkpoints.adapter import load_adapter, save_adapter
from prosg.checkpoints.load import demo_model
from prosg.cli import main as prosg

ROWS, SEED, SENTENCES = 192, 11, (5, 60)


def scores() -> list[dict[str, object]]:
    """The packaged model's late accuracy on test rows of a seed of its own, fp32."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "curve.json"
        options = ["--rows", str(ROWS), "--seed", str(SEED), "--sentences", *map(str, SENTENCES), "--no-free"]
        status = prosg(["curve", "demo", "--updates", "own,other,wiped,none", *options, "--out", str(out)])
        assert status == 0
        rows = json.loads(out.read_text("utf-8"))["rows"]
    kept = ("update", "state", "sentences", "distance_tokens", "n", "late_accuracy")
    return [{key: row[key] for key in kept} for row in rows if row["kind"] == "all" and row["measure"] == "curve"]


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
