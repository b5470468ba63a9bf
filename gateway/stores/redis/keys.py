"""Where things are in Redis: partitions, and the prefix that all keys of one share.

A player or room belongs to one of a fixed number of partitions. The braces in its prefix are a
hash tag: all keys of a partition are in one slot of a Cluster, so that a script may use them all.
https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final
from zlib import crc32

#: How many partitions a store has. It cannot change while the store lives.
PARTITIONS: Final = 256
#: Slots of a Cluster.
SLOTS: Final = 16384


def partition_of(name: str, partitions: int) -> int:
    """Return the partition of a `true_id` or room."""
    return crc32(name.encode()) % partitions


def prefix_of(prefix: str, partition: int) -> bytes:
    """Return what all keys and channels of a partition begin with."""
    return f"{prefix}:{{{partition}}}:".encode()


def slot_of(partition: int) -> int:
    """Return the slot of a Cluster in which a partition is."""
    return crc_hqx(str(partition).encode(), 0) % SLOTS
