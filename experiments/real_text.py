"""A language model of real text, made here: RWKV-7, 6 million parameters, trained on plain English files.

    python experiments/real_text.py prepare --train FILES --test FILES --out runs/text
    python experiments/real_text.py train --out runs/text --hours 2

`prepare` reads text and HTML, trains a BPE of 4096 tokens on the training files, and writes both splits as token ids.
`train` carries each stream's state along its text, as a text is read in use; killed and started again, it goes on from
its newest checkpoint. OUT/model is a folder that every command of `prosg` takes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.checkpoints.backbone import save_backbone
from prosg.core.state import choose_rows, detach_state
from prosg.tokenizers.bpe import train_bpe
from prosg.utils.io import written_whole

VOCABULARY, WIDTH, LAYERS, HEAD = 4096, 256, 5, 64
STREAMS, TIME = 16, 256
"""Texts that are read side by side, and tokens of each between two steps of the optimiser."""
RESTART = 0.03
"""Share of the streams that jump to another place, with an empty state, before each step: texts of 8,500 tokens."""
RATE, LAST_RATE, WARMUP = 2e-3, 1e-4, 100


class _Text(HTMLParser):
    """The text of a page, a paragraph per block."""

    BLOCKS = frozenset({"p", "h1", "h2", "h3", "h4", "li", "blockquote", "br", "div", "tr"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden += tag in ("script", "style", "head")
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style", "head")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data.replace("\n", " "))


def read_text(path: Path) -> str:
    """A file's text, a paragraph per line."""
    text = path.read_text("utf-8", errors="replace")
    if path.suffix == ".html":
        page = _Text()
        page.feed(text)
        text = "".join(page.parts)
    return "\n".join(line for line in (" ".join(line.split()) for line in text.splitlines()) if line)


def prepare(train: Sequence[Path], test: Sequence[Path], out: Path) -> None:
    """Tokenizer, and both splits as token ids, documents joined by the end token."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {"train": [read_text(path) for path in train], "test": [read_text(path) for path in test]}
    tokenizer = train_bpe([line for text in texts["train"] for line in text.splitlines()], vocab_size=VOCABULARY)
    tokenizer.save(out)
    for split, documents in texts.items():
        ids = [token for text in documents for token in (*tokenizer.encode(text), 0)]
        np.save(out / f"{split}.npy", np.array(ids, np.uint16))
        print(f"{split}: {len(documents)} documents, {len(ids):,} tokens")


class Streams:
    """Places in the text that are read side by side."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def starts(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Random places with room for a few steps."""
        return rng.integers(0, len(self.ids) - 8 * TIME, count)

    def read(self, places: np.ndarray) -> Tensor:
        """(N, TIME + 1) tokens from each place on."""
        return torch.from_numpy(self.ids[places[:, None] + np.arange(TIME + 1)].astype(np.int64))


def train(out: Path, hours: float, threads: int, save_minutes: float) -> None:
    """Trains for so many hours of this machine, over all starts."""
    torch.set_num_threads(threads)
    ids = np.load(out / "train.npy")
    model = RWKV7(RWKV7Config(VOCABULARY, WIDTH, LAYERS, head_size=HEAD))
    model.reset_parameters(torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    streams, rng = Streams(ids), np.random.default_rng(0)
    places, state = streams.starts(rng, STREAMS), model.init_state(STREAMS)
    step, spent, losses = 0, 0.0, []
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        places, state, rng = saved["places"], saved["state"], saved["rng"]
        step, spent, losses = saved["step"], saved["spent"], saved["losses"]
    total = 3600 * hours
    began = saved_at = time.perf_counter() - spent
    while spent < total:
        share = spent / total
        rate = LAST_RATE + (RATE - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / WARMUP)
        jump = (rng.random(STREAMS) < RESTART) | (places + 2 * TIME >= len(ids))
        places = np.where(jump, streams.starts(rng, STREAMS), places)
        state = choose_rows(torch.from_numpy(~jump), detach_state(state), model.init_state(STREAMS))
        tokens = streams.read(places)
        output = model(tokens[:, :-1], state)
        loss = F.cross_entropy(output.logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        places, state, step = places + TIME, output.state, step + 1
        losses.append(loss.item())
        now = time.perf_counter()
        spent = now - began
        if step % 25 == 0:
            print(f"step {step}  {spent / 60:.1f} min  loss {np.mean(losses[-25:]):.3f}", flush=True)
        if now - saved_at > 60 * save_minutes or spent >= total:
            saved_at = now
            content = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "places": places}
            content |= {"state": detach_state(state), "rng": rng, "step": step, "spent": spent, "losses": losses}
            with written_whole(checkpoint, overwrite=True) as temporary:
                torch.save(content, temporary)
            save_backbone(model, out / "model", tokenizer=out / "tokenizer.json", overwrite=True)
            about = {
                "steps": step,
                "tokens": step * STREAMS * TIME,
                "seconds": spent,
                "loss": float(np.mean(losses[-100:])),
            }
            (out / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("prepare", help="text to token ids")
    one.add_argument("--train", nargs="+", type=Path, required=True)
    one.add_argument("--test", nargs="+", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("train", help="train the model")
    two.add_argument("--out", type=Path, required=True)
    two.add_argument("--hours", type=float, default=2.0, help="over all starts")
    two.add_argument("--threads", type=int, default=1)
    two.add_argument("--save-minutes", type=float, default=5.0)
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.train, options.test, options.out)
    else:
        train(options.out, options.hours, options.threads, options.save_minutes)


if __name__ == "__main__":
    main()
