"""A language model of real text, made here: RWKV-7, 6 million parameters, trained on plain English files.

    python experiments/real_text.py prepare --train FILES --test FILES --out runs/text
    python experiments/real_text.py train --out runs/text --hours 2
    python experiments/real_text.py learn --out runs/text
    python experiments/real_text.py measure --out runs/text

`prepare` reads text and HTML, trains a BPE of 4096 tokens on the training files, and writes both splits as token ids.
`train` carries each stream's state along its text, as a text is read in use; killed and started again, it goes on from
its newest checkpoint. OUT/model is a folder that every command of `prosg` takes.

`learn` learns a window and a strength for each head on training text: the continuation of a prompt after other text is
to be told better, the prompt's own text no worse. `measure` tells, on held-out text and in nats per token,

    gain    by how much a prompt's continuation is told better with its anchor than without, after other text
    other   by how much it is told worse with another prompt's anchor than with its own
    price   by how much the anchor makes the prompt's own text worse, 1,000 to 2,000 tokens on

for one window after the other and for the learned ones, with 95 % bootstrap intervals over segments.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.checkpoints.anchor import load_anchor, save_anchor
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.load import load_model
from prosg.cli.scripts import ScriptParser, file_to_read, natural_float, positive_float, positive_int, run_script
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import choose_rows, detach_state
from prosg.evaluation.statistics import Mean, mean_of
from prosg.generation.decode import advance
from prosg.model.anchor import StateAnchor
from prosg.model.prosg import ProSG
from prosg.model.scoring import score_answer
from prosg.tokenizers.bpe import train_bpe
from prosg.utils.io import write_json, written_whole
from prosg.utils.tables import to_text

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
        with written_whole(out / f"{split}.npy", overwrite=True) as temporary:
            np.save(temporary, np.array(ids, np.uint16))
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
            write_json(out / "about.json", about)


PROMPT, CONTINUATION, OWN = 256, 256, 2048
"""Tokens of a prompt, of its continuation that is scored, and of its own text that is read on."""


class Segments(NamedTuple):
    """Places in text, a prompt and what follows it each; token ids (N, T)."""

    prompt: Tensor
    own: Tensor
    """what follows the prompt, `OWN` tokens"""
    other: Tensor
    """text of another place"""

    def take(self, rows: slice) -> Segments:
        """Some of the segments."""
        return Segments(*(part[rows] for part in self))


def segments(ids: np.ndarray, count: int, other_tokens: int, seed: int) -> Segments:
    """Draws segments that do not overlap, each with other text from half of the text away."""
    rng = np.random.default_rng(seed)
    room = PROMPT + OWN
    places = room * rng.permutation(len(ids) // room - 1)[:count]
    others = (places + len(ids) // 2 + rng.integers(0, room, count)) % (len(ids) - other_tokens)

    def cut(starts: np.ndarray, size: int) -> Tensor:
        return torch.from_numpy(ids[starts[:, None] + np.arange(size)].astype(np.int64))

    return Segments(cut(places, PROMPT), cut(places + PROMPT, OWN), cut(others, other_tokens))


def nats(model: ProSG, place: EncodedPrompt, tokens: Tensor, first: int = 0) -> np.ndarray:
    """Nats per token of tokens (N, T) from their `first` on, mean over each row."""
    lengths = torch.full((len(tokens),), tokens.shape[1])
    return model.score(place, tokens, lengths).nll[:, first:].mean(1).numpy()


def learn(out: Path, steps: int, rows: int, price_weight: float, lr: float, tau: float) -> None:
    """Learns OUT/learned/anchor.safetensors on training text; the backbone is frozen."""
    torch.set_num_threads(1)
    model = load_model(out / "model")
    model.requires_grad_(False)
    anchor = StateAnchor(model.backbone, tau)
    anchor.requires_grad_(True)
    optimiser = torch.optim.Adam(anchor.parameters(), lr=lr)
    ids = np.load(out / "train.npy")
    for step in range(steps):
        some = segments(ids, rows, 768, seed=step)
        start = model.encode(some.prompt, memory="none")
        far = start.replace(anchor=detach_state(anchor(model.backbone, start.state)))
        far = advance(model.backbone, far, some.other[:, :-128])
        near = advance(model.backbone, far.replace(state=start.state), some.own[:, :512])
        held = anchor(model.backbone, start.state)
        other = model.backbone(some.other[:, -128:], far.state, anchor=held, logits="last")
        continued = EncodedPrompt(other.state, None, other.logits, held)
        lengths = torch.full((rows,), 128)
        gain = score_answer(model.backbone, continued, some.own[:, :128], lengths).nll.mean()
        price = score_answer(model.backbone, near.replace(anchor=held), some.own[:, 512:640], lengths).nll.mean()
        optimiser.zero_grad()
        (gain + price_weight * price).backward()
        optimiser.step()
        if step % 10 == 0:
            windows = torch.cat([one.detach().exp() for one in anchor.log_tau])
            strengths = torch.cat([one.detach().exp() for one in anchor.log_strength])
            print(
                f"step {step}  continuation {gain:.3f}  own {price:.3f}  windows {windows.min():.0f} to "
                f"{windows.max():.0f}  strengths {strengths.min():.2f} to {strengths.max():.2f}",
                flush=True,
            )
    (out / "learned").mkdir(exist_ok=True)
    save_anchor(anchor, out / "learned" / "anchor.safetensors", overwrite=True)


def measure(out: Path, count: int, distances: Sequence[int], taus: Sequence[float]) -> None:
    """Writes OUT/measured.json and prints a table."""
    torch.set_num_threads(1)
    model = load_model(out / "model")
    backbone, some = model.backbone, segments(np.load(out / "test.npy"), count, max(distances), seed=1)
    start = model.encode(some.prompt, memory="none")
    anchors: dict[str, StateAnchor | None] = {"none": None}
    anchors |= {f"tau {tau:g}": StateAnchor(backbone, tau) for tau in taus}
    if (out / "learned").is_dir():
        anchors["learned"] = load_anchor(out / "learned", backbone)
    shuffled = torch.arange(count).roll(1)
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, anchor in anchors.items():
        began = time.perf_counter()
        held = None if anchor is None else anchor(backbone, start.state)
        conditions = {"own": start.replace(anchor=held)}
        if anchor is not None:
            conditions["other"] = start.replace(anchor=anchor(backbone, start.take(shuffled).state))
        scores = {}
        for whose, place in conditions.items():
            read = 0
            for distance in distances:
                place, read = advance(backbone, place, some.other[:, read:distance]), distance
                scores[f"{whose} {distance}"] = nats(model, place, some.own[:, :CONTINUATION])
        scores["own text"] = nats(model, conditions["own"], some.own, first=1000)
        found[name] = scores
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    table = [
        [
            "anchor",
            *(f"gain {d:,}" for d in distances),
            *(f"other - own {d:,}" for d in distances),
            "price",
        ]
    ]
    cells: dict[str, dict[str, list[float]]] = {}
    for name, scores in found.items():
        differences = {f"gain {d}": found["none"][f"own {d}"] - scores[f"own {d}"] for d in distances}
        if name != "none":
            differences |= {f"other {d}": scores[f"other {d}"] - scores[f"own {d}"] for d in distances}
        differences["price"] = scores["own text"] - found["none"]["own text"]
        intervals = {key: _mean(values) for key, values in differences.items()}
        cells[name] = {key: [one.mean, one.low, one.high] for key, one in intervals.items()}
        keys = [
            *(f"gain {d}" for d in distances),
            *(f"other {d}" for d in distances),
            "price",
        ]
        table.append([name, *(_cell(intervals.get(key)) for key in keys)])
    plain = {key: float(values.mean()) for key, values in found["none"].items()}
    about = json.loads((out / "about.json").read_text())
    write_json(
        out / "measured.json",
        {"segments": count, "model": about, "nats without an anchor": plain, "differences [mean, low, high]": cells},
    )
    print(to_text(table))


def _mean(values: np.ndarray) -> Mean:
    mean = mean_of({str(i): float(value) for i, value in enumerate(values)})
    assert mean is not None
    return mean


def _cell(one: Mean | None) -> str:
    return "-" if one is None else f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"


def main() -> None:
    parser = ScriptParser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("prepare", help="text to token ids")
    one.add_argument("--train", nargs="+", type=file_to_read, required=True)
    one.add_argument("--test", nargs="+", type=file_to_read, required=True)
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("train", help="train the model")
    two.add_argument("--out", type=Path, required=True)
    two.add_argument("--hours", type=positive_float, default=2.0, help="over all starts")
    two.add_argument("--threads", type=positive_int, default=1)
    two.add_argument("--save-minutes", type=positive_float, default=5.0)
    three = commands.add_parser("learn", help="learn a window and a strength for each head")
    three.add_argument("--out", type=Path, required=True)
    three.add_argument("--steps", type=positive_int, default=60)
    three.add_argument("--rows", type=positive_int, default=8, help="segments a step")
    three.add_argument("--price-weight", type=natural_float, default=4.0, help="of the own text's loss")
    three.add_argument("--lr", type=positive_float, default=0.1)
    three.add_argument("--tau", type=positive_float, default=100.0, help="all windows at the start")
    four = commands.add_parser("measure", help="gain and price on held-out text")
    four.add_argument("--out", type=Path, required=True)
    four.add_argument("--segments", type=positive_int, default=64)
    four.add_argument("--distances", type=positive_int, nargs="+", default=[200, 1000, 4000])
    four.add_argument("--taus", type=positive_float, nargs="+", default=[50, 100, 300, 1000])
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.train, options.test, options.out)
    elif options.command == "train":
        train(options.out, options.hours, options.threads, options.save_minutes)
    elif options.command == "learn":
        learn(options.out, options.steps, options.rows, options.price_weight, options.lr, options.tau)
    else:
        measure(options.out, options.segments, options.distances, options.taus)


if __name__ == "__main__":
    run_script(main)
