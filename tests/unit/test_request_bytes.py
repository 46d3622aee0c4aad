"""The bytes of a POST."""

from __future__ import annotations

import pytest

from delivery_stream.request_bytes import BadHeader, encode_headers, request_bytes


def test_a_request_is_line_host_length_headers_and_body() -> None:
    target, request = request_bytes("https://example.com:8443/a?b", [("webhook-id", "msg_1")], b"{}")
    assert target.origin == ("https", "example.com", 8443)
    assert request == (
        b"POST /a?b HTTP/1.1\r\nHost: example.com:8443\r\nContent-Length: 2\r\nwebhook-id: msg_1\r\n\r\n{}"
    )


def test_a_bad_value_is_not_repeated() -> None:
    with pytest.raises(BadHeader) as caught:
        encode_headers([("authorization", "hunter2\n")])
    assert "hunter2" not in str(caught.value)


def test_headers_are_sent_in_order_and_may_repeat() -> None:
    assert encode_headers([("B", "1"), ("a", "\t2 é"), ("B", "")]) == b"B: 1\r\na: \t2 \xe9\r\nB: \r\n"
    assert encode_headers([]) == b""
