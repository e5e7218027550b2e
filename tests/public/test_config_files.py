"""Settings from `ajit.toml` and `[tool.ajit]`: which file counts, and which is not used."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path

import pytest

from ajit import AjitWarning, Settings, SettingsError
from ajit._system import config_files, config_values
from ajit.settings import setting_names


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home and a working directory of this test; the directories above it have no file."""
    for name in list(os.environ):
        if name.startswith(("AJIT_", "XDG_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    (home / ".config" / "ajit").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    work = tmp_path / "work" / "deep"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    return home


def write(path, text, mode=0o644):
    """A file with settings."""
    path = Path(path)
    path.write_text(text)
    path.chmod(mode)
    return path


def project(text, name="ajit.toml", **more):
    """A file in the working directory."""
    return write(Path.cwd() / name, text, **more)


def users(home, text):
    """The user's own file."""
    return write(home / ".config" / "ajit" / "ajit.toml", text)


def test_order_is_argument_variable_project_user_default(home, monkeypatch):
    """Each of them gives one setting, and each is told by its origin."""
    mine = users(home, 'device = "cpu"\nworker_max_jobs = 4\ncompile_slots = 5\nmode = "frozen"\n')
    there = project('# how it is built\ndevice = "auto"\nworker_max_jobs = 3\ncompile_slots = 2\n')
    monkeypatch.setenv("AJIT_WORKER_MAX_JOBS", "7")

    settings = Settings(device="none")

    assert (settings.device, settings.origins["device"]) == ("none", "argument")
    assert settings.worker_max_jobs == 7
    assert settings.origins["worker_max_jobs"] == "AJIT_WORKER_MAX_JOBS"
    assert (settings.compile_slots, settings.origins["compile_slots"]) == (2, f"{there}:4")
    assert (settings.mode, settings.origins["mode"]) == ("frozen", f"{mine}:4")
    assert settings.origins["lease"] == "default"


def test_nearest_file_above_counts_and_no_other(home, tmp_path):
    """As for ruff and uv: files of two projects are not mixed."""
    write(tmp_path / "ajit.toml", "worker_max_jobs = 1\ncompile_slots = 1\n")
    near = write(tmp_path / "work" / "ajit.toml", "worker_max_jobs = 2\n")

    settings = Settings()

    assert (settings.worker_max_jobs, settings.origins["worker_max_jobs"]) == (2, f"{near}:1")
    assert settings.origins["compile_slots"] == "default"


def test_pyproject_counts_if_it_has_a_table_for_ajit(home, tmp_path):
    """One without is passed over; beside an ajit.toml it does not count; its lines are told."""
    above = write(
        tmp_path / "work" / "pyproject.toml",
        '[project]\nname = "x"\ndevice = "no"\n\n[tool.ajit]\ndevice = "cpu"\n',
    )
    project('[project]\nname = "deep"\n', "pyproject.toml")

    first = Settings()
    project('[tool.ajit]\ndevice = "none"\n', "pyproject.toml")
    second = Settings()
    project('device = "auto"\n')
    third = Settings()

    assert (first.device, first.origins["device"]) == ("cpu", f"{above}:6")
    assert (second.device, third.device) == ("none", "auto")


def test_pyproject_with_the_header_in_a_text_is_not_about_ajit(home):
    """What looks like the table may be in a string."""
    project('text = """\n[tool.ajit]\n"""\n', "pyproject.toml")

    assert Settings().origins["device"] == "default"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[tool."ajit"]\ndevice = "cpu"\n', 2),
        ("['tool' . ajit] # so\n  'device' = \"cpu\"\n", 2),
        ("[x]\n[tool.ajit]\n[y]\ndevice = 1\n[tool.x]\n", None),
        ('tool.ajit.mode = "normal"\ntool.ajit.device = "cpu"\n[x]\ndevice = 1\n', 2),
        ('tool."ajit" = {device = "cpu"}\n[x]\ndevice = 1\n', 0),
        ('[tool]\najit = {device = "cpu"}\n[x]\ndevice = 1\n', 0),
        ('[tool]\najit.device = "cpu"\n', 0),
        ('tool = {x = {}, ajit = {device = "cpu"}}\n', 0),
    ],
)
def test_the_table_counts_however_it_is_written(home, tmp_path, text, line):
    """TOML has many spellings; where the line cannot be told, the file is, and no wrong line."""
    write(tmp_path / "work" / "pyproject.toml", '[tool.ajit]\ndevice = "none"\n')
    there = project(text, "pyproject.toml")

    settings = Settings()

    if line is None:  # an empty table is one as well
        assert settings.origins["device"] == "default"
    else:
        assert settings.device == "cpu"
        assert settings.origins["device"] == (f"{there}:{line}" if line else str(there))


@pytest.mark.parametrize(
    "text",
    [
        'dependencies = ["ajit"]\n',
        '[tool.uv.sources]\najit = {path = "."}\n',
        '[tool.x]\ny = """\n[tool.ajit]\n"""\n',
        "tool = 3  # ajit\n",
    ],
)
def test_a_pyproject_that_only_mentions_ajit_is_passed_over(home, tmp_path, text):
    """A dependency is no table: the next one above counts."""
    write(tmp_path / "work" / "pyproject.toml", '[tool.ajit]\ndevice = "none"\n')
    project(text, "pyproject.toml")

    assert Settings().device == "none"


@pytest.mark.parametrize("text", ["[[tool.ajit]]\n", "tool.ajit = 3\n", "[tool]\najit = []\n"])
def test_what_is_no_table_is_an_error(home, text):
    """It was meant for ajit, and must not be silently ignored."""
    there = project(text, "pyproject.toml")

    with pytest.raises(SettingsError, match=r"tool\.ajit is not a table") as caught:
        Settings()

    assert str(there) in str(caught.value)


@pytest.mark.parametrize("text", ['dependencies = ["ajit\n', '[tool]\najit = {device = "cpu\n'])
def test_a_pyproject_that_is_no_toml_and_mentions_ajit_is_a_warning(home, text):
    """It may be about anything; with the table's header it is an error."""
    project(text, "pyproject.toml")
    with pytest.warns(AjitWarning, match=r"pyproject\.toml is not used: .*not TOML") as caught:
        Settings()
    project(f'[tool."ajit"]\n{text}', "pyproject.toml")
    with pytest.raises(SettingsError, match="not TOML"):
        Settings()

    assert caught[0].filename == __file__


@pytest.mark.parametrize("text", ['[tool."ajit"]\ndevice = "cpu"\n', "tool.ajit.device = 'cpu'\n"])
def test_a_table_that_is_not_taken_is_told_however_it_is_written(home, text):
    """And a file that others may write to is not even parsed."""
    project(text, "pyproject.toml", mode=0o666)
    with pytest.warns(AjitWarning, match="others may write to it"):
        settings = Settings()
    project('dependencies = ["ajit"]\n' + "x = [" * 1000, "pyproject.toml", mode=0o666)

    assert (settings.device, Settings().device) == ("cuda", "cuda")


def test_a_named_file_is_the_only_one(home, tmp_path, monkeypatch):
    """The project's and the user's are not read then; empty, none is."""
    users(home, "compile_slots = 5\n")
    project("worker_max_jobs = 3\n")
    named = write(tmp_path / "named.toml", 'device = "cpu"\n')

    monkeypatch.setenv("AJIT_CONFIG_FILE", str(named))
    settings = Settings()
    monkeypatch.setenv("AJIT_CONFIG_FILE", "")
    none = Settings()

    assert (settings.device, settings.origins["device"]) == ("cpu", f"{named}:1")
    assert {settings.origins[name] for name in ("compile_slots", "worker_max_jobs")} == {"default"}
    assert set(none.origins.values()) == {"default"}


def test_users_file_is_where_the_desktops_specification_says(home, tmp_path, monkeypatch):
    """A relative directory is to be ignored."""
    other = tmp_path / "other"
    (other / "ajit").mkdir(parents=True)
    write(other / "ajit" / "ajit.toml", 'device = "cpu"\n')
    users(home, 'device = "none"\n')

    monkeypatch.setenv("XDG_CONFIG_HOME", str(other))
    there = Settings().device
    monkeypatch.setenv("XDG_CONFIG_HOME", "other")
    relative = Settings().device

    assert (there, relative) == ("cpu", "none")


def test_another_environment_looks_for_no_file(home, tmp_path):
    """`environ=` says all there is; a file that it names is read."""
    project('device = "cpu"\n')
    named = write(tmp_path / "named.toml", 'device = "none"\n')

    assert Settings(environ={}).device == "cuda"
    assert Settings(environ={"AJIT_CONFIG_FILE": str(named)}).device == "none"
    assert Settings(config_files=False).device == "cuda"


def test_a_copy_keeps_what_was_read(home):
    """`dataclasses.replace` in another directory reads nothing again."""
    there = project('device = "cpu"\n')
    settings = Settings()
    project('device = "none"\n')

    copy = replace(settings, compile_slots=3)

    assert (copy.device, copy.origins["device"]) == ("cpu", f"{there}:1")
    assert copy.origins["compile_slots"] == "argument"


# --- values ---


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ('cache_limit_bytes = "2GiB"', "cache_limit_bytes", 2 << 30),
        ("cache_limit_bytes = 1000", "cache_limit_bytes", 1000),
        ('cache_max_age_seconds = "30d"', "cache_max_age_seconds", 30 * 86400.0),
        ("patience_seconds = 5", "patience_seconds", 5.0),
        ("explain = true", "explain", True),
        ('cache_layers = "/a:b"', "cache_layers", "/a:{}/b"),
        ('cache_layers = ["/a", "b"]', "cache_layers", "/a:{}/b"),
        ('record = "used"', "record", "{}/used"),
        ('record = "~/used"', "record", "~/used"),
        ('nvcc = "/opt/nvcc"', "nvcc", "/opt/nvcc"),
    ],
)
def test_values_have_tomls_types_and_units_and_paths_are_relative_to_the_file(
    home, line, name, expected
):
    """So that a path means the same wherever the program is started."""
    mine = users(home, f"{line}\n")
    if isinstance(expected, str):
        expected = expected.format(mine.parent)

    assert getattr(Settings(), name) == expected


def test_cache_of_a_project_may_be_in_it(home):
    """Relative to the file, not to where the command is run."""
    there = project('cache_dir = ".cache/ajit"\n')

    assert Settings().cache_dir == there.parent / ".cache" / "ajit"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('compile_slots = "4"', "compile_slots"),
        ('explain = "yes"', "explain"),
        ("explain = 1", "explain"),
        ("device = 3", "device"),
        ('device = "gpu"', "device"),
        ('cache_limit_bytes = "2 gibs"', "cache_limit_bytes"),
        ("cache_limit_bytes = -1", "cache_limit_bytes"),
        ("patience_seconds = inf", "patience_seconds"),
        ("cache_dir = 3", "cache_dir"),
        ("cache_layers = 3", "cache_layers"),
        ("cache_layers = [3]", "cache_layers"),
        ("device = 2026-01-01", "device"),
        ("lease = {a = 1}", "lease"),
    ],
)
def test_value_that_cannot_be_used_names_file_line_and_setting(home, line, name):
    """What does not count is not even parsed."""
    there = project(f"# settings\n{line}\n")

    with pytest.raises(SettingsError, match="expected") as caught:
        Settings()

    assert (caught.value.name, caught.value.origin) == (name, f"{there}:2")
    assert f"{there}:2" in str(caught.value)
    assert Settings(**{name: getattr(Settings(environ={}), name)}).origins[name] == "argument"


def test_no_toml_is_an_error_that_names_the_file_and_the_place(home):
    """A line that was cut off must not be silently ignored."""
    there = project('device = "cpu\n')

    with pytest.raises(SettingsError, match=r"is not TOML.*line 1") as caught:
        Settings()

    assert str(there) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 100_000,
        "x = " + "{a=" * 5000,
        "cache_limit_bytes = " + "9" * 5000,
        "cache_limit_bytes = 0x" + "f" * 5000,
        "cache_dir = 0x" + "f" * 5000,
        "x = 2026-02-31",
    ],
    ids=["arrays", "tables", "decimal", "hexadecimal", "of another type", "date"],
)
@pytest.mark.parametrize("named", [False, True])
def test_what_a_parser_cannot_hold_is_an_error_that_names_the_file(home, monkeypatch, text, named):
    """Whatever is in a file, what is raised is a SettingsError, in one line."""
    there = project(f"{text}\n")
    if named:
        monkeypatch.setenv("AJIT_CONFIG_FILE", str(there))

    with pytest.raises(SettingsError, match=re.escape(str(there))) as caught:
        Settings()

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_relative_name_in_a_directory_that_was_removed_is_an_error(home, monkeypatch):
    """The file was meant, and cannot be found."""
    monkeypatch.setenv("AJIT_CONFIG_FILE", "named.toml")
    Path.cwd().rmdir()

    with pytest.raises(SettingsError, match=r"named\.toml .*: the working directory"):
        Settings()


def test_a_named_pyproject_without_the_table_is_an_error(home, monkeypatch):
    """It was meant, and says nothing."""
    monkeypatch.setenv("AJIT_CONFIG_FILE", "pyproject.toml")
    project('[project]\nname = "x"\n', "pyproject.toml")

    with pytest.raises(SettingsError, match=r"has no table \[tool\.ajit\]"):
        Settings()


@pytest.mark.parametrize("path", ["/a\0b", "/a\ud800b"])
def test_what_cannot_be_a_path_is_an_error_where_it_is_named(home, path):
    """A directory of the desktop's specification that cannot be one has no file."""
    with pytest.raises(SettingsError, match="AJIT_CONFIG_FILE"):
        Settings(environ={"AJIT_CONFIG_FILE": path})
    with pytest.warns(AjitWarning, match="not used"):
        assert config_files.read_config_files({"XDG_CONFIG_HOME": path}, search=True) == []


def test_names_from_outside_begin_no_line_of_their_own(home, tmp_path, monkeypatch):
    """A line break in a path or in a key forges no message."""
    folder = tmp_path / "a\nforged: b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    texts = []
    project('"x\\nforged: y" = 1\n')
    with pytest.warns(AjitWarning) as caught:
        Settings()
    texts += [str(warning.message) for warning in caught]
    project("", mode=0o666)
    with pytest.warns(AjitWarning, match="others may write") as caught:
        Settings()
    texts += [str(warning.message) for warning in caught]
    for text in ("=", "device = 3", 'trust = "hmac"', 'hmac_key = "x"'):
        project(text, mode=0o644)
        with pytest.raises(SettingsError) as raised:
            Settings()
        texts += [str(raised.value), raised.value.origin]
    with pytest.raises(SettingsError) as raised:
        Settings(environ={"AJIT_CONFIG_FILE": "/none\nforged: b"})
    texts.append(str(raised.value))
    with pytest.warns(AjitWarning) as caught:
        Settings(environ={"AJIT_X\nforged: b": ""})
    texts += [str(warning.message) for warning in caught]

    assert all("forged" in text for text in texts)
    assert not any("\n" in text for text in texts)


def test_unknown_name_warns_with_file_line_and_the_nearest(home):
    """The warning points to the caller, as that of a variable does."""
    there = project('[other]\nx = 1\n[tool.ajit]\ncache-dir = "x"\n', "pyproject.toml")
    with pytest.warns(AjitWarning) as caught:
        Settings()

    assert [str(warning.message) for warning in caught] == [
        f"unknown setting cache-dir in {there}:4; did you mean cache_dir?"
    ]
    assert caught[0].filename == __file__


def test_unknown_variable_for_the_file_does_not_warn(home, monkeypatch):
    """`AJIT_CONFIG_FILE` is no setting, and known."""
    monkeypatch.setenv("AJIT_CONFIG_FILE", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Settings()


# --- what must not be taken ---


def test_every_setting_that_is_a_path_is_known_as_one():
    """A setting that is added has to be added to the list, or it is not relative to its file."""
    described = {
        item.name
        for item in fields(Settings)
        if item.name != "origins" and "path" in item.metadata["expected"]
    }

    absolute = {"board", "sandbox_paths"}
    assert described - absolute == config_values.PATHS


@pytest.mark.parametrize("text", ['trust = "hmac"', 'sandbox = "landlock"'])
def test_what_asks_for_more_care_is_not_left_out_of_a_projects_file(home, text):
    """A server that went on without would be less safe than was meant."""
    there = project(f"{text}\n")

    with pytest.raises(SettingsError, match=f"may not be in {there}:1"):
        Settings()


@pytest.mark.parametrize("name", sorted(config_values.NOT_IN_A_PROJECT - config_values.GUARDS))
def test_what_decides_whose_code_is_run_is_not_taken_from_a_project(home, tmp_path, name):
    """A checkout may bring a file, which keeps no server from starting; one's own counts."""
    assert name in setting_names()
    value = "true" if name == "allow_unsafe_cache" else '"/x"'
    text = f"{name} = {value}\n"
    there = project(text)

    with pytest.warns(AjitWarning, match=f"AJIT_{name.upper()}.*it is not used") as warned:
        without = Settings()
    there.unlink()
    mine = users(home, text)
    settings = Settings()

    assert f"{name} may not be in {there}:1" in str(warned[0].message)
    assert without.origins[name] == "default"
    assert settings.origins[name] == f"{mine}:1"


def test_a_secret_is_in_no_file(home):
    """Nor is it shown in the error."""
    users(home, 'hmac_key = "0123456789abcdef0123456789abcdef"\n')

    with pytest.raises(SettingsError, match="hmac_key_file") as caught:
        Settings()

    assert "0123456789abcdef" not in str(caught.value)


def test_a_secret_in_the_file_of_a_project_is_an_error_too(home):
    """Such files are committed: who wrote it there has to know."""
    project('hmac_key = "0123456789abcdef0123456789abcdef"\n')

    with pytest.raises(SettingsError, match="hmac_key_file"):
        Settings()


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_to_is_a_warning_and_not_used(home, mode):
    """And says what makes it usable."""
    there = project('device = "cpu"\n', mode=mode)

    with pytest.warns(AjitWarning, match=r"others may write to it \(chmod go-w") as caught:
        settings = Settings()

    assert settings.device == "cuda"
    assert str(there) in str(caught[0].message)
    assert caught[0].filename == __file__


def test_a_directory_that_others_may_write_to_has_no_file_for_us(home):
    """A server started in /tmp must not take what lies there."""
    project('device = "cpu"\n')
    Path.cwd().chmod(0o1777)

    with pytest.warns(AjitWarning, match="others may write to its directory"):
        settings = Settings()

    assert settings.device == "cuda"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("whose", ["the file", "its directory"])
def test_a_file_of_another_user_is_not_used(home, whose):
    """Neither is one of ours in his directory: he put it there."""
    there = project('device = "cpu"\n')
    os.chown(there if whose == "the file" else there.parent, 12345, 12345)

    with pytest.warns(AjitWarning, match=r"belongs to another user \(uid 12345\)"):
        settings = Settings()

    assert settings.device == "cuda"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_directory_that_is_swapped_while_it_is_read_leads_to_no_other(
    home, tmp_path, monkeypatch, depth
):
    """What is checked is what is read: a link put in its place does not choose a file for us."""
    ours = tmp_path / "ours"
    (ours / "x" / "x").mkdir(parents=True)
    for folder in (ours, ours / "x", ours / "x" / "x"):
        write(folder / "ajit.toml", 'device = "cpu"\n')
    theirs = Path.cwd()
    (theirs / "x" / "x").mkdir(parents=True)
    (theirs / "ajit.toml").symlink_to(ours / "ajit.toml")
    monkeypatch.chdir(theirs / Path(*["x"] * depth))
    theirs.chmod(0o777)
    real = os.getcwd

    def getcwd():
        found = real()
        theirs.rename(tmp_path / "moved")
        theirs.symlink_to(ours)
        return found

    monkeypatch.setattr(os, "getcwd", getcwd)
    with pytest.warns(AjitWarning, match="others may write to its directory") as caught:
        settings = Settings()

    assert settings.device == "cuda"
    assert caught[0].filename == __file__


def test_a_directory_above_that_cannot_be_entered_ends_the_search(home, monkeypatch):
    """And no descriptor is left, whether a file was found or not."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    Settings()
    project('device = "cpu"\n')
    Settings()
    real = os.open

    def refuse(path, flags, *more, **options):
        if path == "..":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *more, **options)

    Path("ajit.toml").unlink()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.warns(AjitWarning, match=r"work/ajit\.toml is not used: Permission") as caught:
        settings = Settings()

    assert settings.device == "cuda"
    assert caught[0].filename == __file__
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_others_may_not_stop_anyone_with_a_pyproject_that_is_no_file(home):
    """A FIFO or a directory in its place does not block, and is not about ajit."""
    os.mkfifo(Path.cwd() / "pyproject.toml")
    (Path.cwd().parent / "pyproject.toml").mkdir()

    assert Settings().device == "cuda"


def test_a_fifo_in_place_of_the_file_does_not_block(home):
    """It is told."""
    os.mkfifo(Path.cwd() / "ajit.toml", 0o600)

    with pytest.warns(AjitWarning, match="not a regular file"):
        Settings()


def test_a_file_that_is_too_large_is_not_read(home):
    """Nor is one that is no text."""
    there = project("#" * (config_files.MAX_BYTES + 1))
    with pytest.warns(AjitWarning, match="bytes, at most"):
        Settings()
    there.write_bytes(b'device = "\xff"')
    with pytest.warns(AjitWarning, match="not UTF-8"):
        Settings()


def test_what_is_wrong_with_a_named_file_is_an_error(home, tmp_path, monkeypatch):
    """It was meant, so a server must not start with other settings."""
    monkeypatch.setenv("AJIT_CONFIG_FILE", str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match=r"no such file") as caught:
        Settings()
    assert caught.value.origin == "AJIT_CONFIG_FILE"

    write(tmp_path / "none.toml", "", mode=0o666)
    with pytest.raises(SettingsError, match="others may write"):
        Settings()


def test_a_working_directory_that_was_removed_is_no_error(home):
    """A server may outlive where it was started."""
    users(home, 'device = "cpu"\n')
    Path.cwd().rmdir()

    assert Settings().device == "cpu"


def test_import_reads_no_file_and_tomllib_is_only_loaded_for_one(home):
    """Importing has no effect, and who has no file pays nothing."""
    users(home, "{{{\n")
    program = (
        "import sys, ajit, ajit.settings; print('tomllib' in sys.modules);"
        "ajit.Settings(config_files=False); print('tomllib' in sys.modules)"
    )

    printed = subprocess.check_output([sys.executable, "-c", program], text=True, timeout=60)

    assert printed == "False\nFalse\n"
