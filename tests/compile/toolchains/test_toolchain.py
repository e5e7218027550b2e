"""Toolchains: found in every place they may be, and told apart by what decides a result."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ajit._compile.toolchains import discovery, places
from ajit._compile.toolchains.toolchains import Toolchain, Toolchains
from ajit.errors import CompilerNotFound
from tests.compile.support import (
    DEADLINE_SECONDS,
    Bench,
    fake_compiler,
    install_cuda,
    job,
    settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bare_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH without any compiler."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any CUDA."""
    for module in (discovery, places):
        monkeypatch.setattr(module, "cuda_roots", list, raising=False)
    monkeypatch.setattr(discovery, "library_dirs", lambda: ["/one/lib", "/two/lib64"])


def identity(**arguments: Any) -> str:
    """The host toolchain's fingerprint."""
    return Toolchains(settings(**arguments)).find("host").identity.fingerprint


def test_nvrtc_is_found_without_loading_it(toolchains: Toolchains) -> None:
    """Version and digest come from the wheel's records."""
    found = toolchains.find("nvrtc")

    assert found.version.startswith("13.")
    assert found.identity.name == "nvrtc"
    assert Path(found.path).is_file()
    assert "libnvrtc" not in Path("/proc/self/maps").read_text()


def test_pathfinder_is_not_asked_where_the_wheels_have_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing it costs ten times what finding NVRTC does, in every process of a server."""
    library = tmp_path / "cu13" / "lib" / "libnvrtc.so.13.5.37"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"library")
    (library.parent / "libnvrtc.so.13").symlink_to(library.name)
    install_cuda(tmp_path / "cu13", 13050)
    monkeypatch.setattr(places, "wheel_roots", lambda: [str(tmp_path / "cu13")])
    monkeypatch.setattr(places, "_pathfinder_roots", lambda: pytest.fail("asked"))
    found = Toolchains(settings()).find("nvrtc")

    assert found.path == str(library)
    assert found.include_dirs[0] == str(tmp_path / "cu13" / "include")


def test_a_toolchain_is_looked_for_once(toolchains: Toolchains) -> None:
    """The second answer is the same object."""
    assert toolchains.find("host") is toolchains.find("host")


def test_many_threads_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for the first one's answer."""
    looked = []
    real = discovery.find_host
    monkeypatch.setattr(discovery, "find_host", lambda *a: looked.append(1) or real(*a))
    toolchains = Toolchains(settings())
    found: list[Toolchain] = []
    threads = [
        threading.Thread(target=lambda: found.append(toolchains.find("host"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(looked) == 1
    assert len(set(map(id, found))) == 1


def test_a_slow_compiler_does_not_delay_the_search_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While one kind is asked for its version, the others are found, and so is what was found."""
    asked, answer = threading.Event(), threading.Event()
    real = discovery.find_host

    def slow(*arguments: Any) -> Toolchain:
        asked.set()
        assert answer.wait(DEADLINE_SECONDS)
        return real(*arguments)

    monkeypatch.setattr(discovery, "find_host", slow)
    toolchains = Toolchains(settings())
    found: list[Toolchain] = []

    def look_for_another() -> None:
        found.append(toolchains.find("nvrtc"))
        found.extend(toolchains.found())

    waiting = threading.Thread(target=toolchains.find, args=("host",), daemon=True)
    waiting.start()
    assert asked.wait(DEADLINE_SECONDS)
    other = threading.Thread(target=look_for_another, daemon=True)
    other.start()
    other.join(DEADLINE_SECONDS / 2)
    answered_meanwhile = [toolchain.kind for toolchain in found]
    answer.set()
    waiting.join(DEADLINE_SECONDS)
    other.join(DEADLINE_SECONDS)

    assert answered_meanwhile == ["nvrtc", "nvrtc"]
    assert {toolchain.kind for toolchain in toolchains.found()} == {"nvrtc", "host"}


@pytest.mark.usefixtures("bare_path", "no_cuda")
@pytest.mark.parametrize(
    ("kind", "place", "remedy"),
    [
        ("nvrtc", "/one/lib/libnvrtc.so.13", "nvidia-cuda-nvrtc"),
        ("nvcc", "nvcc on PATH", "CUDA toolkit"),
        ("host", "clang++ on PATH", "ziglang"),
    ],
)
def test_a_missing_compiler_says_where_it_was_sought(
    kind: Any, place: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every place, and what to install."""
    monkeypatch.setattr(discovery, "_zig", list)
    with pytest.raises(CompilerNotFound) as caught:
        Toolchains(settings()).find(kind)

    assert place in caught.value.searched
    assert remedy in str(caught.value)


@pytest.mark.usefixtures("bare_path", "no_cuda")
def test_nvcc_without_a_host_compiler_is_not_called_missing(tmp_path: Path) -> None:
    """The error names the missing compiler, the one that nvcc preprocesses with."""
    nvcc = fake_compiler(tmp_path, "true")
    with pytest.raises(CompilerNotFound) as caught:
        Toolchains(settings(nvcc=nvcc)).find("nvcc")

    assert caught.value.compiler == "host"
    assert caught.value.searched == ("gcc on PATH",)
    assert f"nvcc at {nvcc} needs a host compiler (gcc)" in str(caught.value)


def test_a_compiler_installed_meanwhile_is_found(
    bare_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure is not remembered."""
    monkeypatch.setattr(discovery, "_zig", list)
    toolchains = Toolchains(settings())
    with pytest.raises(CompilerNotFound):
        toolchains.find("host")
    Path(fake_compiler(bare_path, "true")).rename(bare_path / "c++")
    monkeypatch.setenv("PATH", f"{bare_path}:/bin:/usr/bin")

    assert toolchains.find("host").version == "gcc 1.2.3"


def test_a_setting_is_taken_or_refused(tmp_path: Path) -> None:
    """A path that was given is never replaced by another compiler."""
    given = fake_compiler(tmp_path, "true")

    assert Toolchains(settings(host_compiler=given)).find("host").path == given
    with pytest.raises(CompilerNotFound) as caught:
        Toolchains(settings(host_compiler="/nonexistent/c++")).find("host")
    assert caught.value.searched == ("/nonexistent/c++",)


def test_a_program_that_does_not_answer_is_no_compiler(tmp_path: Path) -> None:
    """A broken symbolic link or wrapper on PATH is passed over."""
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(CompilerNotFound):
        Toolchains(settings(host_compiler=str(broken))).find("host")


@pytest.mark.parametrize("ignored", ["", "signal.signal(signal.SIGCHLD, signal.SIG_IGN);"])
@pytest.mark.parametrize(("deaths", "expected"), [(1, "g++ 12.2.0"), (2, "None")])
def test_a_compiler_that_is_killed_while_it_says_its_version_is_asked_once_more(
    tmp_path: Path, deaths: int, expected: str, ignored: str
) -> None:
    """As the kernel does when memory runs out for a moment; one that dies again is no compiler."""
    asked, compiler = tmp_path / "asked", tmp_path / "c++"
    compiler.write_text(
        f"#!/bin/sh\necho >> {asked}\n"
        f"[ $(wc -l < {asked}) -le {deaths} ] && kill -KILL $$\necho g++ 12.2.0\n"
    )
    compiler.chmod(0o755)
    program = (
        f"import signal; {ignored}"
        "from ajit._compile.toolchains.asking import Questions;"
        f"print(Questions().ask(['{compiler}', '--version']))"
    )
    answer = subprocess.check_output([sys.executable, "-c", program], timeout=60)

    assert answer.decode().strip() == expected
    assert len(asked.read_text()) == 2


def test_an_upgraded_compiler_gets_another_fingerprint(tmp_path: Path) -> None:
    """In a server that goes on running as well."""
    path = fake_compiler(tmp_path, "true")
    toolchains = Toolchains(settings(host_compiler=path))
    before = toolchains.find("host")
    text = Path(path).read_text().replace("1.2.3", "1.2.4")
    (tmp_path / "new").write_text(text)
    (tmp_path / "new").chmod(0o755)
    (tmp_path / "new").rename(path)
    after = toolchains.find("host")

    assert (before.version, after.version) == ("gcc 1.2.3", "gcc 1.2.4")
    assert before.identity.fingerprint != after.identity.fingerprint
    assert not before.is_current()


def test_the_cpu_drivers_headers_are_in_the_host_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are compiled into every object; the driver's C sources are not."""
    copy = tmp_path / "native"
    shutil.copytree(discovery.NATIVE_DIR, copy)
    monkeypatch.setattr(discovery, "NATIVE_DIR", str(copy))
    before = identity()
    (copy / "cpu_driver/driver.c").write_text("// other")
    same = identity()
    with (copy / "cuda_cxx/kernel.hpp").open("a") as file:
        file.write("// other")

    assert before == same
    assert before != identity()


def test_the_flags_of_kernels_are_in_the_host_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An object that an earlier version of ajit built with other flags is not taken."""
    before = identity()
    monkeypatch.setattr(discovery, "COMPILE_FLAGS", (*discovery.COMPILE_FLAGS, "-fother"))

    assert before != identity()


def test_a_toolkits_nvrtc_is_found_where_no_wheel_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version is in its file's name, its digest is made from its content."""
    library = tmp_path / "libnvrtc.so.13.0.88"
    library.write_bytes(b"one")
    (tmp_path / "libnvrtc.so.13").symlink_to(library.name)
    monkeypatch.setattr(discovery, "library_dirs", lambda: ["/nonexistent", str(tmp_path)])
    found = Toolchains(settings()).find("nvrtc")
    library.unlink()
    library.write_bytes(b"two")
    other = Toolchains(settings()).find("nvrtc")

    assert found.version == "13.0.88"
    assert found.path == str(library)
    assert found.identity.fingerprint != other.identity.fingerprint


@pytest.fixture
def zig_bench(bare_path: Path) -> Iterator[Bench]:
    """A bench on a machine whose only compiler is the ziglang wheel."""
    pytest.importorskip("ziglang")
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.slow  # zig builds parts of the C library the first time it is used on a machine
def test_zig_stands_in_for_a_missing_compiler(zig_bench: Bench) -> None:
    """The wheel is found, and what it builds is for any machine of the architecture."""
    import os

    output = zig_bench.compile(job(compiler="host", arch=os.uname().machine))

    assert output.data[:4] == b"\x7fELF"
    assert "-mcpu=baseline" in output.command
    assert zig_bench.slot._toolchains.find("host").version.startswith("zig ")


@pytest.mark.parametrize("status", [0, 3])
def test_a_compilers_exit_code_counts_where_signals_of_children_are_ignored(
    tmp_path: Path, status: int
) -> None:
    """Under such a supervisor a program that cannot tell its version is still no compiler."""
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\necho g++ 12.2.0\nexit {status}\n")
    compiler.chmod(0o755)
    program = (
        "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
        "from ajit._compile.toolchains.asking import Questions;"
        f"print(Questions().ask(['{compiler}', '--version']))"
    )
    answer = subprocess.check_output([sys.executable, "-c", program], timeout=60)

    assert answer.decode().strip() == ("None" if status else "g++ 12.2.0")
