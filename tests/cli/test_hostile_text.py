"""What lies in a cache, and what a compiler quotes, never acts on the terminal that shows it.

The commands are run, and their bytes looked at. Only their own escape sequences may be there.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import msgspec
import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import LeaseTable
from ajit._printable import SHAPELESS
from ajit.cli import exits
from tests.cache.artifacts import a_key, an_artifact, forged

KEY = a_key()
SOURCE = 'extern "C" __global__ void k(int* x) { *x = 1; }\n'

EVIL = "a\x1b[2J\x1b]0;owned\x07b\x9b2Jc\x7fd\x08\u202ee\u2066f\u200bg\ufeffh\u2028i\rj"
TAMED = r"a\x1b[2J\x1b]0;owned\x07b\x9b2Jc\x7fd\x08\u202ee\u2066f\u200bg\ufeffh\u2028i\rj"
LOG = f"a.cu(3): error\n\tint {EVIL}\n\t    ^"

OWN_SEQUENCES = re.compile(rb"\x1b\[[0-9;]*m")
"""Colours and the like, which rich and click write to a terminal."""


@pytest.fixture
def put(ajit):
    """Put the bytes of an entry into the cache, as another program could."""
    path = open_cache_directory(ajit.cache_dir).path

    def put(data, key=KEY):
        folder = os.path.join(path, "entries", key[:2])  # noqa: PTH118  # text, as the cache has it
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
        file = os.open(f"{folder}/{key}.ajit", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(file, data)
        os.close(file)

    return put


@pytest.fixture
def hostile_entry(put):
    """An entry with such texts wherever it has one."""
    fields = dict.fromkeys(
        ("base", "name", "arch", "compiler", "compiler_version", "host", "ajit_version"), EVIL
    )
    lists = {"entries": [EVIL], "command": [EVIL], "lowered": {EVIL: EVIL}}
    more = {"key_fields": [[EVIL, EVIL], ["arch", EVIL]], "log": LOG}
    put(forged(an_artifact(KEY), **fields, **lists, **more))
    put(forged(an_artifact(a_key(1))), a_key(1))


def is_harmless(*texts):
    """Nothing in them but what has a shape, line breaks and tabs."""
    return not any(SHAPELESS.search(text) for text in texts)


COMMANDS = {
    "ls": ("cache", "ls"),
    "stats": ("cache", "stats"),
    "verify": ("cache", "verify"),
    "inspect": ("cache", "inspect", KEY, "--log"),
    "why": ("cache", "why", KEY, a_key(1)),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_a_forged_entry_is_shown_by_the_numbers_of_its_characters(
    ajit, hostile_entry, command, options
):
    """As text and as JSON; the values of the JSON are what they were."""
    ended = ajit(*[part for part in command if part != "--log" or not options], *options)

    assert is_harmless(ended.out, ended.err)
    if options:
        json.loads(ended.out)


def test_the_lines_and_tabs_of_a_log_stay(ajit, hostile_entry):
    """It is shown as the compiler wrote it."""
    shown = ajit("cache", "inspect", KEY, "--log").out

    assert "a.cu(3): error\n" in shown
    assert f"int {TAMED}" in shown
    assert LOG.replace(EVIL, TAMED) == ajit("cache", "inspect", KEY, "--json").json()["log"]


def test_json_keeps_the_values_that_are_looked_up(ajit, hostile_entry):
    """They are escaped, and not changed: a script compares them."""
    told = ajit("cache", "inspect", KEY, "--json")

    assert told.json()["entries"] == [EVIL]
    assert r"\u009b2Jc\u007fd\b\u202ee\u2066f\u200bg\ufeffh\u2028i\rj" in told.out


@pytest.mark.parametrize("command", [*COMMANDS.values(), ("locks",)], ids=[*COMMANDS, "locks"])
def test_on_a_terminal_there_are_only_the_commands_own_sequences(ajit, hostile_entry, command):
    """Colours, that is."""
    shown = on_a_terminal(ajit, *command)
    plain = OWN_SEQUENCES.sub(b"", shown).replace(b"\r\n", b"\n").decode()

    assert is_harmless(plain)


def on_a_terminal(ajit, *command):
    """Run a command on a terminal and return the bytes that it got."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ajit", *command],
        cwd=ajit.folder, env=ajit.environ | {"TERM": "xterm-256color", "COLUMNS": "200"},
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    got = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end was closed
            piece = b""
        if not piece:
            break
        got += piece
    os.close(ours)
    process.wait(60)
    return got


@pytest.mark.parametrize("created", [float("inf"), float("-inf"), float("nan"), 1e300, -5.0])
def test_a_time_that_is_none_is_a_bad_entry_and_no_traceback(ajit, put, created):
    """In every command that shows times."""
    put(forged(an_artifact(KEY), created=created))
    inspected = ajit("cache", "inspect", KEY)
    others = [ajit("cache", name) for name in ("ls", "stats", "verify")]

    assert (inspected.code, inspected.err.startswith("ajit: entry ")) == (exits.PROBLEM, True)
    assert "no such time" in inspected.err
    assert [ended.code for ended in others] == [exits.FINE, exits.FINE, exits.PROBLEM]
    assert "Traceback" not in "".join(ended.err for ended in others)


def test_names_of_foreign_files_are_not_shown(ajit, put):
    """Also one that is no UTF-8, which JSON cannot have."""
    put(forged(an_artifact(KEY)))
    for folder in ("digests", f"reads/{KEY[:2]}/{KEY}"):
        place = ajit.cache_dir / folder
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in (b"a\x1b[2Jb", b"c\x80d", "e\u202ef".encode()):
            with open(os.path.join(os.fsencode(place), name), "wb"):  # noqa: PTH118, PTH123
                pass
    ended = ajit("cache", "verify")
    told = ajit("cache", "verify", "--json")

    assert (ended.code, told.code) == (exits.PROBLEM, exits.PROBLEM)
    assert is_harmless(ended.out, ended.err, told.out, told.err)
    # Names that are not of ajit's own form are of no file of ajit.
    assert told.json()["digests"]["bad"] == told.json()["reading_lists"]["bad"] == []


def hostile_record(lease):
    """Write a record with such texts over that of a lease, as another program could."""
    fields = msgspec.to_builtins(lease.record) | dict.fromkeys(("host", "compiler", "name"), EVIL)
    write_raw(lease, msgspec.msgpack.encode(fields))


def write_raw(lease, payload):
    """Write a record of these bytes."""
    import struct
    import zlib

    head = struct.pack("<4sII", b"AJLK", zlib.crc32(payload), len(payload))
    os.pwrite(lease._lock_file.fd, (head + payload).ljust(1024, b"\0"), 0)


def test_a_holder_record_is_shown_by_its_numbers(ajit):
    """Of a lease that is held by who wrote it."""
    table = LeaseTable(open_cache_directory(ajit.cache_dir))
    with table.try_acquire(KEY, "nvrtc") as lease:
        hostile_record(lease)
        shown, told = ajit("locks"), ajit("locks", "--json")

    assert is_harmless(shown.out, told.out)
    assert TAMED in shown.out
    assert [TAMED] * 3 == [told.json()["leases"][0][name] for name in ("host", "compiler", "name")]


@pytest.fixture
def compile_(ajit):
    """Compile a source."""

    def compile_(source, *options, **environ):
        (ajit.folder / "k.cu").write_text(source)
        command = ("compile", "k.cu", "--entry", "k", "--arch", "sm_90a", *options)
        return ajit(*command, **environ)

    return compile_


def test_what_a_compiler_quotes_is_shown_by_its_numbers(compile_):
    """It shows the line of the source that is wrong."""
    wrong = SOURCE.replace("*x = 1", f'\t*x = "{EVIL[:-2]}"')
    ended, told = compile_(wrong), compile_(wrong, "--json")

    assert (ended.code, told.code) == (exits.PROBLEM, exits.PROBLEM)
    assert is_harmless(ended.out, ended.err, told.out, told.err)
    assert r"\x1b[2J\x1b]0;owned\x07" in ended.err
    assert r"\x1b[2J\x1b]0;owned\x07" in told.json()["log"]
    assert "\t*x = " in told.json()["log"]
    assert told.json()["log"].count("\n") >= 3


def test_a_forged_failure_record_is_shown_by_its_numbers(ajit, compile_):
    """It is told to every process that wants the kernel; its log has lines."""
    wrong = SOURCE.replace("*x = 1", "*x = y")
    assert compile_(wrong).code == exits.PROBLEM
    [file] = ajit.cache_dir.glob("failures/*/*.json")
    record = msgspec.json.decode(file.read_bytes())
    record |= {
        "name": EVIL,
        "compiler": EVIL,
        "host": EVIL,
        "log": LOG,
        "created": record["created"],
    }
    file.write_bytes(msgspec.json.encode(record))
    ended, told = compile_(wrong, AJIT_FAILURE_SECONDS="3600"), compile_(wrong, "--json")

    assert is_harmless(ended.out, ended.err, told.out, told.err)
    assert f"a.cu(3): error\n\tint {TAMED}\n\t    ^" in ended.err
    assert told.json()["log"] == LOG.replace(EVIL, TAMED)


def test_a_waiter_names_a_hostile_holder_by_its_numbers(ajit, compile_):
    """On standard error, while it waits; then it compiles for itself."""
    base = compile_(SOURCE, "--json").json()["key"]
    [lock] = ajit.cache_dir.glob(f"locks/*/{base[:16]}*.lock")
    for entry in ajit.cache_dir.glob("entries/*/*.ajit"):
        entry.unlink()
    table = LeaseTable(open_cache_directory(ajit.cache_dir))
    with table.try_acquire(lock.stem, "nvrtc") as lease:
        hostile_record(lease)
        ended = compile_(SOURCE, AJIT_PATIENCE_SECONDS="0.2")

    assert ended.code == exits.FINE
    assert is_harmless(ended.out, ended.err)
    assert f"waiting for process {os.getpid()} on {TAMED}" in ended.err
