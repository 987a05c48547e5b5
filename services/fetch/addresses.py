"""Which network addresses may be connected to on somebody else's behalf."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from services.errors import ConfigurationError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# RFC 4291 and IANA's registry: all that is given out to hosts begins with 001.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# RFC 6052: how hosts without IPv4 reach it; the last four bytes are the address that is reached.
_NAT64 = IPv6Network("64:ff9b::/96")
# What newer registries and tunnels took out of it: Teredo and others (RFC 2928), documentation, 6to4.
_NOT_HOSTS = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20", "2002::/16")))
# The same for IPv4, as far as Python's own list is older: relays of 6to4, AS112, AMT.
_NOT_HOSTS_V4 = tuple(map(IPv4Network, ("192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24")))


def is_public(address: Address) -> bool:
    """Whether an address is a host's on the public Internet.

    Not private, loopback, link-local (where clouds keep their metadata), shared, multicast, reserved or of
    documentation, nor an IPv6 address that stands for an IPv4 address of these kinds.
    """
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(address.packed[-4:]))
        return address in _GLOBAL_UNICAST and address.is_global and not any(address in net for net in _NOT_HOSTS)
    unusual = address.is_multicast or address.is_reserved or any(address in network for network in _NOT_HOSTS_V4)
    return address.is_global and not unusual


def literal(host: str) -> Address | None:
    """The address that a host is written as; None for a name.

    Raises:
        ValueError: it is a number in a form that resolvers take for an address and people do not: one number for all
            four bytes, fewer than four numbers, octal or hexadecimal ones.
    """
    if ":" in host:
        return ip_address(host)
    last = host.rstrip(".").rpartition(".")[2]
    # WHATWG URL, "ends in a number": names do not.
    if not re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]*", last):
        return None
    return IPv4Address(host)


class AllowList:
    """Hosts that may be connected to although they are not public: names, `name:port`, addresses and networks.

    Raises:
        ConfigurationError: an entry is none of these.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._names: set[tuple[str, int | None]] = set()
        self._networks: list[Network] = []
        for entry in entries:
            try:
                self._networks.append(ip_network(entry))
            except ValueError:
                self._names.add(_name(entry))

    def has_name(self, host: str, port: int) -> bool:
        """Whether a host is listed by name, for this port or for all."""
        return bool({(host, port), (host, None)} & self._names)

    def has_address(self, address: Address) -> bool:
        """Whether an address is listed, or the IPv4 address that it stands for."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks if network.version == address.version)


def _name(entry: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?(?::(\d{1,5}))?", entry)
    if found is None:
        raise ConfigurationError(
            f"{entry!r} is no host to allow: a name, name:port, an address, or a network such as 10.0.0.0/8"
        )
    return found[1].lower(), int(found[2]) if found[2] else None
