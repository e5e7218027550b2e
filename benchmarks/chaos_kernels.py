"""The kernels of the chaos run, and a compiler that is quick, random in time and exact in bytes.

The compiler is a real program behind the ``host_compiler`` setting, so that nothing of ajit is
replaced. Every fifth kernel goes to the real C++ compiler, the last kernel is rejected as bad
source, and for all others the script writes, after a random delay, bytes that depend on nothing but
the kernel's number and the header that it includes. So every answer can be checked byte for byte,
and tells which content of its headers it was made of.

Like any compiler the script is seen to read: ajit's own header, which every source gets, and the
user's. Whatever it does besides, such as reading its switches, is not recorded.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import ajit
from benchmarks.chaos_headers import VALUES, files_of, group_of
from tests.images import a_shared_object

__all__ = [
    "expected_digests",
    "headers_of",
    "is_real",
    "is_rejected",
    "make_compiler",
    "spec_of",
]

ARTIFACT_LINES = 2000
_IMAGE = a_shared_object(["crunch"])
"""What every artifact begins with: a result that is no whole image is refused."""

_SCRIPT = r"""#!/bin/sh
if [ -n "$AJIT_READS" ]; then      # what this script does is no part of the compile
    export RECORD="$AJIT_READS"
    unset AJIT_READS
    exec /bin/sh "$0" "$@"
fi
[ -n "$RECORD" ] && recorded="env AJIT_READS=$RECORD"
output= before= proof= headers=
for argument; do
    case $before in
    -o) output=$argument ;;
    -isystem) [ -f "$argument/cuda_cxx/kernel.hpp" ] && proof=$argument/cuda_cxx/kernel.hpp ;;
    esac
    case $argument in -I@HEADERS@/*) headers=${argument#-I} ;; esac
    before=$argument
done
[ -n "$output" ] || exec $recorded @REAL@ "$@"           # it is asked about itself
delay="0.$(( $$ % 7 + 1 ))"
[ $(( $$ % 2 )) = 0 ] && sleep $delay                    # its headers may be edited before ...
grep -q 'chaos: real' source.cpp && exec $recorded @REAL@ "$@"
$recorded cat "$proof" > /dev/null
number=$(sed -n 's/.*chaos kernel \([0-9]*\).*/\1/p' source.cpp | head -n 1)
value=
if [ -n "$headers" ]; then
    # Read once: the bytes are those of what was recorded.
    value=$($recorded cat "$headers/value.h" | sed -n 's/^ *\([0-9]*\));$/\1/p')
    [ -n "$value" ] || { echo 'value.h: error: only half of it is there' >&2; exit 1; }
fi
[ $(( $$ % 2 )) = 1 ] && sleep $delay                    # ... or after they have been read
grep -q 'chaos: wrong' source.cpp && { echo 'source.cpp: error: wrong on purpose' >&2; exit 1; }
cat "$0.image" > "$output"
yes "artifact of chaos kernel $number, value ${value:-none}" | head -n @LINES@ >> "$output"
"""

_INCLUDES = """\
#include "value.h"
#if __has_include("optional.h")
#include "optional.h"
#else
#define CHAOS_EXTRA 0
#endif
"""


def make_compiler(folder: Path, headers: Path) -> Path:
    """Write the compiler's script and return its path.

    Args:
        folder: Where to.
        headers: The folder with the directories of headers.
    """
    real = shutil.which("c++")
    if real is None:
        raise SystemExit("chaos needs a C++ compiler on PATH as c++")
    path = folder / "chaos-c++"
    script = _SCRIPT.replace("@REAL@", real).replace("@HEADERS@", str(headers))
    path.write_text(script.replace("@LINES@", str(ARTIFACT_LINES)))
    path.chmod(0o755)
    path.with_name(f"{path.name}.image").write_bytes(_IMAGE)
    return path


def is_real(number: int) -> bool:
    """Whether the real compiler gets this kernel."""
    return number % 5 == 0


def is_rejected(number: int, kernels: int) -> bool:
    """Whether this kernel's source is wrong on purpose."""
    return number == kernels - 1 and not is_real(number)


def headers_of(number: int) -> tuple[str, ...]:
    """Return the headers that a kernel reads or looks for."""
    return files_of(number, real=is_real(number))


def spec_of(number: int, kernels: int, headers: Path) -> ajit.Spec:
    """Return the spec of one kernel; its name is its number."""
    mark = "wrong" if is_rejected(number, kernels) else "real" if is_real(number) else "quick"
    group = group_of(number)
    includes, values = ("", "") if group is None else (_INCLUDES, " + chaos_value + CHAOS_EXTRA")
    source = (
        f"// chaos kernel {number}, chaos: {mark}\n{includes}"
        'extern "C" __global__ void crunch(float* x) '
        f"{{ x[threadIdx.x] += {number}.0f{values}; }}\n"
    )
    include_dirs = [] if group is None else [str(headers / str(group))]
    return ajit.Spec(source, "crunch", name=str(number), include_dirs=include_dirs)


def expected_digests(number: int) -> dict[str, tuple[str, ...]]:
    """What the script may write for a kernel that neither is real nor rejected.

    Returns:
        SHA-256 of the bytes, and the contents of the kernel's headers that it stands for.
    """
    if group_of(number) is None:
        return {_digest(number, "none"): ()}
    return {_digest(number, value): (value,) for value in VALUES}


def _digest(number: int, value: str) -> str:
    text = f"artifact of chaos kernel {number}, value {value}\n" * ARTIFACT_LINES
    return hashlib.sha256(_IMAGE + text.encode()).hexdigest()
