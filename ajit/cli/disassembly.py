"""The machine code of an entry as text, by NVIDIA's own programs where they are installed.

``cuobjdump`` and ``nvdisasm`` come with a toolkit, or as wheels (the extra ``sass``). They are
given a copy in a private directory, and may take a minute.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ajit._compile.toolchains.places import cuda_roots
from ajit.cli.exits import Lacking
from ajit.errors import AjitError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Form", "NoCode", "disassembled"]

Form = Literal["sass", "ptx"]

LIMIT_SECONDS = 120.0
"""Pretty arbitrary: the largest cubins that we know of take ten seconds."""

_WAYS: dict[Form, tuple[tuple[str, ...], ...]] = {
    "sass": (("cuobjdump", "-sass"), ("nvdisasm",)),
    "ptx": (("cuobjdump", "-ptx"),),
}


class NoCode(AjitError):
    """An entry has no code of that form. Nothing was written."""


def disassembled(image: bytes, form: Form) -> bytes:
    """Return the SASS or PTX of a cubin, or of a shared object with some in it.

    Raises:
        Lacking: None of the programs is installed.
        NoCode: There is none in it, or the program does not understand it.
    """
    for program, *options in _WAYS[form]:
        if path := _found(program):
            return _run([path, *options], image, form)
    names = " or ".join(program for program, *_ in _WAYS[form])
    raise Lacking(f"this needs {names}: install a CUDA toolkit, or pip install 'ajit[sass]'")


def _found(program: str) -> str:
    if path := shutil.which(program):
        return path
    places = (Path(root, "bin", program) for root in cuda_roots())
    return next((str(path) for path in places if path.is_file()), "")


def _run(command: Sequence[str], image: bytes, form: Form) -> bytes:
    with tempfile.TemporaryDirectory(prefix="ajit-") as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(image)
        try:
            ended = subprocess.run(
                [*command, str(file)],
                stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=LIMIT_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise Lacking(f"{command[0]} does not work: {exc}") from exc
        text = ended.stdout.replace(str(file).encode(), b"kernel.cubin")
    if ended.returncode or not text.strip():
        said = ended.stderr.decode(errors="replace").strip().replace(str(file), "it")
        raise NoCode(f"there is no {form.upper()} in it" + (f": {said}" if said else ""))
    return text
