"""Links of files, byte for byte as they were given: what they are signed for is these bytes, and no other spelling."""

from __future__ import annotations

import re
from urllib.parse import quote, urljoin

import aiohttp
from yarl import URL

from .._addresses import is_host

_UNSENDABLE = re.compile(r"[^!-~]+")
"""What no request can carry: blanks, control characters, and what is not ASCII."""


def as_given(url: str) -> URL:
    """The address of a link; raises ValueError for what is none. Only what cannot be sent is escaped."""
    scheme, _, rest = url.strip().partition("#")[0].partition("://")
    end = next((at for at, character in enumerate(rest) if character in "/?"), len(rest))
    # A host's name is nothing that is signed, and may have to be spelt in another way to be found.
    host = URL(f"{scheme.lower()}://{rest[:end]}")
    if host.scheme not in ("http", "https") or not is_host(host.raw_host or ""):
        raise ValueError(url)
    path = _UNSENDABLE.sub(lambda found: quote(_bytes_of(found[0])), rest[end:])
    # All of it as a path: of a query that is empty nothing would be left.
    path = path if path.startswith("/") else f"/{path}"
    return URL.build(scheme=host.scheme, authority=host.raw_authority, path=path, encoded=True)


def led_to(address: URL, where: str) -> str:
    """The link that a Location gives: it stays as it is, for that `urljoin` takes out empty parts and dots."""
    where = where.strip()
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", where):
        return where
    if where.startswith("/"):
        host = "" if where.startswith("//") else f"//{address.raw_authority}"
        return f"{address.scheme}:{host}{where}"
    place, question, rest = where.partition("#")[0].partition("?")
    return f"{urljoin(str(address).partition('?')[0], place)}{question}{rest}"


def is_no_link(error: Exception) -> bool:
    """True where an error is the link's: what no host or port can be is found in many places, each in its own words."""
    # A certificate that is refused is a ValueError, too.
    is_of_network = isinstance(error, aiohttp.ClientError | OSError) and not isinstance(error, aiohttp.InvalidURL)
    return isinstance(error, ValueError) and not is_of_network


def _bytes_of(text: str) -> bytes:
    try:
        # Bytes of a header that were no UTF-8.
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
