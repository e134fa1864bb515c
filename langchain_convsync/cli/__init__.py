"""The ``convsync`` command. Every command is one module of this package, registered below."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from langchain_convsync._lazy import module_on_first_use
from langchain_convsync._lines import one_line
from langchain_convsync.errors import ConfigurationError, MissingExtraError, StoreError

if TYPE_CHECKING:
    import typer
else:  # the extra is needed by those who run a command
    typer = module_on_first_use("typer")

__all__ = ["command_line", "main"]


def command_line() -> typer.Typer:
    """The commands.

    Raises:
        MissingExtraError: typer or rich is not installed.
    """
    try:
        import typer

        from langchain_convsync.cli import (
            _adopt,
            _chat,
            _demo,
            _dev,
            _doctor,
            _operators,
            _replay,
            _serve,
            _status,
            _version,
            _worker,
        )
        from langchain_convsync.cli._printable import OptionalValue, PrintableErrors
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("langchain_convsync"):
            raise
        raise MissingExtraError("The convsync command", "cli") from error

    app = typer.Typer(
        name="convsync",
        cls=PrintableErrors,
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # its traceback shows local variables
    )
    app.callback()(_version.options)
    app.command("demo")(_demo.demo)
    app.command("chat")(_chat.chat)
    app.command("dev")(_dev.dev)
    app.command("replay")(_replay.replay)
    app.command("serve")(_serve.serve)
    app.command("worker")(_worker.worker)
    app.command("status", cls=OptionalValue)(_status.status)
    app.command("doctor")(_doctor.doctor)
    app.command("adopt")(_adopt.adopt)
    for name, command in _operators.COMMANDS.items():
        app.command(name)(command)
    return app


def main() -> None:
    """Run the command line; what the user has to mend ends in one line and status 2."""
    try:
        command_line()()
    except (ConfigurationError, StoreError) as error:
        sys.stderr.write(f"convsync: {one_line(str(error))}\n")
        sys.exit(2)
