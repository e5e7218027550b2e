"""Make the pictures of docs/dashboard.md: the model server under load, as the live page shows it.

::

    .venv/bin/python tools/screenshots.py

It starts the server with four workers on an empty cache and the CPU driver, asks it for one new
model after another, and photographs the page in Chromium; then it stops the process that others
wait for (SIGSTOP), as a debugger or a full machine would. With ``pngquant`` the pictures are a
quarter of the size. In the end it says what ``/metrics`` and the trace had.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
WORKERS = 4
CLIENTS = 12
PAUSE_SECONDS = 0.02
MODEL_SECONDS = 4.0
"""A new model is asked for so often."""
LOAD_SECONDS = 30.0
"""Of load before the first picture: so that the curves have a course."""
REQUEST_SECONDS = 120.0
WAIT_SECONDS = 60.0
HIDDEN = 64
SERVER = ["uvicorn", "examples.model_server.app:app", "--workers", str(WORKERS), "--port", "0"]
QUIET = ["--no-access-log", "--no-use-colors", "--timeout-worker-healthcheck", "600"]


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """The server, with metrics of all workers and a trace; yields its URL."""
    (folder / "metrics").mkdir()
    environ = os.environ | {
        "AJIT_DEVICE": "cpu",
        "AJIT_CACHE_DIR": str(folder / "ajit"),
        "AJIT_TRACE": str(folder / "trace.json"),
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
    }
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *SERVER, *QUIET], cwd=ROOT, env=environ,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield _url(log)
        server.terminate()
        server.wait(WAIT_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _url(log: Path) -> str:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := re.search(r"running on (http://\S+)", log.read_text(errors="replace")):
            with suppress(httpx.HTTPError):  # its workers do not listen yet
                httpx.get(f"{found.group(1)}/healthz")
                return found.group(1)
        time.sleep(0.1)
    raise TimeoutError(log.read_text(errors="replace"))


class Load:
    """Clients that ask for models: mostly for one that is known, and now and then for a new one."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/infer"
        self._begun = time.monotonic()
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]
        self.answers = 0
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        x = np.ones((4, HIDDEN), np.float32)
        headers = {"x-shape": f"4,{HIDDEN}", "x-dtype": "float32"}
        while not self._ends.wait(PAUSE_SECONDS):
            # All ask for the same new model at the same time, each of another worker maybe.
            features = 16 * (1 + int((time.monotonic() - self._begun) / MODEL_SECONDS))
            with suppress(httpx.HTTPError):
                httpx.post(
                    self._url, params={"features": features}, content=x.tobytes(),
                    headers=headers, timeout=REQUEST_SECONDS,
                )  # fmt: skip
                self.answers += 1

    def end(self) -> None:
        """Wait until all have their last answer."""
        self._ends.set()
        for thread in self._threads:
            thread.join()


class Camera:
    """One window with the live page, open from the beginning: so its curves have a course."""

    def __init__(self, browser: Any, url: str, name: str, width: int, scheme: str) -> None:
        size = {"width": width, "height": 800}
        context = browser.new_context(viewport=size, color_scheme=scheme)
        self.page = context.new_page()
        self.page.goto(f"{url}/ajit/")
        self._name, self._width = name, width

    def photograph(self, selector: str) -> None:
        """Take a picture as soon as there is something to be seen."""
        self.page.locator("#entries tr").first.wait_for(state="attached")
        self.page.locator(selector).first.wait_for(timeout=1000 * WAIT_SECONDS)
        height = 2400 if self._width < 500 else 1500
        clip = {"x": 0, "y": 0, "width": self._width, "height": height}
        path = IMAGES / f"{self._name}.png"
        self.page.screenshot(path=path, full_page=True, clip=clip)
        if pngquant := shutil.which("pngquant"):
            subprocess.run([pngquant, "--force", "--output", path, "64", path], check=True)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB")


def holder(url: str) -> int:
    """The process that most wait for, as soon as there is one."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        shown = httpx.get(f"{url}/ajit/snapshot.json").json()
        awaited = [one for one in shown["work"] if one["waiters"]]
        if awaited:
            return int(awaited[0]["pid"])
        time.sleep(0.1)
    raise TimeoutError("nobody waits")


def main() -> None:
    """Take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    # A name that tells nothing of this machine.
    folder = Path(tempfile.mkdtemp(prefix="server-"))
    try:
        with running_server(folder) as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            load = Load(url)
            photograph_all(browser, url)
            metrics = httpx.get(f"{url}/metrics/").text
            load.end()
            browser.close()
            print(f"{load.answers} answers")
        print(f"/metrics: {sum(line[:1] != '#' for line in metrics.splitlines())} samples")
        lines = (folder / "trace.json").read_text().splitlines()[1:]
        marks = [json.loads(line.rstrip(",")) for line in lines if line.startswith("{")]
        print(f"trace: {len(marks)} events of {len({one['pid'] for one in marks})} processes")
    finally:
        shutil.rmtree(folder)


def photograph_all(browser: Any, url: str) -> None:
    """Light, on a phone, and dark with a stopped process."""
    light = Camera(browser, url, "dashboard-light", 1280, "light")
    phone = Camera(browser, url, "dashboard-phone", 375, "light")
    dark = Camera(browser, url, "dashboard-dark", 1280, "dark")
    light.page.wait_for_timeout(1000 * LOAD_SECONDS)
    light.photograph("#work article li")
    phone.photograph("#work article li")
    stopped = holder(url)
    os.kill(stopped, signal.SIGSTOP)
    try:
        dark.photograph("#work article.bad li")
    finally:
        os.kill(stopped, signal.SIGCONT)


if __name__ == "__main__":
    main()
