"""The live page: what compiles now, who waits for whom, and what is wrong, in a browser.

It needs the extra ``dashboard``. In a server, at any path::

    from ajit import dashboard

    page = dashboard.asgi_app()
    app = Starlette(routes=[Mount("/ajit", page)], lifespan=lifespan)

It shows all runtimes of this machine that use the cache, by their boards, whatever process they are
in; ``ajit dash`` serves it by itself. Without an open page nothing is read. It shows no source but
what logs quote, no environment, no arguments of programs, and cannot change anything.
"""

from __future__ import annotations

from ajit.dashboard.app import Dashboard, asgi_app

__all__ = ["Dashboard", "asgi_app"]
