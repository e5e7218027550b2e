"""check_site.py FOLDER: whether links of a site lead somewhere, and nothing is loaded from afar.

Each link inside of the site has its file and its anchor, and no page, style or script names a
resource of another host: the site is read without a network, and reports to no one.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
_ONLY_NAMES = {"canonical", "prev", "next"}
"""Relations of a ``<link>`` that nothing is loaded for."""


_FOREIGN_STYLE = re.compile(r"(?:url\(|@import)\s*[\"']?(https?:)?//[^)\"']*")


class _Page(HTMLParser):
    """Anchors and links of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag names."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        target = values.get(_LOADS.get(tag, ""), "")
        if target and values.get("rel") not in _ONLY_NAMES:
            self.loaded.append(target)


def main(folder: str) -> int:
    """Print what is wrong; 1 if anything is."""
    site = Path(folder).resolve()
    # A server gives 404.html for any path, so its links are from the root of a host.
    files = [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
    pages = {path: _Page(path.read_text()) for path in files}
    problems = [
        f"{path.relative_to(site)}: {problem}"
        for path, page in pages.items()
        for problem in (*_dead(path, page, pages), *_foreign(page))
    ]
    problems += [
        f"{style.relative_to(site)}: loads {found.group()}"
        for style in site.rglob("*.css")
        if (found := _FOREIGN_STYLE.search(style.read_text()))
    ]
    print("\n".join(problems) or f"{len(pages)} pages: every link leads somewhere")
    return bool(problems) or not pages


def _dead(path: Path, page: _Page, pages: dict[Path, _Page]) -> list[str]:
    return [
        f"{link} leads nowhere"
        for link in (*page.links, *page.loaded)
        if not _leads_somewhere(path, link, pages)
    ]


def _leads_somewhere(path: Path, link: str, pages: dict[Path, _Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        return False
    anchor = unquote(parts.fragment)
    return not anchor or target not in pages or anchor in pages[target].anchors


def _foreign(page: _Page) -> list[str]:
    return [
        f"loads {link}"
        for link in page.loaded
        if urlsplit(link).netloc or urlsplit(link).scheme not in ("", "data")
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
