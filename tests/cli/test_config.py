"""`ajit config`: every setting, with where it came from."""

from __future__ import annotations

import pytest

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


def test_a_file_with_a_value_that_cannot_be_is_a_usage_error_that_names_both(ajit):
    """For every command that has settings."""
    file = ajit.folder / "ajit.toml"
    file.write_text("compile_slots = -2\n")
    del ajit.environ["AJIT_CONFIG_FILE"]

    for command in (("config",), ("cache", "path"), ("doctor",)):
        ended = ajit(*command)

        assert ended.code == exits.USAGE
        assert "compile_slots" in ended.err
        assert f"{file}:1" in ended.err


@pytest.mark.parametrize("value", ["0x" + "f" * 5000, "2026-01-01", "inf", "[1, 2026-01-01]"])
def test_a_value_that_json_does_not_have_is_told_without_a_traceback(ajit, value):
    """To people and to programs."""
    (ajit.folder / "ajit.toml").write_text(f"compile_slots = {value}\n")
    del ajit.environ["AJIT_CONFIG_FILE"]

    for ended in (ajit("config"), ajit("config", "--json")):
        assert ended.code == exits.USAGE
        assert "Traceback" not in ended.err
        assert "ajit.toml:1" in ended.out + ended.err
