from __future__ import annotations

import ipaddress

import pytest

from processor.adapters.objects.addresses import METADATA, Admission
from processor.errors import PermanentError

ANY = Admission(["*"], [])


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("fc00::1", "private"),
        ("fd12:3456::1", "private"),
        ("100.64.0.1", "private"),
        ("100.127.255.255", "private"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fec0::1", "not public"),
        ("192.0.0.8", "reserved"),
        ("192.0.2.1", "documentation"),
        ("198.18.0.1", "benchmark"),
        ("203.0.113.5", "documentation"),
        ("224.0.0.251", "multicast"),
        ("239.255.255.250", "multicast"),
        ("ff02::1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("2001:db8::1", "documentation"),
        ("100::1", "not public"),
        ("5f00::1", "not public"),
        # What carries another address: mapped, compatible, NAT64, 6to4, Teredo, ISATAP.
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.1.2.3", "private"),
        ("::127.0.0.1", "not public"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b:1::10.0.0.1", "not public"),
        ("2002:7f00:1::", "6to4"),
        ("2001:0:53aa:64c:0:0:80ff:fffe", "Teredo"),
        ("2600:1::5efe:10.0.0.1", "ISATAP"),
        ("2600:1::200:5efe:10.0.0.1", "ISATAP"),
    ],
)
def test_address_that_is_not_public_is_refused_and_named(address: str, told: str) -> None:
    with pytest.raises(PermanentError, match=told):
        ANY.check_address("host.example", ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "223.255.255.1",
     "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"],
)  # fmt: skip
def test_public_address_is_let_pass(address: str) -> None:
    ANY.check_address("host.example", ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00:1::7"])
def test_network_of_the_settings_is_let_pass_and_no_other(address: str) -> None:
    chosen = Admission(["*"], ["10.1.0.0/16", "fd00:1::/64"])

    chosen.check_address("files.internal", ipaddress.ip_address(address))

    for other in ("10.2.0.1", "fd00:2::1", "127.0.0.1", "64:ff9b::10.1.2.3"):
        with pytest.raises(PermanentError):
            chosen.check_address("files.internal", ipaddress.ip_address(other))


@pytest.mark.parametrize(
    "address",
    [
        *(str(network.network_address) for network in METADATA),
        "169.254.169.254",
        "169.254.42.42",
        "169.254.0.23",
        "fe80::a9fe:a9fe%eth0",
        "::a9fe:a9fe",  # Compatible.
        "::ffff:a9fe:a9fe",  # Mapped.
        "::ffff:0:a9fe:a9fe",  # Translated.
        "64:ff9b::a9fe:a9fe",  # NAT64.
        "64:ff9b::a83f:8110",
        "64:ff9b:1::a9fe:a9fe",  # A network's own NAT64, with 96 bits before it,
        "64:ff9b:1:a9fe:a9:fe00::",  # 48,
        "64:ff9b:1:a9:fe:a9fe::",  # 56,
        "64:ff9b:1:0:a9:fea9:fe00:0",  # and 64.
        "2002:a9fe:a9fe::1",  # 6to4.
        "2001:0:a9fe:a9fe::1",  # Teredo: its server,
        "2001::5601:5601",  # and its client.
        "2600:1::5efe:a9fe:a9fe",  # ISATAP.
    ],
)
def test_metadata_service_is_refused_whatever_the_settings_say(address: str) -> None:
    everything = Admission(["*"], ["0.0.0.0/0", "::/0", "fc00::/7", "169.254.0.0/16"])

    with pytest.raises(PermanentError, match="metadata service"):
        everything.check_address("host.example", ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["fd00:42::41", "64:ff9b::10.1.2.3", "64:ff9b:1::10.1.2.3", "2002:a01:203::", "::1", "10.1.2.3",
     "2600:a9fe:a9fe::a9fe:a9fe"],
)  # fmt: skip
def test_other_address_of_a_wide_network_is_let_pass(address: str) -> None:
    everything = Admission(["*"], ["0.0.0.0/0", "::/0"])

    everything.check_address("files.internal", ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.01", "1.2.3.4.5",
     "0x", "host.1", "2130706433."],
)  # fmt: skip
def test_address_in_an_odd_notation_is_refused(host: str) -> None:
    with pytest.raises(PermanentError, match="odd notation"):
        ANY.check_host(host)


@pytest.mark.parametrize("host", ["", ".", "fe80::1%eth0", "%00"])
def test_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(PermanentError, match="no host"):
        ANY.check_host(host)


def test_only_the_hosts_of_the_settings_are_let_pass() -> None:
    chosen = Admission(["files.example.com", "*.cdn.example", "192.0.2.7", "2001:db8::1"], [])

    for host in ("files.example.com", "FILES.Example.com.", "a.cdn.example", "a.b.cdn.example",
                 "192.0.2.7", "2001:DB8:0::1"):  # fmt: skip
        chosen.check_host(host)
    for host in ("example.com", "x.files.example.com", "cdn.example", "evilcdn.example",
                 "files.example.com.evil.example", "192.0.2.8", "com"):  # fmt: skip
        with pytest.raises(PermanentError, match="not among the hosts"):
            chosen.check_host(host)
