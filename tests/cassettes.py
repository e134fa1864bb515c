"""What goes onto a cassette: neither keys, nor anything of the machine and the moment.

To record all of them anew, run ``test_cassettes.py`` and ``test_openai_cassettes.py`` with
``VCR_RECORD=1`` set.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import vcr

CASSETTES = Path(__file__).parent / "integration_tests" / "cassettes"
RECORDING = bool(os.environ.get("VCR_RECORD"))
KEPT_HEADERS = {"content-type", "idempotency-key", "retry-after", "retry-after-ms"}


def scrubbed_request(request: Any) -> Any:
    """Without keys, and without the port that the recording server happened to get."""
    request.uri = re.sub(r"//[^/]+", "//api.example", request.uri)
    request.headers = {k: v for k, v in request.headers.items() if k.lower() in KEPT_HEADERS}
    return request


def scrubbed_response(response: Any) -> Any:
    headers = response["headers"]
    return {**response, "headers": {k: v for k, v in headers.items() if k.lower() in KEPT_HEADERS}}


def tape(**options: Any) -> vcr.VCR:
    """A recorder that replays only, unless it records anew."""
    return vcr.VCR(
        **{
            "cassette_library_dir": str(CASSETTES),
            "record_mode": vcr.mode.ALL if RECORDING else vcr.mode.NONE,
            "before_record_request": scrubbed_request,
            "before_record_response": scrubbed_response,
            **options,
        }
    )
