"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from prosg.utils.io import written_whole


def test_an_interrupted_write_leaves_things_as_they_were(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "config.json").write_text("old")

    def interrupted() -> None:
        with written_whole(target, overwrite=True, marker="config.json") as temporary:
            temporary.mkdir()
            (temporary / "config.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "config.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
