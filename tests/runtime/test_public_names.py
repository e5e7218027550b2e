"""What an editor offers on the objects that users hold: the public names, and nothing internal."""

from __future__ import annotations

import pytest

import ajit
from tests.runtime.test_reprs import _public_objects

pytestmark = pytest.mark.anyio

MEMORY = "dtype freed nbytes pointer shape view"
EXPECTED = {
    "Batch": "add_bound add_copies add_copy add_copy_ranges add_fill add_launch submit ticket",
    "BoundLaunch": "args kernel",
    "BufferSlice": f"buffer offset_bytes {MEMORY}",
    "Build": "dirs extra_digest jobs key_parts limit_bytes name outputs run timeout_seconds",
    "Bundle": "base_key files key log materialize name seconds size_bytes tier waited_for",
    "Call": "arguments env function program",
    "Command": "argv copies env files program templates",
    "ConfiguredKernel": "block grid kernel",
    "Device": "aclose alloc alloc_pinned arch batch capture copy create_event create_stream "
    "download driver_version fill has_clusters health kind load mark max_block max_grid "
    "max_shared_bytes max_threads multiprocessors name numa_node register_host run statistics "
    "submit synchronize total_memory_bytes upload warp_size",
    "DeviceBuffer": f"free {MEMORY}",
    "EntryPoint": "name params",
    "Event": "free freed handle record seconds_until timing",
    "Graph": "add_bound add_copies add_copy add_copy_ranges add_fill add_launch captured free "
    "launch",
    "HostArray": "data dtype nbytes pointer shape tobytes tolist view",
    "Kernel": "attributes bind launch max_dynamic_shared_bytes max_threads module name params "
    "registers shared_bytes stands_in_for with_attributes",
    "LaunchAttributes": "cluster priority programmatic",
    "LoadedModule": "entry_points kernel key name unload unloaded",
    "PinnedBuffer": f"free {MEMORY}",
    "Resolution": "artifact seconds tier waited_for",
    "Runtime": "aclose build compile device freeze kernel kernel_nowait module resolve settings "
    "statistics subscribe thaw warmup",
    "Spec": "arch compiler defines entries entry_names entry_point extra_digest from_file headers "
    "include_dirs name options source with_",
    "Step": "done seconds",
    "Stream": "free freed handle mark priority synchronize wait",
    "Ticket": "at device_seconds done operation seconds stream",
}


async def test_objects_show_their_public_names_only(with_device):
    """Exactly these: a new one is a promise to users, and has to be added here on purpose."""
    async with ajit.open_runtime(**with_device) as rt:
        objects = await _public_objects(rt)
        actual = {type(value).__name__: _names(value) for value in objects}

    assert {name: actual[name] for name in EXPECTED} == {
        name: set(names.split()) for name, names in EXPECTED.items()
    }


async def test_what_is_not_listed_is_a_record(with_device):
    """Statistics, reports and settings have fields and no methods."""
    async with ajit.open_runtime(**with_device) as rt:
        for value in await _public_objects(rt):
            name = type(value).__name__
            if name not in EXPECTED:
                methods = {one for one in _names(value) if callable(getattr(value, one))}
                assert methods == set(), name


def _names(value: object) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}
