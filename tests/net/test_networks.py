"""Networks: which entries a list takes, and which addresses it contains."""

from __future__ import annotations

import ipaddress

import hypothesis
import hypothesis.strategies as st
import pytest

from fastsmtp.networks import Networks

V4_OR_V6 = st.ip_addresses(v=4) | st.ip_addresses(v=6)


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("192.0.2.0/24", ["192.0.2.0", "192.0.2.255"], ["192.0.1.255", "192.0.3.0", "::c000:200"]),
        ("192.0.2.7", ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.2.6", "::192.0.2.7"]),
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], ["::1", "::"]),
        ("2001:db8::/32", ["2001:db8::", "2001:DB8:ffff::1"], ["2001:db9::", "32.1.13.184"]),
        ("::1", ["::1", "0:0:0:0:0:0:0:1"], ["::2", "127.0.0.1"]),
        ("::/0", ["::", "fe80::1"], ["192.0.2.1", "::ffff:192.0.2.1"]),
        ("::ffff:10.0.0.0/104", ["10.255.0.1", "::ffff:10.0.0.1"], ["11.0.0.0", "::10.0.0.1"]),
        ("::ffff:0:0/96", ["10.0.0.1"], ["::1"]),
    ],
)
def test_an_entry_contains_its_addresses_and_no_others(
    entry: str, inside: list[str], outside: list[str]
) -> None:
    networks = Networks([entry])
    for address in inside:
        assert networks.match(address), address
    for address in outside:
        assert not networks.match(address), address


def test_text_that_is_not_an_address_is_in_no_network() -> None:
    networks = Networks(["0.0.0.0/0", "::/0", "unix"])
    for address in (
        *("", " ", "unix", "localhost", "mx.example", "192.0.2", "192.0.2.1 ", " 192.0.2.1"),
        *("192.0.2.1/32", "192.0.2.256", "192.0.02.1", "0x7f.0.0.1", "3221225985", "192.0.2.1\0"),
        *("192.0.2.1:25", "[::1]", "fe80::1%eth0", ":", ":::", "1::2::3", "１９２.0.2.1", "\udc80"),
        *("x" * 100_000, ":" * 100_000),
    ):
        assert not networks.match(address), f"{address!r:.80}"


def test_unix_sockets_are_named_by_a_word() -> None:
    assert Networks(["unix"]).unix
    assert not Networks(["unix"]).match("")
    assert not Networks(["0.0.0.0/0", "::/0"]).unix
    assert not Networks().unix


def test_a_list_may_mix_objects_and_text() -> None:
    networks = Networks(
        (
            ipaddress.ip_network("10.0.0.0/8"),
            ipaddress.ip_address("2001:db8::1"),
            "unix",
            "10.0.0.0/8",
        )
    )
    assert networks.entries == ("10.0.0.0/8", "2001:db8::1/128", "unix")
    assert list(networks) == list(networks.entries)
    assert len(networks) == 3
    assert networks.match("10.1.2.3")
    assert networks.match("2001:db8::1")


def test_an_empty_list_is_false_and_contains_nothing() -> None:
    assert not Networks()
    assert not Networks().match("192.0.2.1")
    assert Networks(["unix"])


def test_equal_lists_are_equal_in_any_order() -> None:
    one, other = Networks(["10.0.0.0/8", "unix"]), Networks(["unix", "10.0.0.0/8"])
    assert one == other
    assert hash(one) == hash(other)
    assert one != Networks(["10.0.0.0/8"])
    assert one != ("10.0.0.0/8", "unix")
    assert repr(one) == "Networks(['10.0.0.0/8', 'unix'])"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8' has host bits set, its net is '10.0.0.0/8'"),
        ("2001:db8::1/64", "its net is '2001:db8::/64'"),
        ("10.0.0.0/33", "'10.0.0.0/33' is not an IPv4 or IPv6 network"),
        ("10.0.0.0/-1", "is not an IPv4 or IPv6 network"),
        ("10.0.0.0/", "is not an IPv4 or IPv6 network"),
        ("10.0.0.0/255.0.0.0", "is not an IPv4 or IPv6 network in CIDR notation"),
        ("10.0.0.0/0.255.255.255", "is not an IPv4 or IPv6 network in CIDR notation"),
        ("010.0.0.0/8", "is not an IPv4 or IPv6 network"),
        ("10.1", "is not an IPv4 or IPv6 network"),
        ("", "'' is not an IPv4 or IPv6 network"),
        ("*", "'\\*' is not an IPv4 or IPv6 network"),
        ("Unix", "'Unix' is not an IPv4 or IPv6 network"),
        ("localhost", "'localhost' is not an IPv4 or IPv6 network"),
        ("fe80::1%eth0", "has a zone id"),
    ],
)
def test_an_entry_that_can_be_misread_is_refused(entry: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Networks(["192.0.2.1", entry])


@pytest.mark.parametrize(
    "entry", [1, True, None, b"\n\0\0\1", 0.5, ("10.0.0.0", 8), ["10.0.0.0/8"]]
)
def test_an_entry_of_another_type_is_refused(entry: object) -> None:
    with pytest.raises(TypeError, match="is not a network as str"):
        Networks([entry])


def test_many_networks_are_as_fast_as_their_lengths_are_few() -> None:
    networks = Networks([f"10.{high}.{low}.0/24" for high in range(64) for low in range(64)])
    assert len(networks) == 4096
    assert networks.match("10.63.63.1")
    assert not networks.match("10.64.0.1")


@hypothesis.given(
    st.lists(st.tuples(V4_OR_V6, st.integers(0, 128)), max_size=5), st.lists(V4_OR_V6, max_size=5)
)
def test_lists_agree_with_the_standard_library(
    given: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]],
    others: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    entries = [
        ipaddress.ip_network((address, min(length, address.max_prefixlen)), strict=False)
        for address, length in given
        if getattr(address, "ipv4_mapped", None) is None
    ]
    networks = Networks(map(str, entries))
    for address in [*others, *(address for address, _ in given)]:
        known = getattr(address, "ipv4_mapped", None) or address
        expected = any(known in entry for entry in entries)
        assert networks.match(str(address)) is expected
