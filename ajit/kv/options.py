"""What a store may be told: one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ajit._system.numa import NumaNode
from ajit.errors import UsageError
from ajit.kv.arena import MOST_SLABS

__all__ = ["StoreOptions"]

MiB = 1 << 20
PAGE_BYTES = 4096
MOST_SLABS_BY_DEFAULT = 256
"""So a service has 512 descriptors of slabs; many systems allow 1024 of all kinds."""


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """What a store may use.

    Attributes:
        limit_bytes: Most memory for chunks. It is taken slab by slab when it is needed, and kept.
        slab_bytes: Size of a slab, which a chunk has to fit into; 0: as much as makes 128 to 256
            slabs, and 64 MiB or more. Each slab costs the store two descriptors, and a client one.
        huge_pages: Whether to use huge pages where there are any.
        numa_node: NUMA node that the memory is to come from: a number, such as `Device.numa_node`,
            or ``"device"`` for that of this machine's GPUs, if all have the same; None: any.
        credit_bytes: Most that one client may have reserved and not committed; 0: a quarter of the
            limit. What is more is refused as busy.
        most_leases: Most leases of one client at once.
        quota_bytes: Most bytes of each tenant (see `Namespace.tenant`) that `quotas` does not name;
            0: no limit.
        quotas: Most bytes of single tenants.
        reserve_seconds: A reservation that is not committed after this long is dropped, so that
            other clients may store its chunks. Its memory stays its writer's until it lets go.

    Raises:
        UsageError: A value cannot be.
    """

    limit_bytes: int
    slab_bytes: int = 0
    huge_pages: bool = True
    numa_node: NumaNode = None
    credit_bytes: int = 0
    most_leases: int = 4096
    quota_bytes: int = 0
    quotas: Mapping[bytes, int] = field(default_factory=dict)
    reserve_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.slab_bytes:
            object.__setattr__(self, "slab_bytes", _slab_bytes_for(self.limit_bytes))
        if self.slab_bytes < PAGE_BYTES or self.slab_bytes % PAGE_BYTES:
            raise UsageError(f"slab_bytes is {self.slab_bytes}; it is a multiple of {PAGE_BYTES}")
        if not 1 <= self.most_slabs <= MOST_SLABS:
            raise UsageError(
                f"limit_bytes is {self.limit_bytes}; it is one to {MOST_SLABS} times slab_bytes, "
                f"which is {self.slab_bytes}"
            )
        if min(self.credit_bytes, self.most_leases, self.quota_bytes) < 0:
            raise UsageError(f"a limit is negative: {self}")
        if not self.reserve_seconds > 0:
            raise UsageError("reserve_seconds is above 0")

    @property
    def most_slabs(self) -> int:
        """How many slabs the limit has room for."""
        return self.limit_bytes // self.slab_bytes

    @property
    def credit(self) -> int:
        """Most that one client may have reserved."""
        return self.credit_bytes or max(self.slab_bytes, self.limit_bytes // 4)


def _slab_bytes_for(limit_bytes: int) -> int:
    share = 1 << max(0, (limit_bytes - 1) // MOST_SLABS_BY_DEFAULT).bit_length()
    pages = max(limit_bytes, PAGE_BYTES) // PAGE_BYTES * PAGE_BYTES
    return min(max(64 * MiB, share), pages)
