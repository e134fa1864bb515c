"""The process that ``convsync chat`` and ``convsync dev`` start for a bot, and kill."""

from __future__ import annotations

import sys

import typer

from langchain_convsync._lines import one_line
from langchain_convsync.errors import ConfigurationError, StoreError


def main() -> None:
    """Run the bot that the environment names; what the user has to mend ends with status 2."""
    from langchain_convsync.cli._target import load
    from langchain_convsync.workbench.bot import main as run

    try:
        run(load)
    except typer.Exit as left:
        sys.exit(left.exit_code)
    except (ConfigurationError, StoreError) as error:
        sys.stderr.write(f"convsync: {one_line(str(error))}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
