"""Who may ask, how much at a time and how often."""

import asyncio
import hmac
import ipaddress
import math
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request

from jaxbusi.errors import UserError
from jaxbusi.serve.refusal import Refusal

LEAST_TOKEN = 16
"""Fewest characters of a token."""

_BODY_SECONDS = 60.0
_DISCARDED = 256 * 2**20  # Of a file that is too large: who still sends does not read the answer.
_MOST_CLIENTS = 10_000
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


class RateLimit:
    """So many requests a minute of each address; what was not used is saved up to a minute's."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic):
        """Takes the rate, and a clock in seconds."""
        self._most = float(per_minute)
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Counts a request.

        Raises:
          Refusal: it is one too many.
        """
        now = self._clock()
        left, since = self._left.pop(client, (self._most, now))
        left = min(self._most, left + (now - since) * self._most / 60)
        allowed = left >= 1
        self._left[client] = (left - 1 if allowed else left, now)
        while len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        if not allowed:
            seconds = math.ceil((1 - left) * 60 / self._most)
            raise Refusal(429, f"more than {self._most:.0f} requests a minute; wait", seconds)


def check_token(request: Request, token: str | None) -> None:
    """Refuses a request to the API without the server's token, where it has one.

    Raises:
      Refusal: it is missing or wrong.
    """
    if token is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
        raise Refusal(401, "the token is missing or wrong; send Authorization: Bearer TOKEN")


def check_origin(request: Request, *, loopback: bool) -> None:
    """Refuses what a page of another server makes the reader's browser send.

    Args:
      request: of a browser or of a program, which sends no origin.
      loopback: whether the server has no address but this machine's own. Then it has no other name
        either: another name that leads here is a trick (DNS rebinding).

    Raises:
      Refusal: it comes from elsewhere.
    """
    host = request.headers.get("host", "")
    if loopback and _name(f"//{host}") not in _LOOPBACK_NAMES:
        raise Refusal(403, f"this server is http://localhost, not {host}; open that")
    origin = request.headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != host
    if foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Refusal(403, "pages of other servers may not ask this one")


async def read_body(request: Request, most: int) -> bytes:
    """Reads the body of a request.

    Args:
      request: not read yet.
      most: bytes.

    Raises:
      Refusal: it is larger, or takes longer than a minute.
    """
    too_large = Refusal(413, f"the file has more than the {most >> 20} MiB that are accepted")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most + _DISCARDED:
        raise too_large
    data, size = bytearray(), 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= most:
                    data += chunk
                elif size > most + _DISCARDED:
                    break
                else:
                    data.clear()
    except TimeoutError:
        raise Refusal(408, f"the file took longer than {_BODY_SECONDS:.0f} s to arrive") from None
    except ClientDisconnect:
        raise Refusal(400, "the request ended before its body did") from None
    if size > most:
        raise too_large
    return bytes(data)


def bind(host: str, port: int, token: str | None) -> tuple[socket.socket, bool]:
    """Takes an address, for which nobody is answered yet.

    Args:
      host: a name or an address.
      port: 0 for any that is free.
      token: without one, only addresses of this machine itself are taken.

    Returns:
      The socket, and whether it is reached from this machine alone.

    Raises:
      UserError: the address is refused or taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:  # the latter of what can be no name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} is no address of this machine ({reason})") from error
    loopback = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    if not loopback and token is None:
        raise UserError(
            f"--host {host} can be reached from other machines, and everybody there could use it; "
            "set JAXBUSI_TOKEN to a secret that is asked for, or leave --host out"
        )
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise UserError(
            f"--host {host} --port {port} cannot be used ({reason}); name another port"
        ) from error
    return listener, loopback


def check_secret(token: str | None) -> str | None:
    """Returns JAXBUSI_TOKEN, or None where it is not set.

    Raises:
      UserError: it could be guessed, or a browser could not send it.
    """
    if not token:
        return None
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"JAXBUSI_TOKEN must have {LEAST_TOKEN} characters or more, without spaces; make one: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # a bracket that is not closed
        return None
