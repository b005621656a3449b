"""Checks the Markdown files: links lead somewhere, and files, modules and names in them exist.

    python scripts/check_docs.py

Prints one line per mistake and returns 1 if there is one. It needs the standard library only.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("*.md", "docs/*.md", ".github/*.md", "examples/*.md")

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
SOURCE = re.compile(r"(?<![\w./-])[\w./-]+\.(?:py|c|h)\b")
PATH = re.compile(r"(?<![\w./-])(?:src|docs|tests|configs|examples|experiments|benchmarks|scripts)/[\w./-]*\w/?")
DOTTED = re.compile(r"(?<![\w./-])prosg(?:\.(?!py\b)[A-Za-z_]\w*)+")
IMPORT = re.compile(r"^ *from (prosg[\w.]*) import (\w+(?:, \w+)*)", re.MULTILINE)
PLACEHOLDER = re.compile(r"[A-Z]{3,}|\.\.\.")  # FILE.py, NAME.py


def anchors(text: str) -> set[str]:
    """The fragments that GitHub gives to a document's headings."""
    headings = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in HEADING.findall(FENCE.sub("", text)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path, text: str) -> Iterator[str]:
    """Relative links whose file or heading does not exist."""
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        file = document.parent / name if name else document
        if not file.exists():
            yield f"link to {target}: no such file"
        elif fragment and file.suffix == ".md" and fragment not in anchors(file.read_text("utf-8")):
            yield f"link to {target}: no such heading"


def missing_files(text: str, sources: set[str]) -> Iterator[str]:
    """Source files (by their full path or its end) and paths of this repository that do not exist."""
    names = [name for name in SOURCE.findall(text) if not PLACEHOLDER.search(name)]
    for name in dict.fromkeys(names):
        if not any(source.endswith(f"/{name}") for source in sources):
            yield f"{name}: no such source file"
    paths = [name for name in PATH.findall(text) if not PLACEHOLDER.search(name) and name not in names]
    yield from (f"{path}: no such path" for path in dict.fromkeys(paths) if not (ROOT / path).exists())


def missing_names(text: str) -> Iterator[str]:
    """Dotted names, and names imported in examples, that are neither a module nor a name in the module before them."""
    imports = (f"{module}.{name}" for module, names in IMPORT.findall(text) for name in names.split(", "))
    for dotted in dict.fromkeys((*DOTTED.findall(text), *imports)):
        path = ROOT / "src" / dotted.replace(".", "/")
        files = (path.parent.with_suffix(".py"), path.parent / "__init__.py")
        within = any(file.exists() and re.search(rf"\b{path.name}\b", file.read_text("utf-8")) for file in files)
        if not (within or path.is_dir() or path.with_suffix(".py").exists()):
            yield f"{dotted}: no such module or name"


def main() -> int:
    """Check every document; returns the exit status."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    folders = ("src", "tests", "experiments", "benchmarks", "scripts", "examples")
    sources = {f"/{file.relative_to(ROOT)}" for folder in folders for file in (ROOT / folder).rglob("*.[pch]*")}
    sources.add("/setup.py")
    documents = sorted(file for pattern in DOCUMENTS for file in ROOT.glob(pattern))
    mistakes = 0
    for document in documents:
        text = document.read_text("utf-8")
        for mistake in (*broken_links(document, text), *missing_files(text, sources), *missing_names(text)):
            print(f"{document.relative_to(ROOT)}: {mistake}")
            mistakes += 1
    print(f"{len(documents)} documents, {mistakes or 'no'} mistake{'s' * (mistakes != 1)}")
    return int(mistakes > 0)


if __name__ == "__main__":
    sys.exit(main())
