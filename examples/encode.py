"""Encodes prompts to files, and swaps updates between them: an update is a value, and carries its prompt's content.

    python examples/encode.py [FOLDER]

Each answer is written from one prompt's state and the other's update, from an update on a state that holds nothing, and
so on: what the update holds comes through whatever the state is.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from prosg import EncodedPrompt, ProSG, load_encoded, load_model, save_encoded

PROMPTS = {
    "code": "Tell a short story and at the end repeat the code 57488348.",
    "place": "I want a story. It must end in the church, with the ball and the sword.",
}


def last_line(model: ProSG, encoded: EncodedPrompt) -> str:
    """The end of the answer, where the prompt is needed again."""
    [answer] = model.generate(encoded, max_tokens=80)
    return answer.strip().splitlines()[-1]


def main(folder: Path) -> dict[str, str]:
    """Encodes, swaps and answers; returns the last line of each answer by what it was written from."""
    model = load_model("demo")
    for name, prompt in PROMPTS.items():
        save_encoded(model.encode(prompt), folder / f"{name}.safetensors", model)

    # Another process, later: nothing of the prompts' text is needed any more.
    code, place = (load_encoded(folder / f"{name}.safetensors", model) for name in PROMPTS)
    nothing = model.init_state(1)
    answers = {
        "code's state, code's update": code,
        "code's state, place's update": code.replace(update=place.update),
        "code's state, no update": model.held_by(code, "none"),
        "empty state, code's update": code.replace(state=nothing),
        "place's state, place's update": place,
        "place's state, code's update": place.replace(update=code.update),
        "empty state, place's update": place.replace(state=nothing),
    }
    lines = {name: last_line(model, encoded) for name, encoded in answers.items()}
    for name, line in lines.items():
        print(f"{name:32}{line}")

    # Several prompts make a batch, and a batch comes apart again.
    both = EncodedPrompt.join([code, place])
    assert both.take(torch.tensor([1])).batch == 1
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="where the files are kept")
    if (folder := parser.parse_args().folder) is not None:
        main(folder)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
