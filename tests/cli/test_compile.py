"""`ajit compile`: one kernel source through the whole runtime, in separate processes."""

from __future__ import annotations

import platform
import signal
import time

import psutil
import pytest

from ajit.cli import exits

SAXPY = """\
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
"""

SCALE = """\
#include "factor.h"
template <typename T> __global__ void scale(T* x) { x[threadIdx.x] *= T(FACTOR) * TIMES; }
"""

# 2 to the power of DEPTH templates: 13 take NVRTC a second or two, 20 take minutes.
SLOW = """\
template <int N, int M> struct Slow {
  static constexpr int value = Slow<N - 1, 2 * M>::value + Slow<N - 1, 2 * M + 1>::value;
};
template <int M> struct Slow<0, M> { static constexpr int value = M & 1; };
extern "C" __global__ void slow(int* out) { *out = Slow<DEPTH, 0>::value; }
"""

FOR_GPU = ("--arch", "sm_90a")
FOR_CPU = ("--compiler", "host")
DEADLINE_SECONDS = 60.0


@pytest.fixture
def saxpy(tmp_path):
    """A file with a kernel."""
    file = tmp_path / "saxpy.cu"
    file.write_text(SAXPY)
    return file


@pytest.fixture
def slow(tmp_path):
    """A file with a kernel that takes as long to compile as -D DEPTH says."""
    file = tmp_path / "slow.cu"
    file.write_text(SLOW)
    return file


def wait_until(condition, what):
    """Poll an observable condition."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("target", "compiler", "arch", "kind"),
    [(FOR_GPU, "nvrtc", "sm_90a", "cubin"), (FOR_CPU, "host", platform.machine(), "elf")],
    ids=["nvrtc", "host"],
)
def test_first_compiles_and_second_finds_it_on_disk(ajit, saxpy, target, compiler, arch, kind):
    """One JSON object with all that a script needs; the same key both times."""
    first = ajit("compile", saxpy, "--entry", "saxpy", *target, "--json").json()
    second = ajit("compile", saxpy, "--entry", "saxpy", *target, "--json").json()

    assert ("compiled", "disk") == (first["tier"], second["tier"])
    assert first["key"] == second["key"]
    assert ("saxpy", ["saxpy"], "saxpy.cu") == (first["name"], first["entries"], first["file"])
    assert (compiler, arch, kind) == (first["compiler"], first["arch"], first["kind"])
    assert first["size_bytes"] == second["size_bytes"] > 0
    assert 0 < second["seconds"] < first["seconds"]
    assert str(ajit.cache_dir) == first["cache_dir"]
    assert first["waited_for"] is None
    assert first["stored"] is True


@pytest.mark.parametrize("target", [FOR_GPU, FOR_CPU], ids=["nvrtc", "host"])
def test_eight_processes_on_a_cold_cache_compile_once(ajit, saxpy, target):
    """Exactly one says compiled, seven say disk; who waited, waited for the one that compiled."""
    args = ("compile", saxpy, "--entry", "saxpy", *target, "--json")
    processes = [ajit.start(*args) for _ in range(8)]
    results = {process.pid: ajit.end(process).json() for process in processes}

    compiled = [pid for pid, result in results.items() if result["tier"] == "compiled"]
    assert 1 == len(compiled)
    assert 7 == sum(result["tier"] == "disk" for result in results.values())
    holders = {r["waited_for"]["pid"] for r in results.values() if r["waited_for"]}
    assert holders <= set(compiled)


def test_waiting_process_names_the_holder_and_reports_it(ajit, slow):
    """The wait is told on standard error at once, and the holder stands in the result."""
    args = ("compile", slow, "--entry", "slow", "-D", "DEPTH=13", *FOR_GPU, "--json")
    holder = ajit.start(*args)
    # The lease is taken before the compile worker is started.
    wait_until(lambda: psutil.Process(holder.pid).children(), "the holder's worker")

    waiter = ajit(*args)

    assert "compiled" == ajit.end(holder).json()["tier"]
    assert "disk" == waiter.json()["tier"]
    assert holder.pid == waiter.json()["waited_for"]["pid"]
    assert 0 < waiter.json()["waited_for"]["seconds"] < waiter.json()["seconds"]
    assert f"waiting for process {holder.pid} on {platform.node()}" in waiter.err
    assert f"for pid {holder.pid}" not in waiter.err, "told by the runtime's log lines as well"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGINT, (exits.INTERRUPTED, "ajit: interrupted")),
        (signal.SIGTERM, (exits.TERMINATED, "ajit: terminated")),
    ],
    ids=["SIGINT", "SIGTERM"],
)
@pytest.mark.parametrize("target", [FOR_GPU, FOR_CPU], ids=["nvrtc", "host"])
def test_interrupt_ends_the_compile_and_leaves_nothing(
    ajit, slow, tmp_path, number, expected, target
):
    """Control-C, and `kill`, leave no traceback, worker, entry or temporary file behind."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    args = ("compile", slow, "--entry", "slow", "-D", "DEPTH=20", *target)
    compiling = ajit.start(*args, TMPDIR=str(temporary))
    wait_until(lambda: list(ajit.cache_dir.glob("locks/*/*")), "the lease")
    wait_until(lambda: psutil.Process(compiling.pid).children(), "the worker")
    workers = psutil.Process(compiling.pid).children()

    compiling.send_signal(number)
    ended = ajit.end(compiling)

    assert expected == (ended.code, ended.err.strip())
    assert not [worker for worker in workers if worker.is_running()]
    # Lock files stay, the digests of the compiler's files, and the history.
    assert [] == [path for path in ajit.cache_dir.glob("[!dhl]*/**/*") if path.is_file()]
    assert [] == list(temporary.iterdir())


def test_headers_macros_and_options_reach_the_compiler_and_the_key(ajit, tmp_path):
    """A header beside the file is found; another macro is another key; -I comes after."""
    (tmp_path / "scale.cu").write_text(SCALE)
    (tmp_path / "factor.h").write_text("#define FACTOR 2\n")
    args = ("compile", "scale.cu", "--entry", "scale<float>", *FOR_GPU, "--json")

    two = ajit(*args, "-D", "TIMES=2").json()
    three = ajit(*args, "-D", "TIMES=3").json()
    fast = ajit(*args, "-D", "TIMES=3", "--option=--use_fast_math").json()
    why = ajit("cache", "why", two["key"], three["key"], "--json").json()

    assert 3 == len({two["key"], three["key"], fast["key"]})
    assert [{"field": "define TIMES", "a": "=2", "b": "=3"}] == why["differences"]


def test_compile_error_prints_the_whole_log_once_and_publishes_nothing(ajit, saxpy):
    """Exit code 1, the log with file and line on standard error, no result, no entry."""
    saxpy.write_text(SAXPY.replace("int n", "int m"))

    ended = ajit("compile", saxpy, "--entry", "saxpy", *FOR_GPU)

    assert (exits.PROBLEM, "") == (ended.code, ended.out)
    assert 'saxpy.cu(3): error: identifier "n" is undefined' in ended.err
    # The runtime's log line for servers is not printed on top of it.
    assert 1 == ended.err.count("compile failed for saxpy.cu")
    assert "Traceback" not in ended.err
    assert "0" == str(ajit("cache", "stats", "--json").json()["entries"])


def test_compile_error_is_one_json_object_for_a_script(ajit, saxpy):
    """Class, message, label, key, compiler and the whole log; the log stays on standard error."""
    saxpy.write_text(SAXPY.replace("int n", "int m"))

    ended = ajit("compile", saxpy, "--entry", "saxpy", *FOR_GPU, "--json")
    failure = ended.json()

    assert exits.PROBLEM == ended.code == failure["exit_code"]
    assert ("CompileError", "saxpy.cu") == (failure["error"], failure["name"])
    assert failure["message"].startswith("compile failed for saxpy.cu")
    assert "\n" not in failure["message"]
    assert 64 == len(failure["key"])
    assert failure["compiler"].startswith("nvrtc 13.")
    for log in (failure["log"], ended.err):
        assert 'saxpy.cu(3): error: identifier "n" is undefined' in log


def test_note_on_an_error_is_in_both_channels(ajit, saxpy):
    """The second process is told that the failure was shared and not repeated."""
    saxpy.write_text(SAXPY.replace("int n", "int m"))
    args = ("compile", saxpy, "--entry", "saxpy", *FOR_GPU, "--json")
    first = ajit(*args)

    second = ajit(*args)

    assert "notes" not in first.json()
    [note] = second.json()["notes"]
    assert "not tried again" in note
    assert note in second.err


def test_bad_entry_is_told_once_and_replaced(ajit, saxpy):
    """A damaged entry costs a compile, not the result, and is not silent."""
    args = ("compile", saxpy, "--entry", "saxpy", *FOR_GPU, "--json")
    key = ajit(*args).json()["key"]
    (ajit.cache_dir / "entries" / key[:2] / f"{key}.ajit").write_bytes(b"")

    again = ajit(*args)

    assert (exits.FINE, "compiled") == (again.code, again.json()["tier"])
    assert 1 == again.err.count("does not verify")
    assert again.err.startswith("warning: ")


def test_unknown_kernel_is_a_usage_error(ajit, saxpy):
    """Found when the source is read: the message has the nearest name."""
    ended = ajit("compile", saxpy, "--entry", "daxpy", *FOR_GPU)

    assert exits.USAGE == ended.code
    assert "no kernel 'daxpy'; did you mean 'saxpy'?" in ended.err


@pytest.mark.parametrize(
    ("content", "args", "complaint"),
    [
        (b"", FOR_GPU, "empty source"),
        (b"// caf\xe9\n" + SAXPY.encode(), FOR_GPU, "not UTF-8: byte 6, line 1"),
        (SAXPY.encode(), ("--arch", "sm_9000"), "'sm_9000'"),
        (SAXPY.encode(), ("--arch", "sm_90a", "--compiler", "host"), "host does not build"),
        (SAXPY.encode(), (*FOR_GPU, "-D", "1X=2"), "'1X' is not the name of a macro"),
        (SAXPY.encode(), (*FOR_GPU, "-I", "nowhere"), "'nowhere' does not exist"),
    ],
    ids=["empty", "latin-1", "arch", "arch and compiler", "macro", "directory"],
)
def test_impossible_request_is_a_usage_error(ajit, saxpy, content, args, complaint):
    """Nothing is started for a request that is not well formed."""
    saxpy.write_bytes(content)

    ended = ajit("compile", saxpy, "--entry", "saxpy", *args)

    assert (exits.USAGE, "") == (ended.code, ended.out)
    assert complaint in ended.err
    assert "Traceback" not in ended.err


def test_file_that_is_not_there_is_a_usage_error(ajit):
    """The file is named."""
    ended = ajit("compile", "nothing.cu", "--entry", "k", *FOR_GPU)

    assert exits.USAGE == ended.code
    assert "'nothing.cu' does not exist" in ended.err


def test_missing_include_is_named_with_its_line(ajit, saxpy):
    """A header that cannot be found is a problem of the source."""
    saxpy.write_text('#include "nowhere.h"\n' + SAXPY)

    ended = ajit("compile", saxpy, "--entry", "saxpy", *FOR_GPU)

    assert exits.PROBLEM == ended.code
    assert "nowhere.h" in ended.err
    assert "saxpy.cu" in ended.err


def test_compiler_that_is_missing_says_what_was_searched_and_what_to_install(ajit, saxpy):
    """Exit code 4: the environment, not the source."""
    ended = ajit(
        "compile", saxpy, "--entry", "saxpy", "--compiler", "nvcc", *FOR_GPU, AJIT_NVCC="/no/nvcc"
    )

    assert exits.ENVIRONMENT == ended.code
    assert "searched /no/nvcc" in ended.err
    assert "ajit[nvcc]" in ended.err


def test_nvcc_without_a_host_compiler_says_that_it_is_there(ajit, saxpy, tmp_path):
    """The compiler to install is the one that is missing."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    args = ("compile", saxpy, "--entry", "saxpy", "--compiler", "nvcc", *FOR_GPU, "--json")

    ended = ajit(*args, AJIT_NVCC=str(nvcc), PATH=str(tmp_path))

    assert exits.ENVIRONMENT == ended.code
    assert ("CompilerNotFound", "host") == (ended.json()["error"], ended.json()["compiler"])
    assert f"nvcc at {nvcc} needs a host compiler (gcc)" in ended.err
    assert "no nvcc" not in ended.err


def test_kernel_that_could_not_be_stored_is_printed_and_ends_with_three(ajit, saxpy):
    """The result stands, a warning says that it was not kept, and a script can tell."""
    # No user can make a directory below /proc.
    ended = ajit(
        "compile", saxpy, "--entry", "saxpy", *FOR_GPU, "--json", "--cache-dir", "/proc/ajit"
    )

    assert exits.PARTLY == ended.code
    assert "compiled" == ended.json()["tier"]
    assert ended.json()["stored"] is False
    assert 1 == ended.err.count("/proc/ajit cannot be written")


def test_table_says_the_same_for_a_reader(ajit, saxpy):
    """Key, compiler, size, tier and time with units."""
    ended = ajit("compile", saxpy, "--entry", "saxpy", *FOR_GPU)

    assert exits.FINE == ended.code
    for text in ("key", "saxpy (saxpy.cu)", "nvrtc 13.", "for sm_90a", "KiB", "compiled, in"):
        assert text in ended.out
    assert "" == ended.err


def test_compile_without_a_gpu_asks_for_an_arch(ajit, saxpy):
    """A GPU's, or the CPU driver's."""
    ended = ajit("compile", saxpy, "--entry", "saxpy", AJIT_DEVICE="cuda", CUDA_VISIBLE_DEVICES="")

    assert ended.code == exits.ENVIRONMENT
    assert "give one, such as --arch sm_90a" in ended.err
    assert f"--arch {platform.machine()}, which AJIT_DEVICE=cpu stands for" in ended.err


def test_explain_says_why_it_was_not_found(ajit, saxpy):
    """The nearest cached kernel and the parts that differ; nothing where it is cached."""
    options = ("compile", saxpy, "--entry", "saxpy", *FOR_CPU, "--explain")
    first = ajit(*options, "-D", "N=1", "--json").json()
    second = ajit(*options, "-D", "N=2")
    third = ajit(*options, "-D", "N=2", "--json").json()

    assert (first["nearest"], first["differences"]) == ("", [])
    assert first["key"][:32] in second.out
    assert "define N: '=1' there, '=2' here" in second.out
    assert (third["tier"], third["nearest"]) == ("disk", "")


def test_explain_names_the_file_that_made_the_difference(ajit, tmp_path):
    """By its path; with --json, by include directory, of which the paths are told as well."""
    source, near, far = tmp_path / "k.cu", tmp_path / "near", tmp_path / "far"
    source.write_text(SCALE)
    for directory in (near, far):
        directory.mkdir()
    (far / "factor.h").write_text("#define FACTOR 2\n")
    options = ("compile", source, "--entry", "scale<float>", *FOR_GPU, "-D", "TIMES=1")
    options = (*options, "-I", near, "-I", far, "--explain")
    first = ajit(*options, "--json").json()
    (near / "factor.h").write_text("#define FACTOR 3\n")
    second = ajit(*options)
    (near / "factor.h").unlink()
    third = ajit(*options, "--json").json()
    (far / "factor.h").write_text("#define FACTOR 4\n")
    fourth = ajit(*options, "--json").json()

    assert first["key"][:32] in second.out
    assert "factor.h: 'absent' there" in second.out
    assert f"{near}/factor.h" in "".join(line.strip() for line in second.out.splitlines())
    assert (third["tier"], third["key"]) == ("disk", first["key"])
    assert fourth["nearest"] == first["key"]
    assert ["file i2/factor.h"] == [part for part, _, _ in fourth["differences"]]
    assert str(far) == fourth["dirs"]["i2"]


def test_the_standard_library_is_given_to_nvrtc(ajit, tmp_path):
    """Where it is asked for; else the error says how."""
    file = tmp_path / "k.cu"
    file.write_text('#include <cstdint>\nextern "C" __global__ void k(std::uint8_t* x) { *x = 1; }')
    given = ("compile", str(file), "--entry", "k", *FOR_GPU)

    assert ajit(*given, "--std-headers").code == exits.FINE
    refused = ajit(*given)
    assert refused.code == exits.PROBLEM
    assert "ajit.std_headers()" in refused.err
    assert "--std-headers" in refused.err
