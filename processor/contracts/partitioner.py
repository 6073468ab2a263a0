"""Which partition a key is on: the murmur2 partitioner that all our producers use.

The same as Java's `Utils.murmur2` and librdkafka's `murmur2_random` for keys that are not None.
"""

from __future__ import annotations

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """Tell the partition of a key on a topic with so many partitions.

    >>> partition_of(b"kafka", 12)
    7
    """
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(key: bytes) -> int:
    length = len(key)
    digest = _SEED ^ length
    whole = length - length % 4
    for at in range(0, whole, 4):
        block = int.from_bytes(key[at : at + 4], "little") * _M & _MASK
        block = (block ^ block >> 24) * _M & _MASK
        digest = (digest * _M & _MASK) ^ block
    if whole < length:
        digest = (digest ^ int.from_bytes(key[whole:], "little")) * _M & _MASK
    digest = (digest ^ digest >> 13) * _M & _MASK
    return digest ^ digest >> 15
