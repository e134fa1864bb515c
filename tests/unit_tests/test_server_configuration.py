"""The configuration file: everything can be said in it, and what is wrong is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server import Forwarding, JwtRules, RateLimit, Tenant
from langchain_convsync.server.access import UNIDENTIFIED, Keyring
from langchain_convsync.server.configuration import Configuration
from tests.pages import page

KEY = "abc-key-0123456789"
SECRET = "a secret of at least thirty-two bytes"
ENVIRONMENT = {"ABC_KEY": KEY, "SECRET": SECRET, "OLD": "older", "SHORT": "short", "EMPTY": ""}
WHOLE = """
host = "0.0.0.0"
port = 9000
database_url = "sqlite:///conversations.db"
quirks = ["prefix", "last_20"]
answer_cap = 20

[sessions.default]
subdomain = "restaurant-abc"
bot_id = "bot123"

[sessions."51999999999"]
subdomain = "restaurant-xyz"
bot_id = "bot456"

[waha]
secret_env = ["SECRET", "OLD"]

[[keys]]
name = "abc"
env = "ABC_KEY"
tenants = ["restaurant-abc"]

[[keys]]
name = "operations"
sha256 = "%s"
tenants = "*"

[jwt]
secret_env = "SECRET"
issuer = "https://login.example.com"

[limits]
per_minute = 600
burst = 60

[forward]
url = "https://agent.example.com/webhook"
secret_env = "SECRET"
""" % ("0" * 64)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "server.toml"


def read(file: Path, text: str) -> Configuration:
    file.write_text(text, encoding="utf-8")
    return Configuration.read(file, ENVIRONMENT)


def test_everything_can_be_configured(file: Path) -> None:
    """Every table, with its secrets from the environment."""
    found = read(file, WHOLE)

    assert (found.host, found.port) == ("0.0.0.0", 9000)
    assert found.database_url == "sqlite:///conversations.db"
    assert (found.quirks, found.answer_cap) == (("prefix", "last_20"), 20)
    assert found.tenants == {
        "default": Tenant("restaurant-abc", "bot123"),
        "51999999999": Tenant("restaurant-xyz", "bot456"),
    }
    assert [each.get_secret_value() for each in found.waha_secrets or ()] == [SECRET, "older"]
    assert [(key.name, key.tenants) for key in found.api_keys] == [
        ("abc", frozenset({"restaurant-abc"})),
        ("operations", "*"),
    ]
    assert Keyring(found.api_keys).caller_of([f"Bearer {KEY}"]) not in {None, UNIDENTIFIED}
    assert isinstance(found.jwt, JwtRules)
    assert found.jwt.issuer == "https://login.example.com"
    assert found.rate_limit == RateLimit(per_minute=600, burst=60)
    assert isinstance(found.forwarding, Forwarding)
    assert found.forwarding.url == "https://agent.example.com/webhook"


def test_the_pages_file_works_as_pasted(file: Path) -> None:
    """With the variables that it names."""
    text = page("start/api-server")
    (pasted,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    file.write_text(pasted, encoding="utf-8")
    named = {"WAHA_SECRET": "w", "AGENT_ABC_KEY": KEY, "FORWARD_SECRET": "f"}

    found = Configuration.read(file, named)

    assert [key.name for key in found.api_keys] == ["agent-abc"]
    assert found.forwarding is not None


def test_an_empty_file_is_the_default(file: Path) -> None:
    """As without one."""
    assert read(file, "") == Configuration()


def test_line_breaks_around_a_secret_of_the_environment_mean_nothing(file: Path) -> None:
    """As files and panels add them."""
    file.write_text(WHOLE, encoding="utf-8")
    stray = {name: f" {value}\n" for name, value in ENVIRONMENT.items()}

    assert Configuration.read(file, stray) == read(file, WHOLE)


def test_a_database_with_a_password_comes_from_the_environment(file: Path) -> None:
    """The file needs to hold no secret at all."""
    file.write_text('database_url_env = "DB"')

    found = Configuration.read(file, {"DB": "postgresql://u:s3cret@localhost/x"})

    assert found.database_url == "postgresql://u:s3cret@localhost/x"
    assert "s3cret" not in repr(found)


def test_no_secret_shows(file: Path) -> None:
    """In whatever prints or logs the configuration."""
    shown = repr(read(file, WHOLE))

    assert SECRET not in shown
    assert KEY not in shown
    assert "0" * 64 not in shown


FORWARD = '[forward]\nurl = "https://a.example"\n'
ABC = '[[keys]]\nname = "abc"\n'


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        ('trusted_proxies = ["10.0.0.1/8"]', "trusted_proxies", "such as 127.0.0.1 or 10.0.0.0/8"),
        ('trusted_proxies = ["*"]', "trusted_proxies", "such as 127.0.0.1 or 10.0.0.0/8"),
        ("port = 'x'", "port", "valid integer; write for example port = 8000"),
        ("port = 99999", "port", "write for example port = 8000"),
        ("prot = 1", "prot", "no such key here; there are host, port, database_url"),
        ("quirks = 'observed'", "quirks", 'write for example quirks = ["observed"]'),
        ("quirks = [1]", "quirks[0]", "valid string"),
        ("answer_cap = 0", "answer_cap", "write for example answer_cap = 20"),
        ("[sessions.default]\nsubdomain = 'a'", "sessions.default.bot_id", "is missing; write"),
        ("[sessions.default]\nsubdomain = 'a b'\nbot_id = 'x'", "sessions.default", "letters"),
        ("[waha]\nsecret = 'x'", "waha.secret", "there are secret_env"),
        ("[waha]\nsecret_env = 'NO'", "waha.secret_env", "variable NO is not set"),
        ("[waha]\nsecret_env = 'EMPTY'", "waha.secret_env", "variable EMPTY is not set"),
        (ABC, "keys[0].tenants", 'is missing; write for example tenants = ["restaurant-abc"]'),
        (ABC + "tenants = 'abc'\nenv = 'ABC_KEY'", "keys[0].tenants", "write for example tenants"),
        (ABC + "tenants = '*'", "keys[0]", "needs either sha256"),
        (ABC + "tenants = '*'\nenv = 'ABC_KEY'\nsha256 = '0'", "keys[0]", "needs either sha256"),
        (ABC + "tenants = '*'\nsha256 = 'secreto'", "keys[0]", "64 lower-case hex digits"),
        (ABC + "tenants = '*'\nenv = 'SHORT'", "keys[0]", "at least 16 characters"),
        (ABC + "tenants = '*'\nkey = 'secreto'", "keys[0].key", "name, tenants, sha256, env"),
        (ABC + "tenants = []\nenv = 'ABC_KEY'", "keys[0]", "list of subdomains"),
        ("[jwt]\nalgorithm = 'none'\nsecret_env = 'SECRET'", "jwt.algorithm", "'HS256'"),
        ("[jwt]", "jwt", "needs either secret_env (HS256) or public_key_file"),
        ("[jwt]\nsecret_env = 'SHORT'", "jwt", "shorter than 32 bytes"),
        ("[jwt]\npublic_key_file = 'no.pem'", "jwt.public_key_file", "cannot be read"),
        ("[limits]", "limits.per_minute", "is missing; write for example per_minute = 600"),
        ("[limits]\nper_minute = 0", "limits", "from 1"),
        ("[limits]\nper_minute = true", "limits.per_minute", "valid integer"),
        (FORWARD, "forward.secret_env", "is missing; write"),
        ("[forward]\nurl = 'http://a.example'\nsecret_env = 'SECRET'", "forward", "be https"),
        (FORWARD + "secret_env = 'SECRET'\ntimeout = 0", "forward.timeout", "greater than 0"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_write_instead(
    file: Path, text: str, place: str, told: str
) -> None:
    """The file, the key, and no value: it may be a secret in the wrong place."""
    with pytest.raises(ConfigurationError) as caught:
        read(file, text)

    message = str(caught.value)
    assert message.startswith(f"server.toml: {place}: ")
    assert told in message
    assert "secreto" not in message
    assert "\n" not in message


def test_a_file_that_is_no_toml_is_told_with_its_line(file: Path) -> None:
    """As the parser saw it."""
    with pytest.raises(ConfigurationError, match=r"server.toml is not TOML: .*line 2"):
        read(file, "port = 1\nport = = 2")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """By its name, without the folders it is in."""
    with pytest.raises(ConfigurationError, match=r"^no.toml cannot be read: No such file"):
        Configuration.read(tmp_path / "no.toml", {})


def test_a_public_key_lies_beside_the_file(file: Path) -> None:
    """Whatever folder the server is started in."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (file.parent / "public.pem").write_bytes(pem)

    found = read(file, '[jwt]\nalgorithm = "ES256"\npublic_key_file = "public.pem"')

    assert found.jwt is not None
    assert found.jwt.algorithm == "ES256"
