"""Each JSON document has the fields that docs/cli.md says, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.directory import open_cache_directory
from ajit._cache.leases.table import LeaseTable
from ajit._runtime.board import BoardFile
from ajit.instrumentation import CompileView, DeviceView, ErrorView, RuntimeView, WaitView
from tests.cli.documents import documented, fields_of
from tests.cli.test_cache import entry_file, put
from tests.cli.test_cache_lists import _keep_digests
from tests.cli.test_cache_tidy import damage

DOCUMENTED = documented()
SOURCE = 'extern "C" __global__ void k(int* x) { *x = N; }'
PHRASE = "a secret of thirty-two characters or more"


@pytest.fixture
def filled(ajit):
    """A cache with two kernels, and files that are used by more than one command."""
    (ajit.folder / "k.cu").write_text(SOURCE)
    for number in (1, 2):
        compiled(ajit, number)
    return ajit


def compiled(ajit, number, *more, **environ):
    """Compile a kernel; return the document."""
    ended = ajit("compile", "k.cu", "--entry", "k", "--arch", "sm_90a", "-D", f"N={number}", *more,
                 "--json", **environ)  # fmt: skip
    return ended.json()


def check(command, *documents):
    """Together the documents have each documented field, and none has another one."""
    known = {*DOCUMENTED[command], "schema"}
    found = {field for document in documents for field in fields_of(document, known)}

    assert all(document["schema"] == 1 for document in documents)
    assert found - known == set(), "not documented"
    assert known - found == set(), "documented, and not there"


def test_compile_and_what_is_known_of_its_entry(filled):
    """With what `--explain` adds."""
    third = compiled(filled, 3, "--explain")
    first, second = compiled(filled, 1), compiled(filled, 2)

    check("compile", third, first)
    check("cache inspect", filled("cache", "inspect", first["key"], "--json").json())
    why = filled("cache", "why", first["key"], second["key"], "--json").json()
    check("cache why", why)
    extracted = filled("cache", "extract", first["key"], "-o", "x", "--json").json()
    check("cache extract", extracted)


def test_lists_of_the_cache(filled):
    """What is there, in full and in sum."""
    check("cache path", filled("cache", "path", "--json").json())
    check("cache ls", filled("cache", "ls", "--json").json())
    check("cache stats", filled("cache", "stats", "--json").json())
    check("config", filled("config", "--json").json())
    check("doctor", filled("doctor", "--bundle", "x.zip", "--json").json())


def test_what_is_wrong_with_a_cache(filled):
    """Every kind of thing that can be bad, sealed ones and what cannot be removed."""
    filled.environ["AJIT_HMAC_KEY"] = PHRASE
    compiled(filled, 4)
    bad = put(DiskStore(open_cache_directory(filled.cache_dir)), "bad")
    damage(entry_file(filled, bad))
    lists = filled.cache_dir / "reads" / "ab" / ("ab" * 32)
    lists.mkdir(parents=True)
    (lists / ("cd" * 32)).write_bytes(b"no list")
    node = _keep_digests(open_cache_directory(filled.cache_dir))
    (filled.cache_dir / node).write_bytes(b"none")
    (filled.cache_dir / "entries" / "ff").symlink_to(filled.cache_dir)

    found = filled("cache", "verify", "--json").json()
    fixed = filled("cache", "verify", "--fix", "--json").json()

    unread = filled.while_failing("read", filled.cache_dir, "cache", "verify", "--json").json()

    check("cache verify", found, fixed, unread)


def test_what_is_removed(filled):
    """By limits and by key."""
    first, second = compiled(filled, 1)["key"], compiled(filled, 2)["key"]
    table = LeaseTable(open_cache_directory(filled.cache_dir))
    for key in (first, second):
        entry_file(filled, key).touch()
        damage(entry_file(filled, key))
    base = next(filled.cache_dir.glob(f"locks/{first[:2]}/{first[:16]}*")).stem
    with table.try_acquire(base, "nvrtc"):
        pruned = filled("cache", "prune", "--json").json()
        held = filled("locks", "--json").json()
    last = compiled(filled, 5)["key"]
    unread = filled.while_failing("read", filled.cache_dir, "cache", "prune", "--json").json()
    removed = filled("cache", "rm", last, "beef", "--json").json()

    check("cache prune", pruned, unread)
    check("locks", held)
    check("cache rm", removed)


def test_what_travels(filled):
    """Archives, records and keys."""
    exported = filled("cache", "export", "-o", "e", "--json").json()
    check("cache export", exported)
    check("cache import", filled("cache", "import", "e", "--json").json())
    check("cache check", filled("cache", "check", "--archive", "e", "--json").json())
    check("keygen", filled("keygen", "mine", "--hmac", "--json").json())
    compiled(filled, 1, AJIT_RECORD=str(filled.folder / "used"))
    check("record show", filled("record", "show", "used", "--json").json())
    check("record merge", filled("record", "merge", "used", "-o", "one", "--json").json())
    check("cc --statistics", filled("cc", "--statistics", "--json").json())


def test_what_runs_and_what_was_compiled(filled):
    """By a board with all that it can have, and the history."""
    filled.environ["AJIT_BOARD"] = str(filled.folder)
    view = RuntimeView(
        pid=1,
        device=DeviceView(),
        compiles=(CompileView(),),
        waits=(WaitView(),),
        recent_errors=(ErrorView(),),
    )
    board = BoardFile(str(filled.folder), str(filled.cache_dir), 1)
    board.beat(view)
    check("top", filled("top", "--json").json())
    check("log", filled("log", "--json").json())
    board.close()


def test_a_failure_has_the_documented_fields(ajit):
    """A program tells it by `error`, which no other document has."""
    failed = ajit("cache", "ls", "--json").json()

    assert {"schema", "error", "message", "exit_code"} <= failed.keys()
    assert failed["schema"] == 1


def test_every_document_of_the_page_is_tested():
    """One that is added there has to be checked here."""
    checked = set(re.findall(r'check\("([^"]+)"', Path(__file__).read_text()))

    assert checked == set(DOCUMENTED)
