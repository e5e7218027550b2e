"""A hook of MkDocs: the pages that are not in docs/, and links that leave it.

README, changelog and the examples' pages are pages of the site as well, and the API reference is
made from docstrings: one page for each group of public names below. A public name without a group
ends the build. A page of docs/ without a place in mkdocs.yml comes last in the section OTHERS.
"""

from __future__ import annotations

import importlib
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

PROJECT = Path(__file__).parents[1]

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/model_server/README.md": "examples/model_server.md",
    "examples/zero_jit/README.md": "examples/zero_jit.md",
    "examples/kv_engine/README.md": "examples/kv_engine.md",
}
"""Files of the project, and where they are in the site."""

REFERENCE: dict[str, tuple[str, str]] = {
    "runtime": (
        "The runtime",
        """open_runtime start_runtime Runtime RuntimeStatistics Resolution WaitedFor run
        open_blocking_runtime BlockingRuntime Artifact""",
    ),
    "specs": (
        "Specs and builds",
        "Spec EntryPoint std_headers Build Command Call Bundle BundleFile",
    ),
    "device": (
        "Device, memory, kernels",
        """Device DeviceHealth ThreadStatistics Kernel ConfiguredKernel BoundLaunch
        LaunchAttributes cover LoadedModule DeviceBuffer BufferSlice HostArray PinnedBuffer Stream
        Event Ticket Step Batch Graph""",
    ),
    "warmup": (
        "Warm-up and readiness",
        """replay Replay WarmupReport WarmupFailure Unresolved ready Readiness ReadinessStatus
        RankStatus Family families FamilyWork""",
    ),
}
"""Names of `ajit` by page."""

MODULES = {
    "settings": ("Settings", ["ajit.Settings"]),
    "errors": ("Errors", ["ajit.errors"]),
    "events": ("Events", ["ajit.events"]),
    "cache": ("The cache from Python", ["ajit.cache"]),
    "kv": ("The KV cache", ["ajit.kv"]),
    "instrumentation": (
        "Instrumentation",
        [
            "ajit.instrumentation",
            "ajit.instrumentation.prometheus",
            "ajit.instrumentation.opentelemetry",
            "ajit.instrumentation.nvtx",
        ],
    ),
    "dashboard": ("The live page", ["ajit.dashboard"]),
    "testing": ("Testing", ["ajit.testing", "ajit.testing.plugin"]),
}
"""Modules by page; each with what its ``__all__`` names."""

ELSEWHERE = {"SettingsOptions", "cache", "errors", "events", "settings"}
"""Public names that are no class or function, or whose page is that of a module."""


OTHERS = "Operating"

_CODE_OR_LINK = re.compile(r"`[^`\n]+`|(?<!!)\[([^\[\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
"""Brackets in code are no link, unless the code is the label of one."""


def on_config(config: MkDocsConfig) -> None:
    """Give each page of docs/ a place in the navigation."""
    sections: list[dict[str, list[str]]] = config.nav or []
    named = {page for section in sections for pages in section.values() for page in pages}
    others = next(section[OTHERS] for section in sections if OTHERS in section)
    there = sorted(path.name for path in Path(config.docs_dir).glob("*.md"))
    others += [page for page in there if page not in named]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in PAGES.items():
        text = (PROJECT / source).read_text()
        files.append(File.generated(config, page, content=text))
    _check_complete()
    for page, (title, names) in REFERENCE.items():
        identifiers = [f"ajit.{name}" for name in names.split()]
        _add(files, config, page, _text(title, identifiers))
    for page, (title, modules) in MODULES.items():
        text = _text(title, [one for module in modules for one in _members(module)])
        _add(files, config, page, text + (_settings() if page == "settings" else ""))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Point links between files of the project to where they are in the site."""
    here = page.file.src_uri
    source = {site: path for path, site in PAGES.items()}.get(here, f"docs/{here}")
    pieces = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(
        piece if number % 2 else _relinked(piece, source, here)
        for number, piece in enumerate(pieces)
    )


def _relinked(text: str, source: str, here: str) -> str:
    def point(match: re.Match[str]) -> str:
        label, link, anchor = match.groups()
        if link is None or re.match(r"[a-z]+:", link):
            return match.group()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        site = PAGES.get(path) or PAGES.get(f"{path}/README.md")
        if site is None and path.startswith("docs/"):
            site = path.removeprefix("docs/")
        if site is None:
            return label  # a file of the project that is no page: its name alone
        return f"[{label}]({posixpath.relpath(site, posixpath.dirname(here) or '.')}{anchor or ''})"

    return _CODE_OR_LINK.sub(point, text)


def _add(files: Files, config: MkDocsConfig, page: str, text: str) -> None:
    files.append(File.generated(config, f"reference/{page}.md", content=text))


def _text(title: str, identifiers: list[str]) -> str:
    return f"# {title}\n\n" + "".join(f"::: {one}\n\n" for one in identifiers)


def _settings() -> str:
    """A table of all settings, from their own descriptions."""
    settings = importlib.import_module("ajit.settings")
    lines = [
        "## All settings",
        "",
        "As an argument, or as the variable `AJIT_` with the name in capitals.",
        "",
        "| setting | default | what |",
        "| --- | --- | --- |",
    ]
    for name in settings.setting_names():
        default = settings.Settings.__dataclass_fields__[name].default
        shown = "" if default in ("", None) or name == "cache_dir" else f"`{default}`"
        about = settings.describe(name).replace("|", "\\|")
        lines.append(f"| `{name}` | {shown} | {about} |")
    return "\n".join([*lines, ""])


def _members(name: str) -> list[str]:
    module = importlib.import_module(name) if not name.endswith("Settings") else None
    if module is None:
        return [name]
    return [f"{name}.{member}" for member in module.__all__]


def _check_complete() -> None:
    named = {name for _, names in REFERENCE.values() for name in names.split()}
    public, errors = importlib.import_module("ajit"), importlib.import_module("ajit.errors")
    known = named | ELSEWHERE | set(errors.__all__) | {"Settings"}
    wrong = (set(public.__all__) - known) | (named - set(public.__all__))
    if wrong:
        raise PluginError(f"tools/docs_pages.py: a page for {', '.join(sorted(wrong))}?")
