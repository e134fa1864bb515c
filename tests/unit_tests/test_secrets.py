"""What was configured as a secret is shown by nothing: no repr, pickle or error."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, SecretStr

import langchain_convsync
from langchain_convsync import (
    AddMessage,
    AsyncConvSyncCallbackHandler,
    AsyncConvSyncClient,
    AsyncWAHAClient,
    Conversation,
    ConversationMessage,
    ConversationRef,
    ConvSyncCallbackHandler,
    ConvSyncChatMessageHistory,
    ConvSyncClient,
    ConvSyncError,
    ConvSyncToolkit,
    GetConversation,
    HandedOver,
    Handoff,
    HandOver,
    InboundEvent,
    Interrupt,
    LookupTenant,
    RedisEventStore,
    Reply,
    ServerProfile,
    SQLiteEventStore,
    StateUpdate,
    SyncState,
    Tenant,
    TenantInfo,
    Turn,
    TurnRunner,
    Undelivered,
    WAHAClient,
    WAHAReply,
    create_app,
    waha,
)
from langchain_convsync.app import create_router
from langchain_convsync.client._exchange import Answer, Request
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.server import (
    ApiKey,
    Forwarding,
    JwtRules,
    create_reference_api,
)
from langchain_convsync.server.configuration import Configuration
from langchain_convsync.stores import open_store
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from tests.canary import CANARY, pickled, shown_of, told_by
from tests.promises import echo

CUSTOMER = "+51944333222"
REDIS = f"redis://agent:{CANARY}@127.0.0.1:9/0"


def client() -> ConvSyncClient:
    return ConvSyncClient("https://api.example.com", api_key=CANARY)


def reply() -> WAHAReply:
    return WAHAReply("https://waha.example.com", api_key=CANARY)


def runner() -> TurnRunner:
    return TurnRunner(echo(), client=client(), store=RedisEventStore(REDIS), reply=reply())


def configuration() -> Configuration:
    return Configuration(
        database_url=f"postgresql://agent:{CANARY}@db.example.com/x",
        waha_secrets=(SecretStr(CANARY),),
        api_keys=(ApiKey.of(CANARY, name="abc", tenants="*"),),
        jwt=JwtRules(key=CANARY),
        forwarding=Forwarding(url="https://agent.example.com", secret=CANARY),
    )


def reference_api() -> Any:
    return create_reference_api(waha_secrets=CANARY, jwt=JwtRules(key=CANARY))


TOOLS = (LookupTenant, GetConversation, SyncState, AddMessage, HandOver)
HOLDERS: dict[str, Callable[[], Any]] = {
    "ConvSyncClient": client,
    "AsyncConvSyncClient": lambda: AsyncConvSyncClient("https://a.example", api_key=CANARY),
    "a client with a key per tenant": lambda: ConvSyncClient(
        "https://api.example.com", api_key=lambda _: CANARY
    ),
    "WAHAReply": reply,
    "WAHAClient": lambda: WAHAClient("https://waha.example.com", api_key=CANARY),
    "AsyncWAHAClient": lambda: AsyncWAHAClient("https://waha.example.com", api_key=CANARY),
    "RedisEventStore": lambda: RedisEventStore(REDIS),
    "RedisEventStore by sentinels": lambda: open_store(
        f"redis+sentinel://agent:{CANARY}@127.0.0.1:9/main?sentinel_password={CANARY}"
    ),
    "RedisEventStore on a cluster": lambda: open_store(
        f"redis+cluster://agent:{CANARY}@127.0.0.1:9"
    ),
    "TurnRunner": runner,
    "ConvSyncToolkit": lambda: ConvSyncToolkit(client()),
    **{kind.__name__: partial(kind, client=client()) for kind in TOOLS},
    "ConvSyncMiddleware": lambda: ConvSyncMiddleware(client()),
    "ConvSyncChatMessageHistory": lambda: [  # its text, by LangChain, is the conversation itself
        ConvSyncChatMessageHistory(CUSTOMER, client=client(), store=RedisEventStore(REDIS))
    ],
    "ConvSyncCallbackHandler": lambda: ConvSyncCallbackHandler(client()),
    "AsyncConvSyncCallbackHandler": lambda: AsyncConvSyncCallbackHandler(client()),
    "create_app": lambda: create_app(runner(), waha_secrets=CANARY),
    "create_router": lambda: create_router(runner(), waha_secrets=[CANARY]),
    "create_reference_api": reference_api,
    "its service": lambda: reference_api().state.service,
    "its guard": lambda: reference_api().state.service.guard,
    "ReferenceServer": lambda: ReferenceServer(jwt=JwtRules(key=CANARY)),
    "ApiKey": lambda: ApiKey.of(CANARY, name="abc", tenants="*"),
    "JwtRules": lambda: JwtRules(key=CANARY),
    "Forwarding": lambda: Forwarding(url=f"https://a.example/{CANARY}", secret=CANARY),
    "Configuration": configuration,
}
#: Hold what a conversation holds, and no setting: `test_promises_canary.py` looks at them.
DATA = {
    *(Conversation, ConversationMessage, ConversationRef, InboundEvent, StateUpdate, TenantInfo),
    *(Reply, Handoff, HandedOver, Undelivered),
    *(Interrupt, Turn, Tenant, ServerProfile, SQLiteEventStore, ScriptedChatModel),
}


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)
def test_a_secret_is_not_shown_by_what_holds_it(make: Callable[[], Any]) -> None:
    """Every public class that is given one, and what it keeps it in."""
    assert CANARY not in shown_of(make())


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)
def test_a_secret_is_not_pickled_with_what_holds_it(make: Callable[[], Any]) -> None:
    """A process pool, a cache or a queue would write it down."""
    assert CANARY not in pickled(make())


def test_a_request_and_its_answer_show_neither_key_nor_customer() -> None:
    """A debugging event loop logs what its callbacks were given."""
    headers = {"Authorization": f"Bearer {CANARY}"}
    request = Request(method="PUT", url=f"https://a.example/{CUSTOMER}", headers=headers)
    answer = Answer(status=200, headers=httpx.Headers(headers), body=CUSTOMER.encode())

    for shown in (shown_of(request), shown_of(answer)):
        assert CANARY not in shown
        assert CUSTOMER not in shown


def test_every_public_class_is_looked_at() -> None:
    """One that is added later either holds secrets, or says that it does not."""
    public = {getattr(langchain_convsync, name) for name in langchain_convsync.__all__}
    classes = {each for each in public if isinstance(each, type)}
    looked_at = {type(make()) for make in HOLDERS.values()} | DATA | {ConvSyncChatMessageHistory}

    assert {c for c in classes if not issubclass(c, ConvSyncError)} - looked_at == set()


WRONG_URLS = [
    f"://{{}}user:{CANARY}@",
    f"://{{}}:{CANARY}",
    f"://{{}}/{CANARY}?{CANARY}=1#{CANARY}",
    f"://user:{CANARY}＠{{}}",
    f"://user:{CANARY}/@{{}}:1",
    f"://user:{CANARY}@{{}}:port",
    f"://user:{CANARY}@[{{}}",
    f"://[{CANARY}",
    f"://{{}}/1?socket_timeout={CANARY}",
]
URL_READERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "ConvSyncClient": ("https", ConvSyncClient),
    "WAHAReply": ("https", WAHAReply),
    "WAHAClient": ("https", WAHAClient),
    "Forwarding": ("https", lambda url: Forwarding(url=url, secret="s")),
    "redis": ("redis", open_store),
    "rediss": ("rediss", open_store),
    "sentinel": ("redis+sentinel", open_store),
    "cluster": ("redis+cluster", open_store),
}


@pytest.mark.parametrize("wrong", WRONG_URLS)
@pytest.mark.parametrize("reader", URL_READERS)
def test_a_url_that_is_refused_is_not_repeated(reader: str, wrong: str) -> None:
    """Nor kept by the error's cause; what is taken does not show what it carries."""
    scheme, read = URL_READERS[reader]
    try:
        told = shown_of(read(scheme + wrong.format("127.0.0.1")))
    except ConfigurationError as error:
        told = told_by(error)

    assert CANARY not in told


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://user:{CANARY}@127.0.0.1:9/x",
        f"postgresql+psycopg://user:{CANARY}@127.0.0.1:port/x",
        f"postgresql+psycopg://127.0.0.1:9/x?password={CANARY}",
        f"postgresql+psycopg://user:{CANARY}@127.0.0.1:9/x?no_such_option=1",
        f"nothing://user:{CANARY}@127.0.0.1/x",
        f"user:{CANARY}@127.0.0.1",
    ],
)
def test_a_database_that_cannot_be_opened_is_told_without_its_password(url: str) -> None:
    """Not even by the connection that the driver's own error holds."""
    with pytest.raises(ConfigurationError, match="database_url") as refusal:
        create_reference_api(url)

    assert CANARY not in told_by(refusal.value)


@pytest.mark.parametrize("read", [ConvSyncClient, WAHAReply])
def test_plain_http_is_opened_by_name(
    read: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the services of a private network, each by itself; and the error tells how."""
    monkeypatch.setenv("CONVSYNC_ALLOW_HTTP", "api, WAHA,")
    for host in ("api", "waha", "API"):
        read(f"http://{host}:8000")

    for host in ("bot", "api.example.com", "127.0.0.1.example.com"):
        with pytest.raises(ConfigurationError, match="CONVSYNC_ALLOW_HTTP"):
            read(f"http://{host}:8000")


@pytest.mark.parametrize("read", [ConvSyncClient, WAHAReply])
@pytest.mark.parametrize(
    ("url", "flaw"),
    [
        ("http://api.example.com", "must be https"),
        ("http://localhost.example.com", "must be https"),
        ("http://127.0.0.1.example.com", "must be https"),
        ("http://0.0.0.0", "must be https"),
        ("http://[::]", "must be https"),
        ("http://localhost@api.example.com", "credentials"),
        ("https://user:password@api.example.com", "credentials"),
        ("https://@api.example.com", "credentials"),
        ("https://api.example.com?key=1", "query"),
        ("https://api.example.com#x", "fragment"),
        ("https://api.example.com:0", "absolute URL"),
        ("https://api.example.com:99999", "absolute URL"),
        ("https://", "absolute URL"),
        ("ftp://api.example.com", "absolute URL"),
        ("file:///etc/passwd", "absolute URL"),
        ("api.example.com", "absolute URL"),
        ("//api.example.com", "absolute URL"),
    ],
)
def test_a_base_url_is_encrypted_and_carries_nothing_else(
    read: Callable[[str], object], url: str, flaw: str
) -> None:
    """It comes from the configuration alone, and a key is sent to whatever it names."""
    with pytest.raises(ConfigurationError, match=flaw):
        read(url)


@pytest.mark.parametrize(
    "url", ["https://api.example.com/x/", "http://localhost:1", "http://127.0.0.2", "http://[::1]"]
)
def test_a_base_url_may_be_plain_on_this_machine(url: str) -> None:
    """Everywhere else it is https."""
    assert ConvSyncClient(url).api.base_url == url.rstrip("/")


def test_a_url_of_the_forwarding_carries_no_credentials() -> None:
    """They would stand in its own logs; what is sent is signed."""
    with pytest.raises(ConfigurationError, match="credentials"):
        Forwarding(url="https://user:password@agent.example.com", secret=CANARY)


@pytest.mark.parametrize(
    "use",
    [
        lambda secret: waha.verify(b"", {}, secret),
        lambda secret: Forwarding(url="https://a.example", secret=secret),
        lambda secret: JwtRules(key=secret),
    ],
)
def test_a_secret_that_is_no_text_is_refused_without_repeating_it(
    use: Callable[[str], object],
) -> None:
    """Half a character cannot be signed with; Python's own error would hold the secret."""
    with pytest.raises(ConfigurationError, match="half a character") as refusal:
        use(f"{CANARY}\ud800")

    assert CANARY not in told_by(refusal.value)


def test_a_secret_of_other_bytes_signs_as_it_was_set() -> None:
    """An environment variable may hold any bytes; WAHA signs with the same."""
    key = (CANARY.encode() + b"\xff").decode("utf-8", "surrogateescape")  # as os.environ tells it
    headers = Forwarding(url="https://a.example", secret=key).headers(b"{}")

    assert waha.verify(b"{}", headers, key)


def models() -> set[type[BaseModel]]:
    """Every pydantic model of the package."""
    for module in pkgutil.walk_packages(langchain_convsync.__path__, "langchain_convsync."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = set(), [BaseModel]
    while waiting:
        for model in waiting.pop().__subclasses__():
            if model not in found:
                found.add(model)
                waiting.append(model)
    return {model for model in found if model.__module__.startswith("langchain_convsync.")}


def test_no_model_repeats_what_it_refuses() -> None:
    """Pydantic's errors print their input: customers' numbers, in whatever logs the error."""
    telling = {m.__name__ for m in models() if not m.model_config.get("hide_input_in_errors")}

    assert len(models()) > 20
    assert telling - {"ScriptedChatModel"} == set()  # for tests: its script is what is wrong


def test_a_refused_event_names_no_customer() -> None:
    """A webhook of one's own logs what it could not build."""
    with pytest.raises(ValueError, match="event_id") as refusal:
        InboundEvent.model_validate({"phone_number": CUSTOMER, "text": CANARY})

    assert CUSTOMER not in told_by(refusal.value)
    assert CANARY not in told_by(refusal.value)
