"""The table that C and Python both read: what one side says, the other one does."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ajit
from ajit._gpu import wire
from ajit._gpu.driver import CPU_LIBRARY
from ajit._gpu.results import STICKY, code_name
from ajit._gpu.table import StaleLibrary, Table
from ajit._gpu.wire import NATIVE

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=c11", "-O0", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-fvisibility=hidden"]
CODES = range(1001)

# A change in a copy of the table, and the first fact that then differs.
CHANGES = {
    "opcode": ("OPCODE(MARK, 6,", "OPCODE(MARK, 14,", "opcode MARK"),
    "refusal": ("REFUSAL(FULL, 1)", "REFUSAL(FULL, 9)", "refusal FULL"),
    "flag": ("FLAG(EXPIRED, 8)", "FLAG(EXPIRED, 64)", "flag EXPIRED"),
    "constant": ("CONSTANT(RECORDS, 256)", "CONSTANT(RECORDS, 128)", "constant RECORDS"),
    "error": ("ERROR(NOT_READY, 600,", "ERROR(NOT_READY, 601,", "error NOT_READY"),
    "sticky": ("ERROR(ASSERT, 710, STICKY", "ERROR(ASSERT, 710, USABLE", "STICKY ASSERT"),
    "field": (
        "FIELD(counters, atomic_u64, failed)\n", "", "size of counters"
    ),
    "order": (
        "FIELD(options, u64, spin_ns)\nFIELD(options, u64, deadline_ns)\n",
        "FIELD(options, u64, deadline_ns)\nFIELD(options, u64, spin_ns)\n",
        "place of options.spin_ns",
    ),
    "length": (
        "ARRAY(device_info, i32, max_grid, 3)", "ARRAY(device_info, i32, max_grid, 5)",
        "size of device_info",
    ),
}  # fmt: skip


def compile_c(*arguments: object) -> None:
    """Run the C compiler, or skip where there is none."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler on PATH")
    subprocess.run([compiler, *FLAGS, *map(str, arguments)], check=True, timeout=60)


def build(folder: str, native: Path, library: str) -> Path:
    """Build one of the two libraries from a copy of its sources."""
    compile_c("-fPIC", "-shared", *(native / folder).glob("*.c"), "-o", native / library, "-ldl")
    return native / library


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., tuple[Path, Table]]:
    """Returns the executor built from a table with replacements, and that table."""

    def change(*replacements: tuple[str, str]) -> tuple[Path, Table]:
        native = tmp_path / "native"
        shutil.copytree(NATIVE / "executor", native / "executor")
        text = (NATIVE / "table.def").read_text()
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (native / "table.def").write_text(text)
        # The copy may lack a counter that the executor counts; only what it reports matters here.
        sources = [native / "executor/table.c"]
        compile_c("-fPIC", "-shared", *sources, "-o", native / "libajit_executor.so")
        return native / "libajit_executor.so", Table(native / "table.def")

    return change


@pytest.mark.parametrize("change", CHANGES)
def test_a_library_of_another_table_is_refused_and_of_the_same_is_not(changed, change: str) -> None:
    """Every kind of row is compared by name; the message names the row and says what to do."""
    old, new, fact = CHANGES[change]
    library, table = changed((old, new))
    facts = wire._facts(ctypes.CDLL(str(library)))
    ours = wire._facts(ctypes.CDLL(str(wire.EXECUTOR)))

    with pytest.raises(StaleLibrary, match=rf"another table: '{fact}' is .* build it again"):
        wire.TABLE.places("it", facts)
    assert set(table.places("it", facts)) == set(wire.library().layout)
    assert facts.get(fact) != ours[fact]


def test_a_library_that_reports_nothing_is_refused(tmp_path: Path) -> None:
    """As one from before there was a table."""
    (tmp_path / "old.c").write_text("int ajit_submit(void); int ajit_submit(void) { return 0; }")
    compile_c("-shared", "-fPIC", tmp_path / "old.c", "-o", tmp_path / "old.so")

    with pytest.raises(StaleLibrary, match="'opcode LAUNCH' is None in it"):
        wire.Library(tmp_path / "old.so")


def test_fields_in_another_order_are_an_error_and_not_a_wrong_byte(changed) -> None:
    """Fields that Python packs by position are named, and the table must agree."""
    _, table = changed(
        ("FIELD(copy, u64, target)", "FIELD(copy, u64, source_)"),
        ("FIELD(copy, u64, source)", "FIELD(copy, u64, target)"),
    )

    with pytest.raises(TypeError, match=r"copy \('opcode', 'bytes', 'source_', 'target', 'size'\)"):
        table.layout("copy", "opcode", "bytes", "target", "source", "size")


def test_a_name_that_the_table_lacks_is_an_error(changed) -> None:
    """And names the kind of row, and the file."""
    _, table = changed(("REFUSAL(LOST, 3)\n", ""))

    with pytest.raises(TypeError, match=r"table\.def has no REFUSAL LOST"):
        table.numbers("REFUSAL", "LOST")


def test_layouts_have_no_padding() -> None:
    """A record that `struct` packs without padding has the size that a C compiler gives it."""
    facts = wire._facts(ctypes.CDLL(str(wire.EXECUTOR)))
    packed = {
        "submission": wire.SUBMISSION, "shape": wire.SHAPE, "copy": wire.COPY,
        "fill": wire.FillLayout, "alloc": wire.SIMPLE, "load": wire.LoadLayout,
        "elapsed": wire.ELAPSED_LAYOUT, "record": wire.RECORD, "heartbeat": wire.HEARTBEAT,
        "tensor_type": wire.TENSOR_TYPE,
    }  # fmt: skip
    expected = {name: facts[f"size of {name}"] for name in packed}

    assert expected == {name: layout.size for name, layout in packed.items()}
    assert facts["size of launch"] == wire.LAUNCH_FIXED_BYTES + wire.SHAPE.size


def test_importing_the_layouts_loads_no_library() -> None:
    """The library is loaded when a device is opened; the table is a file."""
    program = "import ajit._gpu.wire; print('libajit' in open('/proc/self/maps').read())"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )

    assert ran.stdout == "False\n"


def test_the_executor_calls_the_tables_codes_sticky(tmp_path: Path) -> None:
    """Its own function and Python's set name the same codes."""
    program = tmp_path / "sticky.c"
    program.write_text(
        '#include "executor/driver.h"\n#include <stdio.h>\nint main(void) {\n'
        f"for (int code = 0; code < {len(CODES)}; code++)\n"
        'if (ajit_driver_is_sticky(code)) printf("%d ", code);\nreturn 0; }\n'
    )
    compile_c(f"-I{NATIVE}", program, NATIVE / "executor/driver.c", "-o", tmp_path / "run", "-ldl")
    said = subprocess.run([tmp_path / "run"], check=True, capture_output=True, text=True).stdout

    assert set(map(int, said.split())) == STICKY
    assert {4, 214, 220, 226, 700, 702, 709, 710, *range(714, 720), 721, 810, 911} == STICKY


def test_the_cpu_driver_names_errors_as_python_does() -> None:
    """All of them; a program may ask for those that only other drivers return."""
    driver = ctypes.CDLL(str(NATIVE / CPU_LIBRARY))
    name = ctypes.c_char_p()
    named = {
        code: name.value for code in CODES if not driver.cuGetErrorName(code, ctypes.byref(name))
    }
    expected = {code: code_name(code).encode() for code in CODES if code_name(code)}

    assert expected == {code: text for code, text in named.items() if code}
    assert len(expected) > 100


PROGRAM = """
import anyio
from ajit._gpu import wire
from tests.gpu.support import cpu_device, kernels

async def main():
    async with cpu_device() as device:
        launch = await kernels(device)
        buffer = await device.upload(bytes(8))
        await device.fill(buffer[4:8], 1)
        await launch("add_one").launch(1, 1, buffer, 1, timed=True)
        await device.mark()
        print(bytes(await device.download(buffer)).hex(), wire.MARK, wire.LAUNCH, wire.SETTLED)
        print(device.statistics().launches, device.statistics().failed, wire.COUNTERS[0])

anyio.run(main)
"""


def test_a_package_with_another_table_works(tmp_path: Path) -> None:
    """Numbers and layouts changed in one place, both libraries built: everything else follows."""
    shutil.copytree(Path(ajit.__file__).parent, tmp_path / "ajit")
    native = tmp_path / "ajit/_gpu/native"
    text = (native / "table.def").read_text()
    for old, new in {
        "OPCODE(MARK, 6,": "OPCODE(MARK, 14,",
        "OPCODE(LAUNCH, 1,": "OPCODE(LAUNCH, 15,",
        "FLAG(SETTLED, 1)": "FLAG(SETTLED, 64)",
        "FIELD(counters, atomic_u64, dispatched)\n": "",
        "END(counters)\n": "FIELD(counters, atomic_u64, dispatched)\nEND(counters)\n",
        "FIELD(record, u32, flags)": "FIELD(record, u64, flags)",
        "FIELD(record, i32, code)": "FIELD(record, u64, code)",
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (native / "table.def").write_text(text)
    for folder, library in (("executor", wire.EXECUTOR.name), ("cpu_driver", CPU_LIBRARY)):
        build(folder, native, library)
    path = (str(tmp_path), str(ROOT), sysconfig.get_path("purelib"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    ran = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM], cwd=tmp_path, env=environment, check=False,
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip

    assert ran.stderr == ""
    assert ran.stdout == "0100000001010101 14 15 64\n1 0 settled\n"
