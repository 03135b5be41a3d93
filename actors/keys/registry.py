"""The registry of API keys: those of the settings and those of the store, and what each may do.

Knows: scopes, models, which keys were revoked and who has to learn of that. Refuses to know:
requests and their headers (`actors.http.auth`), how much a key has used (`actors.keys.limits`).

Stored keys change beside the gateway: ``ccapi key`` writes to the same database, or another gateway
does. So the store's version of them is looked at every `POLL_SECONDS`, and at once where another
gateway gives a hint; what has changed is read again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import trio
from attrs import field, frozen

from ...schemas.errors import Forbidden, Unauthenticated, storage_unavailable
from ...schemas.keys import NO_LIMITS, SCOPES, SHORT, ApiKey, KeyLimits, Scope
from ...schemas.settings.rules import HASHED, hash_key
from ...schemas.settings.settings import AuthSettings
from ...transport.loggers import get_logger
from ...transport.store.interface import Store, StoreError

log = get_logger("ccapi.keys")

LOCAL = "local"
"""The owner of everything when no API keys are configured, and of what a program embeds."""

POLL_SECONDS = 0.4
"""How often the store is asked whether its keys have changed."""

TURNS: tuple[Scope, ...] = ("chat", "agents")
"""The scopes of which a key needs one for anything that belongs to conversations."""


@frozen
class Rights:
    """What the clients of one key may do. `owner` is the key's id, `models` the names that they may
    ask for (empty: all)."""

    owner: str
    name: str
    scopes: frozenset[Scope] = frozenset(("chat",))
    models: frozenset[str] = frozenset()
    limits: KeyLimits = field(default=NO_LIMITS, repr=False)

    @property
    def sees_all(self) -> bool:
        """Whether they see the numbers of the gateway as a whole, and not only their own."""
        return bool(self.scopes & {"admin", "read-only"})

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    def check(self, any_of: Sequence[Scope]) -> None:
        """Raises `Forbidden` (``scope_missing``)."""
        if not self.scopes.intersection(any_of):
            held = ", ".join(scope for scope in SCOPES if scope in self.scopes) or "none"
            raise Forbidden(
                f"This API key lacks the scope {' or '.join(any_of)}: it has {held}.",
                code="scope_missing",
            )


class KeyRegistry:
    """Made by `open_keys`; without a store it can be made by itself. `defaults`: the limits of a
    key that gives none."""

    def __init__(
        self, auth: AuthSettings, defaults: KeyLimits = NO_LIMITS, store: Store | None = None
    ) -> None:
        self._defaults = defaults
        self._store = store
        self._local = Rights(LOCAL, LOCAL, frozenset(SCOPES), limits=defaults)
        self._of_settings = {each.owner: each for each in _of_settings(auth, defaults)}
        self._stored: dict[str, Rights] = {}
        self._revoked: set[str] = set()
        self._has_stored = False
        self.version: int | None = None
        """Of the stored keys as they were read last."""
        self._waiting: dict[str, trio.Event] = {}
        self.on_revoked: Callable[[str], Awaitable[None]] | None = None
        """Told of the owner of every key that is revoked."""
        self._digests: list[bytes] = []
        self._take(())

    def __repr__(self) -> str:
        return f"<KeyRegistry {len(self._of_settings)} of settings, {len(self._stored)} stored>"

    # -- which there are ---------------------------------------------------------------------------

    @property
    def needed(self) -> bool:
        """Whether a client has to show a key. Where all stored keys are revoked, one still has to:
        the last one's end must not open the gateway to all."""
        return bool(self._of_settings or self._has_stored)

    @property
    def digests(self) -> Sequence[bytes]:
        """The SHA-256 of every key that holds."""
        return self._digests

    def holds(self, owner: str) -> bool:
        """Whether there is such an owner, whose key was not revoked."""
        if not self.needed:
            return owner == LOCAL
        return owner in self._of_settings or owner in self._stored

    def check_known(self) -> None:
        """Raises `Overloaded` (``storage_unavailable``) where the stored keys could never be read:
        then it is not known whether a key is needed, nor which."""
        if not self.is_known:
            raise storage_unavailable("API keys cannot be read now")

    def find(self, owner: str) -> Rights:
        """What clients of this owner may do; one that a program made up may use plain models.
        Raises `Unauthenticated` (``key_revoked``)."""
        if owner == LOCAL:
            return self._local
        found = self._of_settings.get(owner) or self._stored.get(owner)
        if found is None:
            if owner in self._revoked:
                raise revoked()
            return Rights(owner, owner)
        return found

    def limits_of(self, owner: str) -> KeyLimits:
        """Of a key that holds; nothing more is asked of one that does not."""
        try:
            return self.find(owner).limits
        except Unauthenticated:
            return NO_LIMITS

    @property
    def is_known(self) -> bool:
        """Whether the stored keys, if there can be any, could be read."""
        return self._store is None or self.version is not None

    @property
    def of_settings(self) -> int:
        """How many of the keys that hold are in the settings."""
        return len(self._of_settings)

    def holding(self) -> tuple[Rights, ...]:
        """What each key that holds may do: those of the settings first, then the stored ones."""
        return (*self._of_settings.values(), *self._stored.values())

    @property
    def serves_agents(self) -> bool:
        """Whether there is a client that may use agents."""
        return not self.needed or any("agents" in each.scopes for each in self.holding())

    def names(self) -> dict[str, str]:
        """What people call the keys, by their owners."""
        return {each.owner: each.name for each in self.holding()}

    async def wait_revoked(self, owner: str) -> None:
        """Wait until the owner's key is revoked."""
        if owner in self._revoked:
            return
        await self._waiting.setdefault(owner, trio.Event()).wait()

    # -- the store ---------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the stored keys again, if they have changed. Where that cannot be done, those that
        were read last hold."""
        if self._store is None:
            return
        try:
            keys = await self._store.keys(self.version)
        except StoreError as error:
            log.debug("keys are not read", error=str(error))
            return
        if keys is None:
            return
        is_first, self.version = self.version is None, keys.version
        gone = self._take(keys.keys)
        if not is_first:
            log.info("keys changed", keys=len(self._stored))
        for owner in gone:
            log.info("key revoked", key=owner[:SHORT])
            if self.on_revoked is not None:
                await self.on_revoked(owner)

    def _take(self, keys: Iterable[ApiKey]) -> set[str]:
        """These are the stored keys now. Returns those that hold no more."""
        keys, before = tuple(keys), set(self._stored)
        self._has_stored = bool(keys)
        self._stored = {
            key.id: Rights(
                key.id,
                key.name,
                frozenset(key.scopes),
                frozenset(key.models),
                key.limits.over(self._defaults),
            )
            for key in keys
            if key.revoked_at is None and key.id not in self._of_settings
        }
        gone = {key.id for key in keys if key.revoked_at is not None} | (before - {*self._stored})
        self._revoked = (self._revoked | gone) - {*self._stored, *self._of_settings}
        self._digests = [bytes.fromhex(id) for id in (*self._of_settings, *self._stored)]
        for owner in self._revoked & {*self._waiting}:
            self._waiting.pop(owner).set()
        return before & self._revoked

    async def run(self) -> None:
        """Follow the stored keys, for ever."""
        if self._store is None:
            return
        with self._store.hints.watch("keys") as hint:
            while True:
                await hint.wait(POLL_SECONDS)
                await self.load()


def revoked() -> Unauthenticated:
    return Unauthenticated("The API key was revoked.", code="key_revoked")


def owner_of(key: str) -> str:
    """The identity of the caller who shows `key`, which may be given as its hash (`hash_key`)."""
    return hash_key(key).removeprefix(HASHED)


def _of_settings(auth: AuthSettings, limits: KeyLimits) -> Iterable[Rights]:
    agents, admins = {*map(owner_of, auth.agent_keys)}, {*map(owner_of, auth.admin_keys)}
    searchers = {*map(owner_of, auth.search_keys)}
    # Who has written the one key into the settings is who operates the gateway.
    is_alone = len(auth.api_keys) == 1
    for number, key in enumerate(auth.api_keys, 1):
        owner = owner_of(key)
        scopes: set[Scope] = {"chat"}
        if owner in agents:
            scopes.add("agents")
        if owner in searchers or (is_alone and not searchers):
            scopes.add("search")
        if owner in admins or (is_alone and not admins):
            scopes.add("admin")
        yield Rights(owner, f"auth.api_keys[{number}]", frozenset(scopes), limits=limits)


@asynccontextmanager
async def open_keys(
    auth: AuthSettings, defaults: KeyLimits, store: Store | None
) -> AsyncIterator[KeyRegistry]:
    """A registry that follows the keys of `store` (None: there are none) while the block runs."""
    registry = KeyRegistry(auth, defaults, store)
    await registry.load()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.run)
        try:
            yield registry
        finally:
            nursery.cancel_scope.cancel()
