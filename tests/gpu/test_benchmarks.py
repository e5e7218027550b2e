"""The benchmarks of the device layer measure what they say, and their page can be made."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from benchmarks import completion
from benchmarks.completion_page import BEGIN, END, main
from benchmarks.harness import ROOT
from benchmarks.plot import Line, plot

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a hasty run with ajit and its peers, on one loop."""
    path = tmp_path_factory.mktemp("completion") / "result.json"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(completion, "LOOPS", ("asyncio",))
        path.write_text(json.dumps(completion.measure("cpu", "quick", busy=(0,))))
    return path


def test_every_way_of_waiting_is_measured(measured):
    """One at a time and many at once, ajit and each peer."""
    expected = {
        "ajit", "a hop through a thread", "threads with cuda.bindings", "polling every 1 ms",
        "polling every 5 ms",
    }  # fmt: skip
    result = json.loads(measured.read_text())
    cells = result["cells"]

    assert result["failures"] == []
    for what in (completion.SINGLE, completion.PAUSED, "tasks in flight"):
        assert {cell["who"] for cell in cells if cell["what"] == what} == expected
    assert all(0 < c["least"] <= c["median"] <= c["p99"] <= c["most"] for c in cells)


def test_the_page_keeps_what_stands_around_its_tables(measured, tmp_path):
    """Made twice, the page is the same; the plot says machine and driver."""
    page, drawing = tmp_path / "page.md", tmp_path / "plot.svg"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    arguments = [str(measured), str(page), str(drawing)]
    main(arguments)
    once = page.read_text()
    main(arguments)

    assert page.read_text() == once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert "| ajit, one, back to back |" in once
    assert "CPU driver" in drawing.read_text()


def test_a_plot_puts_decades_at_even_distances():
    """Both axes are logarithmic, and every point has its mark."""
    drawn = plot("t", "<&>", [("p", [Line("a", [(1, 1), (10, 10), (100, 100)])])], x="x", y="y")
    root = ET.fromstring(drawn)  # noqa: S314  # we have just written it
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    places = [(float(c.get("cx")), float(c.get("cy"))) for c in circles[:3]]

    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0], abs=0.2)
    assert places[0][1] - places[1][1] == pytest.approx(places[1][1] - places[2][1], abs=0.2)


def test_an_unknown_effort_is_a_mistake_of_the_command_line():
    """Exit code 2, and nothing is measured."""
    command = [sys.executable, "-m", "benchmarks.completion", "--effort", "much"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "--effort" in done.stderr


def test_a_cell_that_fails_leaves_the_others(monkeypatch):
    """The figures of the other parts are there, and the result says which failed."""
    monkeypatch.setattr(completion, "LOOPS", ("asyncio", "no such loop"))
    actual = completion.measure("cpu", "quick", busy=(0,), peers=False)

    assert {cell["loop"] for cell in actual["cells"]} == {"asyncio"}
    assert len(actual["failures"]) == 1
    assert "no such loop" in actual["failures"][0]
