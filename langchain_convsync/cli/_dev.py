"""``convsync dev``: the page on which you talk to your bot, and break it."""

from __future__ import annotations

import secrets
import signal
import sys
import webbrowser
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from langchain_convsync._flow import run
from langchain_convsync.cli._logs import Format, Level, LogFormat, LogLevel, begin_logs
from langchain_convsync.cli._store import Store, opened_store
from langchain_convsync.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from langchain_convsync.workbench.world import World

#: The bot that ``--demo`` brings.
DEMO = "langchain_convsync.workbench.demo:make_runner"

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODULE:RUNNER]",
        help="Your runner, as for convsync worker. Its client, store and reply are those of the "
        "workbench here, whatever it was given.",
        show_default=False,
    ),
]
Demo = Annotated[bool, typer.Option("--demo", help="A pizzeria's bot instead of yours; no key.")]
Subdomain = Annotated[str, typer.Option(help="The tenant that the customers write to.")]
BotId = Annotated[str, typer.Option(help="The bot that they write to.")]


def target_of(runner: str | None, *, demo: bool) -> str:
    """The runner that is meant.

    Raises:
        ConfigurationError: None is named, or two.
    """
    if demo == (runner is not None):
        message = "name your runner, e.g. my_bot:runner, or use --demo"
        raise ConfigurationError(message)
    return runner or DEMO


def dev(
    runner: Target = None,
    *,
    demo: Demo = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page on 127.0.0.1; 0 picks one.")
    ] = 0,
    open_it: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in your browser.")
    ] = True,
    subdomain: Subdomain = "restaurant-abc",
    bot_id: BotId = "65a1b2c3d4e5f60718293a4b",
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="Look at the store that --store names, and do nothing."),
    ] = False,
    store: Store = None,
    conversation: Annotated[
        list[str] | None,
        typer.Option(metavar="PHONE-or-KEY", help="With --read-only: look at this one, too."),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="With --read-only: show what was written, too.")
    ] = False,
    log_level: LogLevel = Level.ERROR,
    log_format: LogFormat = Format.TEXT,
) -> None:
    """Talk to your bot in the browser, see what happens, and break it.

    API server, WAHA and store are local and end with it; your bot runs in a process of its own,
    which is started anew when its files change. Nothing leaves this machine but what your agent
    and its tools do themselves.

    With --read-only it shows a live store instead, for an incident: what happens, what waits and
    why, without words and without a lever.
    """
    begin_logs(log_level, log_format)
    if read_only and (runner is not None or demo):
        message = "--read-only looks at a store: name no runner with it"
        raise ConfigurationError(message)
    if not read_only and (store or conversation or text):
        message = "--store, --conversation and --text look at a live store: add --read-only"
        raise ConfigurationError(message)
    target = "" if read_only else target_of(runner, demo=demo)
    try:
        from langchain_convsync.server.serving import listen, server_for, url_of
        from langchain_convsync.turns.operators import conversation_key_of
        from langchain_convsync.workbench.live import Live
        from langchain_convsync.workbench.page import create_page
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("langchain_convsync"):
            raise
        raise MissingExtraError("convsync dev", "server") from error
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises it again once it has ended
        signal.signal(number, _leave)
    with ExitStack() as opened:
        shown: World | Live
        if read_only:
            live = opened.enter_context(opened_store(store))
            keys = [run(conversation_key_of(live, each)) for each in conversation or ()]
            shown = opened.enter_context(Live(live, texts=text, asked=keys))
        else:
            shown = opened.enter_context(_world(target, subdomain, bot_id))
        listener, token = listen("127.0.0.1", port), secrets.token_urlsafe(16)
        url = f"{url_of(listener)}/?token={token}"
        typer.echo(f"convsync dev: {url}\nCtrl-C ends it.")
        if open_it:
            webbrowser.open(url)
        page = create_page(shown, token=token, port=listener.getsockname()[1])
        server_for(page, grace=1).run([listener])


def _world(target: str, subdomain: str, bot_id: str) -> World:
    from langchain_convsync.workbench.world import World  # who looks at a store plays none

    return World(target, subdomain=subdomain, bot_id=bot_id)


def _leave(*_: object) -> NoReturn:
    sys.exit(0)
