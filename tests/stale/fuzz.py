"""Header trees that are made and edited at random, and requests between the edits.

A round edits the tree and asks the server for one of a few kernels. If it compiles, that is what a
fresh compile gives; if it has the kernel already, a fresh compile is made and compared. Everything
follows from the seed, but for what the clock decides: whether a header was written so shortly
before its compile that the kernel is not published.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import shutil
from typing import TYPE_CHECKING, NamedTuple

import ajit
from ajit._core import events
from tests.stale.world import KERNEL, Answer, Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = ("a.h", "b.h", "sub/c.h", "d.h")
"""A header includes only those that come later; each is read once, so that no chain is endless."""

ROUNDS_OF_A_TREE = 25
MACROS = "ABCD"


class StaleKernel(AssertionError):
    """The server answered what no fresh compile gives."""


class Tally(NamedTuple):
    """What a run of the fuzz saw: a run without hits would show nothing.

    Attributes:
        rounds: Requests whose answers were looked at.
        hits: Those that were answered without a compile.
        different: Kernels that came out.
    """

    rounds: int
    hits: int
    different: int


class Tree:
    """Three include directories, the last one behind a link, and the texts in them."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root, self.rng = root, rng
        for name in ("one", "two", "v1", "v2"):
            (root / name).mkdir(parents=True)
        (root / "link").symlink_to("v1")
        self.dirs = [root / "one", root / "two", root / "link"]
        self._earlier: list[tuple[Path, bytes]] = []
        for _ in range(6):
            with contextlib.suppress(OSError):
                self.write()

    def place(self) -> Path:
        """Some place where a header may be."""
        return self.rng.choice(self.dirs) / self.rng.choice(NAMES)

    def there(self) -> list[Path]:
        """The headers that are there."""
        found = [path / name for path in self.dirs for name in NAMES]
        return [path for path in found if path.is_file()]

    def edit(self) -> None:
        """Change something. Some edits find nothing to change."""
        edits: list[tuple[Callable[[], object], float]] = [
            (self.write, 8),
            (self.remove, 2),
            (self.keep_size_and_time, 4),
            (self.go_back, 5),
            (self.swap, 2),
            (self.rename, 2),
            (self.point_elsewhere, 1),
            (self.remove_folder, 1),
            (self.save_half, 0.5),
            (self.touch, 1),
            (self.make_folder, 0.5),
            (self.make_link, 1),
            (lambda: None, 2),
        ]
        act = self.rng.choices([act for act, _ in edits], [weight for _, weight in edits])[0]
        with contextlib.suppress(OSError):  # a link to nowhere, a folder in the way
            act()

    def write(self) -> None:
        """Write a header anew."""
        path = self.place()
        self._put(path, self._header(path).encode())

    def _put(self, path: Path, text: bytes) -> None:
        if path.is_dir() or (path.parent.is_symlink() and not path.parent.exists()):
            return
        if path.is_file():
            self._earlier.append((path, path.read_bytes()))
        path.parent.mkdir(exist_ok=True)
        if path.is_symlink() or self.rng.random() < 0.5:
            path.unlink(missing_ok=True)  # as an editor that replaces the file
        path.write_bytes(text)

    def remove(self) -> None:
        """Remove a header."""
        if found := self.there():
            path = self.rng.choice(found)
            self._earlier.append((path, path.read_bytes()))
            path.unlink()

    def keep_size_and_time(self) -> None:
        """Change one digit in place; size and mtime stay."""
        if found := self.there():
            path = self.rng.choice(found)
            state, text = path.stat(), path.read_bytes()
            self._earlier.append((path, text))
            digits = [index for index, byte in enumerate(text) if chr(byte).isdigit()]
            if digits:
                at = self.rng.choice(digits)
                new = str((int(chr(text[at])) + 1) % 10).encode()
                path.write_bytes(text[:at] + new + text[at + 1 :])
                os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    def go_back(self) -> None:
        """Give a header a text that it had before."""
        if self._earlier:
            self._put(*self.rng.choice(self._earlier))

    def swap(self) -> None:
        """Swap two headers."""
        found = self.there()
        if len(found) > 1:
            one, other = self.rng.sample(found, 2)
            aside = self.root / "aside"
            one.rename(aside)
            other.rename(one)
            aside.rename(other)

    def rename(self) -> None:
        """Move a header to where there may be another one."""
        path = self.place()
        if (found := self.there()) and not path.is_dir() and path.parent.is_dir():
            self.rng.choice(found).rename(path)

    def point_elsewhere(self) -> None:
        """Let the link mean the other directory, or nothing."""
        link = self.root / "link"
        link.unlink()
        link.symlink_to(self.rng.choice(("v1", "v2", "v1", "v2", "one", "nowhere")))

    def remove_folder(self) -> None:
        """Remove a folder with its headers."""
        with contextlib.suppress(OSError):
            shutil.rmtree(self.rng.choice(self.dirs) / "sub")

    def save_half(self) -> None:
        """Write the first half of a header."""
        if found := self.there():
            path = self.rng.choice(found)
            text = path.read_bytes()
            self._put(path, text[: len(text) // 2] + b"\n#define A (")

    def touch(self) -> None:
        """Change the time of a header, and nothing else."""
        if found := self.there():
            os.utime(self.rng.choice(found))

    def make_folder(self) -> None:
        """Put a folder where a header would be looked for."""
        path = self.place()
        if not path.exists() and path.parent.is_dir():
            path.mkdir()
            (path / "x").touch()

    def make_link(self) -> None:
        """Put a link to another header where one would be looked for."""
        path = self.place()
        if (found := self.there()) and not path.exists() and path.parent.is_dir():
            path.unlink(missing_ok=True)
            path.symlink_to(self.rng.choice(found))

    def _header(self, path: Path) -> str:
        index = next(n for n, name in enumerate(NAMES) if path.match(name))
        macro, number = MACROS[index], self.rng.randrange(10)
        lines = [f"#undef {macro}\n#define {macro} {number}"]
        lines += self.includes(NAMES[index + 1 :], own=NAMES[index])
        self.rng.shuffle(lines)
        # A header may get another one's name, and then include itself.
        return "\n".join(["#pragma once", *lines]) + "\n"

    def includes(self, names: tuple[str, ...], own: str = "") -> list[str]:
        """Lines that include some of these headers, in one of many ways."""
        made: list[str] = []
        for name in self.rng.sample(names, min(len(names), self.rng.choice((1, 1, 2, 3)))):
            operand = self.rng.choice([f"<{name}>", f'"{name}"'])
            plain = f"#if __has_include({operand})\n#include {operand}\n#endif"
            made.append(
                self.rng.choice([
                    f"#include {operand}",
                    plain,
                    plain,
                    f"#if __has_include({operand})\n#undef A\n#define A 77\n#endif",
                    f"#define H {operand}\n#if __has_include(H)\n#include H\n#endif\n#undef H",
                    f"#ifdef OPT\n{plain}\n#endif",
                    f"#if defined(B) && B > 4\n{plain}\n#else\n#undef D\n#define D 8\n#endif",
                    f"#if 0\nDon't\n{plain}\n#endif",
                    f"#if defined(C) && C > 7\n#error Don't use sub/*.h\n#else\n{plain}\n#endif",
                ])
            )  # fmt: skip
        if own and self.rng.random() < 0.15:
            made.append(f"#if __has_include_next(<{own}>)\n#include_next <{own}>\n#endif")
        return made


def specs(tree: Tree, compiler: str, label: str) -> list[ajit.Spec]:
    """A few kernels over one tree, which differ in what they include and in their options."""
    rng, made = tree.rng, []
    arch = platform.machine() if compiler == "host" else "sm_90a"
    for number in range(3):
        lines = tree.includes(NAMES)
        lines += tree.includes(NAMES)
        lines += [f"#ifndef {macro}\n#define {macro} 0\n#endif" for macro in MACROS]
        lines += ["#define V (A + 100 * B + 10000 * C + 1000000 * D)", f"// {label} {number}"]
        rng.shuffle(tree.dirs)
        dirs, options = tree.dirs[: rng.randrange(1, 4)], []
        if rng.random() < 0.3:
            flags = ["-I"] if compiler == "nvrtc" else ["-isystem", "-idirafter", "-I"]
            options += [rng.choice(flags), str(rng.choice(tree.dirs))]
        if rng.random() < 0.3:
            options += ["-include", str(rng.choice(tree.there() or [tree.dirs[0] / "a.h"]))]
        headers = {}
        if rng.random() < 0.3:
            headers[rng.choice(NAMES)] = "#undef B\n#define B 3"
        made.append(
            ajit.Spec(
                "\n".join(lines) + KERNEL,
                "k",
                params="int* x",
                arch=arch,
                compiler=compiler,
                include_dirs=dirs,
                options=options,
                headers=headers,
                defines={"OPT": 1} if rng.random() < 0.4 else {},
            )
        )
    return made


def run(server: Server, root: Path, compiler: str, seed: int, rounds: int) -> Tally:
    """Edit and ask, some rounds.

    Raises:
        StaleKernel: An answer from the cache is not what a fresh compile gives.
    """
    hits, answers = 0, set[Answer]()
    for number in range(rounds):
        if number % ROUNDS_OF_A_TREE == 0:
            label = f"{compiler} {seed} {number}"
            tree = Tree(root / f"tree{number}", random.Random(label))  # noqa: S311 - repeatable
            kernels = specs(tree, compiler, label)
        for _ in range(tree.rng.choice((0, 1, 1, 2, 3))):
            tree.edit()
        spec = tree.rng.choice(kernels)
        if tree.rng.random() < 0.15:
            _ask_while_editing(server, tree, spec)
        compiles = server.compiles()
        answer = server.answer(spec)
        answers.add(answer)
        if server.compiles() == compiles:
            hits += 1
            _compare(server, spec, answer, f"{label}, round {number}")
    return Tally(rounds, hits, sum(not answer.error for answer in answers))


def _ask_while_editing(server: Server, tree: Tree, spec: ajit.Spec) -> None:
    """Ask, and edit just before the compile and just after it; the answer is of no one state."""
    state = tree.rng.getstate()
    event = tree.rng.choice([events.CompileStarted, events.CompileFinished])
    with contextlib.suppress(AssertionError), server.when(event, tree.edit):
        server.answer(spec)
    server.forget_hooks()
    tree.rng.setstate(state)  # whether there was such an event may depend on the clock
    tree.edit()


def _compare(server: Server, spec: ajit.Spec, answer: Answer, where: str) -> None:
    fresh = server.fresh(spec)
    if answer != fresh:
        raise StaleKernel(f"seed {where}: {spec.source}\nserved {answer.error or 'code'}, but "
                          f"a fresh compile gives {fresh.error or 'other code'}")  # fmt: skip
