"""Artifacts for tests of the cache."""

from __future__ import annotations

import hashlib
import struct

import msgspec

from ajit._core.entry import FORMAT_VERSION, MAGIC, Artifact
from ajit._core.job import CompileJob


def a_key(label: object = 0) -> str:
    """A key: different for different labels."""
    return hashlib.sha256(str(label).encode()).hexdigest()


def an_artifact(key: str, data: bytes = b"code", log: str = "") -> Artifact:
    """An artifact of a key, with all fields filled."""
    return Artifact(
        key=key,
        base=key,
        key_fields=(("compiler", "nvrtc"), ("arch", "sm_90a")),
        name="saxpy",
        kind="cubin",
        arch="sm_90a",
        compiler="nvrtc",
        compiler_version="13.0",
        entries=("saxpy<float>",),
        lowered={"saxpy<float>": "_Z5saxpyIfEv"},
        log=log,
        command=("--gpu-architecture=sm_90a",),
        created=1.5e9,
        seconds=0.25,
        host="here",
        ajit_version="0",
        data=data,
    )


def a_job() -> CompileJob:
    """A job that is never run."""
    return CompileJob(
        key=a_key(),
        name="saxpy",
        source="",
        entries=("saxpy",),
        compiler="nvrtc",
        arch="sm_90a",
        options=(),
        defines=(),
        include_dirs=(),
        headers=(),
    )


def forged(artifact: Artifact, **fields: object) -> bytes:
    """The bytes of an entry as any program could write them: nothing in it was cleaned."""
    names = artifact.__struct_fields__
    manifest = {name: getattr(artifact, name) for name in names if name != "data"} | fields
    manifest["sections"] = [["code", len(artifact.data)]]
    packed = msgspec.msgpack.encode(manifest)
    header = struct.pack("<8sIIQ", MAGIC, FORMAT_VERSION, len(packed), 0)[:16]
    total = len(header) + 8 + len(packed) + len(artifact.data) + 32
    body = header + total.to_bytes(8, "little") + packed + artifact.data
    return body + hashlib.sha256(body).digest()
