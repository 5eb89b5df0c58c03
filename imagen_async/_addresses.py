"""What can be the address of an API, or of a program of the user's own. Reads text, asks no network."""

from __future__ import annotations

from urllib.parse import urlsplit

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_address(url: str) -> bool:
    """True for an HTTP address to which a path can be added: without a login, a query or a fragment."""
    try:
        parts = urlsplit(url)
        # To ask for the port raises ValueError where it can be none.
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
    # No name can be looked up that has an empty label, or one that is too long.
    is_http = is_http and all(0 < len(label) < 64 for label in (parts.hostname or "").removesuffix(".").split("."))
    return is_http and url.isprintable() and "@" not in parts.netloc and not set(url) & set(" ?#\\")


def is_unencrypted(url: str) -> bool:
    """True where what is sent to an address can be read on the way: by http:// to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in _LOOPBACK
