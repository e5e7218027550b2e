"""tested_versions.py [EXTRA...]: the packages that ajit needs, at the versions installed here.

For a constraints file (`make constraints`) and for the bill of materials (`make dist`). Follows the
requirements of the installed distribution: without an extra, those of the library alone.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> None:
    """Print them, sorted, one a line."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [("ajit", extra) for extra in ("", *sys.argv[1:])]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in needed(name, extra):
            needs = canonicalize_name(requirement.name)
            waiting += [(needs, one) for one in ("", *requirement.extras)]
            if needs != "ajit":
                found[needs] = distribution(needs).version
    print("".join(f"{name}=={version}\n" for name, version in sorted(found.items())), end="")


def needed(name: str, extra: str) -> Iterator[Requirement]:
    """Requirements of a distribution with one of its extras, as far as they are installed."""
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            distribution(requirement.name)
        except PackageNotFoundError:
            print(f"tested_versions: {requirement.name} is not installed", file=sys.stderr)
            continue
        yield requirement


if __name__ == "__main__":
    main()
