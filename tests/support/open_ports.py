"""Who listens where."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import psutil


def beyond_loopback(processes: Iterable[psutil.Process]) -> list[str]:
    """Those of the processes that can be reached from another machine, and where."""
    return [
        f"{name} at {connection.laddr}"
        for name, connection in listening(processes)
        if not _loopback(connection.laddr.ip)
    ]


def listening(processes: Iterable[psutil.Process]) -> list[tuple[str, psutil._common.pconn]]:
    """Name of the process and socket."""
    found = []
    for process in processes:
        try:
            connections = process.net_connections(kind="inet")
            found += [(process.name(), c) for c in connections if c.status == "LISTEN"]
        except psutil.Error:
            continue
    return found


def _loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
