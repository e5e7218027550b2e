"""What a build has left, as it is packed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ajit._compile.worker import build
from ajit._compile.worker.messages import JobFailed


def test_an_output_that_is_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the build has left running makes it longer: the bundle would be damaged."""
    folder = tmp_path / "job" / "build"
    folder.mkdir(parents=True)
    output = folder / "out.txt"
    output.write_text("begun")
    nameless = build._nameless_chunks

    def grown(path: str, own: bytes) -> Any:
        output.write_text("begun, and gone on with")
        return nameless(path, own)

    monkeypatch.setattr(build, "_nameless_chunks", grown)
    request: Any = SimpleNamespace(folder=str(folder), output_limit_bytes=1000)
    run: Any = SimpleNamespace(outputs=("*.txt",))

    failed = cast("JobFailed", build._packed(request, run, cast("Any", None)))

    assert "was written to after it had ended" in failed.log
