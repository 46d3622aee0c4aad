"""The sender's interface over aiohttp: a second opinion for the conformance suite, without the address guard."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import Sequence
from types import SimpleNamespace

import aiohttp

from delivery_stream.connection import BODY_KEPT_BYTES, BODY_MAX_BYTES
from delivery_stream.decision import Answered, NoAnswer, Refused, retry_after_s
from shared.clock import SystemClock


class ReferenceSender:
    """One session, no redirects, no cookies, nothing decompressed, one resend as in `Sender.post`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls: ssl.SSLContext | bool = tls or True
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, url: str, headers: Sequence[tuple[str, str]], body: bytes, timeout_s: float
    ) -> Answered | NoAnswer | Refused:
        session = self._session = self._session or self._new_session()
        seen = SimpleNamespace(reused=False)
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    return await self._once(session, url, headers, body, seen)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                    if not seen.reused:
                        raise
                    return await self._once(session, url, headers, body, SimpleNamespace(reused=False))
        except TimeoutError:
            return NoAnswer("timeout")
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            return NoAnswer("tls_failed", str(error))
        except aiohttp.ClientConnectorError as error:
            return NoAnswer("connect_failed", str(error))
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            cut = isinstance(error, aiohttp.ClientPayloadError)
            return NoAnswer("connection_reset" if cut else "bad_response", str(error))
        except (aiohttp.ClientError, OSError) as error:
            return NoAnswer("connection_reset", str(error))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _once(
        self,
        session: aiohttp.ClientSession,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        seen: SimpleNamespace,
    ) -> Answered:
        data = io.BytesIO(body) if len(body) > 2**20 else body  # as aiohttp wishes
        async with session.post(
            url, data=data, headers=headers, allow_redirects=False, ssl=self._tls, trace_request_ctx=seen
        ) as answer:
            kept = b""
            read_bytes = 0
            async for chunk in answer.content.iter_any():
                kept += chunk[: BODY_KEPT_BYTES - len(kept)]
                read_bytes += len(chunk)
                if read_bytes > BODY_MAX_BYTES:
                    answer.close()
                    break
            wait_s = retry_after_s(answer.headers.get("Retry-After"), SystemClock().now_ms())
            return Answered(answer.status, wait_s, kept)

    def _new_session(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()

        async def reused(_session: object, context: SimpleNamespace, _params: object) -> None:
            context.trace_request_ctx.reused = True

        trace.on_connection_reuseconn.append(reused)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=["Accept", "Accept-Encoding", "User-Agent", "Content-Type"],
            trace_configs=[trace],
        )
