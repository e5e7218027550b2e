"""The system's C++ compiler behind a script that waits, dies or counts when a test says so.

It is a real program that the runtime finds by its setting, fingerprints and runs in a real worker,
so that nothing of ajit is replaced. What it compiles comes from the real compiler; a translation
unit that it has seen is answered from a folder of the test session, for these tests are not about
C++ and a real compile takes most of a second.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ScriptedCompiler"]

_SCRIPT = r"""#!/bin/sh
if [ -n "$AJIT_READS" ]; then      # the switches below are no part of the compile
    export RECORD="$AJIT_READS"
    unset AJIT_READS
    exec /bin/sh "$0" "$@"
fi
[ -n "$RECORD" ] && recorded="env AJIT_READS=$RECORD"
here='@HERE@'; answers='@ANSWERS@'; real='@REAL@'
output= before= question=
for argument; do
    [ "$before" = -o ] && output=$argument
    [ "$argument" = -fsyntax-only ] && question=yes     # asked after a failure: why?
    before=$argument
done
[ -n "$output" ] && [ -z "$question" ] || exec $recorded "$real" "$@"
echo $$ >> "$here/started"
[ -p "$here/gate" ] && read -r _ 2>/dev/null < "$here/gate"
[ -e "$here/signal" ] && kill -s "$(cat "$here/signal")" $$
unit=$(for argument; do
    case $argument in
    *ajit-*) ;;         # names the job's private folder
    -DVARIANT=*) ;;     # only there to make another key, see sources.py
    *) for file in "$argument" "$argument/cuda_cxx/kernel.hpp"; do
            if [ -f "$file" ]; then $recorded cat "$file"; fi
        done
        echo "$argument" ;;
    esac
done | sha256sum | cut -c 1-64)
if [ ! -f "$answers/$unit" ]; then
    $recorded "$real" "$@" || exit $?
    cp "$output" "$answers/$unit.$$" && mv "$answers/$unit.$$" "$answers/$unit"
    exit 0
fi
exec cp "$answers/$unit" "$output"
"""


class ScriptedCompiler:
    """A host compiler under a test's control.

    Args:
        folder: Where its script and its switches are; to be made.
        answers: Where compiled units are kept between tests.
    """

    def __init__(self, folder: Path, answers: Path) -> None:
        real = shutil.which("c++")
        assert real, "these tests need the system's C++ compiler"
        folder.mkdir()
        self._folder = folder
        self.path = folder / "c++"
        words = {"@HERE@": str(folder), "@ANSWERS@": str(answers), "@REAL@": real}
        script = _SCRIPT
        for word, value in words.items():
            script = script.replace(word, value)
        self.path.write_text(script)
        self.path.chmod(0o755)

    @property
    def started(self) -> int:
        """How many compiles have been started, by any process."""
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
        with suppress(OSError):  # ENXIO: no compiler waits
            # Opening the other end releases every reader; they see the end of the file.
            os.close(os.open(waiting, os.O_WRONLY | os.O_NONBLOCK))
        waiting.unlink()

    def die_by(self, signal_name: str) -> None:
        """Let compiles from now on be killed by a signal, such as ``SEGV``."""
        (self._folder / "signal").write_text(signal_name)

    def recover(self) -> None:
        """Let compiles from now on work again."""
        (self._folder / "signal").unlink()

    async def wait_started(self, count: int = 1) -> None:
        """Wait until that many compiles have been started."""
        with anyio.fail_after(60):
            while self.started < count:  # noqa: ASYNC110  # it is another process that counts
                await anyio.sleep(0.005)
