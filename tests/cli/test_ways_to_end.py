"""Every way of ending: help, usage errors, missing extras, interrupts, and their exit codes."""

from __future__ import annotations

import textwrap

import pytest

from ajit import errors
from ajit._cache.entries.disk import DiskStore
from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits
from tests.cli.test_cache import put


def test_help_names_every_command_and_the_exit_codes(ajit):
    """`ajit --help` is the map of the command line."""
    ended = ajit("--help")

    assert ended.code == exits.FINE
    for word in ("demo", "compile", "cache", "locks", "doctor", "config", "4 environment"):
        assert word in ended.out


def test_help_imports_neither_cuda_nor_an_event_loop_nor_rich(ajit):
    """Help is quick because nothing that compiles or draws is loaded for it."""
    ended = ajit("--help", PYTHONPROFILEIMPORTTIME="1")

    assert "click.core" in _imported(ended)
    assert not _imported(ended) & {"cuda.bindings", "anyio._core", "rich.console", "msgspec._core"}


@pytest.mark.parametrize("command", ["compile", "cache", "doctor", "config"])
def test_help_of_a_command_imports_no_cuda(ajit, command):
    """No command loads CUDA, numpy or an event loop to explain itself."""
    ended = ajit(command, "--help", PYTHONPROFILEIMPORTTIME="1")

    assert ended.code == exits.FINE
    assert not {name.partition(".")[0] for name in _imported(ended)} & {"cuda", "anyio", "numpy"}


@pytest.mark.parametrize(
    "args", [["frobnicate"], ["config", "--jason"], ["compile"], []], ids=" ".join
)
def test_wrong_usage_ends_with_two_and_prints_no_result(ajit, args):
    """An unknown command or option is told on standard error."""
    ended = ajit(*args)

    assert ended.code == exits.USAGE
    assert ended.out == ""
    assert "Usage: ajit" in ended.err


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["config", "--json", "--jason"], "NoSuchOption"),
        (["compile", "--json"], "MissingParameter"),
        (["cache", "rm", "--json", "--all", "abcd"], "UsageError"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_with_json_a_wrong_usage_is_one_object_too(ajit, args, error):
    """Whatever the command came to: a script parses standard output without looking first."""
    ended = ajit(*args)

    assert (error, exits.USAGE) == (ended.json()["error"], ended.json()["exit_code"])
    assert ended.code == exits.USAGE
    assert ended.json()["message"] in ended.err


def test_json_after_two_dashes_is_an_argument(ajit):
    """It is then a name, and the failure is told in words alone."""
    ended = ajit("cache", "inspect", "--", "--json")

    assert (exits.USAGE, "") == (ended.code, ended.out)


def test_failure_has_the_fields_of_its_error_and_a_value_of_any_kind(ajit):
    """The error names the value, its origin and the values allowed."""
    failure = ajit("cache", "path", "--json", AJIT_COMPILE_SLOTS="many").json()

    assert ("SettingsError", "compile_slots") == (failure["error"], failure["name"])
    assert ("many", "AJIT_COMPILE_SLOTS") == (failure["value"], failure["origin"])


def test_bad_setting_names_the_variable_and_what_is_expected(ajit):
    """A setting that cannot be is a usage error, without a traceback."""
    ended = ajit("cache", "path", AJIT_COMPILE_SLOTS="many")

    assert ended.code == exits.USAGE
    assert ended.err.startswith("ajit: setting compile_slots is 'many' (from AJIT_COMPILE_SLOTS)")
    assert "Traceback" not in ended.err


def test_misspelt_variable_is_a_warning_with_the_nearest_name(ajit):
    """An unknown AJIT_* name does not stop the command, and is not silent."""
    ended = ajit("config", AJIT_CAHCE_DIR="x")

    assert ended.code == exits.FINE
    assert "warning: unknown variable AJIT_CAHCE_DIR; did you mean AJIT_CACHE_DIR?\n" == ended.err


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_missing_package_says_what_to_install(ajit, tmp_path, missing):
    """Without click or rich the command line names the packages to install."""
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        textwrap.dedent(f"""
            import sys
            sys.modules[{missing!r}] = None
        """)
    )
    ended = ajit("--help", PYTHONPATH=f"{tmp_path}:{ajit.environ['PYTHONPATH']}")

    assert ended.code == exits.ENVIRONMENT
    assert f"needs {missing}" in ended.err
    assert "pip install click rich" in ended.err


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_reader_that_goes_away_is_no_traceback(ajit, unbuffered):
    """`ajit config | head -0` ends without a word about a broken pipe, however Python buffers."""
    process = ajit.start("config", PYTHONUNBUFFERED=unbuffered)
    process.stdout.close()
    process.stdout = None

    ended = ajit.end(process)

    assert ended.err == ""
    assert ended.code == exits.UNREAD


COMMANDS = [
    ("--help",), ("config",), ("config", "--json"), ("cache", "path"), ("cache", "ls"),
    ("cache", "inspect", "KEY"), ("cache", "extract", "KEY", "-o", "-"), ("doctor",),
]  # fmt: skip


@pytest.fixture
def key(ajit):
    """An entry in the cache."""
    return put(DiskStore(open_cache_directory(ajit.cache_dir)), "one")


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_output_that_is_full_is_a_message_and_exit_code_one(ajit, key, command, unbuffered):
    """As `ls > /dev/full` has it; nothing is said twice."""
    words = [key if word == "KEY" else word for word in command]
    ended = ajit(*words, through=("sh", "-c", 'exec "$@" >/dev/full', "sh"),
                 PYTHONUNBUFFERED=unbuffered)  # fmt: skip

    assert ended.code == exits.PROBLEM
    assert ended.err.strip() == "ajit: standard output: No space left on device"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_output_that_is_closed_is_a_message_and_harms_no_file(ajit, key, command):
    """Else the first file that is opened would be standard output, and be printed into."""
    words = [key if word == "KEY" else word for word in command]
    before = {path: path.read_bytes() for path in ajit.cache_dir.glob("entries/*/*")}
    ended = ajit(*words, through=("sh", "-c", 'exec "$@" >&-', "sh"))

    assert ended.code == exits.PROBLEM
    assert ended.err.strip() == "ajit: standard output: Bad file descriptor"
    assert before == {path: path.read_bytes() for path in ajit.cache_dir.glob("entries/*/*")}


@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-"])
def test_standard_error_that_cannot_be_written_changes_no_result(ajit, redirect):
    """Warnings and messages are lost; results and exit codes are not."""
    through = ("sh", "-c", f'exec "$@" {redirect}', "sh")
    warned = ajit("cache", "path", through=through, AJIT_CAHCE_DIR="x")
    failed = ajit("cache", "ls", "--json", through=through)

    assert (warned.code, warned.out) == (exits.FINE, f"{ajit.cache_dir}\n")
    assert (failed.code, failed.json()["error"]) == (exits.ENVIRONMENT, "CacheError")


def test_output_that_is_full_with_json_says_so_too(ajit):
    """The object cannot be printed, and the message is not lost."""
    ended = ajit("cache", "ls", "--json", through=("sh", "-c", 'exec "$@" >/dev/full', "sh"))

    assert ended.code == exits.PROBLEM
    assert "No space left on device" in ended.err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.CompileError(name="k", key="", compiler="c", log=""), exits.PROBLEM),
        (errors.UnknownArch(arch="sm_1", compiler="nvrtc"), exits.USAGE),
        (errors.CompilerNotFound(compiler="nvcc", searched=[], install=""), exits.ENVIRONMENT),
        (errors.UnsafeCacheDirectory(path="p", reason="r"), exits.ENVIRONMENT),
        (errors.NoDevice(operation="open"), exits.ENVIRONMENT),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_have_their_exit_codes(error, expected):
    """A script can tell a bad kernel from a bad command line and from a bad machine."""
    assert expected == exits.exit_code_of(error)


@pytest.mark.parametrize(
    ("args", "meant"), [(["cach"], "cache"), (["cache", "lss"], "ls"), (["zzzz"], "")], ids=str
)
def test_a_mistyped_command_is_answered_by_the_one_that_is_meant(ajit, args, meant):
    """Where one is near."""
    ended = ajit(*args)

    assert ended.code == exits.USAGE
    assert ("Did you mean" in ended.err) == bool(meant)
    assert f"{meant!r}?" in ended.err or not meant


def _imported(ended):
    """The modules that -X importtime lists; one imported by name only shows by its own imports."""
    return {line.rpartition("|")[2].strip() for line in ended.err.splitlines()}
