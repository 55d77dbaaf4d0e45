"""How much room there is, as the host tells it or as torch and the operating system do."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from typing import Any, ClassVar

import torch


@dataclass(frozen=True)
class Memory:
    """Free bytes, all of them: what a decode may take of each is settled in here (`planning.py`).

    device: of the VAE's device. On a CPU it is the same memory as `host`, and not read.
    host: available to processes without swapping.
    disk: on the file system of `folder`.
    folder: where layers may be laid as files while they are worked on; none is left behind. Empty: nowhere.
    """

    device: int
    host: int
    disk: int = 0
    folder: str = ""

    @classmethod
    def find(cls, device: torch.device, folder: str | None = None) -> Memory:
        """Asks torch and the operating system. folder: the system's temporary one if None, no files if empty."""
        folder = tempfile.gettempdir() if folder is None else folder
        host = free_host_bytes()
        return cls(free_device_bytes(device, host), host, shutil.disk_usage(folder).free if folder else 0, folder)


def free_device_bytes(device: torch.device, host: int) -> int:
    """What the driver has free, and what torch keeps from it without use. Of others than CUDA's, the host's."""
    if device.type != "cuda":
        return host
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + unused)


def free_host_bytes() -> int:
    """Memory that is available without swapping; 2 GiB where nothing can be found out."""
    if sys.platform == "win32":
        return _free_on_windows()
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:  # macOS tells no free pages here: a half of all is a fair guess
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError):
        return 2 << 30


class _Status(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_: ClassVar[Any] = [
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        *((name, ctypes.c_ulonglong) for name in ("total", "free", "pages", "pages_free", "space", "space_free", "more")),
    ]  # fmt: skip


def _free_on_windows() -> int:
    status = _Status()
    status.length = ctypes.sizeof(status)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status.free)
