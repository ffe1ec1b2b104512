"""Where the ranks of a training meet: at their first node's address, and at no other.

Rank 0's store, by which ranks find each other, has no password. Torch lets it listen on every
interface and has no option, but takes a socket that listens already.
"""

from __future__ import annotations

import importlib
import socket
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig
from torch.distributed import TCPStore  # type: ignore[attr-defined]

BACKLOG = 2048
"""Ranks that may knock at once, as torch's own store has it."""


def listen_at_address() -> None:
    """Have this process's store listen where its ranks are told to look for it."""
    # The package's attribute of that name is the module's function.
    vars(importlib.import_module("torch.distributed.rendezvous"))["TCPStore"] = store


def store(host_name: str, port: int, *arguments: Any, **options: Any) -> TCPStore:
    """A `TCPStore`; where it is the server, it listens at `host_name` alone."""
    if options.get("is_master") and port:
        addresses = socket.getaddrinfo(host_name, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = addresses[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        options["master_listen_fd"] = listening.detach()  # The store closes it.
    return TCPStore(host_name, port, *arguments, **options)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Before Ray makes the process group."""
        worker_group.execute(listen_at_address)
        super().on_start(worker_group, backend_config)


@dataclass
class LoopbackTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray Train's set-up of torch, with a store that other machines reach only if ranks do."""

    @property
    def backend_cls(self) -> type[_Backend]:
        """What starts the process group."""
        return _Backend
