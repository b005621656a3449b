"""The page of the simulation has the table of its file."""

from __future__ import annotations

import json

from serving_tables import table
from support.documents import ROOT


def test_the_page_has_the_table_of_the_simulation() -> None:
    content = json.loads((ROOT / "docs/serving-at-scale.json").read_text("utf-8"))
    text = (ROOT / "docs/serving-at-scale.md").read_text("utf-8")
    assert table(content["rows"]) in text
    assert ("provisional" in text.lower()) == content["about"]["provisional"]
