"""Whether a server in this container can be given work: exits with 0 or 1, for HEALTHCHECK.

``healthy.py [URL]``; without a URL, the tritonserver at the address of the environment's settings. Only the
standard library: this runs every few seconds.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import SplitResult, urlsplit

TIMEOUT_S: Final = 4


def default_url(environment: Mapping[str, str]) -> str:
    """Where the container's tritonserver tells whether all of its models are ready."""
    host = environment.get("SPARK_SPEECH__SERVER__HOST", "127.0.0.1")
    return f"http://{host}:{environment.get('SPARK_SPEECH__SERVER__HTTP_PORT', '8000')}/v2/health/ready"


def is_healthy(url: str) -> bool:
    """Whether ``url`` answers with 200; over TLS where the server does not understand plain HTTP.

    The certificate is not looked at: it is this container's own, and its name need not be the address. A
    server that asks for a client's certificate greets and hangs up (TLS 1.3 tells the client only then): that
    is all that can be seen without one.
    """
    parts = urlsplit(url)
    try:
        return _status(parts, None) == http.client.OK
    except ConnectionRefusedError:
        return False
    except (OSError, http.client.HTTPException):
        pass  # nothing that a server of HTTP says
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    try:
        return _status(parts, unchecked) == http.client.OK
    except _HungUpError:
        return True
    except (OSError, http.client.HTTPException):
        return False


class _HungUpError(Exception):
    """The connection ended after TLS was agreed on."""


def _status(parts: SplitResult, tls: ssl.SSLContext | None) -> int:
    host = parts.hostname or ""
    connection = (
        http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
        if tls is None
        else http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT_S, context=tls)
    )
    try:
        connection.connect()
        try:
            connection.request("GET", parts.path)
            return connection.getresponse().status
        except (ssl.SSLError, ConnectionError) as error:
            if tls is None:
                raise
            raise _HungUpError from error
    finally:
        connection.close()


def main(arguments: Sequence[str]) -> int:
    """The program; 0 for healthy."""
    url = arguments[0] if arguments else default_url(os.environ)
    healthy = is_healthy(url)
    sys.stdout.write(f"{url}: {'healthy' if healthy else 'not healthy'}\n")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
