"""`rag mcp`: the library as tools for other programs' language models."""

from __future__ import annotations

import signal
import sys
from contextlib import redirect_stdout
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
)
from retrieval.errors import ConfigError

if TYPE_CHECKING:
    from app.config import Config
    from app.pipeline import Pipeline


def mcp(
    context: typer.Context,
    *,
    http: Annotated[bool, typer.Option("--http", help="Listen for HTTP instead, behind the token.")] = False,
    host: Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="With --http: 127.0.0.1.")] = None,
    port: Annotated[
        str | None, typer.Option("--port", metavar="N", help="With --http: 8300; 0 takes a free one.")
    ] = None,
    top_k: TopKFlag = None,
    index: IndexFlag = None,
    profile: ProfileFlag = None,
    encoder: EncoderFlag = None,
    device: DeviceFlag = None,
    reader: ReaderFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Serve search, ask and read_source over the Model Context Protocol, to the program that starts this one."""
    session: Session = context.obj
    if not http and (host or port):
        raise ConfigError("--host and --port say where to listen for HTTP; add --http, or leave them out")
    settings = session.config(
        config=config, index=index, profile=profile, encoder=encoder, device=device, reader=reader, top_k=top_k,
        host=host, port=port,
    )  # fmt: skip
    require_packages("mcp", "prometheus_client", "starlette")
    if http:
        _serve_http(session, settings)
    else:
        with redirect_stdout(sys.stderr):
            pipeline = session.open_pipeline(settings)
        _serve_stdio(pipeline, settings)


def _serve_http(session: Session, config: Config) -> None:
    from app.cli.serve import run_server
    from app.server.access import settled_token
    from app.server.tools import PATH, make_tool_application

    token = settled_token(config)
    pipeline = session.open_pipeline(config)
    note(str(pipeline.choice))
    run_server(make_tool_application(config, token=token.value, pipeline=pipeline), config, token, path=PATH)


def _serve_stdio(pipeline: Pipeline, config: Config) -> None:
    """Until standard input ends. Standard output is the protocol's: what anybody else prints goes to standard error."""
    import logging.config

    import anyio

    from app.cli.serve import LOGGING
    from app.server.counters import Counters
    from app.server.engine import Engine
    from app.server.tools import make_tools

    logging.config.dictConfig(LOGGING)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is lost, and the thread that reads cannot be interrupted
    note(str(pipeline.choice))
    note("speaking the Model Context Protocol on standard input and output; a client starts this (docs/mcp.md)")
    engine = Engine(config, pipeline)
    server = make_tools(engine, Counters())

    async def serve() -> None:
        from mcp.server.stdio import stdio_server

        async with stdio_server() as (reading, writing):
            with redirect_stdout(sys.stderr):
                await engine.start()
                await server.run(reading, writing, server.create_initialization_options())

    try:
        anyio.run(serve)
    finally:
        engine.close()
