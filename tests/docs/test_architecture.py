"""docs/architecture.md against the tree: it gives a reason for every long file, and for no other."""

from __future__ import annotations

import re

from support.documents import ROOT

LONG = 300
"""Lines above which a file needs a reason."""


def test_every_long_file_has_its_reason() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    section = page.split(f"## Files over {LONG} lines, and why")[1].split("\n## ")[0]
    sources = (path for pattern in ("*.py", "*.c", "*.h") for path in (ROOT / "src").rglob(pattern))
    long = {str(path.relative_to(ROOT)) for path in sources if path.read_text("utf-8").count("\n") > LONG}
    assert set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)) == long
