"""The kernels of the chaos run, and a compiler that is quick, random in time and exact in bytes.

The compiler is a real program behind the ``host_compiler`` setting, so that nothing of ajit is
replaced. Every fifth kernel goes to the real C++ compiler, the last kernel is rejected as bad
source, and for all others the script writes, after a random delay, bytes that depend on nothing but
the kernel's number. So every answer can be checked byte for byte.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import ajit
from tests.images import a_shared_object

__all__ = ["expected_digest", "is_real", "is_rejected", "make_compiler", "spec_of"]

ARTIFACT_LINES = 2000
_IMAGE = a_shared_object(["crunch"])
"""What every artifact begins with: a result that is no whole image is refused."""

_SCRIPT = r"""#!/bin/sh
output= before=
for argument; do
    [ "$before" = -o ] && output=$argument
    before=$argument
done
[ -n "$output" ] || exec @REAL@ "$@"           # it is asked about itself
sleep "0.$(( $$ % 7 + 1 ))"
grep -q 'chaos: real' source.cpp && exec @REAL@ "$@"
grep -q 'chaos: wrong' source.cpp && { echo 'source.cpp: error: wrong on purpose' >&2; exit 1; }
number=$(sed -n 's/.*chaos kernel \([0-9]*\).*/\1/p' source.cpp | head -n 1)
cat "$0.image" > "$output"
yes "artifact of chaos kernel $number" | head -n @LINES@ >> "$output"
"""


def make_compiler(folder: Path) -> Path:
    """Write the compiler's script and return its path."""
    real = shutil.which("c++")
    if real is None:
        raise SystemExit("chaos needs a C++ compiler on PATH as c++")
    path = folder / "chaos-c++"
    path.write_text(_SCRIPT.replace("@REAL@", real).replace("@LINES@", str(ARTIFACT_LINES)))
    path.chmod(0o755)
    path.with_name(f"{path.name}.image").write_bytes(_IMAGE)
    return path


def is_real(number: int) -> bool:
    """Whether the real compiler gets this kernel."""
    return number % 5 == 0


def is_rejected(number: int, kernels: int) -> bool:
    """Whether this kernel's source is wrong on purpose."""
    return number == kernels - 1 and not is_real(number)


def spec_of(number: int, kernels: int) -> ajit.Spec:
    """Return the spec of one kernel; its name is its number."""
    mark = "wrong" if is_rejected(number, kernels) else "real" if is_real(number) else "quick"
    source = (
        f"// chaos kernel {number}, chaos: {mark}\n"
        f'extern "C" __global__ void crunch(float* x) {{ x[threadIdx.x] += {number}.0f; }}\n'
    )
    return ajit.Spec(source, "crunch", name=str(number))


def expected_digest(number: int) -> str:
    """SHA-256 of what the script writes for a kernel that neither is real nor rejected."""
    text = f"artifact of chaos kernel {number}\n" * ARTIFACT_LINES
    return hashlib.sha256(_IMAGE + text.encode()).hexdigest()
