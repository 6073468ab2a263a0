"""Which hosts and addresses a job's URL may reach. Pure: nothing is resolved here.

Rule 1: only public addresses, and those of the networks that the settings name.
Rule 2: an address that carries another one is judged by what it carries, or refused.
Rule 3: a cloud's metadata service is never reached, whatever the settings say, and however it is
        carried.
Rule 4: a host must be one of the settings' hosts, however it is written.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence

from processor.errors import PermanentError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Who asks these is told credentials, or can change the machine.
METADATA: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.0.0/16",  # AWS, Azure, Google, OpenStack, Scaleway, Tencent and others.
            "fe80::/10",  # OpenStack. What one of these names differs from machine to machine.
            "100.100.100.200",  # Alibaba.
            "168.63.129.16",  # Azure: the host's agent, in the midst of public addresses.
            "192.0.0.192",  # Oracle.
            "fd00:c1::a9fe:a9fe",  # Oracle.
            "fd00:ec2::254",  # AWS.
            "fd00:ec2::23",  # AWS: the pod's role.
            "fd20:ce::254",  # Google.
            "fd00:42::42",  # Scaleway.
            "fd00:a9fe:a9fe::1",  # Linode.
        ),
    )
)

# https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-, written out: what Python's
# own `is_global` says of them has changed between its versions.
_SPECIAL: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "a carrier's private"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation's"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "a 6to4 relay's"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "a benchmark's"),
        ("198.51.100.0/24", "documentation's"),
        ("203.0.113.0/24", "documentation's"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("2001::/32", "Teredo's"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation's"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "reserved"),
        ("3fff::/20", "documentation's"),
    )
)
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")  # No other is given to anybody.
_MAPPED: Network = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64: Network = ipaddress.IPv6Network("64:ff9b::/96")
_OWN_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
_TEREDO = ipaddress.IPv6Network("2001::/32")
# Networks whose addresses carry an IPv4 one, and how many bits stand behind it.
_CARRYING: tuple[tuple[Network, int], ...] = (
    (ipaddress.IPv6Network("::/96"), 0),  # Compatible.
    (_MAPPED, 0),
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),  # Translated.
    (_NAT64, 0),
    (_OWN_NAT64, 0),
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4.
    (_TEREDO, 64),  # The server; the client stands at the end, inverted.
)
_ISATAP = 0x5EFE  # In the third quarter of the address, with or without the bit for "universal".
# A last label of digits makes a name an IPv4 address to a resolver: 2130706433, 0x7f.1, 0177.0.0.1.
_NUMERIC = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)", re.IGNORECASE)


class Admission:
    """What the settings admit."""

    def __init__(self, hosts: Iterable[str], networks: Iterable[str]) -> None:
        self._hosts = frozenset(hosts)
        self._networks: Sequence[Network] = [ipaddress.ip_network(each) for each in networks]

    def check_host(self, host: str) -> None:
        """Refuse a host that no setting names, or whose notation only some programs understand."""
        name = host.lower().rstrip(".")
        if not name or "%" in name:
            raise PermanentError(f"`{host}` is no host that a job may name")
        literal = _literal(name)
        if literal is None and _NUMERIC.fullmatch(name):
            raise PermanentError(
                f"`{host}` is an address in an odd notation",
                hint="write it as four numbers from 0 to 255, such as 192.0.2.7",
            )
        wanted = name if literal is None else str(literal)
        parents = [f"*.{name.split('.', at)[-1]}" for at in range(1, name.count(".") + 1)]
        if self._hosts.isdisjoint({"*", wanted, *(parents if literal is None else ())}):
            raise PermanentError(
                f"`{host}` is not among the hosts that jobs may fetch from",
                hint="an operator can add it to http.hosts (docs/objects.md)",
            )

    def check_address(self, host: str, address: Address) -> None:
        """Refuse an address that is neither public nor of a network that the settings name."""
        if any(each in network for each in (address, *_carried(address)) for network in METADATA):
            raise PermanentError(
                f"`{host}` has the address {address}, which is link-local or a metadata service:"
                " no job may reach it"
            )
        judged = _judged(address)
        # A mapped address is the carried one to this machine; a NAT64 one is a gateway's business.
        meant = judged if address in _MAPPED else address
        if any(meant in network for network in self._networks):
            return
        what = _special(judged)
        if what is not None:
            raise PermanentError(
                f"`{host}` has the address {address}, which is {what}: jobs may not reach it",
                hint="an operator can add its network to http.networks (docs/objects.md)",
            )


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _carried(address: Address) -> Iterator[Address]:
    """Give every IPv4 address that an IPv6 address may carry."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    bits = int(address)
    places = [bits >> behind for network, behind in _CARRYING if address in network]
    if address in _OWN_NAT64:
        # RFC 6052 has it follow a prefix of 48, 56 or 64 bits, and keeps the ninth octet free.
        joined = bits >> 64 << 56 | bits & (1 << 56) - 1
        places += [joined >> behind for behind in (40, 32, 24)]
    if address in _TEREDO:
        places.append(~bits)
    if _is_isatap(bits):
        places.append(bits)
    yield from (ipaddress.IPv4Address(each & 0xFFFF_FFFF) for each in places)


def _judged(address: Address) -> Address:
    """Give the IPv4 address that a mapped or a NAT64 address stands for; else the address."""
    if address in _MAPPED or address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _special(address: Address) -> str | None:
    """Say what an address is that is not public."""
    for network, what in _SPECIAL:
        if address in network:
            return f"{what}, not public"
    if isinstance(address, ipaddress.IPv6Address):
        if address not in _PUBLIC_IPV6:
            return "not public"
        if _is_isatap(int(address)):
            return "ISATAP, which carries another"
    return None


def _is_isatap(bits: int) -> bool:
    return (bits >> 32) & 0xFDFF_FFFF == _ISATAP
