"""Trains a synthesis module in plain PyTorch: the loop of `prosg train synthesize`, without its Trainer.

    python examples/train_by_hand.py [STEPS]

The backbone is the demo's, frozen. In 400 steps, about a minute on one core, it learns to carry a prompt whose state is
wiped; the recipe `plus` adds stronger perturbations, guards against bad steps, resuming, and several processes.
"""

from __future__ import annotations

import argparse

import torch

from prosg import ProSG, ProSGConfig, load_model
from prosg.data.collate import collate
from prosg.data.encode import encode_rows
from prosg.data.sampler import StepBatches
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.training.config import Perturbation
from prosg.training.perturbation import Perturber, draw

PERTURBATION = Perturbation(wipe_first=0.2, wipe_last=0.8, swap=0.2)
"""A module whose states are never disturbed learns to lean on them."""
ROWS = 2000
INPUTS = ("prompt", "prompt_lengths", "answer", "answer_lengths", "weights")


def train(steps: int, batch_size: int = 16, seed: int = 0) -> tuple[ProSG, list[float]]:
    """Trains a fresh module; returns the model and the loss of every step."""
    demo = load_model("demo")
    model = ProSG(demo.backbone, ProSGConfig.from_preset("plus"), seed=seed)
    model.tokenizer, model.special = demo.tokenizer, demo.special
    model.backbone.requires_grad_(False)
    module = model.synthesizer
    assert module is not None and model.tokenizer is not None

    rows, _ = encode_rows(make_rows(DEMO_KINDS, ROWS, seed, "train"), model.tokenizer, model.special)
    batches = StepBatches([row.tokens for row in rows], batch_size, accumulation=1, steps=steps, seed=seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=4e-3, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps + 1, pct_start=0.1)
    losses = []
    model.train()
    for step, indices in enumerate(batches):
        batch = collate([rows[i] for i in indices], late_weight=3.0)
        # What happens to each row's state at its prompt's end is a function of seed, step and row.
        draws = draw(PERTURBATION, seed, step, step / steps, batch["row_ids"], batch["story_end"])
        scored = model(**{name: batch[name] for name in INPUTS}, perturber=Perturber(draws, None))
        optimizer.zero_grad()
        scored.loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(scored.loss.item())
        if step % 20 == 0:
            print(f"step {step:4}  loss {losses[-1]:.3f}")
    return model.eval(), losses


def main(steps: int) -> None:
    """Trains, and writes an answer on a state that was wiped: all that is known of the prompt is in the update."""
    model, _ = train(steps)
    encoded = model.encode("I want a story. It must end in the church, with the ball and the sword.")
    print(*model.generate(encoded.replace(state=model.init_state(1)), max_tokens=80))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="?", type=int, default=400, metavar="STEPS")
    if (steps := parser.parse_args().steps) < 1:
        parser.error(f"STEPS is {steps}, must be at least 1")
    main(steps)
