"""``python -m langchain_convsync.cli``: the ``convsync`` command of this very Python."""

from __future__ import annotations

from langchain_convsync.cli import main

if __name__ == "__main__":
    main()
