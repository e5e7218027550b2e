"""Every exception says what failed, travels between processes, and stands in the drawn tree."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from ajit import errors
from ajit.errors import AjitError, AjitWarning

KEY = "9478101f" * 8
LOG = "scale.cu(3): error: expected a ;"

ABOUT_A_KERNEL = {"name": "scale", "key": KEY, "compiler": "nvrtc 13.0.88"}
ABOUT_THE_DEVICE = {
    "operation": "launch of scale",
    "code": 700,
    "code_name": "CUDA_ERROR_ILLEGAL_ADDRESS",
    "detail": "in stream 3",
}

# Class to: its fields, and what its message has to mention.
ERRORS = {
    "SpecError": (("source is empty",), {}, ["source is empty"]),
    "UnknownArch": (
        (), {"arch": "sm_9000", "compiler": "nvrtc", "known": ("sm_80", "sm_90a")},
        ["nvrtc", "'sm_9000'", "sm_80, sm_90a"],
    ),
    "SettingsError": (
        (), {"name": "device", "value": "gpu", "origin": "AJIT_DEVICE", "expected": "cuda or cpu"},
        ["device", "'gpu'", "AJIT_DEVICE", "cuda or cpu"],
    ),
    "CompileError": ((), {**ABOUT_A_KERNEL, "log": LOG}, ["scale", KEY[:16], "nvrtc 13.0.88", LOG]),
    "UnknownEntryPoint": (
        (),
        {
            "entry": "scal<half>", "kernels": ("add", "scale", *map(str, range(9))),
            "nearest": "scale", **ABOUT_A_KERNEL, "log": LOG,
        },
        [
            "'scal<half>'", "did you mean 'scale'?", "its kernels: 0, 1, 2", "and 3 more",
            KEY[:16], "name expression", LOG,
        ],
    ),
    "CompilerNotFound": (
        (), {"compiler": "nvcc", "searched": ("/usr/bin", "$CUDA_HOME"), "install": "install it"},
        ["nvcc", "install it", "searched /usr/bin", "searched $CUDA_HOME"],
    ),
    "CompilerCrashed": (
        (), {**ABOUT_A_KERNEL, "signal": "SIGSEGV", "exit_code": None, "log": LOG},
        ["scale", KEY[:16], "nvrtc 13.0.88", "SIGSEGV", "again", LOG],
    ),
    "CompilerStalled": (
        (), {**ABOUT_A_KERNEL, "reason": "was stopped for 11 s", "cpu_seconds": 2.5},
        ["scale", KEY[:16], "nvrtc 13.0.88", "stopped for 11 s", "2.5 s of CPU", "again"],
    ),
    "CompileTimeout": (
        (), {**ABOUT_A_KERNEL, "limit_seconds": 1800.0},
        ["scale", KEY[:16], "nvrtc 13.0.88", "1800 s", "compile_timeout_seconds"],
    ),
    "CompileMemoryExceeded": (
        (), {**ABOUT_A_KERNEL, "used_bytes": 3 << 30, "limit_bytes": 2 << 30},
        ["scale", KEY[:16], "nvrtc 13.0.88", "3072 MiB", "2048 MiB", "compile_memory_limit_bytes"],
    ),
    "CompileOutputExceeded": (
        (), {**ABOUT_A_KERNEL, "size_bytes": 300 << 20, "limit_bytes": 1000},
        ["scale", KEY[:16], "nvrtc 13.0.88", "300 MiB", "1000 bytes", "compile_output_limit_bytes"],
    ),
    "CompileForbidden": (
        (),
        {"name": "scale", "key": KEY, "nearest": "cd" * 32,
         "differences": (("define N", "=1", "=2"),)},
        ["scale", KEY[:16], "frozen", "cdcdcdcdcdcdcdcd", "define N: '=1' there, '=2' here"],
    ),
    "LimitReached": (
        (), {"what": "open files", "limit": 10, "option": "ulimit -n"},
        ["no more open files", "ulimit -n is 10", "raise it"],
    ),
    "CacheError": (
        (), {"path": "/cache", "reason": "is a file", "hint": "set AJIT_CACHE_DIR"},
        ["/cache", "is a file", "set AJIT_CACHE_DIR"],
    ),
    "UnsafeCacheDirectory": (
        (), {"path": "/cache", "reason": "others may write", "hint": "allow_unsafe_cache"},
        ["/cache", "others may write", "allow_unsafe_cache"],
    ),
    "KvError": (
        (), {"path": "/run/kv.sock", "reason": "others can write there", "hint": "use mode 0700"},
        ["/run/kv.sock", "others can write there", "use mode 0700"],
    ),
    "RanksNotReady": (
        (), {"rank": 0, "ranks": 8, "missing": ((3, "rank 3 (pid 7 on node2) is silent"),)},
        ["rank 0 of 8", "rank 3 (pid 7 on node2) is silent"],
    ),
    "RecordError": (
        (), {"path": "/srv/used.ajit", "reason": "others may write", "hint": "copy it"},
        ["/srv/used.ajit", "others may write", "copy it"],
    ),
    **dict.fromkeys(
        ("DeviceError", "NoDevice", "LoadError", "LaunchError", "OutOfMemory", "TicketTimeout",
         "DeviceLost"),
        ((), ABOUT_THE_DEVICE,
         ["launch of scale", "700", "CUDA_ERROR_ILLEGAL_ADDRESS", "in stream 3"]),
    ),
    "CaptureMiss": (("scale",), {}, ["scale", "not loaded", "before"]),
    "ArgumentError": (
        (), {"operation": "launch of scale", "detail": "argument 1 is no int", "index": 1},
        ["launch of scale", "argument 1 is no int"],
    ),
    "PatchedThreads": (
        (), {"library": "gevent", "patched": ("_thread.start_new_thread", "os.fork")},
        ["gevent", "_thread.start_new_thread", "patch without os, thread"],
    ),
    **dict.fromkeys(
        ("UsageError", "RuntimeClosed", "ForkedRuntime", "WrongLoop", "WouldBlock",
         "CompilerError", "AjitError"),
        (("the runtime is closed",), {}, ["the runtime is closed"]),
    ),
}  # fmt: skip


def make(name: str) -> AjitError:
    """The error of that name, with every field given."""
    args, fields, _ = ERRORS[name]
    return getattr(errors, name)(*args, **fields)


def subclasses(of: type) -> set[type]:
    """Every class below, all the way down."""
    return {of}.union(*(subclasses(each) for each in of.__subclasses__()))


def test_every_error_is_tested():
    """An error that is added has to be added above."""
    assert {error.__name__ for error in subclasses(AjitError) if error.__module__ == "ajit"} == (
        ERRORS.keys()
    )
    assert set(errors.__all__) == ERRORS.keys() | {"AjitWarning"}


@pytest.mark.parametrize("name", ERRORS)
def test_fields_are_what_was_given(name):
    """A program decides by fields, not by reading the message."""
    _, fields, _ = ERRORS[name]
    error = make(name)

    assert {field: getattr(error, field) for field in fields} == fields


def test_a_cached_kernel_of_the_same_base_key_is_told_apart():
    """Such keys share 16 digits, so those alone would name the wanted kernel twice."""
    nearest = KEY[:16] + "cd" * 24
    error = errors.CompileForbidden(name="scale", key=KEY, nearest=nearest)

    assert nearest[:32] in str(error)


@pytest.mark.parametrize("name", ERRORS)
def test_message_says_what_failed_for_what_and_what_to_try(name):
    """Enough for a reader who has only the message."""
    _, _, mentions = ERRORS[name]
    message = str(make(name))

    assert [text for text in mentions if text not in message] == []
    assert message == message.strip()


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_error_survives_pickling(name, protocol):
    """An error goes from a worker to a parent, and from one event loop to another."""
    error = make(name)
    error.add_note("seen in worker 3")

    for made in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):  # noqa: S301
        assert type(made) is type(error)
        assert str(made) == str(error)
        assert vars(made) == vars(error)
        assert made.__notes__ == ["seen in worker 3"]


@pytest.mark.parametrize("name", ERRORS)
def test_copy_of_an_error_is_its_own(name):
    """A note on one waiter's copy is not seen by the others."""
    error = make(name)
    made = copy.copy(error)
    made.add_note("mine")

    assert not hasattr(error, "__notes__")
    assert made.__traceback__ is None


@pytest.mark.parametrize("name", ERRORS)
def test_docstring_says_what_is_guaranteed(name):
    """The first line ends as a sentence; the public fields that it adds are described."""
    error = getattr(errors, name)
    doc = error.__doc__ or ""

    assert doc.split("\n")[0].endswith(".")


def drawn_tree() -> dict[str, str]:
    """Class to base, as drawn in the docstring of the module."""
    bases: dict[str, str] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        if match := re.fullmatch(r"    ((?:[│ ] {3})*(?:[├└]── )?)(\w+)(?:  .*)?", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            if depth:
                bases[match[2]] = path[depth - 1]
    return bases


def test_tree_is_as_drawn():
    """The picture at the top of the module is the tree, whole."""
    actual = {
        error.__name__: error.__bases__[0].__name__
        for error in subclasses(AjitError) - {AjitError}
        if error.__module__ == "ajit"
    }

    assert drawn_tree() == actual


def test_every_public_error_is_a_name_of_the_package():
    """`ajit.CompileError` is `ajit.errors.CompileError`."""
    import ajit

    for name in errors.__all__:
        assert getattr(ajit, name) is getattr(errors, name)
        assert getattr(ajit, name).__module__ == "ajit"
        assert name in dir(ajit)


def test_warning_is_no_error():
    """An error that could not be raised is filtered like any warning."""
    assert issubclass(AjitWarning, UserWarning)
    assert not issubclass(AjitWarning, AjitError)


def test_long_log_is_shown_in_part():
    """Templates make thousands of lines: the message has the first ones and says where all are."""
    log = "\n".join(f"error {number}" for number in range(1000))
    error = errors.CompileError(**ABOUT_A_KERNEL, log=log)

    assert error.log == log
    assert "error 0\n" in str(error)
    assert "980 more lines in .log" in str(error)
    assert len(str(error).splitlines()) < 25


def test_long_line_of_a_log_is_cut():
    """One line of a generated kernel can be megabytes."""
    error = errors.CompileError(**ABOUT_A_KERNEL, log="x" * 1_000_000)

    assert len(error.log) == 1_000_000
    assert len(str(error)) < 1_000


def test_message_without_a_log_ends_with_what_failed():
    """No empty lines where there is nothing to show."""
    assert str(errors.CompileError(**ABOUT_A_KERNEL, log="\n\n")).endswith("nvrtc 13.0.88")


def test_spec_without_name_or_key():
    """Both may be missing; the message still reads."""
    error = errors.CompileError(name="", key="", compiler="nvcc 13.0", log="")

    assert str(error) == "compile failed for a spec without a name by nvcc 13.0"


def test_crash_by_a_signal_and_without_one():
    """A killed compiler is never read as one that exited with 0."""
    by_signal = errors.CompilerCrashed(**ABOUT_A_KERNEL, signal="SIGKILL", exit_code=None, log="")
    by_exit = errors.CompilerCrashed(**ABOUT_A_KERNEL, signal="", exit_code=0, log="")

    assert "killed by SIGKILL" in str(by_signal)
    assert "memory" in str(by_signal), "the kernel's memory killer is the usual sender"
    assert "exit code 0" in str(by_exit)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "upload"),
        ({"detail": "no room"}, "upload: no room"),
        ({"code": 2}, "upload: driver error (2)"),
        (
            {"code": 2, "code_name": "CUDA_ERROR_OUT_OF_MEMORY"},
            "upload: CUDA_ERROR_OUT_OF_MEMORY (2)",
        ),
    ],
)
def test_device_error_has_what_is_known(fields, expected):
    """The driver's code, or our own reason, or both, or neither."""
    assert str(errors.DeviceError(operation="upload", **fields)) == expected


def test_a_message_never_acts_on_a_terminal():
    """Of any class. A log's line breaks and tabs stay; what is replaced stays visible."""
    log = "a.cu(3): error:\n\tint x = \x1b]0;owned\x07\u202e;"
    told = errors.CompileError(name="k", key=KEY, compiler="nvrtc\x9b2J", log=log)
    expired = errors.TicketTimeout(operation="wait\x1b[2J")

    assert str(told).endswith("error:\n\tint x = \\x1b]0;owned\\x07\\u202e;")
    assert r"nvrtc\x9b2J" in str(told)
    assert str(expired) == r"wait\x1b[2J"
    assert str(pickle.loads(pickle.dumps(told))) == str(told)  # noqa: S301  # our own
