"""Copies between the device and host memory, beside the device's work where it can do both at once."""

from __future__ import annotations

from typing import Any, Protocol

import torch

cuda: Any = torch.cuda  # parts of it have no types


class Lane(Protocol):
    """lags: what was sent is in host memory only once it arrived."""

    lags: bool

    def room(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Host memory for what is on its way."""

    def fetch(self, host: torch.Tensor) -> torch.Tensor:
        """On the device. What is reckoned from it waits for it by itself."""

    def send(self, values: torch.Tensor, host: torch.Tensor) -> Any:
        """Into host memory, where it is once `arrived` was called with the answer."""

    def arrived(self, sent: Any) -> None: ...

    def settle(self) -> None:
        """All that was begun is done."""

    def pin(self, host: torch.Tensor) -> None: ...

    def unpin(self, host: torch.Tensor) -> None: ...


class PlainLane:
    """One thing after the other."""

    lags = False

    def __init__(self, device: torch.device):
        self.device = device

    def room(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    def fetch(self, host: torch.Tensor) -> torch.Tensor:
        return host.to(self.device)

    def send(self, values: torch.Tensor, host: torch.Tensor) -> Any:
        host.copy_(values)

    def arrived(self, sent: Any) -> None:
        pass

    def settle(self) -> None:
        pass

    def pin(self, host: torch.Tensor) -> None:
        pass

    def unpin(self, host: torch.Tensor) -> None:
        pass


class CudaLane:
    """A stream for each direction: the next tile comes and the last one goes while this one is reckoned."""

    lags = True

    def __init__(self, device: torch.device):
        self.device = device
        self.inward, self.outward = cuda.Stream(device), cuda.Stream(device)

    def room(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def fetch(self, host: torch.Tensor) -> torch.Tensor:
        current = cuda.current_stream(self.device)
        with cuda.stream(self.inward):
            made = host.to(self.device, non_blocking=host.is_contiguous())
        current.wait_stream(self.inward)
        made.record_stream(current)
        return made

    def send(self, values: torch.Tensor, host: torch.Tensor) -> Any:
        self.outward.wait_stream(cuda.current_stream(self.device))
        values = values.contiguous()
        with cuda.stream(self.outward):
            host.copy_(values, non_blocking=host.is_contiguous())
            values.record_stream(self.outward)
        return self.outward.record_event()

    def arrived(self, sent: Any) -> None:
        sent.synchronize()

    def settle(self) -> None:
        self.inward.synchronize()
        self.outward.synchronize()

    def pin(self, host: torch.Tensor) -> None:
        """Where the driver refuses, copies are slower and nothing else. torch's own pinned memory is never given back."""
        cuda.cudart().cudaHostRegister(host.data_ptr(), host.numel() * host.element_size(), 0)

    def unpin(self, host: torch.Tensor) -> None:
        self.settle()
        cuda.cudart().cudaHostUnregister(host.data_ptr())


def lane_of(device: torch.device) -> Lane:
    return CudaLane(device) if device.type == "cuda" else PlainLane(device)


class Pace:
    """Keeps the host no more than two tiles ahead of the device, whose memory tiles would else fill ahead of their work."""

    AHEAD = 2

    def __init__(self, device: torch.device):
        self.device = device
        self.events: list[Any] = []

    def tile(self) -> None:
        if self.device.type != "cuda":
            return
        self.events.append(cuda.current_stream(self.device).record_event())
        if len(self.events) > self.AHEAD:
            self.events.pop(0).synchronize()
