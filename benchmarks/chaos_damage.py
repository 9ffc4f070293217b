"""What is done to files: a small file system that really is full, and checkpoints that are altered or not ours."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
from pathlib import Path


def small_disk(folder: Path, mib: int = 256) -> None:
    """Have a file system of its own at a folder, for this process and its children alone; gone with them."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, new_user, private = 0x20000, 0x10000000, 0x44000
    user, group = os.getuid(), os.getgid()
    if libc.unshare(new_mounts) != 0:
        if libc.unshare(new_user | new_mounts) != 0:
            raise OSError(ctypes.get_errno(), "neither root nor user namespaces: no file system of our own")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    libc.mount(b"none", b"/", None, private, None)
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={mib}m".encode()) != 0:
        raise OSError(ctypes.get_errno(), "no small file system")


def fill(folder: Path, leave: int) -> None:
    """Write to a file in `folder` until the disk is full, then give `leave` bytes back."""
    ballast = os.open(folder / "ballast", os.O_WRONLY | os.O_CREAT)
    size, block = 0, b"\0" * (1 << 20)
    while block:
        try:
            size += os.write(ballast, block)
        except OSError:
            block = block[: len(block) // 2] if len(block) > 512 else b""
    os.ftruncate(ballast, max(0, size - leave))
    os.close(ballast)


def alter(path: Path, rng: random.Random) -> str:
    """Alter a checkpoint; what was done."""
    file = rng.choice(sorted(p for p in path.iterdir() if p.is_file()))
    how = rng.choice(["flip", "flip", "flip", "truncate", "empty", "delete", "other"])
    content = bytearray(file.read_bytes())
    if how == "flip":
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
    elif how == "truncate":
        os.truncate(file, rng.randrange(len(content)))
    elif how == "empty":
        os.truncate(file, 0)
    elif how == "delete":
        file.unlink()
    else:
        file.write_bytes(rng.randbytes(len(content)))
    return f"{how} {file.name}"


def put_foreign(path: Path, own: Path, rng: random.Random) -> str:
    """Something else under a checkpoint's name."""
    how = rng.choice(["an empty folder", "a model folder", "another step's checkpoint"])
    if how == "another step's checkpoint":
        shutil.copytree(own, path)
    else:
        path.mkdir()
        if how == "a model folder":
            (path / "config.json").write_text("{}")
            (path / "model.safetensors").write_bytes(rng.randbytes(100))
    return how
