"""What every test stands on: no outside configuration, no tracing, no clock-bound failures."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

#: A developer's own keys, endpoints and proxies must never reach a test.
FOREIGN = ("CONVSYNC_", "OPENAI_", "LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "OTEL_")
PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}


def pytest_configure(config: pytest.Config) -> None:
    """Clean the environment before any module under test, fixture or subprocess reads it."""
    del config
    for name in list(os.environ):
        if name.upper().startswith(FOREIGN) or name.upper() in PROXIES:
            del os.environ[name]
    os.environ["LANGSMITH_TRACING"] = "false"

    # A busy machine is no failure: no deadlines. The rest is Hypothesis's choice (CI: fixed seeds).
    chosen = settings.get_profile(settings.get_current_profile_name())
    settings.register_profile("patient", chosen, deadline=None)
    settings.load_profile("patient")
