"""What processes send one another: the collectives they call, and the bytes that leave through their sockets."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TCP_BYTES_SENT = 200
"""Offset of ``tcpi_bytes_sent``, which ``tcpi_bytes_retrans`` follows, in ``tcp_info`` (linux/tcp.h, Linux 4.19 and later)."""


def bytes_on_wire() -> int:
    """What this process has sent through the sockets that it has open, as the kernel counts it, repeats left out."""
    total = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{entry}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as opened:
                state = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            sent, again = struct.unpack_from("QQ", state, TCP_BYTES_SENT)
            total += sent - again
        except OSError:  # closed meanwhile, or no TCP
            continue
    return total


def _bytes(*tensors: Any) -> int:
    return sum(value.numel() * value.element_size() for value in tensors)


COLLECTIVES = {
    "_broadcast_coalesced": ("broadcast", lambda group, tensors, *given, **named: _bytes(*tensors)),
    "broadcast": ("broadcast", lambda tensor, *given, **named: _bytes(tensor)),
    "all_reduce": ("reduced", lambda tensor, *given, **named: _bytes(tensor)),
    "all_gather_into_tensor": ("gathered", lambda output_tensor, *given, **named: _bytes(output_tensor)),
    "all_gather_single": ("gathered", lambda output_tensor, *given, **named: _bytes(output_tensor)),
    "reduce_scatter_tensor": ("scattered", lambda output, input, *given, **named: _bytes(input)),
    "reduce_scatter_single": ("scattered", lambda output, input, *given, **named: _bytes(input)),
}
"""Functions of ``torch.distributed`` (names differ between versions): the kind, and the bytes of the whole tensor."""


@contextmanager
def counted_collectives() -> Iterator[dict[str, list[int]]]:
    """Bytes of the tensors of all collectives that Python calls, by kind and in order. DDP reduces in C++: its hook counts."""
    import torch

    sizes: dict[str, list[int]] = {kind: [] for kind, _ in COLLECTIVES.values()}
    originals = {name: getattr(torch.distributed, name) for name in COLLECTIVES if hasattr(torch.distributed, name)}

    def counting(name: str) -> Any:
        kind, size = COLLECTIVES[name]

        def call(*given: Any, **named: Any) -> Any:
            sizes[kind].append(size(*given, **named))
            return originals[name](*given, **named)

        return call

    for name in originals:
        setattr(torch.distributed, name, counting(name))
    try:
        yield sizes
    finally:
        for name, function in originals.items():
            setattr(torch.distributed, name, function)
