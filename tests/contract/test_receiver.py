"""The scripted receiver does what it says: the tests that use it rest on that."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.receiver import Answer, Receiver


async def test_it_answers_200_and_remembers_what_came() -> None:
    async with Receiver() as receiver, httpx.AsyncClient() as client:
        answer = await client.post(receiver.url + "/a?b=c", content=b"hello", headers={"Webhook-Id": "msg_1"})
    assert answer.status_code == 200
    (arrival,) = receiver.arrivals
    assert (arrival.method, arrival.path, arrival.body) == ("POST", "/a?b=c", b"hello")
    assert arrival.headers["webhook-id"] == "msg_1"


async def test_it_follows_a_paths_script_and_repeats_the_last_step() -> None:
    async with Receiver() as receiver, httpx.AsyncClient() as client:
        receiver.script("/twice", 500, 503, 200)
        statuses = [(await client.post(receiver.url + "/twice")).status_code for _ in range(4)]
        other = (await client.post(receiver.url + "/other")).status_code
    assert statuses == [500, 503, 200, 200]
    assert other == 200


async def test_a_script_may_be_a_function_and_an_answer_may_carry_headers_and_a_body() -> None:
    async with Receiver() as receiver, httpx.AsyncClient() as client:
        receiver.script("/f", lambda arrival: Answer(429, (("retry-after", "7"),), arrival.body[::-1]))
        answer = await client.post(receiver.url + "/f", content=b"abc")
    assert (answer.status_code, answer.headers["retry-after"], answer.content) == (429, "7", b"cba")


async def test_it_drops_connections_when_told() -> None:
    async with Receiver() as receiver, httpx.AsyncClient() as client:
        receiver.script("/drop", Answer(drop=True))
        with pytest.raises(httpx.TransportError):
            await client.post(receiver.url + "/drop")
    assert len(receiver.of("/drop")) == 1


async def test_what_it_holds_is_in_flight_until_released() -> None:
    async with Receiver() as receiver, httpx.AsyncClient() as client:
        receiver.script("/hold", Answer(hold=True))
        posts = [asyncio.create_task(client.post(receiver.url + "/hold")) for _ in range(5)]
        await receiver.wait_for(5, "/hold")
        assert receiver.in_flight == receiver.peak_in_flight == 5
        receiver.release("/hold")
        assert [answer.status_code for answer in await asyncio.gather(*posts)] == [200] * 5
        assert receiver.in_flight == 0


async def test_waiting_ends_with_the_number_that_came() -> None:
    async with Receiver() as receiver, httpx.AsyncClient() as client:
        await client.post(receiver.url + "/once")
        with pytest.raises(TimeoutError, match="1 of 2 at /once"):
            await receiver.wait_for(2, "/once", timeout_s=0.05)


async def test_it_comes_back_on_the_same_port_after_an_outage() -> None:
    async with Receiver() as receiver, httpx.AsyncClient() as client:
        await client.post(receiver.url + "/a")
        await receiver.stop()
        with pytest.raises(httpx.TransportError):
            await client.post(receiver.url + "/a")
        await receiver.start()
        assert (await client.post(receiver.url + "/a")).status_code == 200


async def test_two_thousand_connections_at_once_are_no_trouble() -> None:
    async with Receiver() as receiver:
        receiver.script_default(Answer(hold=True))
        opened = [await asyncio.open_connection("127.0.0.1", receiver.port) for _ in range(2000)]
        for _reader, writer in opened:
            writer.write(b"POST /h HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await receiver.wait_for(2000, timeout_s=20)
        assert receiver.open_connections == receiver.in_flight == 2000
        receiver.release()
        answers = await asyncio.gather(*(reader.readline() for reader, _writer in opened))
        assert set(answers) == {b"HTTP/1.1 200 OK\r\n"}
        for _reader, writer in opened:
            writer.close()
            await writer.wait_closed()
