"""Triton: its compiles, under a lease and in ajit's cache.

`install` stands before ``triton.compiler.compile``, so for all that comes through it: kernels that
are launched, ``JITFunction.warmup``, Inductor's. The key is Triton's own. A hit returns a
`CompiledKernel` over the files of the bundle's view; a miss compiles as ever, in the calling
thread, while others wait and see for whom. An error that tells something of the kernel is had once,
and all who wait get it as Triton raises it.

Triton compiles by itself, as if ajit were not there: what is given as a path of IR, and everything
while its knobs ask for dumps, overrides, locations of IR, or always to compile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from ajit._runtime import from_thread
from ajit._runtime.kept import register_remaker
from ajit._runtime.turns import Turn
from ajit.errors import AjitError, CompileError, SpecError, UsageError
from ajit.integrations._in_place import InPlaceAdapter, check_on_loop
from ajit.integrations._installed import GONE, Installed, Patch
from ajit.integrations._store import Store, turns_of
from ajit.integrations._triton_asked import Asked
from ajit.integrations._triton_errors import (
    as_triton_raises,
    is_about_the_kernel,
    log_of,
    shared_log,
)
from ajit.integrations._triton_key import triton_key_by
from ajit.integrations._triton_recipe import remade
from ajit.integrations._versions import is_tried, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ajit._core.build import Build
    from ajit._runtime.blocking import BlockingRuntime
    from ajit._runtime.runtime import Runtime

__all__ = ["Specialization", "install", "warmup"]

DISTRIBUTION = "triton"
FUNCTION = "triton.compiler:compile"

_adapter: _Adapter | None = None


def install(
    runtime: Runtime | BlockingRuntime, *, on_loop: str = "raise", off_process: bool = False
) -> Installed:
    """Let Triton compile through a runtime. See `ajit.integrations.install`.

    Args:
        runtime: Where kernels are looked for and kept.
        on_loop: What happens to a compile in the thread of the runtime's event loop, which would
            wait for itself: ``raise`` a `UsageError`, or ``warn`` and let Triton compile alone.
        off_process: Whether to compile in a process of the compile pool, from Triton's first IR
            on: it takes longer by the start of that process, and can be killed.

    Raises:
        ImportError: Triton is not installed. Nothing was changed.
        UsageError: It is installed already. Nothing was changed.
    """
    global _adapter  # noqa: PLW0603  # what is installed in a process is one
    check_on_loop(on_loop)
    if _adapter is not None:
        raise UsageError("the adapter of Triton is installed already: uninstall it first")
    if not is_tried(DISTRIBUTION):
        return Installed()
    import triton  # noqa: PLC0415  # a peer, on first use

    _adapter = adapter = _Adapter(
        runtime, triton.compiler.compiler.compile, on_loop=on_loop, off_process=off_process
    )
    places = (triton.compiler.compiler, triton.compiler, triton)
    patches = [Patch(place, "compile", adapter.compile) for place in places]
    version = f"{DISTRIBUTION} {version_of(DISTRIBUTION)}"
    key = triton_key_by(Store(runtime, "triton.runtime.cache:triton_key", version))
    patches.append(Patch(triton.runtime.cache, "triton_key", key))
    bound = _Bound(adapter)
    undo_remaker = register_remaker("triton", adapter.remake)
    return Installed(_forget, undo_remaker, bound.undo, *(patch.undo for patch in patches))


def _forget() -> None:
    global _adapter  # noqa: PLW0603  # likewise
    _adapter = None


@dataclass(frozen=True)
class Specialization:
    """One kernel to compile of a function, as `triton.compiler.ASTSource` has it.

    Attributes:
        signature: Argument name to type: ``"*fp32"``, ``"i32"``, ``"constexpr"``.
        constexprs: Values of those that are ``constexpr``.
        attrs: What is known of arguments, by path: ``{(0,): [["tt.divisibility", 16]]}``.
        options: Of the compile: ``num_warps``, ``num_stages``, ...
    """

    signature: Mapping[str, str]
    constexprs: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[Any, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


async def warmup(
    fn: Any,
    signatures: Iterable[Specialization | Mapping[str, str]],
    *,
    target: Any = None,
    at_once: int | None = None,
) -> list[Any]:
    """Compile specialisations of a function off the event loop, several at once.

    They are kept in the cache: the launch that needs one finds it there, in this process and in
    others. Several processes may warm up the same: each kernel is compiled once.

    Args:
        fn: A function with ``@triton.jit``.
        signatures: What to compile; a mapping is a `Specialization` with that signature.
        target: A `GPUTarget`; None takes that of the current device.
        at_once: How many at once; None takes the setting ``compile_slots``.

    Returns:
        For each, in order, its `CompiledKernel`, or the exception that it ended with.

    Raises:
        UsageError: The adapter is not installed; nothing was started.

    Cancelling waits for the compiles that have begun; they are kept.
    """
    adapter = _adapter
    if adapter is None:
        raise UsageError("install the adapter of Triton first: ajit.integrations.install('triton')")
    wanted = [_specialization(each) for each in signatures]
    slots = from_thread.runtime_of(adapter.runtime).settings.compile_slots
    limiter = anyio.CapacityLimiter(max(1, slots if at_once is None else at_once))
    results: list[Any] = [None] * len(wanted)

    async def compile_one(index: int, one: Specialization) -> None:
        compile_it = partial(adapter.try_compile, fn, one, target)
        results[index] = await anyio.to_thread.run_sync(compile_it, limiter=limiter)

    async with anyio.create_task_group() as group:
        for index, one in enumerate(wanted):
            group.start_soon(compile_one, index, one)
    return results


def _specialization(given: Specialization | Mapping[str, str]) -> Specialization:
    return given if isinstance(given, Specialization) else Specialization(given)


class _Adapter(InPlaceAdapter):
    """What stands where Triton's compile was."""

    def __init__(
        self,
        runtime: Runtime | BlockingRuntime,
        original: Any,
        *,
        on_loop: str,
        off_process: bool,
    ) -> None:
        super().__init__(
            runtime, distribution=DISTRIBUTION, peer="triton", function=FUNCTION, on_loop=on_loop
        )
        self.original = original
        self._off_process = off_process
        self._limiter: anyio.CapacityLimiter | None = None
        # Bound once: what is patched in is compared by identity.
        self.compile = self._compile

    def try_compile(self, fn: Any, one: Specialization, target: Any) -> Any:
        """Compile a specialisation; return the kernel, or what was raised. In a thread."""
        from triton.compiler import ASTSource  # noqa: PLC0415  # a peer

        try:
            attrs = None if one.attrs is None else dict(one.attrs)
            src = ASTSource(fn, dict(one.signature), dict(one.constexprs), attrs)
            return self.compile(src, target=target, options=dict(one.options))
        except Exception as exc:  # noqa: BLE001  # reported, and does not stop the others
            return exc

    async def remake(self, recipe: str) -> Build:
        """Compile what a record's recipe says; see `register_remaker`. Cancelling waits for it."""
        if self._limiter is None:
            slots = from_thread.runtime_of(self.runtime).settings.compile_slots
            self._limiter = anyio.CapacityLimiter(max(1, slots))
        return await anyio.to_thread.run_sync(self._remake, recipe, limiter=self._limiter)

    def _remake(self, recipe: str) -> Build:
        made = remade(recipe)
        try:
            self.compile(*made)
        except AjitError:
            raise
        except Exception as exc:
            raise SpecError(f"it compiles no more: {type(exc).__name__}: {exc}") from exc
        asked = Asked(*made, None)
        return self.build(f"triton {made.source.name}", asked.key)

    def _compile(
        self, src: Any, target: Any = None, options: Any = None, _env_vars: Any = None
    ) -> Any:
        """As ``triton.compiler.compile``."""
        alone = partial(self.original, src, target, options, _env_vars)
        if _wants_to_be_alone(src, options) or not self.may_wait(
            f"Triton kernel {src.name!r}", "warm it up before, or launch it in a thread"
        ):
            return alone()
        asked = Asked(src, target, options, _env_vars)
        build = self.build(f"triton {src.name}", asked.key)
        make = partial(self._made_in_turn, asked, alone)
        try:
            kernel = self.found_or_made(
                build, asked.arch, asked.kernel_over, make, partial(asked.recipe, options)
            )
        except CompileError as exc:
            raise as_triton_raises(exc, exc.log) from exc
        except GONE as exc:
            self.gone(exc)
            return alone()
        return alone() if kernel is None else kernel

    def _made_in_turn(self, asked: Asked, alone: Any, turn: Turn) -> Any:
        if self._off_process and asked.can_leave:
            return self._made_elsewhere(turn, asked, alone)
        return self._made(turn, alone)

    def _made(self, turn: Turn, alone: Any) -> Any:
        """Compile in this thread, while others wait."""
        try:
            kernel = alone()
            contents = {name: Path(path).read_bytes() for name, path in _group_of(kernel)}
        except BaseException as exc:
            if is_about_the_kernel(exc):
                self.refuse(turn, log_of(exc))
            else:
                turn.give_back()
            raise
        self.keep(turn, contents)
        return kernel

    def _made_elsewhere(self, turn: Turn, asked: Asked, alone: Any) -> Any:
        """Make the IR in this thread, and let a process of the pool do the rest."""
        try:
            build = asked.build_of_ir()
            view = from_thread.call(self.runtime, partial(_run, turn, build))
            return None if view is None else asked.kernel_over(view)
        except CompileError as exc:
            log = shared_log(exc.log)
            if log is None:
                return self._made(turn, alone)  # for the error that Triton has
            self.refuse(turn, log)
            raise as_triton_raises(exc, log) from exc
        except BaseException as exc:
            if is_about_the_kernel(exc):
                self.refuse(turn, log_of(exc))
            else:
                turn.give_back()
            raise


class _Bound:
    """Functions that were launched before have Triton's compile at hand: they get the adapter's."""

    def __init__(self, adapter: _Adapter) -> None:
        self._adapter = adapter
        self._replace(adapter.original, adapter.compile)

    def undo(self) -> None:
        """Give it back to them, and to those that were launched since."""
        self._replace(self._adapter.compile, self._adapter.original)

    @staticmethod
    def _replace(old: Any, new: Any) -> None:
        from triton.runtime import jit  # noqa: PLC0415  # a peer

        for function in list(jit._triton_jit_function_registry.values()):  # noqa: SLF001  # its list
            if vars(function).get("compile") is old:
                function.compile = new


def _wants_to_be_alone(src: Any, options: Any) -> bool:
    from triton import knobs  # noqa: PLC0415  # a peer

    wanted = knobs.compilation
    return (
        isinstance(src, str)
        or bool((options or {}).get("ir_override"))
        or bool(wanted.always_compile or wanted.override or wanted.dump_ir or wanted.use_ir_loc)
    )


def _group_of(kernel: Any) -> list[tuple[str, str]]:
    return [(name, str(path)) for name, path in kernel.metadata_group.items()]


async def _run(turn: Turn, build: Build, runtime: Runtime) -> Path | None:
    """Run a build in a turn, and return the view of what it made."""
    made = await turns_of(runtime).run(turn, build)
    return await runtime._builds.view(made)  # noqa: SLF001  # likewise
