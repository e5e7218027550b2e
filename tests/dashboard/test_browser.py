"""The live page in a real Chromium, while real processes compile, wait, stop and die."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time

import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit._resolve.lookup import NEVER_KEPT
from tests.dashboard.browser import Window, open_chromium
from tests.dashboard.hostile import hostile_place
from tests.dashboard.served import Served
from tests.runtime.processes import Peer


@pytest.fixture(scope="module")
def chromium():
    """The browser, for all tests of this file."""
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def boards(tmp_path, options):
    """Where boards are."""
    place = tmp_path / "boards"
    place.mkdir()
    options["board"] = str(place)
    return place


@pytest.fixture
def served(cache_dir, boards):
    """`ajit dash` over this test's cache."""
    with Served(cache_dir, boards) as served:
        yield served


@pytest.fixture
def window(chromium, served):
    """Open windows with the page; none may have complained."""
    opened = []

    def open_window(**options):
        opened.append(Window(chromium, served.url, **options))
        return opened[-1]

    yield open_window
    assert [[]] * len(opened) == [one.close() for one in opened]


@pytest.fixture
def start(options, boards):
    """Start processes that resolve saxpy when told."""
    with contextlib.ExitStack() as stack:
        yield lambda count: [_ready(stack.enter_context(Peer(options))) for _ in range(count)]


def _ready(peer):
    peer.hear("ready")
    return peer


def test_it_shows_who_waits_for_whom_while_kernels_compile_and_a_holder_is_killed(
    start, window, compiler
):
    """The holder, its waiters, its death, and the waiter that has taken over."""
    compiler.hold()
    page = window()
    first, *others = start(3)
    first.go()
    page.wait("#work h3", f"pid {first.pid} compiles saxpy")
    for peer in others:
        peer.go()
    for peer in others:
        page.wait("#work article li", f"pid {peer.pid}")
    who = page.texts("#work article")
    said = page.wait("#headline", "2 processes wait for pid")

    first.send(signal.SIGKILL)
    died = page.wait("#statements li", f"pid {first.pid}")
    either = "|".join(str(peer.pid) for peer in others)
    heir = page.wait("#work h3", re.compile(f"pid ({either}) compiles saxpy"))
    page.wait("#headline", "1 process waits for pid")
    [then] = page.texts("#work article")
    [left] = [peer for peer in others if f"pid {peer.pid} compiles" not in heir]
    compiler.let_go()
    answers = sorted(peer.answer()["answer"] for peer in others)
    page.wait("#work-empty:not([hidden])")

    assert 1 == len(who)
    assert who[0].startswith(f"pid {first.pid} compiles saxpy")
    assert {f"pid {peer.pid} (program.py) waits, for" for peer in others} == {
        line.rpartition(" waits, for ")[0] + " waits, for" for line in who[0].splitlines()[-2:]
    }
    assert f"1 kernel compiles, 2 processes wait for pid {first.pid}" in said
    assert "died" in died
    assert f"pid {left.pid} (program.py) waits" in then
    assert ["compiled", "disk"] == answers


@pytest.mark.slow  # it is stopped, seen, and seen again
def test_a_stopped_holder_stands_out(start, window, compiler):
    """In the headline, at the compile, and in the list of runtimes."""
    compiler.hold()
    page = window()
    first, second = start(2)
    first.go()
    first.hear_event("CompileStarted")
    second.go()
    page.wait("#work article li", f"pid {second.pid}")
    first.send(signal.SIGSTOP)
    said = page.wait("#statements li.bad", f"pid {first.pid}")
    page.wait("#banner.bad")
    tag = page.wait("#work article.bad .tag")
    row = page.wait("#processes tr.bad", f"pid {first.pid}")
    first.send(signal.SIGCONT)
    page.wait("#banner.busy")
    compiler.let_go()
    for peer in (first, second):
        peer.answer()

    assert "is stopped (SIGSTOP, or a debugger) while 1 waits for saxpy." in said
    assert "stopped" == tag
    assert "stopped, silent for" in row


@pytest.fixture
def failed(cache_dir, boards):
    """A cache whose history has a compile that failed, of a process that has ended."""
    line = {"id": "1", "unix_seconds": time.time(), "outcome": "failed", "name": "gelu",
            "key": "ab" * 32, "reason": NEVER_KEPT, "error": "gelu.cu:3: expected ;"}  # fmt: skip
    open_cache_directory(cache_dir)
    history = cache_dir / "history"
    history.mkdir(exist_ok=True)
    (history / f"node-{'0' * 16}.jsonl").write_text(json.dumps(line) + "\n")


def test_a_failure_is_told_alike_in_all_places(failed, window):
    """The banner's ground and marks, the tile, and the error where the table says why."""
    page = window()
    page.wait("#banner.warning")
    tile = page.wait("#tiles .bad", "failed")
    row = page.wait("#log tbody tr.bad")
    grounds = page.ask(_GROUNDS)

    assert ["failed", "1"] == tile.split()
    assert "gelu.cu:3: expected ;" in row
    assert NEVER_KEPT not in row
    assert 4 == len(set(grounds.values()))


_GROUNDS = """() => {
  const banner = document.getElementById("banner");
  return Object.fromEntries(["", "quiet", "warning", "bad"].map((level) => {
    banner.className = `banner ${level}`;
    return [level, getComputedStyle(banner).backgroundColor];
  }));
}"""
"""The banner's ground, as soon as its level changes; "" before anything is known."""


@pytest.fixture
def hostile(cache_dir, boards):
    """A cache and boards with hostile texts."""
    with hostile_place(cache_dir, boards):
        yield


@pytest.mark.parametrize("width", [1280, 375])
def test_texts_from_outside_stay_texts(hostile, window, width):
    """Names, logs, records, boards and files: no markup, no script, no turned text, no breadth."""
    page = window(width=width)
    page.wait("#work article", "<script>")
    page.wait("#problems details", "<script>")
    page.wait("#processes tr", "<script>")
    page.wait("#devices tr", "<script>")
    page.wait("#entries tr", "<script>")
    page.page.locator("#problems details:not(.plain) summary").first.click()
    page.wait("#problems details[open] pre", "<img src=x onerror=")
    found = page.ask(
        "[document.scripts.length, document.images.length, document.title.endsWith(' ran'),"
        " document.body.innerText.includes('\\u202e'),"
        " document.documentElement.scrollWidth <= innerWidth]"
    )

    assert [1, 0, False, False, True] == found


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_it_is_no_broader_than_its_window(start, window, compiler, width):
    """On a phone as well; each cell of a table says there what it is."""
    compiler.hold()
    page = window(width=width)
    first, second = start(2)
    first.go()
    first.hear_event("CompileStarted")
    second.go()
    page.wait("#work article li", f"pid {second.pid}")
    broad = page.ask("document.documentElement.scrollWidth > innerWidth")
    label = page.ask(
        "getComputedStyle(document.querySelectorAll('#processes td')[2], '::before').content"
    )
    compiler.let_go()
    for peer in (first, second):
        peer.answer()

    assert not broad
    assert ("none" if width == 1280 else '"queued"') == label


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_text_can_be_read(hostile, window, scheme):
    """Contrast of at least 4.5 to 1 (WCAG AA), of every text that is shown."""
    page = window(scheme=scheme)
    page.wait("#problems details", "<script>")
    ground = page.ask("getComputedStyle(document.body).backgroundColor")
    weak = page.ask(_CONTRASTS)

    assert ("rgb(17, 20, 24)" if scheme == "dark" else "rgb(244, 245, 247)") == ground
    assert [] == weak


@pytest.mark.slow  # eight seconds without an answer are told
def test_it_is_live_again_when_its_server_is(served, window):
    """It says that what it shows is old, connects by itself, and needs no reload."""
    page = window()
    page.ask("window.mark = 1")
    served.end()
    said = page.wait("#link.lost", "this is old")
    stale = page.ask("document.documentElement.classList.contains('stale')")
    served.start()
    page.wait("#link.live")

    assert "no answer for" in said
    assert stale
    assert 1 == page.ask("window.mark")


def test_it_can_be_used_with_the_keyboard(hostile, window):
    """The first stop leads past everything to who waits for whom; a log opens by itself."""
    page = window()
    page.wait("#problems details", "<script>")
    page.page.keyboard.press("Tab")
    skips = page.ask("document.activeElement.textContent")
    page.page.keyboard.press("Enter")
    at = page.ask("document.activeElement.id")
    page.page.locator("#problems details:not(.plain) summary").first.focus()
    page.page.keyboard.press("Enter")
    opened = page.ask("document.querySelector('#problems details:not(.plain)').open")
    page.page.locator("#which").focus()
    page.page.keyboard.press("ArrowDown")
    shown = page.ask("document.getElementById('which').value")

    assert ("To who waits for whom", "waits") == (skips, at)
    assert opened
    assert "newest" == shown


def test_a_log_that_is_open_stays_open(hostile, window):
    """Snapshots change what has changed, and nothing else."""
    page = window()
    page.wait("#problems details", "<script>")
    page.page.locator("#problems details:not(.plain) summary").first.click()
    page.ask("window.kept = document.querySelector('#problems details:not(.plain) pre')")
    before = page.wait("#cache-line", "looked at")
    page.page.locator("#cache-line").filter(has_not_text=before).wait_for()

    assert page.ask("window.kept.isConnected && window.kept.parentElement.open")


_CONTRASTS = """() => {
  const light = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const colour = (text) => text.match(/[0-9.]+/g).map(Number);
  const ground = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const found = colour(getComputedStyle(one).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const weak = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    if (node.closest("select, script")) continue;
    const [a, b] = [light(colour(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.add(`${node.tagName}.${node.className} ${ratio.toFixed(2)}`);
  }
  return [...weak];
}"""
