"""Who may reach the service: by a key; or, where nobody has one, from this machine and by no page of anybody else's.

A page in a browser can send a request to a server on loopback, though it cannot read the answer; with a name that leads
there (DNS rebinding) it reads that too. So without keys four things are looked at which a page cannot choose: the host
that it asks, where it comes from (Origin, Sec-Fetch-Site), and what a form or a "simple" fetch never has, a body of
JSON or a header of one's own. A key is proof enough for all of that, as long as no browser sends it by itself: cookies
are never looked at, and Basic, by which a browser is let in to the page, is only taken for that and from there.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from multidict import MultiMapping
from yarl import URL

from .._addresses import is_address, is_loopback
from .._text import told
from ..errors import ConfigurationError
from ._callers import ANYBODY, Caller, Callers
from ._refusals import Refusal

CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
"""Who asks, in the request, once the guard has let it pass."""

PAGES = frozenset({"/", "/events", "/metrics", "/page.css", "/page.js", "/icon.svg"})
"""What tells of everybody's pictures and credits: the page, what keeps it alive, and the figures."""

OWN_HEADERS = ("Idempotency-Key", "X-Requested-With", "api-key")
"""Headers that no form can send, nor a page without asking before, which is refused. `Authorization: Bearer`, which
OpenAI's clients always send, is one too; any other Authorization is not, for a browser sends what it has remembered."""

_FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
"""By which proxies tell that somebody else has asked."""

_AUTHORITY = re.compile(r"(\[[0-9a-z:.%]+\]|[^\s:/?#@\[\]\\]+)(?::([0-9]{1,5}))?", re.IGNORECASE)

_PORTS = {"http": 80, "https": 443}

_SCHEME = {"WWW-Authenticate": "Bearer"}
_BASIC = {"WWW-Authenticate": 'Basic realm="imagen-async", charset="UTF-8"'}

_NEW_CALLER = "imagen-async serve --callers FILE --new-caller"


def check_listening(host: str | None, has_callers: bool) -> None:
    """Refuse to listen where others than this machine can ask while nobody has a key; raises ConfigurationError.

    What a name leads to is not asked: of names only `localhost`, and what ends with it, is of this machine for sure.

    Args:
        host: Where the service is to listen; None or nothing: at all addresses.
        has_callers: True where there is a file of callers.
    """
    if has_callers or (host is not None and is_loopback(host)):
        return
    where = f"at {told(host)}" if host else "at all addresses"
    message = f"Without callers the service listens on loopback only, and not {where}, where others can spend credits"
    raise ConfigurationError(f"{message}: give --callers FILE, to which {_NEW_CALLER} NAME adds one, or 127.0.0.1.")


class Asked(NamedTuple):
    """What is known of a request before its body is read.

    Attributes:
        method: GET, POST and so on.
        path: Of the route that takes it, without what the application is mounted at: `/files/{name}`. By what it is
            routed to, for one path is spelt in many ways. Nothing where no route takes it.
        headers: As they came.
        peer: The address that it comes from; nothing where that is not known.
        server: The address of this machine that it came to.
    """

    method: str
    path: str
    headers: MultiMapping[str]
    peer: str
    server: str

    @property
    def is_from_here(self) -> bool:
        """True where it came over loopback."""
        return is_loopback(self.peer) and is_loopback(self.server)

    @property
    def host(self) -> tuple[str, int | None] | None:
        """The host and the port that it asks; None where it names none, several, or what can be none."""
        given = self.headers.getall("Host", [])
        return _authority(given[0]) if len(given) == 1 else None


class Guard:
    """Decides who may pass, by what a request says and where it came from.

    - `/healthz` and `/files/…`, whose addresses nobody can guess, are for everybody, also in a page of somebody else.
    - `/`, `/events` and `/metrics` need the admin's key: as a Bearer, or as the password of Basic, whoever the user is.
      They are open on loopback only, while there is no admin and no public address.
    - All else needs a key where there are callers: `Authorization: Bearer KEY`, or `api-key: KEY` as clients for Azure
      send it. Without callers it needs none; but it must have come over loopback and through no proxy, to a loopback
      name, from no page of another origin, and with a body of JSON, or multipart beside one of `OWN_HEADERS`.
    - OPTIONS is refused: no page of another origin is ever let in.

    Args:
        public_url: Where the service is reached through a proxy, or None.

    Attributes:
        is_public: True where others than this machine may find it there.

    Raises:
        ConfigurationError: That is no address.
    """

    def __init__(self, public_url: str | None = None) -> None:
        self._public: tuple[str, str, int] | None = None
        if public_url is not None:
            if not is_address(public_url):
                raise ConfigurationError(f"public_url={told(public_url)}: it must be an address such as https://host.")
            url = URL(public_url)
            self._public = (url.scheme, (url.raw_host or "").removesuffix("."), url.port or _PORTS[url.scheme])
        self.is_public: bool = self._public is not None and not is_loopback(self._public[1])

    def judge(self, asked: Asked, callers: Callers | None) -> Caller | Refusal:
        """Say who asks, or why that is not taken; None for callers: there is no file of them."""
        if asked.method == "OPTIONS":
            return _refused("foreign_origin", "A page of another origin is never let in, so it need not ask whether.")
        if asked.path in ("/healthz", "/files") or asked.path.startswith("/files/"):
            return ANYBODY
        if asked.path in PAGES:
            return self._visitor(asked, callers)
        if callers is None:
            return self._stranger(asked) or ANYBODY
        return _caller(asked, callers)

    def _visitor(self, asked: Asked, callers: Callers | None) -> Caller | Refusal:
        """Who looks at what tells of everybody."""
        has_admin = callers is not None and callers.has_admin
        if callers is None and (refusal := self._stranger(asked)) is not None:
            return refusal
        if not has_admin and self._is_private(asked):
            return self._stranger(asked) or ANYBODY
        if callers is None or not has_admin:
            message = f"This needs the admin's key, and there is none: {_NEW_CALLER} admin makes one"
            return _refused("admin_needed", f"{message}.")
        if _key_in(asked.headers) is not None:
            caller = _caller(asked, callers)
            is_other = isinstance(caller, Caller) and not caller.is_admin
            return _refused("admin_needed", "This needs the admin's key.") if is_other else caller
        # What follows a browser sends by itself, whoever's page has it do so.
        if (refusal := self._from_elsewhere(asked)) is not None:
            return refusal
        visitor = callers.by_key(_password_in(asked.headers))
        if visitor is None or not visitor.is_admin:
            return Refusal(401, "admin_needed", "Any user name, and the admin's key as the password.", _BASIC)
        return visitor

    def _is_private(self, asked: Asked) -> bool:
        """True where whoever asks sits at this machine, as far as anybody can tell."""
        host = asked.host
        is_direct = host is not None and is_loopback(host[0]) and not _is_forwarded(asked)
        return not self.is_public and is_direct and asked.is_from_here

    def _stranger(self, asked: Asked) -> Refusal | None:
        """Why somebody without a key may not pass; None: it may."""
        # What a proxy on this machine passes on comes from anywhere.
        if not asked.is_from_here or _is_forwarded(asked):
            message = f"Without callers only this machine is answered, and no proxy: {_NEW_CALLER} NAME adds one"
            return _refused("callers_needed", f"{message}.")
        host = asked.host
        if host is None or not is_loopback(host[0]):
            named = told(", ".join(asked.headers.getall("Host", [])))
            return _refused("foreign_host", f"The host {named} is none of this machine's: ask localhost.")
        return self._from_elsewhere(asked) or (None if asked.method in ("GET", "HEAD") else _body_of_a_form(asked))

    def _from_elsewhere(self, asked: Asked) -> Refusal | None:
        """Why what comes from a page may not pass; None where it comes from the service's own, or from no page."""
        remedy = "this service's own alone may ask; --public-url names the address at which a proxy has it"
        for origin in asked.headers.getall("Origin", []):
            if not self._is_own(origin, asked.host):
                return _refused("foreign_origin", f"A page of the origin {told(origin)} has asked: {remedy}.")
        if any(site not in ("same-origin", "none") for site in asked.headers.getall("Sec-Fetch-Site", [])):
            return _refused("foreign_origin", f"A page of another origin has asked, or had a link to this: {remedy}.")
        return None

    def _is_own(self, origin: str, host: tuple[str, int | None] | None) -> bool:
        scheme, separator, rest = origin.lower().partition("://")
        named = _authority(rest) if separator and scheme in _PORTS else None
        if named is None:
            return False
        whole = (scheme, named[0], named[1] or _PORTS[scheme])
        # A proxy may have taken TLS off, so the scheme is not compared; who has left the port out means the scheme's.
        return whole == self._public or (host is not None and whole[1:] == (host[0], host[1] or _PORTS[scheme]))


def guard(
    callers: Callable[[], Callers] | None, public_url: str | None, refuse: Callable[[Refusal], web.StreamResponse]
) -> Middleware:
    """Make the middleware that lets a request pass with its `CALLER`, or answers it; before its body is read.

    Args:
        callers: Gives those who may ask now; None: there is no file of them.
        public_url: As in `Guard`.
        refuse: Makes the answer of a refusal.

    Raises:
        ConfigurationError: The public URL is no address; or is one for others, while nobody has a key.
    """
    rules = Guard(public_url)
    if rules.is_public and callers is None:
        message = f"public_url={told(public_url)}: there others can spend credits, and without callers nobody has a key"
        raise ConfigurationError(f"{message}. Give callers, a file to which {_NEW_CALLER} NAME adds one.")

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        judged = rules.judge(_asked(request), None if callers is None else callers())
        if isinstance(judged, Refusal):
            return refuse(judged)
        request[CALLER] = judged
        return await handler(request)

    return watch


def _asked(request: web.Request) -> Asked:
    peer, server = (
        request.remote or "",
        "" if request.transport is None else request.transport.get_extra_info("sockname"),
    )
    if isinstance(server, tuple):
        return Asked(request.method, _path_of(request), request.headers, peer, str(server[0]))
    # A socket in the file system has no address, and is of this machine.
    is_local = request.transport is not None and server is not None
    here = "localhost" if is_local else ""
    return Asked(request.method, _path_of(request), request.headers, here, here)


def _path_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    if resource is None:
        return ""
    others = request.match_info.apps if request.app is not request.match_info.apps[0] else ()
    mounts = (each.get_info() for other in others for each in other.router.resources())
    mounted_at = next((str(each["prefix"]) for each in mounts if each.get("app") is request.app), "")
    return resource.canonical.removeprefix(mounted_at)


def _caller(asked: Asked, callers: Callers) -> Caller | Refusal:
    """Whose key a request has."""
    key = _key_in(asked.headers)
    if key is None:
        message = "This needs the key of a caller, as Authorization: Bearer KEY"
        return Refusal(401, "missing_api_key", f"{message}; {_NEW_CALLER} NAME makes one.", _SCHEME)
    caller = callers.by_key(key)
    if caller is None:
        return Refusal(401, "invalid_api_key", "No caller of this service has the key that was sent.", _SCHEME)
    return caller


def _key_in(headers: MultiMapping[str]) -> str | None:
    """The key that was sent on purpose, which may be nothing; None where none was."""
    given = (each.strip().partition(" ") for each in headers.getall("Authorization", []))
    keys = [key.strip() for scheme, _, key in given if scheme.lower() == "bearer"] or headers.getall("api-key", [])
    # Of several nobody could say which one whoever stands in between has looked at.
    return None if not keys else keys[0] if len(keys) == 1 else ""


def _password_in(headers: MultiMapping[str]) -> str:
    """The password of Basic, or nothing."""
    scheme, _, content = headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(content.strip(), validate=True).decode().partition(":")[2]
    except (ValueError, binascii.Error):
        return ""


def _body_of_a_form(asked: Asked) -> Refusal | None:
    """Why a body may be one that a form has sent; None where it cannot be, or where there is none of a DELETE."""
    given = asked.headers.getall("Content-Type", [])
    if not given and asked.method == "DELETE" and not _has_body(asked.headers):
        return None
    kind = given[0].partition(";")[0].strip().lower() if len(given) == 1 else ""
    if kind == "application/json":
        return None
    if kind != "multipart/form-data":
        message = (
            f"The body is said to be {told(', '.join(given))}: allowed is application/json, or multipart/form-data"
        )
        return Refusal(415, "unsupported_media_type", f"{message} with {_own_headers()}.")
    is_bearer = asked.headers.get("Authorization", "").lower().startswith("bearer ")
    if is_bearer or any(map(asked.headers.__contains__, OWN_HEADERS)):
        return None
    message = f"A form of any page could have sent this: with multipart/form-data goes {_own_headers()}"
    return _refused("own_header_needed", f"{message}.")


def _is_forwarded(asked: Asked) -> bool:
    return any(map(asked.headers.__contains__, _FORWARDED))


def _own_headers() -> str:
    return f"a header that no form can send: Authorization: Bearer, {', '.join(OWN_HEADERS[:-1])} or {OWN_HEADERS[-1]}"


def _has_body(headers: MultiMapping[str]) -> bool:
    return "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"


def _authority(text: str) -> tuple[str, int | None] | None:
    """A host, in small letters and without brackets, and its port; None where it is none."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    return found[1].lower().strip("[]").removesuffix("."), int(found[2]) if found[2] else None


def _refused(code: str, message: str) -> Refusal:
    return Refusal(403, code, message)
