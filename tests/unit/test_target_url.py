"""One reading of a URL, and few forms of it."""

from __future__ import annotations

import pytest

from shared.target_url import Target, parse_target


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://example.com", Target("http", "example.com", 80, "/")),
        ("https://example.com/", Target("https", "example.com", 443, "/")),
        ("HTTPS://Example.COM:8443/A?b=C&d", Target("https", "example.com", 8443, "/A?b=C&d")),
        ("https://example.com?x=1", Target("https", "example.com", 443, "/?x=1")),
        ("https://example.com:/p", Target("https", "example.com", 443, "/p")),
        ("https://example.com./p", Target("https", "example.com", 443, "/p")),
        ("http://a_b.example/p//q/../r?x?y", Target("http", "a_b.example", 80, "/p//q/../r?x?y")),
        ("http://example.com/p@q:r", Target("http", "example.com", 80, "/p@q:r")),
        ("http://localhost:1/", Target("http", "localhost", 1, "/")),
        ("http://192.0.2.7:65535/", Target("http", "192.0.2.7", 65535, "/")),
        ("http://[::1]:8080/", Target("http", "::1", 8080, "/")),
        ("http://[2001:DB8:0:0::1]/", Target("http", "2001:db8::1", 80, "/")),
        ("https://bücher.example/", Target("https", "xn--bcher-kva.example", 443, "/")),
        ("https://BÜCHER.example/", Target("https", "xn--bcher-kva.example", 443, "/")),
        ("https://xn--bcher-kva.example/%C3%BC", Target("https", "xn--bcher-kva.example", 443, "/%C3%BC")),
    ],
)
def test_a_url_is_taken_apart(url: str, target: Target) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/",
        "/path",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http:/example.com/",
        "http:///path",
        "http://:80/",
        "http://?x",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://example.com@10.0.0.1/",
        "http://example.com/#fragment",
        "http://example.com#@10.0.0.1/",
        "http://example.com\\@10.0.0.1/",
        "http://exa mple.com/",
        " http://example.com/",
        "http://example.com/\n",
        "http://example.com/a\r\nHost: b",
        "http://example.com/a\tb",
        "http://example.com/\x00",
        "http://example.com/\u2028",
        "http://example.com/ü",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:999999/",
        "http://example.com:80a/",
        "http://example.com:-1/",
        "http://example.com:80:80/",
        "http://example..com/",
        "http://.example.com/",
        "http://./",
        "http://-a.example/",
        "http://a-.example/",
        "http://a%2eexample/",
        "http://ex*mple.com/",
        "http://" + "a" * 64 + ".example/",
        "http://" + "a." * 127 + "example/",
        "http://example.com/" + "a" * 2048,
        "http://[::1/",
        "http://::1/",
        "http://[::1]x/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[v1.x]/",
        "http://[]/",
        "http://[127.0.0.1]/",
        # what glibc's inet_aton would take for an address
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://0X7F000001/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://127.0.0.01/",
        "http://127.0.0.1.1/",
        "http://1.2.3.256/",
        "http://0/",
        "http://0x/",
        "http://1.2.3.0x4/",
        "http://example.1/",
        "http://１２７.1/",
    ],
)
def test_what_is_unusual_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_target(url)


def test_full_width_digits_and_dots_are_read_as_the_address_they_become() -> None:
    assert parse_target("http://１２７。０。０。１/").host == "127.0.0.1"


def test_a_refusal_does_not_repeat_the_url() -> None:
    with pytest.raises(ValueError, match="user name or password") as caught:
        parse_target("https://user:hunter2@example.com/?token=swordfish")
    assert not any(secret in str(caught.value) for secret in ("hunter2", "swordfish", "example"))


@pytest.mark.parametrize(
    ("url", "host_header"),
    [
        ("http://example.com:80/", "example.com"),
        ("https://example.com:443/", "example.com"),
        ("https://example.com:80/", "example.com:80"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("http://[::1]/", "[::1]"),
    ],
)
def test_the_host_header_names_the_port_unless_it_is_the_schemes_own(url: str, host_header: str) -> None:
    assert parse_target(url).host_header == host_header
