"""The machine's C++ compiler behind a script that waits, refuses, dies or counts as a test says.

It is a real program that a runtime finds by its setting, fingerprints and runs in a real worker, so
that nothing of ajit is replaced. What it compiles comes from the real compiler, or, if a test wants
that, from a folder with what was compiled before: a real compile takes most of a second.
"""

from __future__ import annotations

import errno
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from ajit._compile.toolchains.toolchains import Toolchains
from ajit.settings import Settings

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["FakeCompiler"]

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.005

_SCRIPT = r"""#!/bin/sh
if [ -n "$AJIT_READS" ]; then      # the switches below are no part of the compile
    export RECORD="$AJIT_READS"
    unset AJIT_READS
    exec /bin/sh "$0" "$@"
fi
[ -n "$RECORD" ] && recorded="env AJIT_READS=$RECORD"
here=@HERE@; answers=@ANSWERS@
real() { $recorded @REAL@ "$@"; }
output= before= question=
for argument; do
    [ "$before" = -o ] && output=$argument
    [ "$argument" = -fsyntax-only ] && question=yes     # asked after a failure: why?
    before=$argument
done
if [ -z "$output" ] || [ -n "$question" ]; then
    real "$@"
    exit
fi
echo $$ >> "$here/started"
[ -p "$here/gate" ] && read -r _ 2>/dev/null < "$here/gate"
[ -e "$here/signal" ] && kill -s "$(cat "$here/signal")" $$
if [ -e "$here/refusal" ]; then
    real "$@" -fsyntax-only >/dev/null 2>&1     # reads what a compile reads, which is recorded
    cat "$here/refusal" >&2
    exit 1
fi
if [ -z "$answers" ]; then
    real "$@"
    exit
fi
unit=$(for argument; do
    case $argument in
    *ajit-*) ;;         # names the job's private folder
    -DVARIANT=*) ;;     # only there to make another key, for tests that want many
    *) for file in "$argument" "$argument/cuda_cxx/kernel.hpp"; do
            if [ -f "$file" ]; then $recorded cat "$file"; fi
        done
        echo "$argument" ;;
    esac
done | sha256sum | cut -c 1-64)
if [ ! -f "$answers/$unit" ]; then
    real "$@" || exit $?
    cp "$output" "$answers/$unit.$$" && mv "$answers/$unit.$$" "$answers/$unit"
    exit 0
fi
exec cp "$answers/$unit" "$output"
"""


class FakeCompiler:
    """A host compiler under a test's control: ``open_runtime(host_compiler=str(compiler.path))``.

    Its switches are files, so they hold for compiles of all processes that use it.

    Args:
        folder: Where its script and its switches are; made here, so it must not be there.
        answers: A folder in which compiled units are kept, also for other fakes of a session: a
            source with a command line that was compiled before is not compiled again, whatever
            headers it includes. So none for tests that edit headers.
        real: The command of the compiler behind it; None takes what ajit finds. Finding blocks.

    Attributes:
        path: The program, for the setting ``host_compiler``.

    Raises:
        CompilerNotFound: There is no C++ compiler on this machine.
        FileExistsError: The folder is there.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        answers: str | PathLike[str] | None = None,
        *,
        real: tuple[str, ...] | None = None,
    ) -> None:
        command = real or Toolchains(Settings(environ={})).find("host").command
        self._folder = Path(folder)
        self._folder.mkdir()
        self.path = self._folder / "c++"
        script = _SCRIPT.replace("@HERE@", shlex.quote(str(self._folder)))
        script = script.replace("@ANSWERS@", shlex.quote(str(answers or "")))
        self.path.write_text(script.replace("@REAL@", shlex.join(command)))
        self.path.chmod(0o755)

    @property
    def started(self) -> int:
        """How many compiles have been started, by any process. Reads a file."""
        with suppress(FileNotFoundError):
            return len((self._folder / "started").read_text().split())
        return 0

    def hold(self) -> None:
        """Let compiles from now on wait for `let_go`."""
        os.mkfifo(self._folder / "gate")

    def let_go(self) -> None:
        """Let all compiles go on that wait, and let none wait any more."""
        gate = self._folder / "gate"
        waiting = self._folder / "opened"
        gate.rename(waiting)
        try:
            # Opening the other end releases every reader; they see the end of the file.
            os.close(os.open(waiting, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # which says that no compiler waits
                raise
        waiting.unlink()

    def refuse(self, log: str) -> None:
        """Let compiles from now on fail as a source with a mistake does, saying this."""
        (self._folder / "refusal").write_text(log)

    def die_by(self, signal_name: str) -> None:
        """Let compiles from now on be killed by a signal, such as ``SEGV``."""
        (self._folder / "signal").write_text(signal_name)

    def recover(self) -> None:
        """Let compiles from now on work again."""
        for switch in ("refusal", "signal"):
            (self._folder / switch).unlink(missing_ok=True)

    async def wait_started(self, count: int = 1) -> None:
        """Wait until that many compiles have been started.

        Raises:
            TimeoutError: They have not, within a minute.
        """
        with anyio.fail_after(WAIT_SECONDS):
            while await anyio.to_thread.run_sync(lambda: self.started) < count:  # noqa: ASYNC110
                await anyio.sleep(POLL_SECONDS)  # it is another process that counts

    def __repr__(self) -> str:
        return f"<FakeCompiler {self.path} started={self.started}>"
