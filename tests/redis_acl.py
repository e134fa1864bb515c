"""The permissions that the page on security tells operators to give, as one of them would."""

from __future__ import annotations

import re

from tests.pages import page
from tests.redis_server import RedisServer

RULE = re.search(
    r"^ACL SETUSER convsync on .*?(?=^```)", page("run/security"), re.MULTILINE | re.DOTALL
)
#: The commands in it.
COMMANDS = frozenset(re.findall(r"\+(\S+)", RULE[0] if RULE else ""))
PASSWORD = "a-long-password"


def permit(server: RedisServer, user: str, *also: str, without: str = "") -> str:
    """A user with the page's rule, and what else it names for some; the URL to connect with."""
    assert RULE is not None
    rule = RULE[0].replace("\\\n", " ").replace("…", PASSWORD).replace("'", "").split()
    words = [word for word in rule if word != f"+{without}"]
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", user, "reset", *words[3:], *also)
    return server.url.replace("//", f"//{user}:{PASSWORD}@")
