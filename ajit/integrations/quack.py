"""QuACK: its kernels of the CuTe DSL, under a lease and in ajit's cache.

`install` stands before the lock that ``quack.cache.jit_cache`` takes for a key that its cache does
not have, so before each ``cute.compile`` of QuACK, and of all who use its decorator. The key is
QuACK's own, with what that lacks: the arch, the DSL's settings that change the code, the versions
of both. A hit puts the object file where QuACK looks for it; a miss compiles as ever, in the
calling thread, while others wait and see for whom. An error of the kernel's code is had once.

QuACK looks in a directory of its cache that belongs to one arch: its names alone would lead a
process to what was compiled for another one.

QuACK compiles by itself: in the processes of its compile pool, and while it calls another ptxas, or
another runtime library of the DSL is given.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Any

from ajit._runtime.turns import Turn
from ajit.errors import CompileError, UsageError
from ajit.integrations._in_place import InPlaceAdapter, check_on_loop
from ajit.integrations._installed import GONE, Installed, Patch
from ajit.integrations._versions import is_tried, version_of

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from ajit._runtime.blocking import BlockingRuntime
    from ajit._runtime.runtime import Runtime

__all__ = ["install"]

DISTRIBUTION = "quack-kernels"
DSL = "nvidia-cutlass-dsl"
FUNCTION = "quack.cache:compile"

_OBJECT = "kernel.o"
_SHARED = {
    "DSLUserCodeError": "cutlass.base_dsl.common",
    "CompilerDiagnosticError": "cutlass.base_dsl.compiler",
}
"""Errors that tell of the kernel, and their modules. Another process would get the same."""

_COLOUR = re.compile(r"\x1b\[[\d;]*m")

_OF_PLACES = "shared_libs"
"""Of the DSL's settings, the one that has paths."""
_ALONE = ("CUTE_DSL_LIBS", "CUTE_DSL_PTXAS_PATH")
_CODE = ("QUACK_ARCH", "QUACK_HADAMARD_TAIL_DIRECT_STORE")
"""Variables that QuACK reads while it makes a kernel, and has not in its key."""

_installed: list[_Adapter] = []


def install(runtime: Runtime | BlockingRuntime, *, on_loop: str = "raise") -> Installed:
    """Let QuACK compile through a runtime. See `ajit.integrations.install`.

    Args:
        runtime: Where kernels are looked for and kept.
        on_loop: What happens to a compile in the thread of the runtime's event loop, which would
            wait for itself: ``raise`` a `UsageError`, or ``warn`` and let QuACK compile alone.

    Raises:
        ImportError: QuACK is not installed. Nothing was changed.
        UsageError: It is installed already. Nothing was changed.
    """
    check_on_loop(on_loop)
    if _installed:
        raise UsageError("the adapter of QuACK is installed already: uninstall it first")
    if not is_tried(DISTRIBUTION) or not is_tried(DSL):
        return Installed()
    from quack.cache import jit  # noqa: PLC0415  # a peer, on first use

    adapter = _Adapter(runtime, jit.get_cache_path, on_loop)
    _installed.append(adapter)
    patches = (
        Patch(jit, "FileLock", _lock_class(jit.FileLock, adapter)),
        Patch(jit, "get_cache_path", adapter.cache_path),
    )
    return Installed(_installed.clear, *(patch.undo for patch in patches))


class _Adapter(InPlaceAdapter):
    """What is asked before QuACK takes its lock to compile."""

    def __init__(self, runtime: Runtime | BlockingRuntime, cache_path: Any, on_loop: str) -> None:
        super().__init__(
            runtime, distribution=DISTRIBUTION, peer="quack", function=FUNCTION, on_loop=on_loop
        )
        self.version += f", {DSL} {version_of(DSL)}"
        self._cache_path = cache_path
        # Bound once: what is patched in is compared by identity.
        self.cache_path = self._path_of_settings

    def _path_of_settings(self) -> Path:
        """As ``get_cache_path``: below it, what belongs to these settings."""
        path: Path = self._cache_path()
        settings = _settings()
        if settings is not None:
            digest = hashlib.sha256(settings.encode()).hexdigest()
            path = path / f"ajit-{_arch()}-{digest[:16]}"
            path.mkdir(parents=True, exist_ok=True)
        return path

    def turn(self, lock_path: Path, name: str) -> Turn | None:
        """Put a kernel where QuACK looks for it, or take the turn to compile it."""
        path = lock_path.with_suffix(".o")
        settings = _settings()
        if (
            settings is None
            or path.exists()
            or not self.may_wait(f"QuACK kernel {name!r}", "compile it before, or in a thread")
        ):
            return None
        key = f"{lock_path.parent.name} {lock_path.stem} {settings}"
        build = self.build(f"quack {name}", key)
        try:
            found = self.found_or_made(build, _arch(), partial(_put, path), _begun)
        except CompileError as exc:
            raise _as_raised(exc) from exc
        except GONE as exc:
            self.gone(exc)
            return None
        return found if isinstance(found, Turn) else None

    def end(self, turn: Turn, lock_path: Path, error: BaseException | None) -> None:
        """Keep what QuACK has left beside its lock."""
        if error is not None and _SHARED.get(type(error).__name__) == type(error).__module__:
            self.refuse(turn, f"{type(error).__name__}: {_COLOUR.sub('', str(error))}")
            return
        try:
            content = None if error is not None else lock_path.with_suffix(".o").read_bytes()
        except OSError:  # it could not be saved, as QuACK has said
            content = None
        if content is None:
            turn.give_back()
        else:
            self.keep(turn, {_OBJECT: content})


def _begun(turn: Turn) -> Turn:
    return turn


def _lock_class(original: Any, adapter: _Adapter) -> type:
    """Return QuACK's lock with ajit's before it: who waits there, waits without a word."""

    class FileLock(original):  # type: ignore[misc]  # of a peer
        _turn: Turn | None = None
        _around: BaseException | None = None

        def __enter__(self) -> Any:
            if self.exclusive:
                self._turn = adapter.turn(self.lock_path, _name_in(sys._getframe(1)))  # noqa: SLF001
                self._around = sys.exception()
            try:
                return super().__enter__()
            except BaseException:
                if self._turn is not None:
                    self._turn.give_back()
                raise

        def __exit__(self, *exc: object) -> None:
            # QuACK calls it from a ``finally``, and tells it of no error.
            error = sys.exception()
            super().__exit__(*exc)
            turn, self._turn = self._turn, None
            if turn is not None:
                adapter.end(turn, self.lock_path, None if error is self._around else error)

    return FileLock


def _name_in(frame: FrameType) -> str:
    """What is compiled, for people: the lock knows only a digest, its caller the function."""
    function = frame.f_locals.get("fn")
    return str(getattr(function, "__qualname__", "kernel"))


def _dsl() -> Any:
    from cutlass.cutlass_dsl import CuTeDSL  # noqa: PLC0415  # a peer

    return CuTeDSL._get_dsl().envar  # noqa: SLF001  # where QuACK has it from


def _arch() -> str:
    return str(_dsl().arch)


def _settings() -> str | None:
    """What decides beside QuACK's key; None if it is QuACK's alone."""
    if any(os.environ.get(name) for name in _ALONE):
        return None
    told = _dsl().cache_key_str().split(";")
    told = [each for each in told if each and not each.startswith(f"{_OF_PLACES}=")]
    variables = [f"{name}={os.environ[name]}" for name in _CODE if name in os.environ]
    return " ".join((*told, *variables))


def _put(path: Path, view: Path) -> bool | None:
    """Put the file of a view where QuACK looks for it. None if it is not there."""
    try:
        content = (view / _OBJECT).read_bytes()
    except FileNotFoundError:
        return None
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)  # as others who use this cache of QuACK may read it
    os.replace(file.name, path)
    return True


def _as_raised(error: CompileError) -> BaseException:
    """Return a failure as the exception that it was. No `RuntimeError`: QuACK would try again."""
    from cutlass.base_dsl import common, compiler  # noqa: PLC0415  # a peer

    name, _, text = error.log.partition(": ")
    home = {common.__name__: common, compiler.__name__: compiler}.get(_SHARED.get(name, ""))
    if home is None:
        return error
    kind = getattr(home, name)
    made: BaseException = kind.__new__(kind, text)  # its text is rendered already
    made.message = made.formatted = text  # type: ignore[attr-defined]
    return made
