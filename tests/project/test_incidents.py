"""The list of public incidents: each row names tests that exist, or says that it has none."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "incidents.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
NOT_YET = re.compile(r"\*not yet\*: \w+")
"""A behaviour that is not there has its reason beside it."""


def rows():
    """The rows of every table: the cells, without the tables' heads."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "seen in" and set(row[0]) != {"-"}]


@cache
def named_in(path):
    """The names of the tests of a file, as pytest collects them: functions at its top level."""
    tree = ast.parse((PROJECT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


def test_every_layer_has_its_table():
    """The page has the eight tables, and as many rows as incidents are known."""
    headings = re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)

    assert headings == [
        "Publishing and reading",
        "Locks and waiting",
        "Compilers",
        "Driver",
        "Servers",
        "Keys",
        "Processes and the life of a runtime",
        "Pages of a KV cache",
        "KV services",
    ]
    assert len(rows()) >= 67
    assert len({row[0] + row[1] for row in rows()}) == len(rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_incident_has_a_test_or_says_that_it_has_none(row):
    """No row is empty, and whatever looks like a test is one."""
    assert len(row) == 4, row
    assert all(row)
    tests = NAMED.findall(row[3])
    missing = [f"{path}::{name}" for path, name in tests if name not in named_in(path)]

    assert not missing
    assert tests or NOT_YET.search(row[3])
    assert row[3].count("*not yet*") == len(NOT_YET.findall(row[3]))
