"""cuda.core: a program cache for ``Program.compile(..., cache=)``, its official hook.

It keeps what was compiled in ajit's cache, and lets one process compile what several ask for::

    cache = ajit.integrations.cuda_core.program_cache(rt)
    code = Program(source, "c++", options).compile("cubin", cache=cache)

cuda.core makes the key (`make_program_cache_key`), and refuses ``cache=`` where its key would not
be complete: with include paths and with name expressions. Compiles stay in the calling thread.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

from ajit.integrations._store import Store
from ajit.integrations._versions import is_tried, version_of

if TYPE_CHECKING:
    from ajit._runtime.blocking import BlockingRuntime
    from ajit._runtime.runtime import Runtime

__all__ = ["program_cache"]

DISTRIBUTION = "cuda-core"


def program_cache(runtime: Runtime | BlockingRuntime, *, turn_seconds: float | None = None) -> Any:
    """Return a `ProgramCacheResource` of cuda.core over a runtime's cache.

    Args:
        runtime: Whose cache. With a `Runtime`, compile in any thread but its event loop's.
        turn_seconds: How long others wait for a compile at most before they begin as well; None
            takes the setting ``patience_seconds``.

    Returns:
        The cache; or None, after a warning, for a version of cuda.core that was never tried: as
        ``cache=None`` it lets cuda.core work alone.

    Raises:
        ImportError: cuda.core is not installed.
    """
    if not is_tried(DISTRIBUTION):
        return None
    version = f"{DISTRIBUTION} {version_of(DISTRIBUTION)}"
    return _class()(Store(runtime, "cuda.core:compile", version, turn_seconds, "cuda_core"))


@functools.cache
def _class() -> Any:
    from cuda.core.utils import ProgramCacheResource  # noqa: PLC0415  # a peer, on first use

    class ProgramCache(ProgramCacheResource):  # type: ignore[misc]  # it has no types
        """Programs in ajit's cache. Get it with `program_cache`."""

        def __init__(self, store: Store) -> None:
            self._store = store

        def __getitem__(self, key: bytes | str) -> bytes:
            found = self._store.load(_text(key))
            if found is None:
                raise KeyError(key)
            return found

        def __setitem__(self, key: bytes | str, value: Any) -> None:
            self._store.save(_text(key), _bytes_of(value))

        def __delitem__(self, key: bytes | str) -> None:
            if not self._store.remove(_text(key)):
                raise KeyError(key)

        def __len__(self) -> int:
            return self._store.count()

        def clear(self) -> None:
            """Remove all programs of cuda.core from the cache."""
            self._store.clear()

        def close(self) -> None:
            """Give back what was begun and not stored. The programs stay."""
            self._store.close()

    return ProgramCache


def _text(key: object) -> str:
    if isinstance(key, str):
        key = key.encode()
    if not isinstance(key, bytes | bytearray):
        raise TypeError(f"a key must be bytes or str, got {type(key).__name__}")
    return hashlib.sha256(key).hexdigest()


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    code = getattr(value, "code", None)
    if isinstance(code, str):  # one that only has a path
        with open(code, "rb") as file:
            return file.read()
    if isinstance(code, bytes | bytearray | memoryview):
        return bytes(code)
    raise TypeError(f"a program must be bytes or an ObjectCode, got {type(value).__name__}")
