"""What one call of Triton's compile asks for: its key, its kernel, its IR for another process."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

from ajit._core.build import Build, Call
from ajit.integrations._triton_recipe import recipe_of
from ajit.integrations._triton_worker import FUNCTION as COMPILE_IR

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Asked"]

PREFIXES = ("TRITON_", "MLIR_", "LLVM_", "NVPTX_", "DISABLE_", "USE_", "PTXAS_")
"""Of environment variables that decide how Triton compiles; it names some others itself."""


FIRST_SPECIFIC = 90


class Asked:
    """One call of compile: Triton's key for it, and how a kernel is made of the files.

    Attributes:
        key: Triton's key, hashed as Triton does, and what else decides which files there are.
    """

    def __init__(self, src: Any, target: Any, options: Any, env_vars: Any) -> None:
        from triton import knobs  # noqa: PLC0415  # a peer
        from triton.compiler import compiler  # noqa: PLC0415  # likewise

        self._src = src
        self._compiler, self._knobs = compiler, knobs
        target = compiler.driver.active.get_current_target() if target is None else target
        backend = compiler.make_backend(target)
        parsed = backend.parse_options(dict(options or {}, **src.parse_options()))
        if env_vars is None:
            env_vars = compiler.get_cache_invalidating_env_vars()
        text = compiler.get_cache_key(src, backend, parsed, env_vars=env_vars)
        if knobs.runtime.add_stages_inspection_hook is not None:
            text += knobs.runtime.add_stages_inspection_hook()[0]
        self._target, self._backend, self._options = target, backend, parsed
        self._env_vars = env_vars
        self.hash = hashlib.sha256(text.encode()).hexdigest()
        self.key = f"{self.hash} binary_only={bool(knobs.compilation.store_binary_only)}"

    @property
    def arch(self) -> str:
        """What it is for, for the record."""
        arch = self._target.arch
        if not isinstance(arch, int):
            return str(arch)
        return f"sm_{arch}a" if arch >= FIRST_SPECIFIC else f"sm_{arch}"  # as Triton compiles

    def recipe(self, options: Any) -> str:
        """Return the text of which it is compiled again, or "".

        Args:
            options: As they were given.
        """
        if not isinstance(self._src, self._compiler.ASTSource):
            return ""
        return recipe_of(self._src, self._target, options)

    def kernel_over(self, view: Path) -> Any:
        """Return the kernel that the files of a view are."""
        compiler, knobs = self._compiler, self._knobs
        timer = compiler.CompileTimer()
        group = {path.name: str(path) for path in sorted(view.iterdir())}
        kernel = compiler.CompiledKernel(self._src, group, self.hash)
        _tell_triton_where(self._src.name, self.hash, group)
        if knobs.compilation.listener:
            knobs.compilation.listener(
                src=self._src,
                metadata=kernel.metadata._asdict(),
                metadata_group=group,
                times=timer.end(),
                cache_hit=True,
            )
        return kernel

    @property
    def can_leave(self) -> bool:
        """Whether another process would compile it as this one does."""
        return (
            isinstance(self._src, self._compiler.ASTSource)
            and not self._knobs.compilation.listener
            and not self._knobs.compilation.store_binary_only
            and self._knobs.runtime.add_stages_inspection_hook is None
        )

    def build_of_ir(self) -> Build:
        """Make the first IR, and return the build that makes the group's files of it.

        Raises:
            Exception: What Triton raises for a function that it cannot translate.
        """
        src, target = self._src, self._target
        arguments = {
            "text": self._ir(),
            "name": src.name[:150],
            "first": src.ext,
            "language": src.language.name,
            "target": (target.backend, target.arch, target.warp_size),
            "options": dict(vars(self._options)),
            "metadata": {
                "hash": self.hash,
                **self._env_vars,
                "triton_version": self._compiler.__version__,
            },
        }
        call = Call(COMPILE_IR, arguments, env=_environment(self._env_vars))
        return Build(f"triton {src.name}"[:100], call, ["*.*"])

    def _ir(self) -> str:
        from triton._C.libtriton import ir  # noqa: PLC0415  # a peer

        backend, options = self._backend, self._options
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        functions = backend.get_codegen_implementation(options)
        modules = backend.get_module_map()
        try:
            made = self._src.make_ir(self._target, options, functions, modules, context)
        except Exception as exc:
            self._compiler.filter_traceback(exc)
            raise
        return str(made)


def _environment(named: Mapping[str, str]) -> dict[str, str]:
    """The variables that Triton's compiler reads."""
    names = {name for name in os.environ if name.startswith(PREFIXES) or name in named}
    return {name: os.environ[name] for name in names - {"TRITON_CACHE_DIR"}}


def _tell_triton_where(name: str, digest: str, group: Mapping[str, str]) -> None:
    """Write Triton's own index of the files, ``__grp__*.json``, with the paths of this machine.

    So whatever looks into Triton's cache directory, in a process without ajit too, finds them.
    """
    from triton.runtime.cache import FileCacheManager, get_cache_manager  # noqa: PLC0415  # a peer

    try:
        manager = get_cache_manager(digest)
        metadata = f"{name[:150]}.json"
        if type(manager) is FileCacheManager and manager.get_group(metadata) != group:
            manager.put_group(metadata, group)
    except (OSError, RuntimeError):
        return  # it cannot be written, and is not relied on
