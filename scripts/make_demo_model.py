"""Put a demo run's model into the package, and record what it scores.

    python scripts/make_demo_model.py runs/demo-rwkv4/seed-1
    python scripts/make_demo_model.py --module runs/plus/adapter

The second form replaces the module alone, by one that was trained on the packaged backbone. `prosg generate demo`
answers with it; a test holds it to the recorded scores.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch

from prosg.checkpoints.adapter import load_adapter, save_adapter
from prosg.checkpoints.load import demo_model
from prosg.cli import main as prosg
from prosg.cli.scripts import ScriptParser, file_to_read, run_script
from prosg.utils.io import write_json

ROWS, SEED, SENTENCES = 192, 11, (5, 60)


def scores() -> list[dict[str, object]]:
    """The packaged model's late accuracy on test rows of a seed of its own, fp32."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "curve.json"
        options = ["--rows", str(ROWS), "--seed", str(SEED), "--sentences", *map(str, SENTENCES), "--no-free"]
        status = prosg(
            ["curve", "demo", "--memory", "update", "--updates", "own,other,wiped,none", *options, "--out", str(out)]
        )
        assert status == 0
        rows = json.loads(out.read_text("utf-8"))["rows"]
    kept = ("update", "state", "sentences", "distance_tokens", "n", "late_accuracy")
    return [{key: row[key] for key in kept} for row in rows if row["kind"] == "all" and row["measure"] == "curve"]


def main() -> None:
    """Copy phase 1 and `plus` of a run into the package, or a module alone, and score them there."""
    parser = ScriptParser(__doc__)
    parser.add_argument("run", nargs="?", type=file_to_read, help="folder of a seed of prosg demo")
    parser.add_argument("--module", type=file_to_read, help="an adapter on the packaged backbone")
    options = parser.parse_args()
    if (options.run is None) == (options.module is None):
        parser.error("name a run, or --module")
    folder = demo_model().parent
    if options.run is not None:
        adapter = options.run / "plus" / "adapter"
        if not adapter.exists():
            parser.error(f"{adapter}: no such folder")
        new = folder / "base-new"  # whole, before the old one goes
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(options.run / "phase1" / "model", new)
        shutil.rmtree(folder / "base", ignore_errors=True)
        new.rename(folder / "base")
    else:
        adapter = options.module
    model, _ = load_adapter(adapter)
    save_adapter(model, folder / "plus", base="../base", overwrite=True)
    torch.set_num_threads(1)
    write_json(folder / "scores.json", {"seed": SEED, "rows": scores()})


if __name__ == "__main__":
    run_script(main)
