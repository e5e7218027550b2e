"""`ajit config`: every setting, with where it came from."""

from __future__ import annotations

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
