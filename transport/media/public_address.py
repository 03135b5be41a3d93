"""Which network addresses belong to the public Internet, and which hosts a URL may name.

Knows: the special-purpose registries of IANA. Refuses to know: names and their resolution, who
asks, and why. No I/O.

The tables are written out, since what the standard library calls global has changed between its
releases, and since forms that carry another address inside (a tunnel's, a translator's) are
refused whole: the tunnel or translator reaches the inner address.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_REFUSED_V4 = tuple(
    map(
        IPv4Network,
        (
            # https://www.iana.org/assignments/iana-ipv4-special-registry
            "0.0.0.0/8",  # this host, this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT; 100.100.100.200 is Alibaba Cloud's metadata
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local; 169.254.169.254 is most clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle Cloud's metadata
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
            # In no registry: the address at which Azure serves its machines, theirs alone.
            "168.63.129.16/32",
        ),
    )
)

# All that IANA has given out for unicast. Outside of it are loopback, unspecified, IPv4-mapped
# and -compatible (::/8), NAT64 (64:ff9b::/96, 64:ff9b:1::/48), discard (100::/64), segment routing
# (5f00::/16), unique local (fc00::/7, with the metadata of AWS, fd00:ec2::254, and of Google,
# fd20:ce::254), link-local, site-local and multicast.
_GLOBAL_V6 = IPv6Network("2000::/3")

_REFUSED_V6 = tuple(
    map(
        IPv6Network,
        (
            # https://www.iana.org/assignments/iana-ipv6-special-registry
            "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3ffe::/16",  # the 6bone, given back
            "3fff::/20",  # documentation
        ),
    )
)

_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})
"""The upper half of an interface identifier that carries an IPv4 address (RFC 5214, 6.1)."""

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")


def is_public(address: str) -> bool:
    """Whether `address` (text, as a resolver gives it) is a host's on the public Internet.

    A translator's own prefix (RFC 6052) cannot be distinguished from any other; an operator who
    runs one in front of private addresses has to filter there."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _REFUSED_V4)
    if parsed.scope_id is not None or parsed not in _GLOBAL_V6:
        return False
    return not any(parsed in network for network in _REFUSED_V6) and not _is_isatap(parsed)


def _is_isatap(address: IPv6Address) -> bool:
    return int(address) >> 32 & 0xFFFF_FFFF in _ISATAP


def is_plain_host(host: str) -> bool:
    """Whether `host` (of a parsed URL: lower case, IDNA-encoded, no brackets) is a name, or an
    address in its one normal form.

    Other spellings of IPv4 addresses (``2130706433``, ``0x7f.1``, ``0177.0.0.1``), which resolvers
    take and people do not mean, end in a number (WHATWG URL, "ends in a number")."""
    try:
        ip_address(host)
    except ValueError:
        last = host.rpartition(".")[2]
        return bool(len(host) <= 253 and _NAME.fullmatch(host) and not _NUMBER.fullmatch(last))
    return "%" not in host
