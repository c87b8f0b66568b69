"""What mkdocs is told besides ``mkdocs.yml``: the README is the first page, and files that pages link to come along.

Links in docs/ and in the README are written for the repository. On the site they lead to the same files: pages to
pages, and whatever lies outside of docs/ to a copy below ``source/``.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"""(\]\(|(?:src|srcset|href)=")([^)#\s"]+)""")
PAGES = {"README.md": "index.md"}
"""Files outside of docs/ that are pages of the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the README, and every file outside of docs/ that a page links to."""
    root = posixpath.dirname(config.docs_dir)
    with open(f"{root}/README.md", encoding="utf-8") as file:
        readme = file.read()
    files.append(File.generated(config, "index.md", content=moved(readme, "README.md", "index.md")))
    for page in files.documentation_pages():
        for path in sorted(set(outside(page.content_string, f"docs/{page.src_uri}")) - set(PAGES)):
            if files.get_file_from_path(f"source/{path}") is None:
                files.append(File.generated(config, f"source/{path}", abs_src_path=f"{root}/{path}"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are on the site; those of the README are already."""
    path = page.file.src_uri
    return markdown if path in PAGES.values() else moved(markdown, f"docs/{path}", path)


def outside(markdown: str, path: str) -> list[str]:
    """The files of the repository outside of docs/ that the page at ``path`` links to."""
    targets = [seen_from_root(link, path) for _, link in LINK.findall(markdown) if "://" not in link]
    return [target for target in targets if not target.startswith(("docs/", ".."))]


def moved(markdown: str, path: str, page: str) -> str:
    """The links of the file ``path`` of the repository as those of ``page`` of the site."""

    def link(found: re.Match[str]) -> str:
        target = seen_from_root(found[2], path)
        if "://" in found[2] or target.startswith(".."):
            return found[0]
        there = target.removeprefix("docs/") if target.startswith("docs/") else PAGES.get(target, f"source/{target}")
        return found[1] + posixpath.relpath(there, posixpath.dirname(page) or ".")

    return LINK.sub(link, markdown)


def seen_from_root(link: str, path: str) -> str:
    """A link of the file ``path`` as a path from the root of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
