"""What MkDocs needs beside docs/: pages of files that lie elsewhere, the commands, and links out of docs/.

MkDocs calls the functions of this module (`hooks` in mkdocs.yml). Links in the documents are the repository's, so that
they work there, too; in the site a link to a file that is no page leads to a copy of the file, and a link that is
called by a page's file has its title.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from command_reference import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Documents outside of docs/ -> their pages."""
COPIES = "repository"
"""The site's folder for files of the repository that pages link to."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
NAMED_BY_FILE = re.compile(r"\[[\w./-]+\.md\]\(([^)\s#]+\.md)")
"""A link whose text is a file's name; in the site it has the page's title."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages that are no files of docs/, and the files that pages link to."""
    for document, name in PAGES.items():
        text = (ROOT / document).read_text("utf-8")
        files.append(File.generated(config, name, content=_with_links_of_site(text, document)))
    files.append(File.generated(config, "commands.md", content=reference()))
    documents = [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages() if file.src_dir)]
    linked = {target for document in documents for target in _linked_files(document)}
    for path in sorted(linked):
        files.append(File.generated(config, f"{COPIES}/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Turns a page's links into the site's."""
    return _with_links_of_site(markdown, f"docs/{page.file.src_uri}") if page.file.src_dir else markdown


def _target(document: str, link: str) -> str:
    """The file that a link leads to, from the repository's root."""
    return os.path.normpath(PurePosixPath(document).parent / link)


def _linked_files(document: str) -> Iterator[str]:
    """Files outside of docs/ that are no pages."""
    for link in LINK.findall((ROOT / document).read_text("utf-8")):
        path = _target(document, link)
        if path not in PAGES and not path.startswith("docs/") and (ROOT / path).is_file():
            yield path


def _with_links_of_site(text: str, document: str) -> str:
    def of_site(match: re.Match[str]) -> str:
        path = _target(document, match[0])
        if path.startswith("docs/"):
            return path.removeprefix("docs/")
        return PAGES.get(path, f"{COPIES}/{path}")

    def with_title(match: re.Match[str]) -> str:
        heading = (ROOT / _target(document, match[1])).read_text("utf-8").partition("\n")[0].removeprefix("# ")
        return f"[{heading.partition(':')[0]}]({match[1]}"

    return LINK.sub(of_site, NAMED_BY_FILE.sub(with_title, text))
