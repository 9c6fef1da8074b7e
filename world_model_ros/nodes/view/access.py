"""Who reaches the page: the sockets it listens on, and which requests are refused. Imports no ROS."""

import errno
import hmac
import ipaddress
import secrets
import socket
from urllib.parse import urlsplit

from world_model_ros.errors import UserError

LOCAL = "localhost"
BACKLOG = 64  # connections that may wait
NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on every address of ``host``; port 0 takes a free one.

    For localhost these are 127.0.0.1 and, where the machine has it, ::1. Raises UserError.
    """
    sockets: list[socket.socket] = []
    for family, address in _addresses(host):
        try:
            sockets.append(socket.create_server((address, port), family=family, backlog=BACKLOG))
        except OSError as error:
            if host == LOCAL and family == socket.AF_INET6 and error.errno in NO_IPV6:
                continue
            for made in sockets:
                made.close()
            raise UserError(_why_not(host, port, error)) from None
        port = sockets[0].getsockname()[1]
    return sockets


def _addresses(host: str) -> list[tuple[int, str]]:
    """Return the (family, address) that a host name stands for, each once."""
    if host == LOCAL:
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    try:
        if not host:
            raise OSError
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UserError(
            f"the page's host is {host!r}, which this machine cannot find: give one of its own names or "
            "addresses, 0.0.0.0 for all, or localhost."
        ) from None
    return list(dict.fromkeys((family, address[0]) for family, _, _, _, address in found))


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host}, for the page, is used by another program: end that, or choose another "
            "port (--view-port, --port, or the parameter port; 0 takes a free one)."
        )
    if error.errno == errno.EACCES:
        return f"port {port}, for the page, is reserved for the administrator: choose one above 1023."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"the page's host {host} is not an address of this machine: give one that is, or localhost."
    return f"the page cannot be served on {host}, port {port}: {error.strerror or error}."


class Access:
    """Which requests are answered, for a page that listens on ``sockets``.

    On addresses that only this machine reaches no token is needed. There the browser is the danger: pages of
    other sites can send it here, under a name of their own that they let point to this machine (DNS
    rebinding: the Host header has that name), or from their own address (the Origin header has it). On any
    other address every request needs the token.
    """

    def __init__(self, host: str, sockets: list[socket.socket]):
        self.host = host
        self.port = sockets[0].getsockname()[1]
        self.local = all(_is_loopback(made.getsockname()[0]) for made in sockets)
        self.token = "" if self.local else secrets.token_urlsafe(24)
        self.cookie = f"world_model_ros_{self.port}"  # browsers do not tell the ports of a host apart

    def address(self) -> str:
        """Return what to open in a browser; the token is part of it."""
        host = self.host
        if not self.local and _is_any(host):
            host = socket.gethostname()
        elif ":" in host:
            host = f"[{host}]"
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def allows(self, token: str | None) -> bool:
        """Return whether this is the token, in a time that does not depend on how much of it is right."""
        given = (token or "").encode(errors="surrogateescape")  # a header may hold any bytes
        return hmac.compare_digest(given, self.token.encode())

    def problem(self, host: str, origin: str | None, acts: bool) -> str:
        """Return why a request is refused whatever its token, or "".

        ``host`` and ``origin`` are its headers; ``acts`` is whether it presses a button or opens the stream,
        which no browser does without an Origin.
        """
        if self.local and not self._is_ours(host):
            return (
                f"The page is for this machine only, and this request is for {host or 'no host'}: open "
                f"{self.address()}"
            )
        if origin is None:
            return "The header Origin is missing: give the address of the page." if acts else ""
        if not host or _location(origin) != host.lower():
            return f"Another page ({origin}) has sent this request: only the page itself may."
        return ""

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in (LOCAL, self.host.lower()) or _is_loopback(name)


def _location(origin: str) -> str:
    """Return host and port of an Origin, "" for none; https is that of a proxy before us."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in ("http", "https") else ""


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_any(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return False
