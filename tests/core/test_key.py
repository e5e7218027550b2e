"""A base key stands for all that is known before a compile and decides it, and nothing else."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ajit._core.key import Difference, Key, ToolchainId, explain, is_key, make_base_key
from ajit._core.spec import EntryPoint, Spec

PROJECT = Path(__file__).parents[2]

TOOLCHAIN = ToolchainId("nvrtc", "13.0.88", "5f" * 32)
SPEC = Spec(
    "template <typename T, int N> __global__ void scale(T a, T* x) {}\n",
    ["scale<float, 4>", "scale<half, 8>"],
    name="scale",
    compiler="nvrtc",
    options=["-std=c++17", "-lineinfo"],
    defines={"TILE": 32, "BARE": None, "EMPTY": ""},
    include_dirs=["include"],
    headers={"generated.h": "#pragma once\n"},
    extra_digest="v1",
)


def key_of(spec=SPEC, toolchain=TOOLCHAIN, arch="sm_90a", machine="") -> Key:
    """The base key of the fixed request above, some parts as asked."""
    return make_base_key(spec, toolchain, arch, machine)


def test_golden_key():
    """A key never changes by accident: every cache in the world would be cold.

    If it changes on purpose, so does `KEY_SCHEMA`, which says why.
    """
    assert key_of().hex == "752abe4f3ec07cc676b4b74e2f0eefadca4f53d56bc019f6fa57b4d9959d0fbe"


def test_key_is_what_its_docstring_says():
    """SHA-256 over label and value of each part in order, each with its length before it."""
    parts = [
        ("schema", "4.3"),
        ("compiler", "nvrtc"),
        ("compiler version", "13.0.88"),
        ("toolchain", "5f" * 32),
        ("arch", "sm_90a"),
        ("define BARE", ""),
        ("define EMPTY", "="),
        ("define TILE", "=32"),
        ("option 0", "-std=c++17"),
        ("option 1", "-lineinfo"),
        ("source", SPEC.source),
        ("entry 0", "scale<float, 4>"),
        ("entry 1", "scale<half, 8>"),
        ("virtual header generated.h", "#pragma once\n"),
        ("include dirs", "1"),
        ("extra digest", "v1"),
    ]
    expected = hashlib.sha256(
        b"".join(
            len(piece).to_bytes(8, "little") + piece
            for label, value in parts
            for piece in (label.encode(), value.encode())
        )
    ).hexdigest()
    actual = key_of()

    assert actual.hex == expected
    assert str(actual) == expected
    assert [label for label, _ in actual.fields] == [label for label, _ in parts]


OTHER_REQUESTS = {
    "source": {"spec": SPEC.with_(source=SPEC.source + " ")},
    "entry": {"spec": SPEC.with_(entries=["scale<float, 4>", "scale<half, 4>"])},
    "fewer entries": {"spec": SPEC.with_(entries=["scale<float, 4>"])},
    "order of entries": {"spec": SPEC.with_(entries=["scale<half, 8>", "scale<float, 4>"])},
    "option": {"spec": SPEC.with_(options=["-std=c++20", "-lineinfo"])},
    "order of options": {"spec": SPEC.with_(options=["-lineinfo", "-std=c++17"])},
    "options joined": {"spec": SPEC.with_(options=["-std=c++17-lineinfo"])},
    "macro value": {"spec": SPEC.with_(defines={"TILE": 64, "BARE": None, "EMPTY": ""})},
    "macro name": {"spec": SPEC.with_(defines={"TILES": 32, "BARE": None, "EMPTY": ""})},
    "bare macro": {"spec": SPEC.with_(defines={"TILE": 32, "BARE": "", "EMPTY": ""})},
    "empty macro": {"spec": SPEC.with_(defines={"TILE": 32, "BARE": None, "EMPTY": None})},
    "one more include directory": {"spec": SPEC.with_(include_dirs=["include", "other"])},
    "no include directory": {"spec": SPEC.with_(include_dirs=[])},
    "text of a virtual header": {"spec": SPEC.with_(headers={"generated.h": ""})},
    "name of a virtual header": {"spec": SPEC.with_(headers={"g.h": "#pragma once\n"})},
    "extra digest": {"spec": SPEC.with_(extra_digest="v2")},
    "no extra digest": {"spec": SPEC.with_(extra_digest=None)},
    "empty extra digest": {"spec": SPEC.with_(extra_digest="")},
    "compiler": {"toolchain": replace(TOOLCHAIN, name="nvcc")},
    "compiler version": {"toolchain": replace(TOOLCHAIN, version="13.0.89")},
    "fingerprint": {"toolchain": replace(TOOLCHAIN, fingerprint="6f" * 32)},
    "arch": {"arch": "sm_90"},
    "this machine": {"machine": "one CPU"},
    "another machine": {"machine": "another CPU"},
}


@pytest.mark.parametrize("request_", OTHER_REQUESTS.values(), ids=OTHER_REQUESTS.keys())
def test_whatever_reaches_the_compiler_changes_the_key(request_):
    """Each part counts, also its order and its absence; and `explain` sees it."""
    other = key_of(**request_)

    assert other.hex != key_of().hex
    assert explain(key_of(), other)


def test_no_two_of_these_requests_share_a_key():
    """Not only do they differ from the fixed request."""
    keys = [key_of(**request_).hex for request_ in OTHER_REQUESTS.values()]

    assert len(set(keys)) == len(OTHER_REQUESTS)


SAME_REQUESTS = {
    "label": {"spec": SPEC.with_(name="other label")},
    "include paths": {"spec": SPEC.with_(include_dirs=["/opt/other/include"])},
    "declared parameters": {
        "spec": SPEC.with_(entries=[EntryPoint(e.name, e.params) for e in SPEC.entries])
    },
    "how the compiler was chosen": {"spec": SPEC.with_(compiler="auto")},
    "arch by name or from the device": {"spec": SPEC.with_(arch="sm_90a")},
    "order of macros": {"spec": SPEC.with_(defines=[("TILE", 32), "BARE", ("EMPTY", "")])},
}


@pytest.mark.parametrize("request_", SAME_REQUESTS.values(), ids=SAME_REQUESTS.keys())
def test_nothing_else_changes_the_key(request_):
    """A change that does not reach the compiler costs no compile."""
    assert key_of(**request_) == key_of()
    assert explain(key_of(**request_), key_of()) == []


def test_key_is_the_same_in_every_process(tmp_path):
    """Not another directory, nor environment, nor locale, nor seed of hashes makes another key."""
    program = (
        "from ajit._core.key import ToolchainId, make_base_key; from ajit._core.spec import Spec;"
        "spec = Spec('int größe, a, b;', ['b', 'a'], defines={'Z': 1, 'A': 2}, headers={'h': ''});"
        "print(make_base_key(spec, ToolchainId('a', 'b', 'c'), 'sm_80').hex)"
    )

    def run(**environ: str) -> str:
        environ["PYTHONPATH"] = str(PROJECT)
        return subprocess.check_output(
            [sys.executable, "-c", program],
            env=environ,
            cwd=environ.get("PWD"),
            timeout=60,
            text=True,
        )

    plain = run(PYTHONHASHSEED="1")
    other = run(
        PYTHONHASHSEED="2", PWD=str(tmp_path), LC_ALL="C", HOME=str(tmp_path), TZ="Asia/Tokyo",
        CPATH="/opt/include", AJIT_DEVICE="cpu",
    )  # fmt: skip

    assert is_key(plain.strip())
    assert other == plain


# --- no two requests have the same bytes ---

# Few letters, so that texts which run into each other are tried often.
TINY = st.text("a=\x01", max_size=3)
NAME = st.sampled_from(["a", "aa", "b"])
PAIRS = st.dictionaries(NAME, TINY, max_size=2)
REQUESTS = st.builds(
    lambda source, entries, options, defines, headers, extra, toolchain, arch: (
        Spec("#include <x>\n" + source, entries, options=options, defines=defines, headers=headers,
                extra_digest=extra),
        ToolchainId(*toolchain), arch,
    ),
    TINY, st.lists(NAME, min_size=1, max_size=2, unique=True), st.lists(TINY, max_size=2),
    st.dictionaries(NAME, st.none() | TINY, max_size=2), PAIRS, st.none() | TINY,
    st.tuples(TINY, TINY, TINY), TINY,
)  # fmt: skip


@given(REQUESTS, REQUESTS)
@example(
    (Spec("#include <x>", "a", options=["a", "a"]), TOOLCHAIN, ""),
    (Spec("#include <x>", "a", options=["aa"]), TOOLCHAIN, ""),
)
@example(
    (Spec("#include <x>", "a", headers={"a": "b"}), TOOLCHAIN, ""),
    (Spec("#include <x>", "a"), TOOLCHAIN, ""),
)
@example(
    (Spec("#include <x>", "a"), ToolchainId("a", "aa", ""), ""),
    (Spec("#include <x>", "a"), ToolchainId("aa", "a", ""), ""),
)
def test_only_equal_requests_share_a_key(one, other):
    """Lengths stand before the parts, so no text can run into the next one."""
    assert (make_base_key(*one).hex == make_base_key(*other).hex) == (one == other)


# --- explain ---


def test_explain_says_what_changed():
    """In key order, with both values."""
    other = key_of(spec=SPEC.with_(defines={"TILE": 64, "EMPTY": ""}), arch="sm_80")

    assert explain(key_of(), other) == [
        Difference("arch", "sm_90a", "sm_80"),
        Difference("define BARE", "", None),
        Difference("define TILE", "=32", "=64"),
    ]


def test_explain_shows_long_values_as_digests():
    """A changed source is one short line, not two sources."""
    other = key_of(spec=SPEC.with_(source="scale " * 2_000))
    [difference] = explain(key_of(), other)

    assert difference.field == "source"
    assert difference.b == f"sha256:{hashlib.sha256(b'scale ' * 2_000).hexdigest()} (12000 bytes)"
    assert difference.a != difference.b


def test_explain_takes_the_fields_of_a_manifest():
    """`ajit cache why` has entries of other processes, not keys."""
    one, other = key_of(), key_of(arch="sm_80")
    expected = [Difference("arch", "sm_90a", "sm_80")]

    assert explain(one.fields, other) == expected
    assert explain(dict(one.fields), list(other.fields)) == expected


def test_key_is_a_value():
    """Frozen, hashable, equal by content."""
    assert hash(key_of()) == hash(key_of())
    with pytest.raises(AttributeError):
        key_of().hex = "00"


def test_toolchain_reads_as_name_and_version():
    """For messages and holder records."""
    assert str(TOOLCHAIN) == "nvrtc 13.0.88"


@pytest.mark.parametrize(
    "text",
    ["", "ab", "G" * 64, "A" * 64, "a" * 63, "a" * 65, "../" + "a" * 61, "a" * 63 + "\n",
     "٣" * 64, "a" * 31 + "/" + "a" * 32],
)  # fmt: skip
def test_only_keys_become_file_names(text):
    """64 lower-case hex digits and nothing else."""
    assert not is_key(text)
    assert is_key(key_of().hex)
