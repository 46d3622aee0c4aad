"""One table of spellings, over both who ask: the API that accepts a URL and the sender that calls it."""

from __future__ import annotations

import ssl

import pytest

from delivery_stream.decision import Refused
from delivery_stream.resolver import Resolver
from delivery_stream.sender import Sender
from ingest_api.target_rules import TargetRules
from shared.address import permitted, read_address
from shared.target_url import parse_target
from tests.names import Names


def urls(text: str) -> list[str]:
    return text.split()


#: Read as an address, which is not public.
BLOCKED = urls("""
http://127.0.0.1/ http://127.0.0.1:80/ http://127.0.0.1:443/ https://127.0.0.1/ https://127.0.0.1:8443/x?y
HTTP://127.0.0.1/ hTTps://127.0.0.1/ http://127.0.0.1 http://127.0.0.1?x http://127.0.0.1: http://127.0.0.1:/
http://127.0.0.1./ http://127.0.0.1.:8080/ http://127.0.0.1:00080/ http://127.255.255.254/ http://127.0.1.3/
http://0.0.0.0/ http://0.0.0.0:22/ http://0.255.255.255/ http://10.0.0.1/ http://10.255.255.255./
http://100.64.0.1/ http://100.100.100.200/latest/meta-data http://100.127.255.255/ http://168.63.129.16/machine
http://169.254.169.254/latest/meta-data/ http://169.254.170.2/v2/credentials http://172.16.0.1/ http://172.31.255.255/
http://192.0.0.8/ http://192.0.0.170/ http://192.0.0.192/opc/v2 http://192.0.2.1/ http://192.31.196.1/
http://192.52.193.1/ http://192.88.99.1/ http://192.168.1.1:8080/ http://192.175.48.1/ http://198.18.0.1/
http://198.19.255.255/ http://198.51.100.1/ http://203.0.113.1/ http://224.0.0.1/ http://239.255.255.250:1900/
http://240.0.0.1/ http://255.255.255.255/ http://255.255.255.255.:80/ http://127.0.0.1/../8.8.8.8
http://１２７.０.０.１/ http://１２７。０。０。１/ http://127。0。0。1/ http://127．0．0．1/ http://127｡0｡0｡1/
http://①②⑦.⓪.⓪.①/ http://①⑥⑨。②⑤④。⑯⑨。②⑤④/ http://𝟏𝟐𝟕.𝟎.𝟎.𝟏/ http://¹²⁷.⁰.⁰.¹/ http://１０.0.0.1:8080/x
http://127.0.0.1。/ http://１６９．２５４．１６９．２５４./latest
http://[::1]/ http://[::1]:8080/ https://[::1]/ http://[::]/ http://[0:0:0:0:0:0:0:1]/ http://[0000:0000::0001]/
http://[0:0:0:0:0:0:0.0.0.1]/ http://[::127.0.0.1]/ http://[::7f00:1]/ http://[::ffff:127.0.0.1]/ http://[::FFFF:127.0.0.1]/
http://[::ffff:7f00:1]/ http://[::fFfF:7F00:0001]/ http://[0:0:0:0:0:ffff:127.0.0.1]/ http://[::ffff:0.0.0.0]/
http://[::ffff:a9fe:a9fe]/latest http://[::ffff:0:127.0.0.1]/ http://[::ffff:0:7f00:1]/
http://[64:ff9b::127.0.0.1]/ http://[64:ff9b::7f00:1]/ http://[64:FF9B::A9FE:A9FE]/ http://[64:ff9b::10.0.0.1]/
http://[64:ff9b:1::1]/ http://[64:ff9b:1::8.8.8.8]/ http://[64:ff9b:1:7f00:0:100:808:808]/ http://[64:ff9b:1:ffff::8.8.8.8]/
http://[2002:7f00:1::]/ http://[2002:7F00:0001::1]/ http://[2002:a00:1::1]/ http://[2002:a9fe:a9fe::8.8.8.8]/
http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/ http://[2001:0:808:808:0:0:f5ff:fffe]/ http://[2001::]/
http://[2606:4700::5efe:127.0.0.1]/ http://[2606:4700::200:5efe:10.0.0.1]/ http://[fe80::5efe:8.8.8.8]/
http://[100::1]/ http://[100:0:0:1::1]/ http://[2001:1::1]/ http://[2001:2::1]/ http://[2001:3::1]/ http://[2001:4:112::1]/
http://[2001:10::1]/ http://[2001:20::1]/ http://[2001:30::1]/ http://[2001:db8::1]/ http://[2001:DB8:0:0::1]:80/
http://[2620:4f:8000::1]/ http://[3fff::1]/ http://[5f00::1]/ http://[fc00::1]/ http://[fd00:ec2::254]/latest
http://[fd20:ce::254]/ http://[fe80::1]/ http://[fec0::1]/ http://[ff02::1]/ http://[ff0e::1]/ http://[4000::1]/
http://10.0.0.1/@8.8.8.8 http://10.0.0.1?@8.8.8.8/ http://10.0.0.1/?x=http://8.8.8.8/
""")

#: Not read at all: another program could take it for an address of ours, or for another host than we do.
UNREADABLE = (
    """
http://127.1/ http://127.0.1/ http://127/ http://0/ http://1/ http://2130706433/ http://02130706433/ http://017700000001/
http://0177.0.0.1/ http://0177.0.0.01/ http://127.0.0.01/ http://127.00.0.1/ http://010.0.0.1/ http://0127.0.0.1/
http://0x7f.0.0.1/ http://0x7f.1/ http://0X7F.1/ http://0x7f000001/ http://0x7f.0x0.0x0.0x1/ http://127.0.0.0x1/
http://0x/ http://0x.0x.0/ http://4294967296/ http://340282366920938463463374607431768211455/ http://127.0.0.1.1/
http://127.0.0.256/ http://999.1.1.1/ http://127.0.0.1../ http://.127.0.0.1/ http://127..0.0.1/ http://127.0.0/
http://-1/ http://+127.0.0.1/ http://１２７.1/ http://２１３０７０６４３３/ http://０x7f.1/ http://٠.٠.٠.٠/
http://127%2e0%2e0%2e1/ http://%31%32%37.0.0.1/ http://127.0.0.1%00/ http://127.0.0.1%2f/ http://%5b::1%5d/ http://127.0.0.1%0a/
http://[127.0.0.1]/ http://[2130706433]/ http://[::1 http://::1/ http://::1]:80/ http://[[::1]]/ http://[::1]]/
http://[::1].example/ http://x[::1]/ http://[::1]x/ http://[]/ http://[:::1]/ http://[::1::]/ http://[1:2:3:4:5:6:7]/
http://[::127.1]/ http://[::0x7f.0.0.1]/ http://[::ffff:127.0.0.01]/ http://[::ffff:2130706433]/ http://[::１]/
http://[fe80::1%25eth0]/ http://[fe80::1%eth0]/ http://[::1%251]/ http://[::1%1]/ http://[v1.fe80::a]/ http://[::1/64]/
http://8.8.8.8@127.0.0.1/ http://127.0.0.1@8.8.8.8/ http://user:pw@8.8.8.8/ http://@127.0.0.1/ http://:@127.0.0.1/
http://8.8.8.8:80@127.0.0.1/ http://8.8.8.8%40127.0.0.1/ http://8.8.8.8\\@127.0.0.1/ http://8.8.8.8#@127.0.0.1/
http://8.8.8.8;@127.0.0.1/ http://8.8.8.8&@127.0.0.1/ http://8.8.8.8＠127.0.0.1/ http://8.8.8.8／@127.0.0.1/
http://8.8.8.8\u0000.example/ http://127.0.0.1\u00ad/ http://127\u200d.0.0.1/ http://127.0.0.1\u2044x/ http://127.0.0.1:80:80/
http://127.0.0.1:0/ http://127.0.0.1:65536/ http://127.0.0.1:-80/ http://127.0.0.1:0x50/ http://127.0.0.1:８０/ http://127.0.0.1:80a/
http:127.0.0.1/ http:/127.0.0.1/ http:///127.0.0.1/ http:\\\\127.0.0.1/ //127.0.0.1/ 127.0.0.1 127.0.0.1:80
\\\\127.0.0.1\\x file:///etc/passwd ftp://127.0.0.1/ gopher://127.0.0.1:6379/_x dict://127.0.0.1:11211/
unix:/var/run/docker.sock http://169.254.43518/ http://0251.0376.0251.0376/ http://0xa9fea9fe/
javascript:alert(1) data:text/plain,x http+unix://%2Fvar%2Frun%2Fdocker.sock/ jar:http://127.0.0.1!/ ws://127.0.0.1/
http:// https:// http://? http://: http://:80/ http://./ http://../ http://*/ http://a*b.example/
""".encode()
    .decode("utf-8")
    .split()
)

#: Public by the address in it.
CALLED = urls("""
http://8.8.8.8/ http://8.8.8.8./ http://8.8.8.8:8080/x http://８.８.８.８/ http://8。8。8。8/ http://[2606:4700:4700::1111]/
http://[2606:4700:4700:0:0::1111]:443/ http://[::ffff:8.8.8.8]/ http://[::FFFF:808:808]/ http://[::8.8.8.8]/ http://[64:ff9b::808:808]/
http://[2002:808:808::1]/ http://[2606:4700::5efe:8.8.8.8]/ http://1.0.0.0/ http://126.255.255.255/ http://128.0.0.1/
http://168.63.129.17/ http://172.32.0.1/ http://192.167.255.255/ http://192.169.0.1/ http://223.255.255.255/
http://8.8.8.8?@127.0.0.1/ http://8.8.8.8/@127.0.0.1 http://8.8.8.8/?u=http://127.0.0.1/ http://8.8.8.8/127.0.0.1
""")

NOTHING_ALLOWED = TargetRules((), frozenset())


def test_there_are_enough_of_them() -> None:
    assert len(set(BLOCKED)) >= 120
    assert len(set(UNREADABLE)) >= 120
    assert len({*BLOCKED, *UNREADABLE, *CALLED}) == len(BLOCKED) + len(UNREADABLE) + len(CALLED)


@pytest.mark.parametrize("url", BLOCKED)
async def test_a_spelling_of_an_address_inside_is_refused_by_both(url: str) -> None:
    with pytest.raises(ValueError, match="points at an address that is not public"):
        NOTHING_ALLOWED.check(url)
    assert await reason(url) == "blocked"


@pytest.mark.parametrize("url", UNREADABLE)
async def test_a_spelling_that_two_could_read_in_two_ways_is_read_by_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|holds) "):
        NOTHING_ALLOWED.check(url)
    assert await reason(url) == "bad_url"


@pytest.mark.parametrize("url", CALLED)
def test_a_public_address_is_called(url: str) -> None:
    NOTHING_ALLOWED.check(url)
    assert permitted(read_address(parse_target(url).host))


async def reason(url: str) -> str:
    """What the sender says, which asks no name server for any of these."""
    names = Names()
    sender = Sender(resolver=Resolver(names), tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    outcome = await sender.post(url, [], b"", 5.0)
    await sender.close()
    assert names.asked == []
    assert isinstance(outcome, Refused), outcome
    return outcome.reason
