"""Names that data files hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from prosg.utils.inside import inside


def test_a_name_stays_in_its_folder(tmp_path: Path) -> None:
    for name in ("a.jsonl", "sub/a.jsonl", "./a", "..a", "a..b/c"):
        assert inside(tmp_path, name, "manifest.json: file") == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["../a", "sub/../../a", "/etc/passwd", "..", "", " ", "~/a", "~", "C:\\a", "..\\a", "a\0b", "a\nb", None, 3, ["a"]],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json: file is") as error:
        inside(tmp_path, name, "manifest.json: file")
    assert "\n" not in str(error.value)


def test_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of"):
        inside(tmp_path / "set", "link/token", "manifest.json: file")
