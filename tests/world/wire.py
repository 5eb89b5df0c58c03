"""What carries a connection's bytes, and takes the HTTP on it apart: each request and answer meets its fate here."""

from __future__ import annotations

import errno
import json
import re
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .answers import Answer, Asked

if TYPE_CHECKING:
    from .network import End
    from .process import Process

KEY = "key-of-the-sandbox"
"""Of all accounts."""

AGAIN = "again=1"
"""In the address that a redirect leads to."""

_GIVEN_UP = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Fate(NamedTuple):
    """What befalls a request, or its answer.

    Attributes:
        what: By name; empty for nothing.
        amount: How much of it, from 0 to 1, or seconds.
        change: Makes another answer of the plain one, or None.
        means: What an answer that was changed tells, as in `answers`.
        oddity: What the change is called.
    """

    what: str = ""
    amount: float = 0.0
    change: Callable[[Answer, Asked], Answer | None] | None = None
    means: str = "same"
    oddity: str = ""


class Exchange:
    """A request and what came of it, as the line saw it.

    Attributes:
        began_at: World time at which its first byte was written, and `began`: its number of `Universe.tick`.
        number: Which of its road it is, from 0, in the whole world.
        plain: What the server answered, or None.
        is_answered: True once the last byte of an answer was read by whoever asked; `answered_at`: world time of that.
        means: What that answer tells.
        has_key: True where the key went with it.
        is_on_ended: True where it was written on a connection whose end had arrived before.
    """

    def __init__(self, process: Process, asked: Asked, prompt: str, number: int, began: tuple[float, int]) -> None:
        self.process, self.asked, self.prompt, self.number = process, asked, prompt, number
        self.began_at, self.began = began
        self.is_answered = self.is_on_ended = self.has_key = False
        self.answered_at = 0.0
        self.plain: Answer | None = None
        self.fate, self.means = Fate(), "same"


class Wire:
    """Carries what is written, as it is."""

    def __init__(self, client: End, server: End) -> None:
        self.client, self.server = client, server

    def written(self, end: End, data: bytes) -> None:
        """Carry bytes to the other end."""
        end.send(data)

    def ended(self, end: End, error: Exception | None) -> None:
        """Carry an end to the other end."""
        end.send_end(error)


class Tap(Wire):
    """Carries HTTP, one request at a time, and lets each meet its fate.

    Args:
        client: Who asks.
        server: Who answers.
        on_request: Makes the exchange of a request that was written, with what is to befall it.
        on_answer: Is told of an answer that the server gave.
    """

    def __init__(
        self, client: End, server: End, on_request: Callable[..., Exchange], on_answer: Callable[..., None]
    ) -> None:
        super().__init__(client, server)
        self._on_request, self._on_answer = on_request, on_answer
        self._asked, self._answered = b"", b""
        self._began = (0.0, 0)
        self._exchange: Exchange | None = None
        self.is_silent = self.is_broken = False

    def written(self, end: End, data: bytes) -> None:
        """Gather what makes a whole request, or a whole answer."""
        if end is self.client:
            if not self._asked:
                self._began = (end.process.universe.now, end.process.universe.tick())
            self._asked += data
            if (size := _size_of(self._asked)) is not None:
                raw, self._asked = self._asked[:size], self._asked[size:]
                self._request(raw)
        elif not self.is_silent:
            self._answered += data
            if (size := _size_of(self._answered)) is not None:
                raw, self._answered = self._answered[:size], self._answered[size:]
                self._answer(raw)

    def ended(self, end: End, error: Exception | None) -> None:
        """Carry an end, after what there is of a request or an answer."""
        if self.is_silent:
            return
        rest = self._asked if end is self.client else self._answered
        if rest:
            end.send(rest)
        end.send_end(error)

    @property
    def is_idle(self) -> bool:
        """True while nothing is asked on it."""
        return not self.is_silent and not self._asked and (self._exchange is None or self._exchange.plain is not None)

    def end(self, *, speaks: bool = False) -> None:
        """Have the server end it, as it stands idle; some say so, in an answer that nobody has asked for."""
        if self.is_idle and self.server.is_open:
            if speaks:
                self.server.send(_GIVEN_UP)
            self._break(None, None)

    def _request(self, raw: bytes) -> None:
        head, _, body = raw.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        if self._exchange is not None and self._exchange.plain is None and not self.is_silent:
            self.client.process.universe.broken.append(f"two requests at once on one connection: {path}")
        exchange = self._exchange = self._on_request(self.client.process, method, path, body, self._began)
        exchange.is_on_ended = self.client.is_ended
        exchange.has_key = KEY.encode() in head
        fate = exchange.fate
        if self.is_silent:
            # Whoever writes on a line that is broken is told, once it finds out; on one that is silent never.
            if self.is_broken:
                self.server.send_end(_reset())
        elif fate.what == "cut request":
            self.client.send(raw[: int(len(raw) * fate.amount)])
            self._break(_reset(), _reset())
        elif fate.what == "swallowed request":
            self.is_silent = True
        elif fate.what == "redirected":
            where = f"{path}{'&' if '?' in path else '?'}{AGAIN}"
            exchange.plain = Answer(307 if method == "POST" else 302, "Moved", (("Location", where),), b"")
            self._carry(_written(exchange.plain), fate, exchange)
        else:
            self.client.send(raw, fate.amount if fate.what == "late request" else 0.0)

    def _answer(self, raw: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.server.send(raw)
            return
        answer = exchange.plain = _read(raw)
        self._on_answer(exchange, answer)
        fate = exchange.fate
        if fate.change is not None:
            changed = fate.change(answer, exchange.asked)
            if changed is not None:
                exchange.means = fate.means
                raw = _written(changed)
        self._carry(raw, fate, exchange)

    def _carry(self, raw: bytes, fate: Fate, exchange: Exchange) -> None:
        def told() -> None:
            exchange.is_answered, exchange.answered_at = True, self.client.process.universe.now

        send, part = self.server.send, raw[: int(len(raw) * fate.amount)]
        match fate.what:
            case "cut answer" | "short answer":
                send(part)
                self._break(_reset() if fate.what == "cut answer" else None, _reset())
            case "swallowed answer":
                self.is_silent = True
            case "late answer":
                send(raw, fate.amount, told)
            case "slow answer":
                step = max(1, len(raw) // 9)
                pieces = [raw[start : start + step] for start in range(0, len(raw), step)]
                for number, piece in enumerate(pieces, start=1):
                    send(piece, fate.amount * number / 9, told if number == len(pieces) else None)
            case "answered twice" if exchange.asked.road in ("create", "poll"):
                # As one: of a second that comes when the next is asked nobody could tell that it is none of its.
                self.server.deliver(raw + raw, 0.0, told)
            case "chunked answer":
                send(_chunked(raw), 0.0, told)
            case _:
                send(raw, 0.0, told)
        if fate.what in ("closed after", "silent after", "unasked after"):
            self._later(fate)

    def _later(self, fate: Fate) -> None:
        universe = self.server.process.universe
        if fate.what == "unasked after":
            universe.after(fate.amount, None, lambda: self.end(speaks=True))
        elif fate.what == "silent after":
            universe.after(fate.amount, None, lambda: setattr(self, "is_silent", True))
        else:
            universe.after(fate.amount, None, lambda: self.is_silent or self._break(None, None))

    def _break(self, to_client: Exception | None, to_server: Exception | None) -> None:
        """End the line for both; nothing that is written comes through any more."""
        if not self.is_silent:
            self.server.send_end(to_client)
            self.client.send_end(to_server)
        self.is_silent = self.is_broken = True


def _reset() -> Exception:
    return ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def _size_of(raw: bytes) -> int | None:
    """Bytes of the message at the front, or None while it is not whole."""
    head, separator, body = raw.partition(b"\r\n\r\n")
    if not separator:
        return None
    found = _LENGTH.search(head)
    length = 0 if found is None else int(found[1])
    return len(head) + 4 + length if len(body) >= length else None


def _read(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    _, status, reason = [*first.split(" ", 2), ""][:3]
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
    return Answer(int(status), reason, tuple(each for each in headers if each[0].lower() != "content-length"), body)


def _written(answer: Answer) -> bytes:
    names = {name.lower() for name, _ in answer.headers}
    own = () if "content-length" in names else (("Content-Length", str(len(answer.body))),)
    lines = "".join(f"{name}: {value}\r\n" for name, value in (*answer.headers, *own))
    head = f"HTTP/1.1 {answer.status} {answer.reason}\r\n{lines}\r\n"
    return head.encode("latin-1") + answer.body


def _chunked(raw: bytes) -> bytes:
    head, _, body = raw.partition(b"\r\n\r\n")
    head = _LENGTH.sub(b"\r\nTransfer-Encoding: chunked", head)
    middle = len(body) // 2
    chunks = [piece for piece in (body[:middle], body[middle:]) if piece]
    packed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in chunks)
    return head + b"\r\n\r\n" + packed + b"0\r\n\r\n"


def summary_of(body: bytes) -> str:
    """A body in a few letters, the same for the same bytes."""
    if len(body) > 400 or not body.isascii():
        return f"{len(body)} bytes, {zlib.crc32(body):08x}"
    return body.decode().replace("\n", " ")


def prompt_of(body: bytes) -> str:
    """The prompt of a create."""
    try:
        content: Any = json.loads(body)
    except ValueError:
        return ""
    return str((content.get("input") or content).get("prompt", "")) if isinstance(content, dict) else ""
