"""``ajit compile``: look up or compile one kernel source, without a device."""

from __future__ import annotations

import logging
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ajit._printable import difference_texts
from ajit.cli import exits
from ajit.cli.output import Output, facts, format_bytes, format_seconds, json_option
from ajit.cli.spinner import Spinner
from ajit.settings import Settings

if TYPE_CHECKING:
    from ajit._core.events import Event, Waiting
    from ajit._core.spec import CompilerKind, Spec
    from ajit._resolve.request import Resolution
    from ajit.cli.drawing import Table

__all__ = ["command"]

REPEAT_SECONDS = 10.0
"""How often a wait is reported again. Pretty arbitrary: often enough to see that it goes on."""


@click.command("compile", short_help="Compile a kernel into the cache.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--entry", "entries", metavar="NAME", multiple=True, required=True,
    help="Kernel to compile: its name, or a name expression such as 'scale<float, 4>'. Repeatable.",
)  # fmt: skip
@click.option("--arch", help="sm_80, sm_90a, ..., or the CPU's; default: that of the device.")
@click.option(
    "--compiler", type=click.Choice(["nvrtc", "nvcc", "host"]),
    help="Default: nvrtc for a GPU, host (the C++ compiler) for the CPU driver.",
)  # fmt: skip
@click.option(
    "-I", "include_dirs", metavar="DIR", multiple=True,
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Directory to search for headers, after the directory of FILE. Repeatable.",
)  # fmt: skip
@click.option("-D", "defines", metavar="NAME[=VALUE]", multiple=True, help="Macro. Repeatable.")
@click.option("--option", "options", multiple=True, help="Flag for the compiler. Repeatable.")
@click.option(
    "--explain", is_flag=True,
    help="If it is compiled, say which cached kernel is nearest and in what it differs: macros, "
    "options, the compiler, or files that changed, appeared, vanished or moved.",
)  # fmt: skip
@click.option(
    "--std-headers", is_flag=True,
    help="Give NVRTC the C++ standard library, as far as libcu++ has it.",
)  # fmt: skip
@click.option("--cache-dir", type=click.Path(), help="Default: AJIT_CACHE_DIR, else ~/.cache/ajit.")
@json_option
def command(  # one parameter per option
    *,
    file: Path,
    entries: tuple[str, ...],
    arch: str | None,
    compiler: CompilerKind | None,
    include_dirs: tuple[str, ...],
    defines: tuple[str, ...],
    options: tuple[str, ...],
    explain: bool,
    std_headers: bool,
    cache_dir: str | None,
    as_json: bool,
) -> int:
    """Compile the kernels of FILE into the cache, or find them there.

    Prints the key, where the result came from (disk or compiled), how long it took, and the process
    that was waited for, if any. If several of these commands run at once, one of them compiles and
    the others wait.

    Exits with 1 if the compiler rejects the source (its log goes to standard error, with --json
    also into the object on standard output), with 3 if the kernel was compiled but could not be
    stored, with 4 if there is no compiler.
    """
    import anyio  # noqa: PLC0415  # command-line start-up

    from ajit._core import std_headers as std  # noqa: PLC0415  # command-line start-up
    from ajit._core.spec import Spec  # noqa: PLC0415  # command-line start-up

    if arch is None and compiler == "host":
        arch = platform.machine()
    # With --arch no device is needed, and none is opened.
    settings = Settings(
        cache_dir=cache_dir, device="none" if arch else None, explain=explain or None
    )
    spec = Spec.from_file(
        file,
        entries,
        name=file.name,
        compiler=compiler or "auto",
        arch=arch,
        options=options,
        defines=[_macro(define) for define in defines],
        include_dirs=include_dirs,
        headers=std.std_headers() if std_headers else {},
    )
    output = Output(as_json=as_json)
    watcher = _Watcher(output)
    # The runtime's log lines are for servers. Here the watcher reports waits, and the command
    # reports errors. Without a handler, logging's last resort would print both a second time.
    logging.getLogger("ajit").addHandler(logging.NullHandler())
    try:
        resolution = anyio.run(_resolve, settings, spec, watcher)
    finally:
        watcher.spinner.hide()
    watcher.warn_of_locks()
    payload = _payload(spec, resolution, settings, not_stored=watcher.not_stored)
    if settings.explain:
        payload |= watcher.explained
        payload["dirs"] = {f"i{n}": path for n, path in enumerate(spec.include_dirs)}
    output.result(payload, lambda: _draw(payload))
    return exits.PARTLY if watcher.not_stored else exits.FINE


async def _resolve(settings: Settings, spec: Spec, watcher: _Watcher) -> Resolution:
    from ajit._runtime.open import open_runtime  # noqa: PLC0415  # command-line start-up
    from ajit.errors import NoDevice  # noqa: PLC0415  # command-line start-up

    try:
        async with open_runtime(settings, subscribers=[watcher]) as runtime:
            return await runtime.resolve(spec)
    except NoDevice as exc:
        # The error itself says how to run without a GPU, which is of no use to a compile.
        detail = (
            "there is no GPU here to take it from; give one, such as --arch sm_90a, or for the CPU "
            f"driver --arch {platform.machine()}, which AJIT_DEVICE=cpu stands for"
        )
        raise NoDevice(
            operation="find the arch to compile for",
            code=exc.code,
            code_name=exc.code_name,
            detail=detail,
        ) from exc


class _Watcher:
    """Reports waits and bad entries on standard error; remembers whether the result was stored.

    On a terminal a line says what goes on, from its first second.

    The command itself reports the result or the error. The runtime warns of a cache that cannot be
    written.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self.spinner = Spinner(wanted=not output.as_json)
        self._told_seconds: float | None = None
        self._told_bad_entry = False
        self._no_lease = ""
        self.not_stored = ""
        self.explained: dict[str, Any] = {"nearest": "", "differences": ()}

    def __call__(self, event: Event) -> None:
        from ajit._core import events  # noqa: PLC0415  # command-line start-up

        self._spin(event)
        match event:
            case events.CompileStarted():
                self.explained = {"nearest": event.nearest, "differences": event.differences}
            case events.CacheUnwritable():
                self.not_stored = "the cache cannot be written"
            case events.NotPublished():
                self.not_stored = event.reason
            case events.Waiting() if self._is_news(event):
                self._told_seconds = event.waited_seconds
                self._note(_describe_wait(event))
            case events.WaitEnded(outcome="patience"):
                waited = format_seconds(event.waited_seconds)
                self._note(f"patience ended after {waited}: compiling here as well")
            case events.EntryRejected() if not self._told_bad_entry:
                # The same entry is read again under the lease: report it once.
                self._told_bad_entry = True
                self.spinner.hide()
                self._output.warn(f"the cached entry does not verify (a miss): {event.reason}")
            case events.LocksUnavailable():
                self._no_lease = event.reason

    def warn_of_locks(self) -> None:
        """Warn that another process may have compiled the same, if nothing worse was reported."""
        if self._no_lease and not self.not_stored:
            self._output.warn(f"compiled without a lease: {self._no_lease} (see: ajit doctor)")

    def _note(self, text: str) -> None:
        self.spinner.hide()
        self._output.note(text)

    def _spin(self, event: Event) -> None:
        from ajit._core import events  # noqa: PLC0415  # command-line start-up

        match event:
            case events.MakingKey():
                at = "asking for the version" if event.doing == "compiler" else "reading files"
                self.spinner.show(f"making the key, {at}: {event.waited_seconds:.0f} s")
            case events.CompileRunning():
                used = f", {event.cpu_seconds:.0f} s CPU" if event.cpu_seconds else ""
                self.spinner.show(f"compiling with {event.compiler}: {event.seconds:.0f} s{used}")
            case events.WaitingForPermit():
                self.spinner.show(
                    f"waiting for other compiles of this machine: {event.waited_seconds:.0f} s"
                )
            case events.Waiting() if event.waited_seconds >= 1:
                self.spinner.show(_describe_wait(event))

    def _is_news(self, event: Waiting) -> bool:
        told = self._told_seconds
        return told is None or event.waited_seconds - told >= REPEAT_SECONDS


def _describe_wait(event: Waiting) -> str:
    waited = event.waited_seconds
    so_far = f"; {format_seconds(waited)} so far" if waited >= 1 else ""
    if event.holder is None:
        return f"waiting for another process{so_far}"
    holder = event.holder
    return (
        f"waiting for process {holder.pid} on {holder.host}: {holder.phase} with "
        f"{holder.compiler} for {format_seconds(holder.age_seconds)}{so_far}"
    )


def _macro(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    # As compilers have it: -DNAME defines it as 1, which is what a value of None stands for.
    return name, value if equals else None


def _payload(
    spec: Spec, resolution: Resolution, settings: Settings, *, not_stored: str
) -> dict[str, Any]:
    artifact = resolution.artifact
    return {
        "key": artifact.key,
        # From the request: an artifact from the cache has the label of the spec compiled first.
        "name": ", ".join(spec.entry_names),
        "entries": spec.entry_names,
        "file": spec.name,
        "arch": artifact.arch,
        "compiler": artifact.compiler,
        "compiler_version": artifact.compiler_version,
        "kind": artifact.kind,
        "tier": resolution.tier,
        "seconds": resolution.seconds,
        "size_bytes": artifact.size_bytes,
        "cache_dir": settings.cache_dir,
        "stored": not not_stored,
        "not_stored": not_stored,
        "waited_for": resolution.waited_for,
        "log": artifact.log,
    }


def _draw(result: dict[str, Any]) -> Table:
    pairs = [
        ("key", result["key"]),
        ("kernel", f"{result['name']} ({result['file']})"),
        ("compiler", f"{result['compiler']} {result['compiler_version']} for {result['arch']}"),
        ("result", f"{result['kind']}, {format_bytes(result['size_bytes'])}"),
        ("tier", f"{result['tier']}, in {format_seconds(result['seconds'])}"),
    ]
    if "nearest" in result and result["tier"] == "compiled":
        pairs.append(("compiled because", _why(result)))
    holder = result["waited_for"]
    if holder is not None:
        waited = format_seconds(holder.seconds)
        pairs.append(("waited for", f"process {holder.pid} on {holder.host}, {waited}"))
    if not result["stored"]:
        pairs.append(("stored", f"no: {result['not_stored']}"))
    if result["log"].strip():
        pairs.append(("compiler said", result["log"].strip()))
    return facts(pairs)


def _why(result: dict[str, Any]) -> str:
    if not result["nearest"]:
        return "no similar kernel is cached"
    lines = [f"the nearest cached kernel, {result['nearest'][:32]}, differs in"]
    told = [
        (_located(part, result["dirs"]), there, here) for part, there, here in result["differences"]
    ]
    lines += [f"  {text}" for text in difference_texts(told)]
    return "\n".join(lines)


def _located(part: str, dirs: dict[str, str]) -> str:
    """The part of a key that is a file, with the path of the directory that it is in."""
    place, slash, name = part.removeprefix("file ").partition("/")
    known = part.startswith("file ") and slash and place in dirs
    return f"file {Path(dirs[place], name)}" if known else part
