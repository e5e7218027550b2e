"""``native/table.def`` as Python sees it: numbers by name, layouts by the names of their fields.

The C sources include the same file, so neither side repeats the other's numbers. A layout is asked
for with the fields in the order in which the caller packs them: where the file has others, that is
an error at import, and not a wrong byte later. `Table.check` holds a built library against the
file: one that was built from another table is refused before anything is submitted to it.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["StaleLibrary", "Table"]

_ROW = re.compile(r'^([A-Z_]+)\(([^")]*)(?:"([^"]*)")?\)', re.MULTILINE)
_TYPES: dict[str, tuple[str, Any]] = {
    "u64": ("Q", ctypes.c_uint64),
    "u32": ("I", ctypes.c_uint32),
    "u16": ("H", ctypes.c_uint16),
    "i32": ("i", ctypes.c_int32),
    "i16": ("h", ctypes.c_int16),
    "atomic_u64": ("Q", ctypes.c_uint64),
    "text": ("s", ctypes.c_char),
    "handle": ("Q", ctypes.c_void_p),
    "u32_list": ("Q", ctypes.POINTER(ctypes.c_uint32)),
}
"""Of a field: its code for `struct`, and its type for ctypes."""
_LISTS = {"function_list": "function"}
"""Fields that are pointers to a struct of the table. They are read in place, never packed."""
_INLINED = "operation"
"""The struct that each operation begins with; packed field by field, others as bytes."""


class StaleLibrary(OSError):
    """A library was built from another table than the one that lies beside it."""


class Table:
    """The rows of a ``table.def``.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        self._fields: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
        self._structures: dict[str, Any] = {}
        for row, arguments, text in _ROW.findall(path.read_text(encoding="utf-8")):
            cells = [cell.strip() for cell in arguments.split(",")]
            if row in {"FIELD", "ARRAY", "MEMBER"}:
                owner, kind, field, *length = cells
                self._fields[owner].append((field, kind, int(*length or ("1",))))
            else:
                self._rows[row].append((*cells[:3], text))

    # --- numbers --------------------------------------------------------------------------------

    def numbers(self, row: str, *names: str) -> tuple[int, ...]:
        """Return the numbers of these names, from the rows of one kind.

        Raises:
            TypeError: There is no such row.
        """
        known = {name: int(number, 0) for name, number, *_ in self._rows[row]}
        if unknown := [name for name in names if name not in known]:
            raise TypeError(f"{self._path} has no {row} {unknown[0]}")
        return tuple(known[name] for name in names)

    def texts(self) -> dict[int, str]:
        """Return what each opcode is called."""
        return {int(number, 0): text for _, number, _, text in self._rows["OPCODE"]}

    def errors(self) -> dict[int, tuple[str, bool]]:
        """Return the name of each result code of the driver, and whether it is sticky."""
        return {int(row[1]): (row[0], row[2] == "STICKY") for row in self._rows["ERROR"]}

    # --- layouts --------------------------------------------------------------------------------

    def codes(self, owner: str, *names: str) -> list[str]:
        """Return the codes for `struct` of all fields, one string a field.

        Args:
            owner: The struct.
            names: Its fields, in the order in which the caller packs them.

        Raises:
            TypeError: The struct has other fields, or another order.
        """
        fields = list(self._flat(owner))
        if (known := tuple(field for field, *_ in fields)) != names:
            raise TypeError(f"{self._path} has {owner} {known}, ajit packs {names}")
        return [code if n == 1 else f"{n}{code}" for _, code, n in fields]

    def layout(self, owner: str, *names: str) -> struct.Struct:
        """Return what packs and unpacks a struct. Arguments and errors as in `codes`."""
        return struct.Struct("<" + "".join(self.codes(owner, *names)))

    def fields(self, owner: str) -> list[tuple[str, Any]]:
        """Return the fields of a struct for a `ctypes.Structure`."""
        return [
            (field, self._type(kind) * length if length > 1 else self._type(kind))
            for field, kind, length in self._fields[owner]
        ]

    def _flat(self, owner: str) -> Iterator[tuple[str, str, int]]:
        for field, kind, length in self._fields[owner]:
            if kind == _INLINED:
                yield from self._flat(kind)
            elif kind in _TYPES:
                yield field, _TYPES[kind][0], length
            else:
                yield field, "s", ctypes.sizeof(self._type(kind))

    def _type(self, kind: str) -> Any:
        if kind in _LISTS:
            return ctypes.POINTER(self._structure(_LISTS[kind]))
        return _TYPES[kind][1] if kind in _TYPES else self._structure(kind)

    def _structure(self, owner: str) -> Any:
        if owner not in self._structures:
            members = {"_fields_": self.fields(owner)}
            self._structures[owner] = type(owner, (ctypes.Structure,), members)
        return self._structures[owner]

    # --- what a library was built with ----------------------------------------------------------

    def places(self, library: str, facts: Mapping[str, int]) -> dict[str, int]:
        """Hold the facts that a library reports against this table; return what only it knows.

        Args:
            library: Its path, for the message.
            facts: From ``ajit_table``.

        Returns:
            The offsets of the PLACE rows, by names such as ``port_records``.

        Raises:
            StaleLibrary: One differs, or is missing on one side.
        """
        places = {f"place of {o}.{f}": f"{o}_{f}" for o, f, *_ in self._rows["PLACE"]}
        expected: dict[str, object] = dict(self._facts())
        expected |= {name: facts.get(name, "an offset") for name in places}
        names = [*expected, *facts]
        if wrong := next((name for name in names if expected.get(name) != facts.get(name)), None):
            raise StaleLibrary(
                f"{library} was built from another table: {wrong!r} is {facts.get(wrong)} in it "
                f"and {expected.get(wrong)} in {self._path}; build it again (`make setup` in a "
                f"checkout, or install ajit again)"
            )
        return {key: facts[name] for name, key in places.items()}

    def _facts(self) -> Iterator[tuple[str, int]]:
        for row in ("OPCODE", "REFUSAL", "FLAG", "VERDICT", "LAUNCH_FLAG", "CONSTANT", "ERROR"):
            for name, number, *_ in self._rows[row]:
                yield f"{row.lower().replace('_', ' ')} {name}", int(number, 0)
        for name, number, kind, _ in self._rows["ERROR"]:
            yield f"{kind} {name}", int(number)
        for owner, *_ in self._rows["STRUCT"]:
            yield f"size of {owner}", ctypes.sizeof(self._structure(owner))
        for owner in self._fields:
            structure = self._structure(owner)
            for field, _ in structure._fields_:
                yield f"place of {owner}.{field}", getattr(structure, field).offset
