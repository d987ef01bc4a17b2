"""`rag serve`: the page and the API, on this machine, behind a token."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.common import (
    ConfigFlag,
    DeviceFlag,
    EncoderFlag,
    IndexFlag,
    ProfileFlag,
    ReaderFlag,
    Session,
    TopKFlag,
    note,
    require_packages,
    stderr,
)
from retrieval.errors import RagError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import FrameType

    from app.config import Config
    from app.server.access import Token
    from app.server.guard import App

CONNECTIONS = 2_000
"""Open at once; a browser has a handful. Fewer where the system lets a process open few files."""
IDLE_SECONDS = 65


def serve(
    context: typer.Context,
    *,
    host: Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Where to listen: 127.0.0.1.")] = None,
    port: Annotated[str | None, typer.Option("--port", metavar="N", help="The port: 8300; 0 takes a free one.")] = None,
    show_token: Annotated[bool, typer.Option("--show-token", help="Print the token and end.")] = False,
    top_k: TopKFlag = None,
    index: IndexFlag = None,
    profile: ProfileFlag = None,
    encoder: EncoderFlag = None,
    device: DeviceFlag = None,
    reader: ReaderFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Serve a page to ask on, an OpenAI-compatible API and the product's own, until interrupted."""
    from app.server.access import settled_token

    session: Session = context.obj
    flags = {
        "config": config, "index": index, "profile": profile, "encoder": encoder, "device": device,
    }  # fmt: skip
    settings = session.config(**flags, reader=reader, top_k=top_k, host=host, port=port)
    token = settled_token(settings)
    if show_token:
        print(token.value)
        return
    require_packages("fastapi", "prometheus_client", "uvicorn")
    from app.server.app import make_application

    application = make_application(
        settings, token=token.value, open_pipeline=session.open_pipeline, flags=flags, folder=session.cwd
    )
    note(str(application.server.engine.pipeline.choice))
    run_server(application.app, settings, token, stopping=application.server.library.stop)


def run_server(
    app: App, config: Config, token: Token, *, path: str = "/", stopping: Callable[[], None] = lambda: None
) -> None:
    """Listen, say where (`path` is what people need of it), and serve until interrupted. Raises RagError.

    stopping: ends what would keep connections open, before these are waited for.
    """
    import uvicorn

    from app.server.heads import bounded_protocol
    from app.server.heap import keep_heaps_small

    class Stopping(uvicorn.Server):
        def handle_exit(self, sig: int, _: FrameType | None) -> None:
            """The first signal ends it when what was asked is answered, and well; the second one at once."""
            if self.should_exit:
                os._exit(128 + sig)  # threads that wait for a language model would be waited for
            self.should_exit = True

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            stopping()
            await super().shutdown(sockets)

    connections = room_for_connections()
    keep_heaps_small()
    listening = _listen(config)
    _announce(config, token, listening.getsockname()[1], path)
    Stopping(
        uvicorn.Config(
            app,
            log_config=LOGGING,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
            http=bounded_protocol(),
            ws="none",
            limit_concurrency=connections,
            backlog=max(8, connections // 16),  # so many are taken in one go, before any of them can be refused
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=int(config.request_seconds),
        )
    ).run(sockets=[listening])


def room_for_connections() -> int:
    """How many connections may be open: half as many as files, the rest is for the index. Raises the limit of files.

    A server that can open no more files takes no connection, reads no index, and says so without end.
    """
    import resource

    unlimited = resource.RLIM_INFINITY
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS if hard == unlimited else min(2 * CONNECTIONS, hard)
    if soft != unlimited and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted // 2


def _listen(config: Config) -> socket.socket:
    """A socket that listens. Raises RagError where it cannot."""
    import socket

    try:
        family, _, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise RagError(
            f"cannot listen on {config.host} port {config.port} ({error.strerror or error}); end the other program, or"
            " take another one with --port"
        ) from error
    # Connections inherit it. asyncio sets it only where a socket names its protocol, and this one does not: without it
    # the body of an answer waits 40 ms for the client to acknowledge its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _announce(config: Config, token: Token, port: int, path: str) -> None:
    """Where to look, and the token where nobody has seen it yet."""
    shown = f"[{config.host}]" if ":" in config.host else config.host
    stderr().print(f"http://{shown}:{port}{path}", style="bold cyan", soft_wrap=True)
    if token.is_new:
        stderr().print(f"token: {token.value}", soft_wrap=True)
        note(f"sign in with it; it is kept in {token.origin}, and rag serve --show-token prints it again")
    else:
        note(f"the token is in {token.origin}; rag serve --show-token prints it")


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        "rag": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "mcp": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}
