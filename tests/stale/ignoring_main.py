"""A server in a process that ignores SIGCHLD: edits a header between requests.

Started with a compiler and a directory. Prints "same" if each answer was that of a fresh compile,
and how many different ones there were.
"""

from __future__ import annotations

import platform
import signal
import sys
from pathlib import Path

import ajit
from tests.stale.world import KERNEL, Server


def main(compiler: str, root: Path) -> None:
    """Ask for one kernel, again and again."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    arch = platform.machine() if compiler == "host" else "sm_90a"
    user = root / "user"
    user.mkdir()
    spec = ajit.Spec('#include "a.h"' + KERNEL, "k", arch=arch, compiler=compiler,
                     include_dirs=[user], params="int* x")  # fmt: skip
    server = Server(root / "cache")
    try:
        answers = {server.check(spec)}
        for text in ("#define V 1", "#define V (", "#define V 2", "#define V 1"):
            (user / "a.h").write_text(text)
            answers.add(server.check(spec))
        (user / "a.h").unlink()
        answers.add(server.check(spec))
    finally:
        server.close()
    sys.stdout.write(f"same {len(answers)}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
