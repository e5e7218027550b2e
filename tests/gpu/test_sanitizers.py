"""The C sources under the sanitizers, with every part instrumented: no report, no suppression."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.gpu.cpu_driver import NATIVE, build_driver, build_image

HERE = Path(__file__).parent
ROUNDS = {"thread": 8, "address,undefined": 30}  # a switch of fibers is slow under the first
SOURCE = """
extern "C" __global__ void turn(int *x, int n) {
    extern __shared__ int area[];
    int i = threadIdx.x;
    area[i] = x[i];
    __syncthreads();
    int other = area[n - 1 - i];
    __syncthreads();
    area[n - 1 - i] = __shfl_xor_sync(0xffffffffu, __shfl_xor_sync(0xffffffffu, other, 1), 1);
    __syncthreads();
    x[i] = area[i] + 1;
}
"""
FLAGS = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror"]
# No report may be missed: the first one ends the program with a distinct code.
OPTIONS = {
    "TSAN_OPTIONS": "halt_on_error=1:exitcode=66:second_deadlock_stack=1",
    "ASAN_OPTIONS": "exitcode=66",
    "UBSAN_OPTIONS": "halt_on_error=1:exitcode=66:print_stacktrace=1",
}

pytestmark = [
    pytest.mark.slow,  # compiles everything once more for each sanitizer
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the sanitizers are gcc's"),
    pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"]),
]


def compile_c(folder: Path, sanitizer: str, *arguments: object) -> None:
    """Run gcc, or skip where it has no library for this sanitizer."""
    probe = folder / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    flag = f"-fsanitize={sanitizer}"
    found = subprocess.run(
        ["gcc", flag, probe, "-o", folder / "probe"], check=False, capture_output=True
    )
    if found.returncode != 0 or subprocess.run([folder / "probe"], check=False).returncode != 0:
        pytest.skip(f"gcc has no library for {flag}, or it cannot run here")
    subprocess.run(["gcc", *FLAGS, flag, *map(str, arguments), "-lpthread", "-ldl"], check=True)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """Run an instrumented program."""
    return subprocess.run(
        [str(part) for part in command],
        env=os.environ | OPTIONS, check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def test_threads_that_drive_the_cpu_driver_at_once(sanitizer: str, tmp_path: Path) -> None:
    """Streams, events, kernels on fibers, graphs, pools and modules, from four threads."""
    program, image = tmp_path / "stress", tmp_path / "kernels"
    image.write_bytes(build_image(tmp_path, SOURCE, "turn"))
    sources = sorted(NATIVE.glob("cpu_driver/*.c"))
    compile_c(
        tmp_path, sanitizer, f"-I{NATIVE}", HERE / "native/stress_driver.c", *sources, "-o", program
    )
    done = run(program, image, ROUNDS[sanitizer])

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "source", ["executor_stress.c", "executor_stress_streams.c", "executor_stress_pages.c"]
)
def test_threads_that_submit_to_the_executor_on_an_instrumented_driver(
    sanitizer: str, source: str, tmp_path: Path
) -> None:
    """Submit, drain and free, streams, steps and graphs: the driver is watched as well."""
    program = tmp_path / "stress"
    driver_folder = tmp_path / "driver"
    driver_folder.mkdir()
    sources = sorted(NATIVE.glob("executor/*.c"))
    compile_c(
        tmp_path, sanitizer, "-D_GNU_SOURCE", f"-I{NATIVE}", HERE / source, *sources,
        "-o", program,
    )  # fmt: skip
    driver = build_driver(driver_folder, ["gcc"], [f"-fsanitize={sanitizer}"])
    done = run(program, driver, 30)

    assert (done.returncode, done.stderr) == (0, "")
