"""Decides which IP addresses belong to the public internet, independently of the Python version.

The lists follow IANA's special-purpose registries (RFC 6890; iana.org/assignments/iana-ipv4-special-registry and
iana-ipv6-special-registry), which `ipaddress.is_global` covers differently from one Python version to the next. Addresses
that embed another address (6to4, Teredo, NAT64, IPv4-compatible) count as not public, whatever they embed: the gateway that
unwraps them decides where the packet goes.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network, RFC 791
        "10.0.0.0/8",  # private use, RFC 1918
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598
        "127.0.0.0/8",  # loopback, RFC 1122
        "169.254.0.0/16",  # link-local, including cloud metadata services, RFC 3927
        "172.16.0.0/12",  # private use, RFC 1918
        "192.0.0.0/24",  # protocol assignments, RFC 6890
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.88.99.0/24",  # 6to4 relays, deprecated by RFC 7526
        "192.168.0.0/16",  # private use, RFC 1918
        "198.18.0.0/15",  # benchmarking, RFC 2544
        "198.51.100.0/24",  # documentation, RFC 5737
        "203.0.113.0/24",  # documentation, RFC 5737
        "224.0.0.0/4",  # multicast, RFC 5771
        "240.0.0.0/4",  # reserved, and broadcast, RFC 1112 and 919
    )
)
_UNICAST_6 = IPv6Network("2000::/3")
"""The range that IANA allocates as global unicast (RFC 4291). All others are local, multicast, translated or reserved."""
_NOT_PUBLIC_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, RFC 2928; Teredo, RFC 4380
        "2001:db8::/32",  # documentation, RFC 3849
        "2002::/16",  # 6to4, RFC 3056
        "3fff::/20",  # documentation, RFC 9637
    )
)


def parsed(host: str) -> Address | None:
    """Return the IP address if the host is one in canonical form; None for a name or a number in another form.

    An IPv4-mapped IPv6 address is returned as its IPv4 address. Raises `ValueError` for an IPv6 address with a zone.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    if address.scope_id is not None:
        raise ValueError(f"{host} is bound to a network interface of this machine")
    return address.ipv4_mapped or address


def is_public(address: Address) -> bool:
    """Return whether the address belongs to the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    return address in _UNICAST_6 and not any(address in network for network in _NOT_PUBLIC_6)


def looks_numeric(host: str) -> bool:
    """Return whether the C library may read the host as an IPv4 address in any form (``127.1``, ``0x7f.1``, ``0``).

    As in the URL standard (url.spec.whatwg.org, "ends in a number"), that is the case if its last label is a number.
    """
    last = host.removesuffix(".").rpartition(".")[2].lower()
    return last.isdecimal() or (last.startswith("0x") and all(digit in "0123456789abcdef" for digit in last[2:]))


def network_of(host: str) -> str:
    """Return the identity of a client by its address; for IPv6 its /64 network, all of whose addresses the client may use."""
    try:
        address = parsed(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address or host)
    return str(IPv6Network((address, 64), strict=False))
