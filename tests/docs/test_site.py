"""What the site is made of beside docs/: the commands' reference, and pages and links of files that lie elsewhere."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType
from typing import Any

import pytest
import yaml

from prosg.cli import COMMANDS
from prosg.cli.main import GROUPS
from prosg.cli.parser import Group
from support.documents import ROOT


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_command_and_option(monkeypatch: pytest.MonkeyPatch) -> None:
    text = script("command_reference", monkeypatch).reference()
    headings = re.findall(r"^#{3,4} prosg (.*)$", text, re.MULTILINE)
    expected = []
    for name in (name for names in GROUPS.values() for name in names):
        command = COMMANDS[name]
        expected += [name, *(f"{name} {inner}" for inner in command.commands)] if isinstance(command, Group) else [name]
    assert headings == expected
    for name in headings:
        section = text.partition(f" prosg {name}\n")[2].partition("\n##")[0]
        parent, _, inner = name.partition(" ")
        command = COMMANDS[parent]
        if isinstance(command, Group):
            if not inner:
                continue
            command = command.commands[inner]
        for action in command.parser()._actions:
            if action.help != "==SUPPRESS==" and action.option_strings and "--help" not in action.option_strings:
                assert action.option_strings[0] in section, f"{name}: {action.option_strings[0]}"
    assert not re.search(r"^\|(?:[^|\n]*\|){3,}", text.replace(r"\|", ""), re.MULTILINE)  # no cell is cut by a bar


class _Loader(yaml.SafeLoader):
    """Leaves Python's tags alone."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def pages(entries: Any) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    return [page for entry in (entries.values() if isinstance(entries, dict) else entries) for page in pages(entry)]


def test_the_navigation_has_every_page() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), _Loader)
    written = {file.name for file in (ROOT / "docs").glob("*.md")}
    assert set(pages(config["nav"])) == written | {"index.md", "commands.md", "contributing.md", "changelog.md"}


def test_links_out_of_the_documents_lead_to_pages_or_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs")
    site = script("docs_site", monkeypatch)
    text = "[a](docs/anchor.md#the-price) [b](CONTRIBUTING.md) [c](examples/x.py) [d](https://x.org/y) [e](#limits)"
    assert site._with_links_of_site(text, "README.md") == (
        "[a](anchor.md#the-price) [b](contributing.md) [c](repository/examples/x.py) [d](https://x.org/y) [e](#limits)"
    )
    assert site._with_links_of_site("[a](../README.md) ![b](b.png)", "docs/x.md") == "[a](index.md) ![b](b.png)"
    assert (
        site._with_links_of_site("[anchor.md](anchor.md#the-price)", "docs/x.md") == "[The anchor](anchor.md#the-price)"
    )
    assert "benchmarks/results/wkv4.json" in set(site._linked_files("docs/sizes.md"))


def test_every_public_name_is_on_the_page_of_python() -> None:
    import prosg

    listed = set(re.findall(r"^::: prosg\.(\w+)$", (ROOT / "docs/python.md").read_text("utf-8"), re.MULTILINE))
    assert listed == set(prosg.__all__)
