"""The how-to guides are true: servers start by the page's command, cells and jobs run."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
LIMIT_SECONDS = 60.0
SERVERS = (DOCS / "howto-servers.md").read_text()
COMMANDS = re.findall(r"^\$ (\w+ .*)$", SERVERS, re.MULTILINE)
NEEDS = {"uvicorn": "uvicorn", "hypercorn": "hypercorn", "gunicorn": "uvicorn_worker"}


def titled(page: str, title: str, language: str = "python") -> list[str]:
    """The texts of a page with that title, in order."""
    pattern = rf'^```{language} title="{re.escape(title)}"\n(.*?)^```$'
    return re.findall(pattern, (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path):
    """The programs of the page about servers, as files."""
    for title in re.findall(r'^```python title="(\w+\.py)"$', SERVERS, re.MULTILINE):
        (tmp_path / title).write_text(titled("howto-servers.md", title)[0])
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    """No settings of this machine, and a cache of the test's own."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("AJIT_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), environ["PATH"]])
    return environ | {"PATH": path, "AJIT_CACHE_DIR": str(folder / "cache"), "AJIT_DEVICE": "cpu"}


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(c.split()[:3]) for c in COMMANDS])
def test_server_of_the_page_answers(command, folder):
    """It is started as the page says, asked what the page asks, and ended by SIGTERM."""
    program, *arguments = command.split()
    pytest.importorskip(NEEDS[program])
    port = str(free_port())
    arguments = [re.sub(r"\b8000\b", port, argument) for argument in arguments]
    (expected,) = re.findall(r"answers `(\[.*?\])`", SERVERS)

    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", program, *arguments],
            cwd=folder, env=environment(folder), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        answer = _ask(server, port)
    finally:
        server.terminate()
        server.wait(LIMIT_SECONDS)
    text = (folder / "log").read_text()

    assert (answer.status_code, answer.text) == (200, expected), text
    assert "Traceback" not in text


def free_port() -> int:
    """A port of the loopback address that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _ask(server: subprocess.Popen[bytes], port: str) -> httpx.Response:
    """Ask as the page's command does. Where it names no content type, curl sends that of a form."""
    (command,) = re.findall(r"^(curl .*)$", SERVERS, re.MULTILINE)
    words = shlex.split(command.replace("8000", port))
    url, options = words[-1], dict(zip(words[1:-1:2], words[2:-1:2], strict=True))
    header = options.get("-H", "content-type: application/x-www-form-urlencoded")
    headers = dict([header.split(": ")])
    request = httpx.Request("POST", f"http://{url}", content=options["-d"], headers=headers)
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        try:
            with httpx.Client(timeout=LIMIT_SECONDS) as client:
                return client.send(request)
        except httpx.TransportError:  # it does not listen yet
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.mark.anyio
@pytest.mark.parametrize("title", ["starlette_app.py", "fastapi_app.py"])
async def test_servers_of_the_page_take_lists_of_any_length(title, monkeypatch, tmp_path):
    """Each value is doubled, and a body that is no list of numbers is the client's error."""
    monkeypatch.setenv("AJIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AJIT_DEVICE", "cpu")
    names: dict[str, Any] = {}
    exec(titled("howto-servers.md", title)[0], names)  # noqa: S102  # the page's own program
    transport = httpx.ASGITransport(names["app"], raise_app_exceptions=False)
    async with (
        names["app"].router.lifespan_context(names["app"]),
        httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as http,
    ):
        answers = [await http.post("/double", json=list(range(count))) for count in (0, 1000)]
        wrong = [
            await http.post("/double", content=body, headers={"content-type": "application/json"})
            for body in ('{"a": 1}', "{}", "7", '"text"', '["x"]', "[1, [2]]", "no json", b"\xff")
        ]

    assert [[], list(range(0, 2000, 2))] == [answer.json() for answer in answers]
    assert {one.status_code for one in wrong} <= {400, 422}


def test_page_has_a_command_for_each_server():
    """Those that its title names, and FastAPI's."""
    assert [command.split()[0] for command in COMMANDS] == [
        *("uvicorn", "uvicorn", "hypercorn", "gunicorn")
    ]


def test_pages_with_programs_of_a_name_are_known():
    """What has a title is not run as a program by itself: this file runs it, or tests/testing."""
    pages = {path.name for path in DOCS.rglob("*.md") if "```python title=" in path.read_text()}

    assert pages == {"howto-notebooks.md", "howto-servers.md", "howto-slurm.md", "testing.md"}


def test_cells_of_the_notebook_run(tmp_path, monkeypatch):
    """One after another on one loop, with `await` at their top, as Jupyter runs them."""
    monkeypatch.setenv("AJIT_CACHE_DIR", str(tmp_path / "cache"))
    cells = titled("howto-notebooks.md", "cell")
    names: dict[str, object] = {}

    async def notebook() -> None:
        for cell in cells:
            code = compile(cell, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)  # noqa: S307  # the page's own program
            if inspect.isawaitable(result):
                await result

    anyio.run(notebook)

    assert len(cells) == 3
    assert "closed" in repr(names["rt"])


SRUN = """#!/bin/sh
# Starts the ranks as srun does, all at once.
for rank in 0 1 2 3; do SLURM_PROCID=$rank SLURM_NTASKS=4 "$@" & done
wait
"""


def test_job_of_the_slurm_page_runs(tmp_path):
    """Its script, with a stand-in for srun: four ranks, and one compile."""
    (tmp_path / "job.sh").write_text(titled("howto-slurm.md", "job.sh", "bash")[0])
    (tmp_path / "rank.py").write_text(titled("howto-slurm.md", "rank.py")[0])
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text(SRUN)
    (programs / "srun").chmod(0o755)
    environ = environment(tmp_path)
    environ |= {"SLURM_SUBMIT_DIR": str(tmp_path), "PATH": f"{programs}:{environ['PATH']}"}

    done = subprocess.run(
        ["bash", "job.sh"], cwd=tmp_path, env=environ, check=False, capture_output=True, text=True
    )
    # Four processes write to one pipe, and a line may come in two pieces.
    said = re.findall(r"rank (\d) of 4: (compiled|disk)", done.stdout)

    assert sorted(rank for rank, _ in said) == ["0", "1", "2", "3"], done.stderr
    assert sorted(tier for _, tier in said) == ["compiled", "disk", "disk", "disk"]
    assert len(list((tmp_path / "ajit-cache").glob("entries/*/*.ajit"))) == 1
