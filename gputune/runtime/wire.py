"""How do a worker process and its parent talk? Length-prefixed frames on pipes: JSON and bytes.

A frame is the magic word, the length of the header, the length of the payload, the header (a JSON
object) and the payload. The header's "blobs" lists the lengths of the byte strings in the payload.
Nothing in a frame is ever evaluated.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

MAGIC = b"GTW1"
_PREFIX = struct.Struct("<4sIQ")
MAX_HEADER = 64 << 20
MAX_PAYLOAD = 4 << 30


class Garbage(ValueError):
    """What arrived is not a frame."""


@dataclass(frozen=True, slots=True)
class Message:
    """One frame: a JSON object and byte strings."""

    header: dict[str, Any]
    blobs: tuple[bytes, ...] = ()


def encode(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """The bytes of a frame; ValueError if the header holds what JSON cannot (NaN included)."""
    text = json.dumps({**header, "blobs": [len(b) for b in blobs]}, allow_nan=False).encode()
    prefix = _PREFIX.pack(MAGIC, len(text), sum(map(len, blobs)))
    return b"".join((prefix, text, *blobs))


@dataclass(slots=True)
class Decoder:
    """Collects bytes as they come and gives back whole messages."""

    buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Add bytes; every message they complete. Raises Garbage on anything else."""
        self.buffer += data
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> Message | None:
        have = len(self.buffer)
        if self.buffer[:4] != MAGIC[: min(have, 4)]:
            raise Garbage(f"expected a frame, found {bytes(self.buffer[:40])!r}")
        if have < _PREFIX.size:
            return None
        _, header_size, payload_size = _PREFIX.unpack_from(self.buffer)
        if header_size > MAX_HEADER or payload_size > MAX_PAYLOAD:
            raise Garbage(f"a frame of {header_size} + {payload_size} bytes is too long")
        end = _PREFIX.size + header_size + payload_size
        if have < end:
            return None
        text = bytes(self.buffer[_PREFIX.size : _PREFIX.size + header_size])
        payload = bytes(self.buffer[_PREFIX.size + header_size : end])
        del self.buffer[:end]
        return _message(text, payload)


def _message(text: bytes, payload: bytes) -> Message:
    try:
        header = json.loads(text)
        sizes = header.pop("blobs")
        if sum(sizes) != len(payload) or any(n < 0 for n in sizes):
            raise ValueError("blob lengths do not add up")
    except (ValueError, AttributeError, KeyError, TypeError) as e:
        raise Garbage(f"a frame with a broken header: {e}") from None
    blobs, at = [], 0
    for n in sizes:
        blobs.append(payload[at : at + n])
        at += n
    return Message(header, tuple(blobs))
