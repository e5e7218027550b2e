"""Found out: libraries that replace threads. Left alone: those that only wrap functions."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import types

import pytest

import ajit
from ajit._system.patched import check_unpatched


def replaced(package: str):
    """A function of a package."""

    def function(*_: object) -> None:
        pass

    function.__module__ = f"{package}.somewhere"
    return function


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_green_function_is_refused(library, monkeypatch):
    """By name, with what to leave out of the patching."""
    monkeypatch.setattr(os, "waitpid", replaced(library))
    monkeypatch.setattr(subprocess, "Popen", replaced(library))

    with pytest.raises(ajit.PatchedThreads, match=r"patch without os, subprocess$") as caught:
        check_unpatched()

    assert caught.value.library == library
    assert caught.value.patched == ("subprocess.Popen", "os.waitpid")


def test_a_wrapped_function_is_fine(monkeypatch):
    """What traces calls, or watches for those that block, leaves threads as they are."""
    monkeypatch.setattr(subprocess, "Popen", replaced("tracer"))

    check_unpatched()


def test_a_function_that_is_gone_is_eventlets_doing(monkeypatch):
    """It removes ``select.poll``. Without eventlet the machine has none."""
    monkeypatch.delattr(select, "poll")
    monkeypatch.delitem(sys.modules, "eventlet", raising=False)
    check_unpatched()

    monkeypatch.setitem(sys.modules, "eventlet", types.ModuleType("eventlet"))
    with pytest.raises(ajit.PatchedThreads, match=r"eventlet has replaced select\.poll"):
        check_unpatched()
