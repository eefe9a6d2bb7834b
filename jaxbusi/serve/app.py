"""The page and the JSON API of a served run, as an ASGI application."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine
from importlib import resources
from pathlib import PurePath
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxbusi.serve.analyst import Findings, Question
from jaxbusi.serve.batching import Batcher
from jaxbusi.serve.limits import RateLimit, check_origin, check_token, read_body
from jaxbusi.serve.refusal import Refusal
from jaxbusi.serve.run import ServedRun
from jaxbusi.serve.uploads import TYPES, Upload, prepare

_T = TypeVar("_T")

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",  # Nor does the reader's browser keep anything.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_READING, _DECODING = 8, 2  # Files at a time: what bounds the memory.


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
      bytes: of a file, at most.
      per_minute: requests to the API of one address.
      token: that the API asks for; None for none.
      loopback: whether the server is reached from this machine alone.
    """

    bytes: int
    per_minute: int
    token: str | None
    loopback: bool


def make_app(run: ServedRun, batcher: Batcher[Question, Findings], limits: Limits) -> ASGIApp:
    """Returns the application.

    Args:
      run: what answers are about.
      batcher: that asks the run's analyst.
      limits: what is refused.
    """
    api = _Api(run, batcher, limits)
    app = Starlette(
        routes=[
            *_page(),
            Route("/api/model", api.model),
            Route("/api/classify", api.classify, methods=["POST"]),
            Route("/api/explain", api.explain, methods=["POST"]),
        ],
        exception_handlers={Refusal: _refuse, HTTPException: _no_such, Exception: _fail},
    )
    app.router.redirect_slashes = False  # to an address with the name that the request gives us
    return _with_headers(app)


class _Api:
    """The endpoints. What is in memory of a request goes with it."""

    def __init__(self, run: ServedRun, batcher: Batcher[Question, Findings], limits: Limits):
        self._run = run
        self._batcher = batcher
        self._limits = limits
        self._rate = RateLimit(limits.per_minute)
        self._reading = asyncio.Semaphore(_READING)
        self._decoding = asyncio.Semaphore(_DECODING)

    async def model(self, request: Request) -> Response:
        """What the run is."""
        self._admit(request)
        return JSONResponse(
            {
                **self._run.about,
                "limits": {
                    "bytes": self._limits.bytes,
                    "types": list(TYPES),
                    "requests_per_minute": self._limits.per_minute,
                },
            }
        )

    async def classify(self, request: Request) -> Response:
        """The probabilities of an image."""
        upload, found = await self._ask(request, explain=False)
        return JSONResponse(self._run.describe(upload, found))

    async def explain(self, request: Request) -> Response:
        """The probabilities of an image, and what they come from."""
        upload, found = await self._ask(request, explain=True)
        return JSONResponse(await asyncio.to_thread(self._run.explain, upload, found))

    async def _ask(self, request: Request, *, explain: bool) -> tuple[Upload, Findings]:
        self._admit(request)
        frame = _frame(request.query_params.get("frame", "1"))
        async with self._reading:
            data = await read_body(request, self._limits.bytes)
            async with self._decoding:
                upload, question = await asyncio.to_thread(
                    prepare, data, frame, self._run.views, explain=explain
                )
            del data  # large, and not needed while others are answered
        return upload, await _unless_gone(request, self._batcher.ask(question))

    def _admit(self, request: Request) -> None:
        self._rate.take(request.client.host if request.client else "")
        check_origin(request, loopback=self._limits.loopback and self._limits.token is None)
        check_token(request, self._limits.token)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Waits for what a request is answered with; who hangs up meanwhile is not worked for."""
    working = asyncio.create_task(work)
    gone = asyncio.ensure_future(request.receive())  # the body is read: nothing else can come
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refusal(400, "the connection was closed before the answer")
        return await working
    finally:
        working.cancel()
        gone.cancel()


def _frame(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text)):
        raise Refusal(400, "frame is the number of a frame, from 1")
    return int(text)


def _page() -> list[Route]:
    """The files of the page, read once: other names than theirs lead nowhere."""
    folder = resources.files("jaxbusi.serve").joinpath("static")
    return [
        Route(
            "/" if file.name == "page.html" else f"/static/{file.name}",
            _file(file.read_bytes(), _TYPES[suffix]),
        )
        for file in folder.iterdir()
        if (suffix := PurePath(file.name).suffix) in _TYPES
    ]


def _file(content: bytes, media: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_: Request) -> Response:
        return Response(content, media_type=media)

    return endpoint


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    headers = {"Connection": "close"} if error.status in (408, 413) else {}  # the rest is not read
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error.reason}, error.status, headers)


async def _no_such(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _fail(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed; its log says why"}, 500)


def _with_headers(app: ASGIApp) -> ASGIApp:
    """Every answer, refusals too, says what a browser may do with it."""
    ours = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *ours]}
            await send(message)

        await app(scope, receive, sending)

    return wrapped
