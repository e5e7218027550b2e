"""Warp: its modules, under a lease and in ajit's cache.

`install` stands before ``Module._compile``, so for launches, ``wp.load_module`` and
``wp.compile_aot_module``, for GPUs and for CPUs. The key is Warp's own hash of the module, with the
file name that it gives, which has the arch, or for a CPU a digest of what that can do. A hit puts
the files where Warp looks for them; a miss compiles as ever, in the calling thread, while others
wait and see for whom. A source that does not compile is compiled once.

Warp compiles by itself: modules without a hash in their name, with include directories of their
own, or that include something else than Warp's headers; and where its cache is switched off.
"""

from __future__ import annotations

import os
import re
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ajit.errors import CompileError, UsageError
from ajit.integrations._in_place import InPlaceAdapter, check_on_loop
from ajit.integrations._installed import GONE, Installed, Patch
from ajit.integrations._versions import is_tried

if TYPE_CHECKING:
    from pathlib import Path

    from ajit._runtime.blocking import BlockingRuntime
    from ajit._runtime.runtime import Runtime
    from ajit._runtime.turns import Turn

__all__ = ["install"]

DISTRIBUTION = "warp-lang"
FUNCTION = "warp:compile"

_FAILED = re.compile(r"(?:CUDA|CPU) kernel build failed with error code -?\d+")
_INCLUDE = re.compile(r"^\s*#\s*include\s*(.*?)\s*$", re.MULTILINE)
_OWN_HEADER = re.compile(r'"([\w./]+)"')

_installed: list[_Adapter] = []


def install(runtime: Runtime | BlockingRuntime, *, on_loop: str = "raise") -> Installed:
    """Let Warp compile through a runtime. See `ajit.integrations.install`.

    Args:
        runtime: Where modules are looked for and kept.
        on_loop: What happens to a compile in the thread of the runtime's event loop, which would
            wait for itself: ``raise`` a `UsageError`, or ``warn`` and let Warp compile alone.

    Raises:
        ImportError: Warp is not installed. Nothing was changed.
        UsageError: It is installed already. Nothing was changed.
    """
    check_on_loop(on_loop)
    if _installed:
        raise UsageError("the adapter of Warp is installed already: uninstall it first")
    if not is_tried(DISTRIBUTION):
        return Installed()
    from warp._src.context import Module  # noqa: PLC0415  # a peer, on first use

    adapter = _Adapter(runtime, Module._compile, on_loop)  # noqa: SLF001  # all compiles go there

    def compile_module(self: Any, *args: Any, **options: Any) -> bool:
        return adapter.compile(self, *args, **options)

    _installed.append(adapter)
    return Installed(_installed.clear, Patch(Module, "_compile", compile_module).undo)


class _Wanted(NamedTuple):
    """What one call is to leave, and where."""

    folder: str
    binary: str
    meta: str
    source: str
    arch: str
    key: str
    is_cpu: bool
    block_dim: int


class _Adapter(InPlaceAdapter):
    """What stands where ``Module._compile`` was."""

    def __init__(self, runtime: Runtime | BlockingRuntime, original: Any, on_loop: str) -> None:
        super().__init__(
            runtime, distribution=DISTRIBUTION, peer="warp", function=FUNCTION, on_loop=on_loop
        )
        self._original = original

    def compile(
        self,
        module: Any,
        device: Any = None,
        output_dir: Any = None,
        output_name: str | None = None,
        output_arch: int | None = None,
        use_ptx: bool | None = None,  # noqa: FBT001  # as Warp has it
        options: Any = None,
    ) -> bool:
        """As ``Module._compile``: whether it was compiled."""
        given = (device, output_dir, output_name, output_arch, use_ptx, options)
        alone = partial(self._original, module, *given)
        wanted = _wanted(module, *given)
        if (
            wanted is None
            or _is_there(wanted)
            or not self.may_wait(
                f"Warp module {module.name!r}", "load it before, or launch it in a thread"
            )
        ):
            return bool(alone())
        build = self.build(f"warp {module.name}", wanted.key)
        try:
            compiled = self.found_or_made(
                build, wanted.arch, partial(_put, wanted), partial(self._made, alone, wanted)
            )
        except CompileError as exc:
            error = Exception(exc.log)  # Warp's own, of no other class
            module._record_build_failure(device, wanted.is_cpu, wanted.block_dim, error)  # noqa: SLF001
            raise error from exc
        except GONE as exc:
            self.gone(exc)
            return bool(alone())
        return bool(alone()) if compiled is None else compiled

    def _made(self, alone: Any, wanted: _Wanted, turn: Turn) -> bool:
        """Compile in this thread, while others wait."""
        try:
            compiled = bool(alone())
            names = (wanted.binary, wanted.meta, wanted.source)
            contents = {name: _bytes_of(wanted.folder, name) for name in names}
        except BaseException as exc:
            if type(exc) is Exception and _FAILED.fullmatch(str(exc)):
                self.refuse(turn, str(exc))
            else:
                turn.give_back()
            raise
        if _includes_only_its_own(contents[wanted.source]):
            self.keep(turn, contents)
        else:
            turn.give_back()
        return compiled


def _wanted(  # as Warp has it
    module: Any,
    device: Any,
    output_dir: Any,
    output_name: str | None,
    output_arch: int | None,
    use_ptx: bool | None,  # noqa: FBT001  # likewise
    options: Any,
) -> _Wanted | None:
    """What a call asks for; None if it is Warp's alone."""
    import warp  # noqa: PLC0415  # a peer
    from warp._src import context  # noqa: PLC0415  # likewise

    init: Any = context.init
    init()
    if options is None:
        options = module.resolve_options(warp.config)
    block_dim = options["block_dim"]
    digest = module.get_module_hash(block_dim)
    if _is_alone(module, options) or module.resolved_options.get(block_dim) != options:
        return None
    arch = module._get_compile_arch(device) if output_arch is None else output_arch  # noqa: SLF001
    if output_name is None:
        suffix = "" if arch is None else _suffix(context, device, arch)
        output_name = module._get_compile_output_name(  # noqa: SLF001  # the name that Warp gives
            device, arch, suffix, use_ptx, block_dim=block_dim
        )
    name = module.get_module_identifier(block_dim)
    folder = os.path.join(str(warp.config.kernel_cache_dir), name)
    return _Wanted(
        folder if output_dir is None else os.fspath(output_dir),
        output_name,
        module._get_meta_name(block_dim=block_dim),  # noqa: SLF001  # likewise
        f"{name}.{'cpp' if arch is None else 'cu'}",
        "" if arch is None else output_name.split(".")[-2].replace("sm", "sm_"),
        f"{digest.hex()} {output_name} arch={arch} options={sorted(options.items())}",
        arch is None,
        block_dim,
    )


def _is_alone(module: Any, options: Any) -> bool:
    import warp  # noqa: PLC0415  # a peer

    return bool(
        not warp.config.cache_kernels
        or module.options["strip_hash"]
        or options.get("verify_autograd_array_access")
        or options["extra_cpu_include_dirs"]
        or options["extra_cuda_include_dirs"]
        or options["compile_time_trace"]
    )


def _suffix(context: Any, device: Any, arch: int) -> str:
    suffix = context._validate_cuda_arch_suffix(  # noqa: SLF001  # as Warp's compile does
        arch,
        device_arch=device.arch if device else arch,
        toolkit_version=context.runtime.toolkit_version,
        device_name=device.alias if device else None,
    )
    return str(suffix)


def _is_there(wanted: _Wanted) -> bool:
    names = (wanted.binary, wanted.meta)
    return all(os.path.exists(os.path.join(wanted.folder, name)) for name in names)


def _put(wanted: _Wanted, view: Path) -> bool | None:
    """Put the files of a view where Warp looks for them. None if they are not all there."""
    os.makedirs(wanted.folder, exist_ok=True)
    try:
        for name in (wanted.source, wanted.meta, wanted.binary):
            content = (view / name).read_bytes()
            with tempfile.NamedTemporaryFile(dir=wanted.folder, delete=False) as file:
                file.write(content)
            os.chmod(file.name, 0o644)  # as others who use this cache of Warp may read it
            os.replace(file.name, os.path.join(wanted.folder, name))
    except FileNotFoundError:
        return None
    return False


def _includes_only_its_own(source: bytes) -> bool:
    """Whether the key has all of it: a snippet may include what no hash of Warp's knows."""
    import warp  # noqa: PLC0415  # a peer

    native = os.path.join(os.path.dirname(warp.__file__), "native")
    named = _INCLUDE.findall(source.decode(errors="replace"))
    found = [_OWN_HEADER.fullmatch(name) for name in named]
    return all(own and os.path.isfile(os.path.join(native, own[1])) for own in found)


def _bytes_of(folder: str, name: str) -> bytes:
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()
