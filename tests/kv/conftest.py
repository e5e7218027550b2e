"""Fixtures of the KV cache's tests: those of stores, and of the device layer."""

from __future__ import annotations

from tests.gpu.conftest import faults, no_device_left
from tests.kv.store_support import open_any, path, space

__all__ = ["faults", "no_device_left", "open_any", "path", "space"]
