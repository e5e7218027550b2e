"""What a server's log shows of ajit: under uvicorn as it comes, and as the docs set it up."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVER = """
import sys
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from uvicorn.config import LOGGING_CONFIG

import ajit
from tests.runtime.sources import ARCH, SAXPY, SYNTAX_ERROR


@asynccontextmanager
async def lifespan(app):
    settings = {"cache_dir": sys.argv[1], "host_compiler": sys.argv[2], "device": "none"}
    async with ajit.open_runtime(**settings) as rt:
        await rt.compile(SAXPY, arch=ARCH)
        try:
            await rt.compile(SYNTAX_ERROR, arch=ARCH)
        except ajit.CompileError:
            pass
        yield
        server.should_exit = True


if sys.argv[3] == "documented":
    ours = {"handlers": ["default"], "level": "INFO", "propagate": False}
    LOGGING_CONFIG["loggers"]["ajit"] = ours
app = Starlette(lifespan=lifespan)
server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=LOGGING_CONFIG))
server.should_exit = True  # it starts, and ends
server.run()
"""


@pytest.mark.parametrize("how", ["plain", "documented"])
def test_uvicorn_shows_warnings_as_it_comes_and_all_lines_as_documented(
    how, cache_dir, compiler, tmp_path
):
    """An operator need not configure anything to see what goes wrong."""
    program = tmp_path / "server.py"
    program.write_text(SERVER)

    done = subprocess.run(
        [sys.executable, program, cache_dir, compiler.path, how],
        env={"PYTHONPATH": ".", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    lines = [line for line in done.stderr.splitlines() if "saxpy (" in line or "broken (" in line]
    shown = [line.replace(" ", "") for line in lines]
    assert done.returncode == 0, done.stderr
    if how == "plain":
        (line,) = lines  # in Python's own plain form: uvicorn's lines have a level in front
        assert line.startswith("broken (")
        assert "): compile failed after" in line
    else:
        assert [line.partition(":")[0] for line in shown] == ["INFO", "INFO", "INFO", "WARNING"]
        assert "compilingwith" in shown[0]
        assert "compiledby" in shown[1]
