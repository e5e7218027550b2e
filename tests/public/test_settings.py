"""Settings come from the argument, else the variable, else the default, and say from where."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from copy import copy, deepcopy
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from pickle import dumps, loads
from typing import get_args, get_type_hints

import pytest

from ajit._system.limits import memory_limit_bytes
from ajit.errors import AjitWarning, SettingsError
from ajit.settings import Settings, SettingsOptions, available_cpus, describe, setting_names

PROJECT = Path(__file__).parents[2]

# One value for each setting that is not its default: as text, and as what it becomes.
OTHER_VALUES = {
    "cache_dir": ("/srv/cache", Path("/srv/cache")),
    "allow_unsafe_cache": ("1", True),
    "cache_limit_bytes": ("0", 0),
    "cache_max_age_seconds": ("86400", 86400.0),
    "views_dir": ("/run/views", "/run/views"),
    "views_limit_bytes": ("0", 0),
    "cache_layers": ("/opt/kernels:/srv/kernels", "/opt/kernels:/srv/kernels"),
    "cache_layers_copy": ("1", True),
    "shared_group": ("gpu", "gpu"),
    "trust": ("signed", "signed"),
    "hmac_key_file": ("/etc/ajit.key", "/etc/ajit.key"),
    "hmac_key": ("a secret of some length", "a secret of some length"),
    "public_key_files": ("/etc/ci.pub:/etc/me.pub", "/etc/ci.pub:/etc/me.pub"),
    "signing_key_file": ("/etc/me.key", "/etc/me.key"),
    "device": ("cuda:3", "cuda:3"),
    "compile_slots": ("3", 3),
    "node_compile_slots": ("5", 5),
    "compile_timeout_seconds": ("2.5", 2.5),
    "compile_output_limit_bytes": ("1024", 1024),
    "bundle_limit_bytes": ("1024", 1024),
    "compile_memory_limit_bytes": ("4096", 4096),
    "compile_memory_estimate_bytes": ("0", 0),
    "compiler_niceness": ("0", 0),
    "nvcc": ("/opt/nvcc", "/opt/nvcc"),
    "host_compiler": ("/opt/c++", "/opt/c++"),
    "sandbox": ("landlock", "landlock"),
    "sandbox_paths": ("/opt/a:/opt/b", "/opt/a:/opt/b"),
    "worker_max_jobs": ("7", 7),
    "worker_max_bytes": ("4096", 4096),
    "lease": ("directory", "directory"),
    "patience_seconds": ("0.5", 0.5),
    "patience_total_seconds": ("120", 120.0),
    "abandoned": ("cancel", "cancel"),
    "mode": ("frozen", "frozen"),
    "failure_seconds": ("0", 0.0),
    "history_limit_bytes": ("0", 0),
    "explain": ("1", True),
    "record": ("/srv/used.ajit", "/srv/used.ajit"),
    "trace": ("/srv/trace.json", "/srv/trace.json"),
    "board": ("off", "off"),
    "ticket_timeout_seconds": ("5", 5.0),
    "time_tickets": ("1", True),
    "spin_seconds": ("0", 0.0),
    "ring_capacity": ("64", 64),
    "pinned_pool_bytes": ("65536", 65536),
    "device_memory_limit_bytes": ("1048576", 1048576),
    "device_memory_idle_seconds": ("0", 0.0),
    "plain_device_memory": ("1", True),
    "stall_seconds": ("0", 0.0),
}


def test_every_setting_is_tested():
    """A setting that is added has to be added above."""
    assert set(setting_names()) == OTHER_VALUES.keys()


def test_defaults():
    """Without argument and variable; each origin says so."""
    settings = Settings(environ={"HOME": "/home/ann"})

    assert settings.cache_dir == Path("/home/ann/.cache/ajit")
    assert settings.device == "cuda"
    assert not settings.allow_unsafe_cache
    assert settings.compile_timeout_seconds == 1800
    assert settings.patience_seconds == 10
    assert settings.origins == dict.fromkeys(setting_names(), "default")


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_variable_comes_before_the_default(name):
    """`AJIT_` and the name in capitals."""
    text, expected = OTHER_VALUES[name]
    settings = Settings(environ={"HOME": "/home/ann", f"AJIT_{name.upper()}": text})

    assert getattr(settings, name) == expected
    assert type(getattr(settings, name)) is type(getattr(Settings(environ={}), name))
    assert settings.origins[name] == f"AJIT_{name.upper()}"
    assert [other for other, origin in settings.origins.items() if origin != "default"] == [name]


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_argument_comes_before_the_variable(name):
    """The program's value counts, also beside a variable that could not be used."""
    _, expected = OTHER_VALUES[name]
    settings = Settings(environ={f"AJIT_{name.upper()}": "nonsense"}, **{name: expected})

    assert getattr(settings, name) == expected
    assert settings.origins[name] == "argument"


def test_none_is_no_argument():
    """A command line passes what was not given as None."""
    settings = Settings(environ={"AJIT_DEVICE": "cpu"}, device=None)

    assert (settings.device, settings.origins["device"]) == ("cpu", "AJIT_DEVICE")


def test_empty_variable_is_not_given():
    """`AJIT_DEVICE= server` is how a shell takes a variable away."""
    settings = Settings(environ={"AJIT_DEVICE": "", "AJIT_COMPILE_SLOTS": ""})

    assert (settings.device, settings.origins["device"]) == ("cuda", "default")


def test_environment_of_the_process_is_the_default(monkeypatch):
    """Read when asked, not when ajit was imported."""
    monkeypatch.setenv("AJIT_PATIENCE_SECONDS", "3")

    assert Settings().patience_seconds == 3


# --- unknown names ---


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("AJIT_CACHEDIR", "; did you mean AJIT_CACHE_DIR?"),
        ("AJIT_COMPILE_SLOT", "; did you mean AJIT_COMPILE_SLOTS?"),
        ("AJIT_DEVCIE", "; did you mean AJIT_DEVICE?"),
        ("AJIT_XYZZY", ""),
        ("AJIT_", ""),
    ],
)
def test_unknown_variable_warns_with_the_nearest_name(variable, hint):
    """A misspelt setting is not silently ignored; the warning points to the caller."""
    with pytest.warns(AjitWarning) as caught:
        Settings(environ={variable: "1"})

    assert [str(warning.message) for warning in caught] == [f"unknown variable {variable}{hint}"]
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "variable",
    ["AJIT_DEVICE", "AJIT_CPU_MEMORY_BYTES", "AJIT_CPU_STACK_BYTES", "ajit_x", "AJITX_Y"],
)
def test_other_variables_do_not_warn(variable):
    """Known ones, those of the CPU driver, and all others."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Settings(environ={variable: "cpu"})


def test_unknown_argument_is_an_error_with_the_nearest_name():
    """In a program it is a mistake, not a leftover."""
    with pytest.raises(SettingsError, match=r"cachedir.*did you mean cache_dir\?") as caught:
        Settings(environ={}, cachedir="/srv")

    assert (caught.value.name, caught.value.origin) == ("cachedir", "argument")
    assert str(caught.value) == "there is no setting cachedir; did you mean cache_dir?"
    with pytest.raises(SettingsError) as caught:
        Settings(environ={}, xyzzy="cpu")
    assert str(loads(dumps(caught.value))) == "there is no setting xyzzy"  # noqa: S301  # our own
    with pytest.raises(SettingsError, match="origins"):
        Settings(environ={}, origins={})


# --- values that cannot be ---

BAD_TEXTS = {
    "patience_total_seconds": ["-1", "inf"],
    "abandoned": ["forget", "0"],
    "lease": ["dir", "Locks"],
    "mode": ["Frozen", "strict"],
    "sandbox": ["bwrap", "on"],
    "sandbox_paths": ["opt/a", "/opt/a:b"],
    "failure_seconds": ["-1", "nan"],
    "allow_unsafe_cache": ["2", "maybe", "on!"],
    "device": ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "CPU", "cpu:x"],
    "compile_slots": ["-1", "1.5", "two", "nan"],
    "compile_timeout_seconds": ["0", "-1", "nan", "inf", "1x"],
    "compile_output_limit_bytes": ["0", "-1", "1e6", "1.5", "0.5", "1X", "9999P", "1 GiB B"],
    "compile_memory_limit_bytes": ["-1", "G", "1" + "0" * 500],
    "compile_memory_estimate_bytes": ["-1", "1.5"],
    "compiler_niceness": ["-1", "20", "low"],
    "worker_max_jobs": ["0"],
    "worker_max_bytes": ["0"],
    "patience_seconds": ["0", "nan", "-inf", "inf"],
    "ticket_timeout_seconds": ["0", "nan"],
    "spin_seconds": ["-0.1", "1.1", "nan"],
    "ring_capacity": ["0", "1", "3", "1000", "-4096", "1073741824"],
    "node_compile_slots": ["1048576"],
    "stall_seconds": ["1e+300"],
    "shared_group": ["9" * 20, "4294967295", "9" * 5000, "a\0b"],
    "pinned_pool_bytes": ["0"],
    "cache_dir": ["a\0b", "~no-such-user-here/cache"],
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in BAD_TEXTS.items() for text in texts]
)
def test_variable_that_cannot_be_used(name, text):
    """The error has name, value, where it came from and what it should be."""
    variable = f"AJIT_{name.upper()}"
    with pytest.raises(SettingsError, match="expected") as caught:
        Settings(environ={variable: text})

    assert (caught.value.name, caught.value.origin) == (name, variable)
    assert str(caught.value.value) in (text, str(float("nan")), str(Path(text)), f"{text}.0")
    assert caught.value.expected


BAD_ARGUMENTS = [
    ("compile_slots", "4"), ("compile_slots", 2.0), ("compile_slots", True), ("compile_slots", -1),
    ("allow_unsafe_cache", "0"), ("allow_unsafe_cache", 1), ("allow_unsafe_cache", "no"),
    ("compile_timeout_seconds", "10"), ("compile_timeout_seconds", True),
    ("patience_seconds", float("nan")), ("patience_seconds", float("inf")),
    ("patience_seconds", 10**400),
    ("ring_capacity", 1 << 30), ("ring_capacity", 1 << 62), ("node_compile_slots", 1 << 20),
    ("compile_slots", 1 << 20), ("ticket_timeout_seconds", 1e300), ("stall_seconds", 1e300),
    ("device_memory_idle_seconds", 1e300), ("patience_seconds", 1e300),
    ("compile_timeout_seconds", 1e9), ("compile_output_limit_bytes", 1 << 100),
    ("device_memory_limit_bytes", 1 << 64), ("worker_max_jobs", 1 << 100),
    ("cache_dir", "a\udcff"), ("cache_dir", Path("a\ud800")), ("host_compiler", "g\0"),
    ("host_compiler", "g\udcff"), ("nvcc", "\ud800"), ("nvcc", Path("a\udcff")),
    ("hmac_key_file", "k\0"), ("hmac_key_file", "k\udcff"), ("shared_group", "g\0"),
    ("shared_group", "g\udcff"), ("shared_group", "9" * 20), ("shared_group", 5),
    ("environ", 5), ("environ", {5: "x"}), ("environ", {"AJIT_DEVICE": 5}), ("environ", "A=1"),
    ("ring_capacity", 4096.0), ("spin_seconds", None.__class__), ("device", 0), ("device", b"cpu"),
    ("cache_dir", ""), ("cache_dir", 3), ("cache_dir", b"/srv"), ("cache_dir", "a\0b"),
    ("cache_dir", "~no-such-user-here"), ("nvcc", 3), ("host_compiler", ["g++"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_ARGUMENTS, ids=repr)
def test_argument_that_cannot_be_used(name, value):
    """An argument has its setting's type: no text passes for a number, or for true."""
    with pytest.raises(SettingsError) as caught:
        Settings(**{"environ": {}} | {name: value})

    assert (caught.value.name, caught.value.origin) == (name, "argument")
    assert f"setting {name} is " in str(caught.value)
    assert len(str(caught.value)) < 500


def test_environ_that_cannot_be_used_is_not_shown():
    """It may have the secret in it."""
    with pytest.raises(SettingsError) as caught:
        Settings(environ={"AJIT_HMAC_KEY": "0123456789abcdef", "X": None})

    assert "0123456789abcdef" not in str(caught.value)
    assert "X" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1G", 1 << 30), ("2GiB", 2 << 30), ("100k", 102400), ("1.5 kB", 1536), (" 7 ", 7),
     ("9007199254740993", 9007199254740993)],
)  # fmt: skip
def test_sizes_may_have_a_unit(text, expected):
    """As on the command line: `AJIT_CACHE_LIMIT_BYTES=2GiB`."""
    settings = Settings(environ={"AJIT_CACHE_LIMIT_BYTES": text})

    assert expected == settings.cache_limit_bytes


@pytest.mark.parametrize(
    ("text", "expected"), [("30d", 30 * 86400.0), ("1.5h", 5400.0), ("90", 90.0), ("50ms", 0.05)]
)
def test_durations_may_have_a_unit(text, expected):
    """As on the command line: `AJIT_CACHE_MAX_AGE_SECONDS=30d`."""
    settings = Settings(environ={"AJIT_CACHE_MAX_AGE_SECONDS": text})

    assert expected == settings.cache_max_age_seconds


def test_error_about_a_duration_shows_how_to_write_one():
    """A number alone is seconds."""
    with pytest.raises(SettingsError, match="such as 90s, 30m or 12h"):
        Settings(environ={"AJIT_CACHE_MAX_AGE_SECONDS": "a day"})


def test_error_about_a_size_shows_how_to_write_one():
    """`GiB` alone is no size, and `0 or above` would not say why."""
    with pytest.raises(SettingsError, match="such as 500M, 4GiB or 1000000"):
        Settings(environ={"AJIT_CACHE_LIMIT_BYTES": "2 gibibytes"})


@pytest.mark.parametrize("name", ["cache_max_age_seconds", "patience_seconds"])
def test_infinity_is_refused_as_what_it_is(name):
    """It is above 0; what is asked for is a number of seconds."""
    with pytest.raises(SettingsError, match="finite"):
        Settings(environ={f"AJIT_{name.upper()}": "inf"})


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "yes"])
def test_ways_to_say_yes(text):
    """As one writes it in a shell."""
    assert Settings(environ={"AJIT_ALLOW_UNSAFE_CACHE": text}).allow_unsafe_cache


@pytest.mark.parametrize("text", ["0", "false", "No"])
def test_ways_to_say_no(text):
    """The text "0" is not true."""
    assert not Settings(environ={"AJIT_ALLOW_UNSAFE_CACHE": text}).allow_unsafe_cache


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:15", "cpu", "cpu:1", "auto", "none"])
def test_devices(device):
    """Every device that can be asked for."""
    assert Settings(environ={}, device=device).device == device


def test_whole_seconds_are_seconds():
    """`patience_seconds=5` is a float as the field says."""
    assert type(Settings(environ={}, patience_seconds=5).patience_seconds) is float


def test_compilers_may_be_paths():
    """`nvcc=Path(...)` is what a program has at hand."""
    assert Settings(environ={}, nvcc=Path("/opt/nvcc")).nvcc == "/opt/nvcc"


# --- compile slots ---


@pytest.mark.parametrize("given", [{}, {"compile_slots": 0}])
def test_compile_slots_are_the_cpus_of_this_process(given):
    """Those that it may run on, not those of the machine: a container has fewer."""
    assert Settings(environ={}, **given).compile_slots == available_cpus()


def test_compile_slots_follow_the_affinity():
    """`taskset` counts."""
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from ajit.settings import Settings; print(Settings(environ={}).compile_slots)"
    )
    printed = subprocess.check_output(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(PROJECT)}, timeout=60
    )

    assert printed.strip() == b"1"
    assert available_cpus() >= 1


@pytest.mark.parametrize("given", [{}, {"compile_memory_limit_bytes": 0}])
def test_compile_memory_is_half_of_what_there_is(given):
    """At most 8 GiB; a container counts as it does everywhere."""
    expected = min(8 << 30, memory_limit_bytes() // 2)

    assert Settings(environ={}, **given).compile_memory_limit_bytes == expected


# --- the cache directory ---


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/ann"}, "/home/ann/.cache/ajit"),
        ({"HOME": "/home/ann", "XDG_CACHE_HOME": "/var/cache/ann"}, "/var/cache/ann/ajit"),
        ({"HOME": "/home/ann", "XDG_CACHE_HOME": ""}, "/home/ann/.cache/ajit"),
        # The XDG base directory specification: a relative path is to be ignored.
        ({"HOME": "/home/ann", "XDG_CACHE_HOME": "cache"}, "/home/ann/.cache/ajit"),
        ({"HOME": "/home/ann", "AJIT_CACHE_DIR": "/srv/x"}, "/srv/x"),
    ],
)
def test_cache_directory(environ, expected):
    """Where the desktop's specification says, unless told otherwise."""
    assert Settings(environ=environ).cache_dir == Path(expected)


def test_cache_directory_is_absolute(monkeypatch, tmp_path):
    """A server that changes its directory keeps its cache; `~` is the home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")

    assert Settings(environ={}, cache_dir="cache").cache_dir == tmp_path / "cache"
    assert Settings(environ={}, cache_dir="~/cache").cache_dir == Path("/home/ann/cache")
    assert not (tmp_path / "cache").exists(), "nothing is made"


def test_without_a_home_the_cache_directory_has_to_be_told(monkeypatch):
    """Containers run as users who are in no table: the error says what to set, and that works."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)

    with pytest.raises(SettingsError, match=r"cache_dir.*AJIT_CACHE_DIR"):
        Settings(environ={})
    assert Settings(environ={"AJIT_CACHE_DIR": "/srv/x"}).cache_dir == Path("/srv/x")
    assert Settings(environ={}, cache_dir="/srv/x").cache_dir == Path("/srv/x")
    assert Settings(environ={"XDG_CACHE_HOME": "/var/x"}).cache_dir == Path("/var/x/ajit")


# --- a value ---


def test_settings_are_frozen_and_equal_by_value():
    """Origins do not make settings different."""
    one, other = Settings(environ={}, device="cpu"), Settings(environ={"AJIT_DEVICE": "cpu"})

    assert one == other
    assert hash(one) == hash(other)
    with pytest.raises(FrozenInstanceError):
        one.device = "cuda"


@pytest.mark.parametrize("name", setting_names())
def test_every_setting_says_what_it_is_for(name):
    """`ajit config` prints one line for each."""
    assert describe(name)
    assert "\n" not in describe(name)
    assert [item.metadata["expected"] for item in fields(Settings) if item.name == name] != [""]


WAYS = {
    "made": lambda settings: Settings(environ={}, device=settings.device),
    "copied": copy,
    "copied deeply": deepcopy,
    "pickled": lambda settings: loads(dumps(settings)),  # noqa: S301  # its own
    "replaced": lambda settings: replace(settings, patience_seconds=3),
    "replaced by what 0 stands for": lambda settings: replace(
        settings, compile_slots=0, node_compile_slots=0, compile_memory_limit_bytes=0
    ),
    "replaced by a relative path": lambda settings: replace(settings, cache_dir="cache"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_settings_are_complete_however_they_are_made(way):
    """Compiles can run, and the cache stays where it is when the directory changes."""
    settings = way(Settings(environ={"HOME": "/home/ann"}, device="cpu"))

    assert settings.device == "cpu"
    assert settings.compile_slots > 0
    assert settings.node_compile_slots > 0
    assert settings.compile_memory_limit_bytes > 0
    assert settings.cache_dir.is_absolute()


def test_replaced_settings_are_checked():
    """A copy is as well formed as the original."""
    settings = Settings(environ={})

    with pytest.raises(SettingsError, match="patience_seconds"):
        replace(settings, patience_seconds=-1)
    with pytest.raises(SettingsError, match=r"devise.*did you mean device\?"):
        replace(settings, devise="cpu")


def test_copies_do_not_read_the_environment_again(monkeypatch):
    """Values read for the original hold for its copies, and their origins say so."""
    settings = Settings(environ={"AJIT_DEVICE": "cpu", "AJIT_COMPILE_SLOTS": "3"})
    monkeypatch.setenv("AJIT_DEVICE", "cuda:7")
    monkeypatch.setenv("AJIT_PATIENCE_SECONDS", "7")

    changed = replace(settings, compile_slots=5)

    assert (changed.device, changed.patience_seconds) == ("cpu", 10)
    assert changed.origins["device"] == "AJIT_DEVICE"
    assert changed.origins["compile_slots"] == "argument"
    assert changed.origins["patience_seconds"] == "default"
    assert loads(dumps(settings)).origins == settings.origins  # noqa: S301  # its own
    assert loads(dumps(settings)) == settings  # noqa: S301  # its own


def test_origins_cannot_be_changed():
    """They are as frozen as the values."""
    with pytest.raises(TypeError):
        Settings(environ={}).origins["device"] = "argument"


def test_representation_shows_what_differs_from_the_defaults():
    """In one line, which can be read."""
    settings = Settings(environ={"AJIT_DEVICE": "cpu"}, compile_slots=3, cache_dir="/srv/x")

    assert repr(Settings(environ={})) == "Settings()"
    assert repr(settings) == "Settings(cache_dir='/srv/x', device='cpu', compile_slots=3)"


def test_representation_is_short_and_keeps_secrets():
    """However many settings there are, and however long."""
    texts = {name: text for name, (text, _) in OTHER_VALUES.items() if name != "hmac_key"}
    environ = {f"AJIT_{name.upper()}": text for name, text in texts.items()}
    long = Settings(environ=environ, nvcc="/opt/" + "x" * 1000, shared_group="y" * 1000)
    secret = Settings(environ={}, hmac_key="a secret of some length")

    assert len(repr(long)) < 200
    assert "\n" not in repr(long)
    assert repr(long).endswith(" more)")
    assert repr(secret) == "Settings(hmac_key=(hidden))"


def test_options_for_type_checkers_are_the_fields():
    """`SettingsOptions` has each setting, of a type that takes what the field holds, or None."""
    options, held = get_type_hints(SettingsOptions), _types_of_fields()

    assert list(options) == list(setting_names())
    for name in setting_names():
        taken = set(get_args(options[name])) - {Sequence[str | os.PathLike[str]]}
        expected = {str, os.PathLike[str]} if os.PathLike[str] in taken else {held[name]}
        assert expected | {type(None)} == taken
        assert held[name] in (Path, str) or os.PathLike[str] not in taken


def _types_of_fields() -> dict[str, type]:
    known = {"Path": Path, "bool": bool, "int": int, "float": float, "str": str}
    return {item.name: known[item.type] for item in fields(Settings) if item.name != "origins"}
