"""`ajit config`: every setting, with where it came from."""

from __future__ import annotations

import pytest

from ajit._cache.files.directory import open_cache_directory
from ajit.cli import exits
from ajit.settings import setting_names


def test_every_setting_is_listed_with_value_and_origin(ajit):
    """JSON has plain values; the variable that a value came from is named."""
    ended = ajit("config", "--json", AJIT_COMPILE_SLOTS="3")

    settings = {row["name"]: row for row in ended.json()["settings"]}
    assert list(setting_names()) == list(settings)
    assert settings["compile_slots"]["value"] == 3
    assert settings["compile_slots"]["origin"] == "AJIT_COMPILE_SLOTS"
    assert settings["worker_max_bytes"]["value"] == 400 * 1024 * 1024
    assert settings["worker_max_bytes"]["origin"] == "default"


def test_table_has_readable_units_and_cuts_nothing_off(ajit):
    """A reader sees 400.0 MiB and the whole path of the cache, in a pipe as well."""
    ended = ajit("config")

    assert "400.0 MiB" in ended.out
    assert "30 min" in ended.out
    assert " 0 µs" not in ended.out
    assert str(ajit.cache_dir) in ended.out
    assert ended.err == ""


def test_a_secret_is_not_shown(ajit):
    """Neither to people nor to programs."""
    secret = "0123456789abcdef" * 2
    printed = [ajit("config", *more, AJIT_HMAC_KEY=secret).out for more in ((), ("--json",))]

    for text in printed:
        assert "(hidden)" in text
        assert secret not in text


def test_origin_of_a_value_from_a_file_is_the_file_and_its_line(ajit):
    """The order is told by what counts: the variable goes before the file."""
    file = ajit.folder / "ajit.toml"
    file.write_text('compile_slots = 2\nworker_max_jobs = 3\ncache_limit_bytes = "2GiB"\n')
    del ajit.environ["AJIT_CONFIG_FILE"]

    ended = ajit("config", "--json", AJIT_COMPILE_SLOTS="5")

    settings = {row["name"]: row for row in ended.json()["settings"]}
    assert (settings["compile_slots"]["value"], settings["compile_slots"]["origin"]) == (
        5, "AJIT_COMPILE_SLOTS",
    )  # fmt: skip
    assert settings["worker_max_jobs"]["origin"] == f"{file}:2"
    assert settings["cache_limit_bytes"]["value"] == 2 << 30
    assert f"{file}:3" in ajit("config").out


@pytest.fixture
def wrong(ajit):
    """A file with a line that cannot be and one that can."""
    file = ajit.folder / "ajit.toml"
    file.write_text("compile_slots = -2\nworker_max_jobs = 3\n")
    del ajit.environ["AJIT_CONFIG_FILE"]
    return f"{file}:1"


def test_a_value_that_cannot_be_is_a_usage_error_that_names_file_and_line(ajit, wrong):
    """For each command that works with settings."""
    ended = ajit("cache", "path")

    assert ended.code == exits.USAGE
    assert "compile_slots" in ended.err
    assert wrong in ended.err


def test_config_shows_what_is_wrong_and_all_the_rest(ajit, wrong):
    """Who looks for the mistake needs it most then."""
    shown, told = ajit("config"), ajit("config", "--json")
    settings = {row["name"]: row for row in told.json()["settings"]}

    assert exits.PROBLEM == shown.code == told.code
    assert wrong in shown.err
    assert wrong in told.json()["problems"][0]
    assert "worker_max_jobs" in shown.out
    assert settings["worker_max_jobs"]["value"] == 3
    assert settings["compile_slots"]["origin"] == "default"


@pytest.mark.parametrize("text", ["compile_slots = \n", 'hmac_key = "geheim"\n'])
def test_config_goes_on_with_a_file_that_cannot_be_read_or_has_a_secret(ajit, text):
    """And does not show that."""
    (ajit.folder / "named.toml").write_text(text)
    ended = ajit("config", "--json", AJIT_CONFIG_FILE=str(ajit.folder / "named.toml"))

    assert ended.code == exits.PROBLEM
    assert len(ended.json()["problems"]) == 1
    assert "geheim" not in ended.out + ended.err


def test_doctor_says_what_is_wrong_with_settings_and_checks_the_rest(ajit, wrong):
    """It is the command for a machine on which something is wrong."""
    ended = ajit("doctor", "--json")
    checks = ended.json()["checks"]

    assert ended.code == exits.PROBLEM
    assert wrong in checks[0]["found"]
    assert "cache" in [check["name"] for check in checks]


@pytest.mark.parametrize("args", [["top"], ["log"], ["locks"], ["cache", "ls"]], ids=" ".join)
def test_who_names_the_cache_to_look_at_is_not_stopped_by_a_setting(ajit, wrong, args):
    """In a file or a variable: it is about something else."""
    open_cache_directory(ajit.cache_dir)
    ended = ajit(*args, "--cache-dir", ajit.cache_dir, AJIT_TRUST="nobody")

    assert ended.code == exits.FINE
    assert f"{wrong}); expected" in ended.err
    assert "it goes on without configuration files" in ended.err
    assert "it goes on without AJIT_TRUST" in ended.err


@pytest.mark.parametrize("value", ["0x" + "f" * 5000, "2026-01-01", "inf", "[1, 2026-01-01]"])
def test_a_value_that_json_does_not_have_is_told_without_a_traceback(ajit, value):
    """To people and to programs."""
    (ajit.folder / "ajit.toml").write_text(f"compile_slots = {value}\n")
    del ajit.environ["AJIT_CONFIG_FILE"]

    for ended in (ajit("config"), ajit("config", "--json")):
        assert ended.code == exits.PROBLEM
        assert "Traceback" not in ended.err
        assert "ajit.toml:1" in ended.out + ended.err
