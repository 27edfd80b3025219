"""Where the HTTP service listens, and whether it can: asked before Ray is imported, which takes seconds."""

import errno
import ipaddress
import socket
from dataclasses import dataclass

from orchestration.errors import ServeError


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the service listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True where only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def require_free(self) -> None:
        """Raises ServeError where the address cannot be listened at; Serve would only say so in a log."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind, protocol) as attempt:
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the proxy does
                attempt.bind(address)
        except OSError as error:
            why = (
                "somebody listens there already: choose another --port"
                if error.errno == errno.EADDRINUSE
                else f"{error.strerror or error}: check --host and --port"
            )
            raise ServeError(f"cannot listen at {self.url}, {why}") from error
