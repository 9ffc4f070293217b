"""Frames between the pool and its processes: a length and that many bytes, over a Unix socket. Standard library only."""

from __future__ import annotations

import socket
import struct

_HEADER = struct.Struct("!I")
MAX_FRAME = 64 * 1024 * 1024


def send_frame(sock: socket.socket, payload: bytes) -> None:
    """Send one frame; raises OSError if the other end is gone."""
    sock.sendall(_HEADER.pack(len(payload)) + payload)


def receive_frame(sock: socket.socket) -> bytes | None:
    """Receive one frame, blocking; None at the end of the stream."""
    header = _receive(sock, _HEADER.size)
    return None if header is None else _receive(sock, _HEADER.unpack(header)[0])


def _receive(sock: socket.socket, size: int) -> bytes | None:
    chunks = bytearray()
    while len(chunks) < size:
        chunk = sock.recv(min(size - len(chunks), 1 << 20))
        if not chunk:
            return None
        chunks += chunk
    return bytes(chunks)


def take_frame(buffer: bytearray) -> bytes | None:
    """Remove the first complete frame from ``buffer``, or None. Raises ValueError for an impossible length."""
    if len(buffer) < _HEADER.size:
        return None
    size = _HEADER.unpack(buffer[: _HEADER.size])[0]
    if size > MAX_FRAME:
        raise ValueError("frame too long")
    if len(buffer) < _HEADER.size + size:
        return None
    payload = bytes(buffer[_HEADER.size : _HEADER.size + size])
    del buffer[: _HEADER.size + size]
    return payload
