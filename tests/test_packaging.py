"""What is built of the sources: a wheel that runs everywhere where nothing compiles, with all that commands read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import prosg

ROOT = Path(__file__).parents[1]


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert prosg.__version__ == metadata.version("prosg")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == project["version"]
    assert "version" not in (ROOT / "setup.py").read_text("utf-8")


def test_what_an_install_is_made_of_names_every_source_of_the_kernels() -> None:
    ops = ROOT / "src" / "prosg" / "ops"
    sources = set(ops.rglob("*.[ch]"))
    assert {path.parent.name for path in sources} >= {"ops", "linear", "step"}
    made_of = re.search(r"^MADE_OF := .*\$\(wildcard (.*)\)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert made_of is not None
    assert {path for pattern in made_of[1].split() for path in ROOT.glob(pattern)} >= sources
    workflow = ROOT / ".github" / "workflows" / "wheels.yml"
    if workflow.is_file():  # the source distribution has none
        patterns = yaml.load(workflow.read_text("utf-8"), yaml.BaseLoader)["on"]["pull_request"]["paths"]
        assert {path for pattern in patterns for path in ROOT.glob(pattern)} >= sources


def test_the_wheels_of_platforms_are_counted_by_the_kernels_sources() -> None:
    workflow = ROOT / ".github" / "workflows" / "wheels.yml"
    if not workflow.is_file():
        pytest.skip("the source distribution has no workflows")
    [expected] = re.findall(r'\\.so\'\)" = "\$\((.*)\)"$', workflow.read_text("utf-8"), re.MULTILINE)
    counted = subprocess.run(["sh", "-c", expected], cwd=ROOT, capture_output=True, text=True, check=True)
    kernels = re.search(r"for name in \((.*)\)$", (ROOT / "setup.py").read_text("utf-8"), re.MULTILINE)
    assert kernels is not None
    assert counted.stdout.strip() == str(len(kernels[1].split(",")))


def test_the_source_distribution_has_what_lies_beside_the_package() -> None:
    manifest = (ROOT / "MANIFEST.in").read_text("utf-8")
    by_itself = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"}
    beside = {path.name for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")}
    assert {name for name in beside - by_itself if name not in manifest.split()} <= {"PKG-INFO", "setup.cfg"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "failures"),
    [({"PROSG_NO_KERNELS": "1"}, 0), ({"CC": "/nonexistent/cc"}, 6)],
    ids=["asked for", "no compiler"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="CC means nothing there")
def test_without_kernels_the_wheel_is_for_any_platform(
    environment: dict[str, str], failures: int, tmp_path: Path
) -> None:
    pytest.importorskip("setuptools")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / "src" / "prosg", tmp_path / "src" / "prosg", ignore=shutil.ignore_patterns("*.so", "*.py[co]")
    )
    built = subprocess.run(
        [sys.executable, "setup.py", "bdist_wheel"],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said = built.stdout + built.stderr
    assert said.count("0 of 6 C kernels are built") == 1
    assert said.count('" failed: ') == failures
    [wheel] = (tmp_path / "dist").iterdir()
    assert wheel.name == f"prosg-{metadata.version('prosg')}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("prosg/")}
    assert not any(name.endswith(".so") for name in names)
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*") if path.is_file()}
    assert names == {name for name in sources if name.startswith("prosg/") and not name.endswith((".so", ".pyc"))}
