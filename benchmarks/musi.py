"""Filter, near-duplicate search and export of many instructions: seconds, memory, and pairs found.

    python benchmarks/musi.py [--out FILE] [--prompts 22000] [--sample 2000]

A build's folder is filled with replies in a model's form (a seventh of the instructions are changed copies of others).
Then the commands `prosg data build --stages filter` and `--stages export` run on it, and their wall-clock time and peak
memory are measured. On a sample, the pairs found are compared with those of an LCS of every pair.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import yaml
from _common import commit, write_rows
from rapidfuzz.distance import LCSseq

from prosg.cli.scripts import ScriptParser, positive_int, run_script
from prosg.data.synthetic import words
from prosg.llm.budget import Cost
from prosg.llm.completion import ChatReply
from prosg.musi.categories import chosen_categories
from prosg.musi.config import load_config
from prosg.musi.prompts import prompt_requests
from prosg.musi.similar import similar_pairs
from prosg.musi.text import words as tokens
from prosg.utils.environment import processor

THRESHOLD = 0.7
PER_REQUEST = 5
PLENTY = 10**9
OPENINGS = (
    "Write a story about",
    "Tell me about",
    "Describe",
    "Give me five sentences about",
    "Make up a letter about",
)
MIDDLES = ("After that, explain", "Then say something nice about", "Next, list three uses of", "Go on with a poem on")
ENDS = ("Finally, name", "At the end, mention", "Close with a sentence on", "Last of all, repeat the word")


def draft(rng: Random) -> dict[str, Any]:
    """An instruction of two to four steps and 20 to 70 words, with the vocabulary of the package's grammars."""

    def phrase() -> str:
        first = f"the {rng.choice(words.ADJECTIVES)} {rng.choice(words.OBJECTS)} that {rng.choice(words.NAMES)}"
        where = f"{rng.choice(words.SEES)} {rng.choice(words.PREPOSITIONS)} the {rng.choice(words.PLACES)}"
        return f"{first} {where} {rng.choice(words.ADVERBS)} {rng.choice(words.TIMES)}"

    opens = [rng.choice(OPENINGS), *rng.sample(MIDDLES, rng.randint(0, 2)), rng.choice(ENDS)]
    steps = [f"{start} {phrase()}" + (f" and {phrase()}" if rng.random() < 0.5 else "") for start in opens]
    return {"prompt": ". ".join(steps) + ".", "sub_instructions": steps, "domain_knowledge": 0, "checks": []}


def changed(instruction: dict[str, Any], rng: Random) -> dict[str, Any]:
    """A copy with some of its words replaced, left out or moved."""
    text = instruction["prompt"].split()
    for _ in range(rng.randint(1, len(text) // 3)):
        place = rng.randrange(len(text))
        if rng.random() < 0.5:
            text[place] = rng.choice(words.OBJECTS)
        else:
            text.insert(rng.randrange(len(text)), text.pop(place))
    return instruction | {"prompt": " ".join(text)}


def drafts(size: int) -> list[dict[str, Any]]:
    rng = Random(0)
    made: list[dict[str, Any]] = []
    while len(made) < size:
        made.append(changed(rng.choice(made), rng) if made and rng.random() < 1 / 7 else draft(rng))
    return made


def fill(folder: Path, made: list[dict[str, Any]]) -> Path:
    """A build's configuration and the replies of its first stage."""
    file = folder / "build.yaml"
    content = {
        "out": str(folder / "out"),
        "endpoint": {"model": "none", "api_key_env": ""},
        "budget": {"requests": PLENTY, "tokens": PLENTY},
        "prompts": {"count": len(made), "per_request": PER_REQUEST, "rounds": 1},
    }
    file.write_text(yaml.safe_dump(content))
    config = load_config(file)
    requests = prompt_requests(config, chosen_categories(config.prompts), 0, -(-len(made) // PER_REQUEST))
    (folder / "out").mkdir()
    with (folder / "out" / "prompts.jsonl").open("w") as out:
        for number, (_, request) in enumerate(requests):
            text = json.dumps({"prompts": made[number * PER_REQUEST : (number + 1) * PER_REQUEST]})
            reply = ChatReply(text, "stop", "", Cost(0, 0, 0.0), "none")
            out.write(json.dumps(reply.to_record(request.id)) + "\n")
    return file


def answer(folder: Path) -> int:
    """Writes the output of stages 3 and 4: an answer to every instruction that was kept. Returns their number."""
    rng = Random(1)
    kept = [line for line in map(json.loads, (folder / "out" / "filter.jsonl").open()) if line["kept"]]
    with (folder / "out" / "verified.jsonl").open("w") as out:
        for line in kept:
            text = " ".join(rng.choice(words.SUBJECTS) for _ in range(120))
            out.write(
                json.dumps({"id": line["id"], "kind": line["category"], "prompt": line["prompt"], "answer": text})
            )
            out.write("\n")
    return len(kept)


def run(file: Path, stage: str) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "prosg", "data", "build", str(file), "--stages", stage]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def exhaustive(texts: list[str]) -> set[tuple[int, int]]:
    """Pairs above the threshold by an LCS of every pair."""
    tokenized = [tokens(text) for text in texts]
    vocabulary = dict.fromkeys(word for text in tokenized for word in text)
    table = {word: chr(number) for number, word in enumerate(vocabulary)}
    codes = ["".join(table[word] for word in text) for text in tokenized]
    pairs = set()
    for later, code in enumerate(codes):
        for earlier in range(later):
            total = len(code) + len(codes[earlier])
            if 2 * LCSseq.similarity(code, codes[earlier]) > THRESHOLD * total + 1e-9:
                pairs.add((later, earlier))
    return pairs


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_out("JSON file for the rows")
    parser.add_argument("--prompts", type=positive_int, default=22_000)
    parser.add_argument("--sample", type=positive_int, default=2_000)
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    made = drafts(args.prompts)
    texts = [instruction["prompt"] for instruction in made[: args.sample]]
    all_pairs = exhaustive(texts)
    ours = {(pair.later, pair.earlier) for pair in similar_pairs(texts, THRESHOLD)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = fill(folder, made)
        seconds = {"filter": run(file, "filter")}
        kept = answer(folder)
        seconds["export"] = run(file, "export")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    results = [
        ("filter and near-duplicates", seconds["filter"], "s"),
        ("export", seconds["export"], "s"),
        ("filter, near-duplicates and export", sum(seconds.values()), "s"),
        ("peak memory of either", memory, "MiB"),
        ("instructions kept", kept, "instructions"),
        ("near-duplicate pairs, every pair compared", len(all_pairs), "pairs"),
        ("near-duplicate pairs found of these", 100 * len(all_pairs & ours) / max(len(all_pairs), 1), "%"),
        ("pairs found that are none", len(ours - all_pairs), "pairs"),
    ]
    origin = {"system": "prosg", "threads": threads, "prompts": args.prompts, "sample": args.sample}
    rows = [{"quantity": quantity, "value": value, "unit": unit, **origin} for quantity, value, unit in results]
    for row in rows:
        print(f"{row['quantity']:44}{row['value']:12,.1f} {row['unit']}")
    if args.out:
        extra = {"machine": processor(), "commit": commit()}
        write_rows(args.out, [row | extra for row in rows])


if __name__ == "__main__":
    run_script(main)
