"""The KV cache of a model server: its pages, and memory outside of the device that engines share.

`open_pages` binds a declared `Layout` to an engine's tensors. `Pages.load` and `Pages.save` copy
all pages of a request as one submission, and tell layer by layer what is there. A `Store` keeps
chunks in memory that several engines map, in process or behind the socket of a service.

Names are imported on first use; importing this has no effect.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ajit._gpu.host_chunks import Chunks as Chunks
    from ajit.kv import events as events
    from ajit.kv.client import ClientStatistics as ClientStatistics
    from ajit.kv.client import StoreClient as StoreClient
    from ajit.kv.client import connect as connect
    from ajit.kv.group_pages import GroupPages as GroupPages
    from ajit.kv.group_pages import GroupTransfer as GroupTransfer
    from ajit.kv.group_pages import open_group_pages as open_group_pages
    from ajit.kv.group_store import GroupLease as GroupLease
    from ajit.kv.group_store import GroupReservation as GroupReservation
    from ajit.kv.group_store import GroupStore as GroupStore
    from ajit.kv.groups import Group as Group
    from ajit.kv.groups import Groups as Groups
    from ajit.kv.handles import Hold as Hold
    from ajit.kv.handles import Lease as Lease
    from ajit.kv.handles import Reservation as Reservation
    from ajit.kv.health import Health as Health
    from ajit.kv.kernels import PageWay as PageWay
    from ajit.kv.keys import Namespace as Namespace
    from ajit.kv.keys import chunk_digests as chunk_digests
    from ajit.kv.keys import digest_tokens as digest_tokens
    from ajit.kv.layout import Layout as Layout
    from ajit.kv.layout import axes_of as axes_of
    from ajit.kv.options import StoreOptions as StoreOptions
    from ajit.kv.pages import Pages as Pages
    from ajit.kv.pages import PagesStatistics as PagesStatistics
    from ajit.kv.pages import open_pages as open_pages
    from ajit.kv.registering import RegisteredStatistics as RegisteredStatistics
    from ajit.kv.registering import RegisteredStore as RegisteredStore
    from ajit.kv.registering import register as register
    from ajit.kv.scales import Scales as Scales
    from ajit.kv.service import Service as Service
    from ajit.kv.service import open_service as open_service
    from ajit.kv.statistics import ServiceStatistics as ServiceStatistics
    from ajit.kv.statistics import StoreStatistics as StoreStatistics
    from ajit.kv.store import Store as Store
    from ajit.kv.store import open_store as open_store
    from ajit.kv.transfer import Transfer as Transfer

__all__ = [
    "Chunks",
    "ClientStatistics",
    "Group",
    "GroupLease",
    "GroupPages",
    "GroupReservation",
    "GroupStore",
    "GroupTransfer",
    "Groups",
    "Health",
    "Hold",
    "Layout",
    "Lease",
    "Namespace",
    "PageWay",
    "Pages",
    "PagesStatistics",
    "RegisteredStatistics",
    "RegisteredStore",
    "Reservation",
    "Scales",
    "Service",
    "ServiceStatistics",
    "Store",
    "StoreClient",
    "StoreOptions",
    "StoreStatistics",
    "Transfer",
    "axes_of",
    "chunk_digests",
    "connect",
    "digest_tokens",
    "open_group_pages",
    "open_pages",
    "open_service",
    "open_store",
    "register",
]

_HOMES = {
    "Chunks": "ajit._gpu.host_chunks",
    "ClientStatistics": "ajit.kv.client",
    "Group": "ajit.kv.groups",
    "GroupLease": "ajit.kv.group_store",
    "GroupPages": "ajit.kv.group_pages",
    "GroupReservation": "ajit.kv.group_store",
    "GroupStore": "ajit.kv.group_store",
    "GroupTransfer": "ajit.kv.group_pages",
    "Groups": "ajit.kv.groups",
    "Health": "ajit.kv.health",
    "Hold": "ajit.kv.handles",
    "Layout": "ajit.kv.layout",
    "Lease": "ajit.kv.handles",
    "Namespace": "ajit.kv.keys",
    "PageWay": "ajit.kv.kernels",
    "Pages": "ajit.kv.pages",
    "PagesStatistics": "ajit.kv.pages",
    "RegisteredStatistics": "ajit.kv.registering",
    "RegisteredStore": "ajit.kv.registering",
    "Reservation": "ajit.kv.handles",
    "Scales": "ajit.kv.scales",
    "Service": "ajit.kv.service",
    "ServiceStatistics": "ajit.kv.statistics",
    "Store": "ajit.kv.store",
    "StoreClient": "ajit.kv.client",
    "StoreOptions": "ajit.kv.options",
    "StoreStatistics": "ajit.kv.statistics",
    "Transfer": "ajit.kv.transfer",
    "axes_of": "ajit.kv.layout",
    "chunk_digests": "ajit.kv.keys",
    "connect": "ajit.kv.client",
    "digest_tokens": "ajit.kv.keys",
    "open_group_pages": "ajit.kv.group_pages",
    "open_pages": "ajit.kv.pages",
    "open_service": "ajit.kv.service",
    "open_store": "ajit.kv.store",
    "register": "ajit.kv.registering",
}


def __getattr__(name: str) -> object:
    if name == "events":
        return importlib.import_module("ajit.kv.events")
    if name not in _HOMES:
        raise AttributeError(f"module 'ajit.kv' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
