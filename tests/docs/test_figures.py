"""Tables of results have the figures of their files, and a figure that is changed is found."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from support.documents import DOCUMENTS, ROOT


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_figures", ROOT / "scripts/check_figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_tables_have_their_files_figures(figures: ModuleType, document: Path) -> None:
    assert list(figures.differences(document)) == []


def test_every_page_of_results_is_checked(figures: ModuleType) -> None:
    for name, least in {"README.md": 1, "docs/results.md": 12, "docs/results-rwkv7.md": 7, "docs/sizes.md": 5}.items():
        assert len(list(figures.tables_of(ROOT / name))) >= least, name


def test_a_changed_figure_is_found_and_mended(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    table = (
        "<!-- figures: rows.json late -->\n\n"
        "| late stage right | 5 sentences | 20 | own words |\n| --- | ---: | ---: | --- |\n"
        "| phase 1 | .50 | {cell} | no figure |\n"
    )
    row = {"system": "phase1", "update": "none", "state": "kept", "kind": "all", "seed": 1, "length": "controlled"}
    rows = [{**row, "sentences": 5, "late_accuracy": 0.5}, {**row, "sentences": 20, "late_accuracy": 0.25}]
    (tmp_path / "rows.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    page.write_text(table.format(cell=".52"))
    assert list(figures.differences(page)) == ["phase 1, 20: .52, but rows.json has .25"]
    figures.write(page)
    assert page.read_text() == table.format(cell=".25")
    page.write_text(table.format(cell=".25").replace("phase 1", "phase 3"))
    assert "no rows of phase 3" in next(figures.differences(page))
