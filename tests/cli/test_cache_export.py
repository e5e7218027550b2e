"""`ajit cache export` by record and by peer: what the next server will look for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ajit import Build, Command, run
from ajit._core.record import Use, encode_line, use_id
from ajit._runtime.kept import kept_build
from ajit.cli import exits
from tests.runtime.test_recorded_builds import lines_of

SOURCE = "__global__ void k(float* x, int n) { if (threadIdx.x < n) x[threadIdx.x] *= N; }"


@pytest.fixture
def recorded(ajit):
    """A cache with three kernels, of which a record has two; returns these keys."""
    (ajit.folder / "k.cu").write_text(SOURCE)

    def compiled(define, **environ):
        options = ["--entry", "k", "--compiler", "host", "-D", define, "--json"]
        ended = ajit("compile", ajit.folder / "k.cu", *options, **environ)
        assert ended.code == exits.FINE, ended.err
        return ended.json()["key"]

    record = {"AJIT_RECORD": str(ajit.folder / "used.ajit")}
    compiled("N=3")
    return {compiled("N=1", **record), compiled("N=2", **record)}


def archived(ajit):
    """The keys in the archive."""
    ended = ajit("cache", "import", "a.ajit", "--cache-dir", ajit.folder / "other")
    assert ended.code == exits.FINE
    return {path.stem for path in (ajit.folder / "other").glob("entries/*/*")}


def test_an_export_takes_what_a_record_leads_to(ajit, recorded):
    """And nothing else; the record is not changed, though AJIT_RECORD names it."""
    record = ajit.folder / "used.ajit"
    before = {path: path.read_bytes() for path in record.iterdir()}
    ended = ajit("cache", "export", "-o", "a.ajit", "--record", record, AJIT_RECORD=str(record))

    assert ended.code == exits.FINE, ended.err
    assert archived(ajit) == recorded
    assert {path: path.read_bytes() for path in record.iterdir()} == before


def test_what_a_record_has_and_the_cache_has_not_is_told(ajit, recorded):
    """A kernel that was evicted, and a line that only its own library understands."""
    gone = min(recorded)
    ajit("cache", "rm", gone)
    line = Use(
        kind="other", id=use_id("other", "x", "", b"1"), peer="x", name="y", build=msgspec.Raw(b"1")
    )
    (ajit.folder / "used.ajit" / "more.lines").write_bytes(encode_line(line))

    ended = ajit("cache", "export", "-o", "a.ajit", "--record", "used.ajit")
    missing = ajit("cache", "export", "-o", "b.ajit", "--record", "nowhere")

    assert ended.code == exits.PARTLY
    assert "no entry: k.cu" in ended.err
    assert "no entry: y (other): " in ended.err
    assert "--peer" in ended.err
    assert archived(ajit) == recorded - {gone}
    assert missing.code == exits.ENVIRONMENT


def test_a_build_of_a_record_is_exported_and_not_run(ajit):
    """Only its key is asked for."""
    build = Build("b", Command(["sh", "-c", "echo text > out.txt"]), ["out.txt"])
    other = Build("c", Command(["sh", "-c", f"touch {ajit.folder}/ran out.txt"]), ["out.txt"])
    made = run(lambda rt: rt.build(build), device="none", cache_dir=str(ajit.cache_dir))
    (ajit.folder / "record").write_bytes(b"".join([*lines_of(build), *lines_of(other)]))
    (ajit.folder / "record").chmod(0o600)

    ended = ajit("cache", "export", "-o", "a.ajit", "--record", "record")

    assert ended.code == exits.PARTLY
    assert archived(ajit) == {made.key}
    assert not (ajit.folder / "ran").exists()


def test_an_export_takes_the_entries_of_a_peer(ajit, recorded):
    """By what the peer's adapter put into the key; `ajit` is what no adapter made."""
    build = kept_build("tests.cli.test_cache_export:nothing", "x", "triton 3.9.0", "some key")
    made = run(lambda rt: rt.build(build), device="none", cache_dir=str(ajit.cache_dir))

    def exported(peer):
        return ajit("cache", "export", "-o", "a.ajit", "--peer", peer, "--json")

    assert exported("ajit").json()["entries"] == 3
    assert exported("cupy").code == exits.PROBLEM
    assert exported("triton").json()["entries"] == 1
    assert archived(ajit) == {made.key}


def nothing():
    """A build that makes one file."""
    Path("code").write_text("compiled")
