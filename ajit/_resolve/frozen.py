"""Frozen mode: a kernel that is not cached is an error, which names the nearest cached kernel.

A server in production may forbid compiling. A miss is then a mistake of the deployment: another
driver, another header, a shape that was not warmed up. So the error says which cached kernel was
probably meant, and in which parts of the key it differs.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from ajit._compile.recorder.digests import digests
from ajit._core.key import Difference, explain
from ajit.errors import CompileForbidden

if TYPE_CHECKING:
    from ajit._cache.entries.disk import DiskStore
    from ajit._core.entry import Manifest
    from ajit._core.spec import Spec
    from ajit._resolve.lookup import Wanted

__all__ = ["forbidden"]

MANIFESTS_READ = 2_000
"""How many entries are compared. Pretty arbitrary: a message is worth a few hundred ms."""


def forbidden(store: DiskStore, spec: Spec, wanted: Wanted) -> CompileForbidden:
    """Return the error for a miss. Blocks: it reads the cache's entries."""
    nearest: tuple[int, Manifest, list[Difference]] | None = None
    for entry in islice(store.entries(), MANIFESTS_READ):
        found = store.manifest(entry.key)
        if not isinstance(found, tuple):
            continue
        manifest = found[0]
        differences = _differences(manifest, wanted)
        distance = _distance(manifest, spec, differences)
        if nearest is None or distance < nearest[0]:
            nearest = (distance, manifest, differences)
    if nearest is None or _nothing_in_common(nearest[2]):
        return CompileForbidden(name=spec.name, key=wanted.base.hex)
    _, manifest, differences = nearest
    return CompileForbidden(
        name=spec.name,
        key=wanted.base.hex,
        nearest=manifest.key,
        differences=[(item.field, item.a, item.b) for item in differences],
    )


def _differences(manifest: Manifest, wanted: Wanted) -> list[Difference]:
    """In what a cached kernel differs from the wanted one, changed files among it."""
    same = [(label, value) for label, value in manifest.key_fields if not _is_read(label)]
    differences = explain(same, wanted.base)
    for label, value in manifest.key_fields:
        if label.startswith(_FILE):
            place, _, name = label.removeprefix(_FILE).partition("/")
            path = wanted.places.path(place or "/", name if place else f"/{name}")
            today = digests.get(path) if path else None
            if today != value:
                differences.append(Difference(label, value, today))
    return differences


_FILE = "file "


def _is_read(label: str) -> bool:
    return label.startswith(_FILE) or label in ("reads", "toolchain's files")


def _distance(manifest: Manifest, spec: Spec, differences: list[Difference]) -> int:
    """Fields that differ; a kernel of another name or source is further away than any other."""
    weights = {"source": 100, "compiler": 10}
    distance = sum(weights.get(item.field, 1) for item in differences)
    return distance + (0 if manifest.name == spec.name else 100)


def _nothing_in_common(differences: list[Difference]) -> bool:
    return any(item.field == "source" for item in differences) and any(
        item.field.startswith("entry") for item in differences
    )
