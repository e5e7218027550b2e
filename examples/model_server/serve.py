"""Start the server: uvicorn with several worker processes on one socket and one kernel cache.

The port is printed on standard output once it is bound, so that ``--port 0`` can be used.
"""

from __future__ import annotations

import argparse

import uvicorn
from uvicorn.supervisors import Multiprocess

__all__ = ["main"]

APP = "examples.model_server.app:app"


def main() -> None:
    """Serve until SIGTERM or SIGINT; the workers end first, each closing its runtime."""
    arguments = _arguments()
    config = uvicorn.Config(
        APP,
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        log_level="warning",
        # A worker that is told to stop lets the requests finish that it has, for this long.
        timeout_graceful_shutdown=20,
        # Clients keep their connections, and with them their worker.
        timeout_keep_alive=120,
    )
    socket = config.bind_socket()
    host, port = socket.getsockname()[:2]
    print(f"listening on http://{host}:{port} with {arguments.workers} workers", flush=True)
    server = uvicorn.Server(config)
    Multiprocess(config, target=server.run, sockets=[socket]).run()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port")
    parser.add_argument("--workers", type=int, default=4, help="processes (default 4)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
