"""Settings: one frozen value, made once, each field with its origin.

A value comes from the argument, else from the variable ``AJIT_<NAME>``, else from the default.
Nothing is read when ajit is imported: `Settings.load` reads the environment when it is called. An
unknown ``AJIT_*`` variable is a warning with the nearest name, for a misspelt setting that is
silently ignored costs days.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import warnings
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ajit._resources import available_cpus, memory_limit_bytes
from ajit.errors import AjitWarning, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Settings", "available_cpus"]

MiB = 1024 * 1024
GiB = 1024 * MiB

HIDDEN = "(hidden)"
"""What is shown of a secret."""

_CUDA_DEVICE = re.compile(r"cuda:[0-9]{1,4}")


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """``$XDG_CACHE_HOME/ajit``, else ``~/.cache/ajit``.

    Raises:
        SettingsError: This user has no home directory, as happens in containers.
    """
    base = environ.get("XDG_CACHE_HOME", "")
    if not Path(base).is_absolute():  # the XDG specification: a relative path is to be ignored
        base = os.path.join(environ.get("HOME") or "~", ".cache")  # noqa: PTH118  # ~ stays
    try:
        return _directory(base) / "ajit"
    except ValueError:
        raise SettingsError(
            name="cache_dir",
            value=None,
            origin="default",
            expected="a directory: this user has no home, so set AJIT_CACHE_DIR",
        ) from None


def default_compile_memory_limit() -> int:
    """Half of the memory that this process may use, at most 8 GiB.

    Eight, because no kernel is known to need more; where the memory is not known, too.
    """
    return min(8 * GiB, memory_limit_bytes() // 2 or 8 * GiB)


def _directory(path: Any) -> Path:
    """An absolute path: a server that changes its directory keeps its cache."""
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(path)
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError) as exc:  # no such home; the working directory was removed
        raise ValueError(path) from exc


def _about(
    doc: str, check: str, parse: Callable[[str], Any] = str, *, secret: bool = False
) -> dict[str, Any]:
    return {"doc": doc, "check": check, "parse": parse, "secret": secret}


def _boolean(text: str) -> bool:
    truth = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in truth:
        raise ValueError(text)
    return truth[text.lower()]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of ajit. Make it with `Settings.load`.

    Attributes are described in their field's metadata, which ``ajit config`` prints.
    """

    cache_dir: Path = field(
        default=Path(),
        metadata=_about(
            "directory of the kernel cache; may be shared by processes and nodes",
            "a path",
            _directory,
        ),
    )
    allow_unsafe_cache: bool = field(
        default=False,
        metadata=_about(
            "use a cache directory that others own or may write to", "0 or 1", _boolean
        ),
    )
    cache_limit_bytes: int = field(
        default=4 * GiB,
        metadata=_about(
            "size above which the entries unused for longest are removed; 0: never",
            "0 or above",
            int,
        ),
    )
    cache_max_age_seconds: float = field(
        default=0.0,
        metadata=_about(
            "time without use after which an entry is removed; 0: never", "0 or above", float
        ),
    )
    shared_group: str = field(
        default="",
        metadata=_about(
            "group that shares the cache: its members may write to it; empty: only this user",
            "a group's name or number",
        ),
    )
    hmac_key_file: str = field(
        default="",
        metadata=_about(
            "file with a secret that every entry must be authenticated with; empty: none",
            "a path",
        ),
    )
    hmac_key: str = field(
        default="",
        repr=False,
        metadata=_about(
            "the same secret itself, for a variable; empty: none. A file is seen by fewer",
            "text, and not together with hmac_key_file",
            secret=True,
        ),
    )
    device: str = field(
        default="cuda",
        metadata=_about(
            "cuda, cuda:N, cpu, auto (a GPU if there is one, else the CPU driver), or none",
            "cuda, cuda:N, cpu, auto or none",
        ),
    )
    compile_slots: int = field(
        default=0,
        metadata=_about(
            "compiles that run at once in this process", "at least 1, or 0 for the CPUs", int
        ),
    )
    node_compile_slots: int = field(
        default=0,
        metadata=_about(
            "compiles that run at once on this machine, in all processes that use the cache",
            "at least 1, or 0 for the CPUs",
            int,
        ),
    )
    compile_timeout_seconds: float = field(
        default=1800.0,
        metadata=_about("wall time after which a compile is killed", "above 0", float),
    )
    compile_output_limit_bytes: int = field(
        default=256 * MiB,
        metadata=_about("largest artifact that is accepted from a compiler", "at least 1", int),
    )
    compile_memory_limit_bytes: int = field(
        default=0,
        metadata=_about(
            "memory of a compiler and its children above which it is killed; "
            "0: half of what this process may use, at most 8 GiB",
            "0 or above",
            int,
        ),
    )
    compile_memory_estimate_bytes: int = field(
        default=1 * GiB,
        metadata=_about(
            "free memory that a compile needs to start beside another one, "
            "until compiles have shown that they need more; 0: any",
            "0 or above",
            int,
        ),
    )
    compiler_niceness: int = field(
        default=10,
        metadata=_about(
            "how much lower than the server the compilers' CPU priority is", "0 to 19", int
        ),
    )
    nvcc: str = field(default="", metadata=_about("path of nvcc; empty: searched", "a path"))
    host_compiler: str = field(
        default="", metadata=_about("path of the C++ compiler; empty: searched", "a path")
    )
    worker_max_jobs: int = field(
        default=200,
        metadata=_about("jobs after which a compile worker is replaced", "at least 1", int),
    )
    worker_max_bytes: int = field(
        default=400 * MiB,
        metadata=_about("memory above which a compile worker is replaced", "at least 1", int),
    )
    patience_seconds: float = field(
        default=10.0,
        metadata=_about(
            "silence of a lease's holder after which a waiter compiles for itself",
            "above 0",
            float,
        ),
    )
    patience_total_seconds: float = field(
        default=0.0,
        metadata=_about(
            "time after which a waiter compiles for itself however lively the holder is; 0: never",
            "0 or above",
            float,
        ),
    )
    abandoned: str = field(
        default="finish",
        metadata=_about(
            "what becomes of a compile that everybody has left: finish (the cache gains) or cancel",
            "finish or cancel",
        ),
    )
    mode: str = field(
        default="normal",
        metadata=_about(
            "normal, or frozen: nothing is compiled, and a kernel that is not cached is an error",
            "normal or frozen",
        ),
    )
    failure_seconds: float = field(
        default=30.0,
        metadata=_about(
            "how long the error of a rejected source is shared instead of compiling it again",
            "0 or above",
            float,
        ),
    )
    ticket_deadline_seconds: float = field(
        default=60.0,
        metadata=_about("time after which device work counts as stuck", "above 0", float),
    )
    spin_seconds: float = field(
        default=50e-6,
        metadata=_about(
            "how long the CUDA thread spins for work before it sleeps", "0 to 1", float
        ),
    )
    ring_capacity: int = field(
        default=4096,
        metadata=_about("operations that may wait for the CUDA thread", "a power of two", int),
    )
    pinned_pool_bytes: int = field(
        default=256 * MiB,
        metadata=_about(
            "limit of the pinned host memory that copies are staged in", "at least 1", int
        ),
    )
    device_memory_limit_bytes: int = field(
        default=0,
        metadata=_about(
            "device memory that this process may allocate through ajit; 0: what the device has",
            "0 or above",
            int,
        ),
    )
    stall_seconds: float = field(
        default=30.0,
        metadata=_about(
            "time in one operation after which the CUDA thread counts as stuck, "
            "and the stacks of all threads are printed; 0: never",
            "0 or above",
            float,
        ),
    )
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **arguments: Any) -> Settings:
        """Make settings from arguments, then ``AJIT_*`` variables, then defaults.

        Args:
            environ: The environment; None takes the process's.
            **arguments: Values by name; None means not given.

        Raises:
            SettingsError: A value cannot be used; nothing was started.
        """
        environ = os.environ if environ is None else environ
        _warn_unknown(environ)
        for name, value in arguments.items():
            if name not in setting_names():
                expected = _nearest(name)
                raise SettingsError(name=name, value=value, origin="argument", expected=expected)
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for name in setting_names():
            values[name], origins[name] = _value(name, arguments.get(name), environ)
        for name in ("compile_slots", "node_compile_slots"):
            values[name] = values[name] or available_cpus()
        limit = values["compile_memory_limit_bytes"] or default_compile_memory_limit()
        values["compile_memory_limit_bytes"] = limit
        settings = cls(**values, origins=origins)
        _validate(settings)
        return settings


def setting_names() -> tuple[str, ...]:
    """Names of all settings, in order."""
    return tuple(item.name for item in fields(Settings) if item.name != "origins")


def describe(name: str) -> str:
    """What a setting is for, in one line."""
    return str(Settings.__dataclass_fields__[name].metadata["doc"])


def is_secret(name: str) -> bool:
    """Whether the value of a setting must not be shown."""
    return bool(Settings.__dataclass_fields__[name].metadata["secret"])


def _value(name: str, argument: Any, environ: Mapping[str, str]) -> tuple[Any, str]:
    """Return the value of a setting and its origin. What does not count is not even parsed."""
    setting = Settings.__dataclass_fields__[name]
    variable = f"AJIT_{name.upper()}"
    text = environ.get(variable)
    try:
        if argument is not None:
            return _taken(argument, setting), "argument"
        if text:
            return setting.metadata["parse"](text), variable
    except (ValueError, TypeError):
        given, origin = (text, variable) if argument is None else (argument, "argument")
        given = HIDDEN if is_secret(name) else given
        raise SettingsError(
            name=name, value=given, origin=origin, expected=setting.metadata["check"]
        ) from None
    return (default_cache_dir(environ) if name == "cache_dir" else setting.default), "default"


def _taken(argument: Any, setting: Field[Any]) -> Any:
    """An argument has its setting's type: the text "0" must not pass for true."""
    kind = type(setting.default)
    if setting.name == "cache_dir":
        return _directory(argument)
    if kind is str and isinstance(argument, os.PathLike):
        argument = os.fspath(argument)
    if kind is float and isinstance(argument, int) and not isinstance(argument, bool):
        argument = float(argument)
    if not isinstance(argument, kind) or isinstance(argument, bool) is not (kind is bool):
        raise TypeError(argument)
    return argument


def _validate(settings: Settings) -> None:
    rules: dict[str, Callable[[Any], bool]] = {
        "hmac_key": lambda text: not (text and settings.hmac_key_file),
        "device": _is_device,
        "cache_limit_bytes": lambda n: n >= 0,
        "cache_max_age_seconds": lambda s: s >= 0,
        "compile_slots": lambda n: n >= 1,
        "node_compile_slots": lambda n: n >= 1,
        "compile_timeout_seconds": lambda s: 0 < s < math.inf,
        "compile_output_limit_bytes": lambda n: n >= 1,
        "compile_memory_limit_bytes": lambda n: n >= 1,
        "compile_memory_estimate_bytes": lambda n: n >= 0,
        "compiler_niceness": lambda n: 0 <= n <= 19,
        "worker_max_jobs": lambda n: n >= 1,
        "worker_max_bytes": lambda n: n >= 1,
        "patience_seconds": lambda s: 0 < s < math.inf,
        "patience_total_seconds": lambda s: 0 <= s < math.inf,
        "abandoned": lambda text: text in {"finish", "cancel"},
        "mode": lambda text: text in {"normal", "frozen"},
        "failure_seconds": lambda s: 0 <= s < math.inf,
        "ticket_deadline_seconds": lambda s: 0 < s < math.inf,
        "spin_seconds": lambda s: 0 <= s <= 1,
        "ring_capacity": lambda n: n >= 2 and n & (n - 1) == 0,
        "pinned_pool_bytes": lambda n: n >= 1,
        "device_memory_limit_bytes": lambda n: n >= 0,
        "stall_seconds": lambda s: 0 <= s < math.inf,
    }
    for name, rule in rules.items():
        value = getattr(settings, name)
        if not rule(value):
            expected = Settings.__dataclass_fields__[name].metadata["check"]
            shown = HIDDEN if is_secret(name) else value
            raise SettingsError(
                name=name, value=shown, origin=settings.origins[name], expected=expected
            )


def _is_device(value: object) -> bool:
    if value in ("cuda", "cpu", "auto", "none"):
        return True
    return isinstance(value, str) and _CUDA_DEVICE.fullmatch(value) is not None


def _warn_unknown(environ: Mapping[str, str]) -> None:
    known = {f"AJIT_{name.upper()}" for name in setting_names()} | _OTHER_VARIABLES
    for variable in environ:
        if variable.startswith("AJIT_") and variable not in known:
            near = _close_names(variable.removeprefix("AJIT_").lower())
            hint = f"; did you mean AJIT_{near[0].upper()}?" if near else ""
            warnings.warn(f"unknown variable {variable}{hint}", AjitWarning, stacklevel=3)


def _nearest(name: str) -> str:
    near = _close_names(name)
    return f"a setting's name; did you mean {near[0]}?" if near else "a setting's name"


def _close_names(name: str) -> list[str]:
    return difflib.get_close_matches(name, setting_names(), 1)


_OTHER_VARIABLES = frozenset(
    {
        "AJIT_CPU_DEVICES",
        "AJIT_CPU_MEMORY_BYTES",
        "AJIT_CPU_ONE_THREAD",
        "AJIT_CPU_STACK_BYTES",
        "AJIT_CPU_THREADS",
    }
)
"""Read by the CPU driver itself."""
