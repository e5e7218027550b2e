"""Settings: one frozen value, made once, each field with its origin.

A value comes from the argument, else from the variable ``AJIT_<NAME>``, else from a configuration
file (`ajit._system.config_files`: ``ajit.toml``, or ``[tool.ajit]`` in ``pyproject.toml``), else
from the default. Nothing is read when ajit is imported: `Settings` reads environment and files when
it is called. An unknown ``AJIT_*`` variable, or name in a file, is a warning with the nearest name:
a misspelt setting that is silently ignored costs days.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ajit._system.config_files import VARIABLE, read_config_files
from ajit._system.config_values import check_names
from ajit._system.limits import available_cpus, memory_limit_bytes
from ajit._system.setting_fields import (
    Origins,
    absolute_directory,
    byte_count,
    number,
    one_of,
    setting,
    switch,
    usable_text,
)
from ajit._system.setting_values import (
    check_environ,
    check_value,
    refuse_unknown,
    shown_value,
    unusable,
    value_of,
    warn_unknown,
)
from ajit.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import Field
    from typing import Unpack

    from ajit._system.config_files import ConfigFile

__all__ = ["Settings", "SettingsOptions", "available_cpus"]

MiB = 1024 * 1024
GiB = 1024 * MiB

MOST_COMPILES = 4096
"""Compiles at once: above the CPUs of any machine that we know of."""
MOST_RING = 1 << 20
"""Operations in the ring of the CUDA thread, whose memory is taken at once."""
MOST_COMPILE_SECONDS = 1e6
"""Eleven days: a worker process is waited for with poll(), which counts in 31 bits of ms."""
MOST_GROUP = 2**32 - 2
"""The largest number of a Unix group; the one above it means none."""

_A_PATH = "a path in UTF-8, without NUL"
_PATHS = f"paths in UTF-8, without NUL, separated by {os.pathsep!r}"

_REPR_LENGTH = 200

_ONE_DEVICE = re.compile(r"(cuda|cpu):[0-9]{1,4}")


def default_compile_memory_limit() -> int:
    """Half of the memory that this process may use, at most 8 GiB.

    No kernel is known to need more than 8 GiB; that is also the limit where the memory is unknown.
    """
    return min(8 * GiB, memory_limit_bytes() // 2 or 8 * GiB)


def _is_device(value: str) -> bool:
    return value in ("cuda", "cpu", "auto", "none") or bool(_ONE_DEVICE.fullmatch(value))


def _is_board(value: str) -> bool:
    return value in ("auto", "off") or (usable_text(value) and os.path.isabs(value))  # noqa: PTH117 - a text


def _is_group(value: str) -> bool:
    number = value.isdecimal()
    return usable_text(value) and (not number or (len(value) <= 10 and int(value) <= MOST_GROUP))


def _are_paths(value: str) -> bool:
    return usable_text(value) and all(map(os.path.isabs, filter(None, value.split(os.pathsep))))


class SettingsOptions(TypedDict, total=False):
    """The settings as keyword arguments, for type checkers. None means not given."""

    cache_dir: str | os.PathLike[str] | None
    allow_unsafe_cache: bool | None
    cache_limit_bytes: int | None
    cache_max_age_seconds: float | None
    views_dir: str | os.PathLike[str] | None
    views_limit_bytes: int | None
    cache_layers: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    cache_layers_copy: bool | None
    shared_group: str | None
    trust: str | None
    hmac_key_file: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    hmac_key: str | None
    public_key_files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    signing_key_file: str | os.PathLike[str] | None
    device: str | None
    compile_slots: int | None
    node_compile_slots: int | None
    compile_timeout_seconds: float | None
    compile_output_limit_bytes: int | None
    bundle_limit_bytes: int | None
    compile_memory_limit_bytes: int | None
    compile_memory_estimate_bytes: int | None
    compiler_niceness: int | None
    nvcc: str | os.PathLike[str] | None
    host_compiler: str | os.PathLike[str] | None
    sandbox: str | None
    sandbox_paths: str | None
    worker_max_jobs: int | None
    worker_max_bytes: int | None
    lease: str | None
    patience_seconds: float | None
    patience_total_seconds: float | None
    abandoned: str | None
    mode: str | None
    failure_seconds: float | None
    history_limit_bytes: int | None
    explain: bool | None
    record: str | os.PathLike[str] | None
    trace: str | os.PathLike[str] | None
    board: str | os.PathLike[str] | None
    ticket_timeout_seconds: float | None
    time_tickets: bool | None
    spin_seconds: float | None
    ring_capacity: int | None
    pinned_pool_bytes: int | None
    device_memory_limit_bytes: int | None
    device_memory_idle_seconds: float | None
    plain_device_memory: bool | None
    stall_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of ajit. Make it with `Settings`, or let `open_runtime` do so in a thread.

    Attributes are described in their field's metadata, which ``ajit config`` prints.

    Args:
        environ: The environment; None for that of the process. With another one, no configuration
            file is looked for but the one that it names.
        config_files: Whether configuration files are read. They are looked for in the working
            directory and above it, and in the user's home: a few small reads.
        **arguments: Any setting by name; None is not given.

    Raises:
        SettingsError: A value cannot be used, or a file; it names both. Nothing was started.
    """

    cache_dir: Path = setting(  # noqa: RUF009  # it makes a field
        Path(),
        "directory of the kernel cache; processes and nodes may share it",
        _A_PATH,
        parse=absolute_directory,
    )
    allow_unsafe_cache: bool = switch(
        "use a cache directory even if other users own it or can write to it"
    )
    cache_limit_bytes: int = byte_count(
        4 * GiB,
        "size limit of the cache; above it, least recently used entries are evicted; 0: no limit",
        least=0,
    )
    cache_max_age_seconds: float = number(
        0.0, "evict entries that were not used for this long; 0: never", least=0
    )
    views_dir: str = setting(
        "",
        "directory of this node where the files of bundles are put to be loaded; empty: "
        "$XDG_RUNTIME_DIR, else the temporary directory",
        "an absolute path in UTF-8, without NUL",
        holds=lambda value: usable_text(value) and (not value or os.path.isabs(value)),  # noqa: PTH117 - a text
    )
    views_limit_bytes: int = byte_count(
        4 * GiB,
        "size limit of what is in views_dir; above it, least recently used views are removed; "
        "0: no limit",
        least=0,
    )
    cache_layers: str = setting(
        "",
        "read-only caches that are looked at where the cache has nothing, such as one in an image; "
        "the first that has a kernel serves it; empty: none",
        _PATHS,
        holds=usable_text,
        many=True,
    )
    cache_layers_copy: bool = switch("put what is found in a layer into the cache")
    shared_group: str = setting(
        "",
        "Unix group whose members may write to the cache; empty: this user only",
        "a group's name or number",
        holds=_is_group,
    )
    trust: str = one_of(
        "auto",
        "the seal that is asked of what lies in the cache: none, hmac, signed (Ed25519), or auto: "
        "signed if there are public keys or a signing key, else hmac if there is a secret",
        "none",
        "hmac",
        "signed",
    )
    hmac_key_file: str = setting(
        "",
        "files with secrets that authenticate what lies in the cache; the first seals, all are "
        "taken; empty: none",
        _PATHS,
        holds=usable_text,
        many=True,
    )
    hmac_key: str = setting(
        "",
        "such secrets as text, one a line, for use in an environment variable; prefer "
        "hmac_key_file",
        "text, and not together with hmac_key_file",
        secret=True,
    )
    public_key_files: str = setting(
        "",
        "files with the public keys of those whose signatures are taken; empty: none",
        _PATHS,
        holds=usable_text,
        many=True,
    )
    signing_key_file: str = setting(
        "",
        "file with the private key that signs what this process puts into the cache; empty: none",
        _A_PATH,
        holds=usable_text,
    )
    device: str = setting(
        "cuda",
        "device to open: cuda, cuda:N, cpu, cpu:N, auto (a GPU, else the CPU driver), or none",
        "cuda, cuda:N, cpu, cpu:N, auto or none",
        holds=_is_device,
    )
    compile_slots: int = number(
        0,
        "most compiles at once in this process; 0: one for each CPU",
        least=0,
        most=MOST_COMPILES,
        expected=f"1 to {MOST_COMPILES}, or 0 for the CPUs",
    )
    node_compile_slots: int = number(
        0,
        "most compiles at once on this machine, over all processes that use this cache; "
        "0: one for each CPU",
        least=0,
        most=MOST_COMPILES,
        expected=f"1 to {MOST_COMPILES}, or 0 for the CPUs",
    )
    compile_timeout_seconds: float = number(
        1800.0,
        "wall time limit of a compile; a compile that takes longer is killed",
        above=0,
        most=MOST_COMPILE_SECONDS,
    )
    compile_output_limit_bytes: int = byte_count(
        256 * MiB, "largest artifact that a compile may produce", least=1
    )
    bundle_limit_bytes: int = byte_count(
        2 * GiB, "largest bundle that a build may make, all of its files together", least=1
    )
    compile_memory_limit_bytes: int = byte_count(
        0,
        "memory limit of a compiler and its children; above it they are killed; "
        "0: half of what this process may use, at most 8 GiB",
        least=0,
    )
    compile_memory_estimate_bytes: int = byte_count(
        1 * GiB,
        "free memory that must be left to start a compile beside another one; grows when compiles "
        "are seen to need more; 0: do not check",
        least=0,
    )
    compiler_niceness: int = number(
        10, "niceness added to compilers, so that the server gets the CPU first", least=0, most=19
    )
    nvcc: str = setting("", "path of nvcc; empty: search for it", _A_PATH, holds=usable_text)
    host_compiler: str = setting(
        "", "path of the C++ compiler; empty: search for it", _A_PATH, holds=usable_text
    )
    sandbox: str = one_of(
        "off",
        "off, or landlock: compilers read only their own files, the system's headers and libraries "
        "and the spec's include_dirs, write only in their folder, and have no network",
        "landlock",
    )
    sandbox_paths: str = setting(
        "",
        "what compilers in a sandbox may read beside that: paths joined with ':'",
        "absolute paths joined with ':'",
        holds=_are_paths,
    )
    worker_max_jobs: int = number(200, "compiles after which a worker process is replaced", least=1)
    worker_max_bytes: int = byte_count(
        400 * MiB, "memory above which a worker process is replaced", least=1
    )
    lease: str = one_of(
        "auto",
        "how nodes exclude each other: by locks of the file system, by a directory, or auto: by a "
        "directory where the cache is on a network file system",
        "locks",
        "directory",
    )
    patience_seconds: float = number(
        10.0,
        "a waiter compiles for itself when the lease holder has been silent for this long; also "
        "the deadline of each call on the cache's file system",
        above=0,
    )
    patience_total_seconds: float = number(
        3600.0,
        "a waiter compiles for itself after this long, even if the holder is alive; 0: never",
        least=0,
    )
    abandoned: str = one_of(
        "finish",
        "a compile that no task waits for any more: finish (and cache) it, or cancel it",
        "cancel",
    )
    mode: str = one_of(
        "normal",
        "normal, or frozen: never compile; a kernel that is not cached is an error",
        "frozen",
    )
    failure_seconds: float = number(
        30.0,
        "how long a compile error is remembered before the same source is compiled again",
        least=0,
    )
    history_limit_bytes: int = byte_count(
        1 * MiB,
        "size of this node's history of compiles in the cache (ajit log), at which a new file is "
        "begun; one older is kept; 0: no history",
        least=0,
        most=16 * MiB,  # more would not be read
        most_text="16 MiB",
    )
    explain: bool = switch(
        "say of each compile which cached kernel is nearest and in what it differs (the event "
        "CompileStarted); reads the entries of the cache for it"
    )
    record: str = setting(
        "",
        "folder into which the kernels that are used are written, to be replayed at the next "
        "start; empty: none",
        _A_PATH,
        holds=usable_text,
    )
    trace: str = setting(
        "",
        "file to which a timeline is appended, for Perfetto; processes may share it; empty: none",
        _A_PATH,
        holds=usable_text,
    )
    board: str = setting(
        "auto",
        "directory of this node in which the runtime keeps a small file that says what it does, "
        "for ajit top; auto: $XDG_RUNTIME_DIR, else /dev/shm, else the temporary directory; "
        "off: none",
        "auto, off, or an absolute path in UTF-8, without NUL",
        holds=_is_board,
    )
    ticket_timeout_seconds: float = number(
        60.0, "default limit on waiting for device work; a ticket that takes longer fails", above=0
    )
    time_tickets: bool = switch(
        "measure ticket.device_seconds for all work; costs two CUDA events for each submission"
    )
    spin_seconds: float = number(
        50e-6, "how long the idle CUDA thread spins for new work before it parks", least=0, most=1
    )
    ring_capacity: int = setting(
        4096,
        "operations that may be queued for the CUDA thread",
        f"a power of two, from 2 to {MOST_RING}",
        parse=int,
        holds=lambda n: 2 <= n <= MOST_RING and n & (n - 1) == 0,
    )
    pinned_pool_bytes: int = byte_count(
        256 * MiB,
        "limit of the pinned host memory used for staging copies, for all loops of a device",
        least=1,
    )
    device_memory_limit_bytes: int = byte_count(
        0,
        "limit of the device memory that ajit allocates in this process; 0: no limit",
        least=0,
    )
    device_memory_idle_seconds: float = number(
        10.0,
        "release device memory kept for reuse after this long without work; 0: never",
        least=0,
    )
    plain_device_memory: bool = switch(
        "allocate device memory outside of a pool, as peer access, RDMA or IPC may need"
    )
    stall_seconds: float = number(
        30.0,
        "print the stacks of all threads when the CUDA thread has spent this long in one "
        "operation; 0: never",
        least=0,
    )
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __init__(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        config_files: bool = True,
        **arguments: Unpack[SettingsOptions],
    ) -> None:
        given: dict[str, Any] = dict(arguments)
        former = _former(given)
        refuse_unknown(given, setting_names())
        search = environ is None
        if former is not None:
            environ, config_files = {}, False  # a copy keeps what was read for the original
        elif environ is None:
            environ = os.environ
        check_environ(environ)
        warn_unknown(environ, variable_names(), setting_names(), stacklevel=2)
        files = read_config_files(environ, search=search) if config_files else []
        check_names(files, setting_names(), stacklevel=3)
        values, origins = _values(given, environ, files)
        if former is not None:
            origins = former.carried_over(values, origins)
        _validate(values, origins)
        self.__dict__.update(values, origins=Origins(origins, values))

    def __reduce__(self) -> tuple[Callable[..., Settings], tuple[dict[str, Any], dict[str, str]]]:
        values = {name: getattr(self, name) for name in setting_names()}
        return _restored, (values, dict(self.origins))

    def __repr__(self) -> str:
        shown = [
            f"{name}={shown_value(_item(name), getattr(self, name))}"
            for name, origin in self.origins.items()
            if origin != "default" and getattr(self, name) != _default(name)
        ]
        kept, room = 0, _REPR_LENGTH - len("Settings(, and 99 more)")
        while kept < len(shown) and room > len(shown[kept]):
            room -= len(shown[kept]) + len(", ")
            kept += 1
        more = [f"and {len(shown) - kept} more"] if kept < len(shown) else []
        return f"Settings({', '.join(shown[:kept] + more)})"


def usable_settings(**arguments: Unpack[SettingsOptions]) -> tuple[Settings, list[SettingsError]]:
    """Return settings with the default for each that cannot be used, and what is wrong with those.

    For who is to be shown them: a server must not start with other settings than it was given.

    Raises:
        SettingsError: An argument cannot be used, or there is no default cache directory.
    """
    problems: list[SettingsError] = []
    files: list[ConfigFile] = []
    warn_unknown(os.environ, variable_names(), setting_names(), stacklevel=2)
    try:
        files = read_config_files(os.environ, search=True)
    except SettingsError as exc:
        problems.append(exc)
    try:
        check_names(files, setting_names(), stacklevel=2)
    except SettingsError as exc:  # it has taken the setting out
        problems.append(exc)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in setting_names():
        item = _item(name)
        try:
            values[name], origins[name] = value_of(item, arguments.get(name), os.environ, files)
            check_value(item, values[name], origins[name])
        except SettingsError as exc:
            if exc.origin in ("argument", "default"):
                raise
            problems.append(exc)
            without = {**os.environ, exc.origin: ""}
            values[name], origins[name] = value_of(item, None, without, [])
    _fill_in(values)
    try:
        _validate(values, origins)
    except SettingsError as exc:  # two that exclude each other
        problems.append(exc)
        values[exc.name], origins[exc.name] = _default(exc.name), "default"
    return _restored(values, origins), problems


def setting_names() -> tuple[str, ...]:
    """Names of all settings, in order."""
    return tuple(item.name for item in fields(Settings) if item.name != "origins")


def variable_names() -> frozenset[str]:
    """Names of all variables that ajit reads: of settings, and the few others."""
    return _OTHER_VARIABLES.union(f"AJIT_{name.upper()}" for name in setting_names())


def describe(name: str) -> str:
    """What a setting is for, in one line."""
    return str(_item(name).metadata["doc"])


def is_secret(name: str) -> bool:
    """Whether the value of a setting must not be shown."""
    return bool(_item(name).metadata["secret"])


def _item(name: str) -> Field[Any]:
    return Settings.__dataclass_fields__[name]


def _former(given: dict[str, Any]) -> Origins | None:
    """Take out the origins that `dataclasses.replace` and `_restored` pass on with the values."""
    origins = given.get("origins")
    if not isinstance(origins, Origins):
        return None
    del given["origins"]
    return origins


def _restored(values: dict[str, Any], origins: dict[str, str]) -> Settings:
    """Make a copy, also in another process. It is checked like any other settings."""
    given: dict[str, Any] = {**values, "origins": Origins(origins, values)}
    return Settings(**given)


def _default(name: str) -> Any:
    return _item(name).default


def _values(
    given: Mapping[str, Any], environ: Mapping[str, str], files: Sequence[ConfigFile]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the value of every setting and its origin, with what 0 stands for filled in."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in setting_names():
        values[name], origins[name] = value_of(_item(name), given.get(name), environ, files)
    _fill_in(values)
    return values, origins


def _fill_in(values: dict[str, Any]) -> None:
    """Put in what 0 stands for."""
    for name in ("compile_slots", "node_compile_slots"):
        values[name] = values[name] or available_cpus()
    limit = values["compile_memory_limit_bytes"] or default_compile_memory_limit()
    values["compile_memory_limit_bytes"] = limit


def _validate(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    for name, value in values.items():
        check_value(_item(name), value, origins[name])
    if values["hmac_key"] and values["hmac_key_file"]:
        raise unusable(_item("hmac_key"), values["hmac_key"], origins["hmac_key"])


_OTHER_VARIABLES = frozenset(
    {
        "AJIT_CPU_DEVICES",
        "AJIT_CPU_MEMORY_BYTES",
        "AJIT_CPU_ONE_THREAD",
        "AJIT_CPU_STACK_BYTES",
        "AJIT_CPU_THREADS",
        # Of the compiler launchers.
        "AJIT_CC_CXX",
        "AJIT_CC_DISABLE",
        "AJIT_CC_NVCC",
        "AJIT_CC_PTXAS",
        # Of KV clients and services.
        "AJIT_KV_SOCKET",
        VARIABLE,
    }
)
"""Read by the CPU driver, by compiler launchers, by `ajit.kv`, and before all settings."""
