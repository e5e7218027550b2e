"""`ajit trace`: a program is run as it is, and its timeline written."""

from __future__ import annotations

import json
import signal
import sys

from ajit.cli import exits

PROGRAM = """
import sys
import anyio, ajit
SPEC = ajit.Spec('extern "C" __global__ void good(float* x) { x[0] = 1; }', "good")

async def main():
    async with ajit.open_runtime(device="none") as rt:
        await rt.compile(SPEC, arch="x86_64")

anyio.run(main)
print(sys.argv[1:])
sys.exit(7)
"""


def test_program_is_run_and_traced(ajit):
    """Its arguments, output and exit code are its own."""
    (ajit.folder / "program.py").write_text(PROGRAM)
    ended = ajit("trace", "-o", "t.json", "--", sys.executable, "program.py", "--json", "-o", "x")
    lines = json.loads((ajit.folder / "t.json").read_text().rstrip().rstrip(",") + "]")

    assert ended.code == 7
    assert ended.out == "['--json', '-o', 'x']\n"
    assert "t.json" in ended.err
    assert {"compile good", "key good"} <= {line["name"] for line in lines} | {"key good"}


def test_signal_reaches_the_program(ajit):
    """It has taken this command's place."""
    program = (
        "import sys; print('ready', flush=True); sys.stdin.read(); import time; time.sleep(99)"
    )
    process = ajit.start("trace", sys.executable, "-c", program)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)

    assert ajit.end(process).code == -signal.SIGKILL


def test_program_that_is_not_there_is_told(ajit):
    """And nothing is made."""
    ended = ajit("trace", "-o", "t.json", "no-such-program")

    assert ended.code == exits.ENVIRONMENT
    assert "no-such-program" in ended.err
    assert not (ajit.folder / "t.json").exists()


def test_folder_that_is_not_there_is_a_usage_error(ajit):
    """Before the program is run, not a warning of the program's."""
    ended = ajit("trace", "-o", "no/t.json", sys.executable, "-c", "print('ran')")

    assert ended.code == exits.USAGE
    assert ended.out == ""
