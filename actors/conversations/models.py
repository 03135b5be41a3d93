"""The models that requests may name, and what the CLI receives for each.

Knows: the operator's list and the other names for its entries, and what is known of each: from the
CLI's own list once a child has given it, from `schemas.claude.model_traits` before and beside that.
Refuses to know: whether the account behind the CLI may use it.
"""

from __future__ import annotations

import reprlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

import trio
from attrs import frozen

from ...schemas.claude.model_traits import ModelSizes, family_of, sizes_of, title_of, traits_of
from ...schemas.claude.models import ListedModel
from ...schemas.errors import Forbidden, InvalidRequest, NotFound
from ...schemas.events import ModelsListed
from ...schemas.keys import Scope
from ...schemas.settings.settings import AGENT_PREFIX, AuthSettings, ModelSettings
from ...schemas.turn import Profile, Setup
from ..keys.registry import LOCAL, KeyRegistry, Rights
from ..runtime.bus import Bus

OWNER = "anthropic"


@frozen
class Model:
    """A name that requests may use. `created` is when it was listed here, in Unix seconds.

    `means` is the id that the CLI resolves it to, as far as that is known, `name` what people call
    it; `sizes` is None for another maker's model. `listed`: the CLI's own list has it.
    """

    id: str
    created: int
    owned_by: str = OWNER
    means: str = ""
    name: str = ""
    description: str = ""
    profile: Profile = "chat"
    sizes: ModelSizes | None = None
    takes_sampling: bool = False
    efforts: tuple[str, ...] = ()
    listed: bool = False


@frozen
class Choice:
    """What a name stands for: the model id for the CLI, and what it is to be."""

    model: str
    profile: Profile


def check_goes_on(choice: Choice, named: str | None, begun: str | None) -> None:
    """See that the model can go on with an answer that was `begun` (the path of it, None: there is
    none). `named` is what the client calls the model. Raises `InvalidRequest`."""
    if begun is not None and (
        choice.profile == "agent" or not traits_of(choice.model).takes_begun_answer
    ):
        raise InvalidRequest(
            f"{named or choice.model} cannot go on with an answer that was begun: the last "
            "message must be the user's or a tool's. (Claude's models up to version 4.5 can.)",
            code="unsupported_parameter",
            param=begun,
        )


class ModelCatalog:
    """Every name, in the operator's order: the models, then the other names for them. Ids of a
    family that is among them (``claude-opus-4-5`` of ``opus``) may be used without being listed:
    clients ask for them, Claude Code above all."""

    def __init__(
        self,
        settings: ModelSettings,
        rights: Callable[[str], Rights] | None = None,
        *,
        created: int | None = None,
    ) -> None:
        self.rights = rights or KeyRegistry(AuthSettings()).find
        created = int(time.time()) if created is None else created
        self._default = settings.default
        self._meaning = {name: name for name in settings.available} | dict(settings.aliases)
        self._versions = settings.versions
        if settings.agents:
            self._meaning |= {
                f"{AGENT_PREFIX}{name}": f"{AGENT_PREFIX}{means}"
                for name, means in self._meaning.items()
                if not means.startswith(AGENT_PREFIX)
            }
        self._created = created
        self._listed: Mapping[str, ListedModel] = {}
        self._models = {name: self._describe(name) for name in self._meaning}

    def __repr__(self) -> str:
        return f"<ModelCatalog {', '.join(self._models)}>"

    def learn(self, models: Iterable[ListedModel]) -> None:
        """A child has listed these models: names may stand for others than before."""
        listed = {each.name: each for each in models}
        if listed != self._listed:
            self._listed = listed
            self._models = {name: self._describe(name) for name in self._meaning}

    async def listen(self, bus: Bus) -> None:
        """Learn the models that children list, until `bus` is closed."""
        with bus.subscribe(ModelsListed) as subscription:
            async for event in subscription:
                if isinstance(event, ModelsListed):
                    self.learn(event.models)

    def _entry_of(self, name: str) -> str | None:
        """The name in the operator's list by which `name` may be used: itself, or that of the
        family whose id it is."""
        if name in self._meaning:
            return name
        model = name.removeprefix(AGENT_PREFIX)
        family = family_of(model) if self._versions else ""
        entry = name.removesuffix(model) + family
        # Where the operator makes another model of the family's name, it is no family's any more.
        return entry if family and self._meaning.get(entry) == entry else None

    def _describe(self, name: str) -> Model:
        means = self._meaning.get(name, name)
        model = means.removeprefix(AGENT_PREFIX)
        listed = self._listed.get(model)
        resolved = model if listed is None else listed.model or model
        profile: Profile = "chat" if model == means else "agent"
        return Model(
            name,
            self._created,
            means=resolved,
            name=title_of(resolved) + (" (agent)" if profile == "agent" else ""),
            description="" if listed is None else listed.description,
            profile=profile,
            sizes=sizes_of(resolved),
            takes_sampling=traits_of(resolved).takes_sampling,
            efforts=() if listed is None else listed.efforts,
            listed=listed is not None,
        )

    def list(self, owner: str = LOCAL) -> list[Model]:
        """The models that the owner may use."""
        rights = self.rights(owner)
        return [
            model
            for name, model in self._models.items()
            if self._scope_of(name) in rights.scopes and self._is_named(name, rights)
        ]

    def _scope_of(self, name: str) -> Scope:
        return "agents" if self._meaning.get(name, name).startswith(AGENT_PREFIX) else "chat"

    def _is_named(self, name: str, rights: Rights) -> bool:
        """Whether the key's models are not limited to others."""
        names = {name, self._meaning.get(name, name), self._entry_of(name)}
        return not rights.models or bool(rights.models & names)

    def get(self, name: str, owner: str = LOCAL) -> Model:
        """The entry called `name`. Raises `NotFound`, also for one that is not among the models of
        the owner's key; and `Forbidden` where it is an agent and the owner may use none
        (``agents_not_allowed``), or no agent and the owner may use no other (``scope_missing``)."""
        rights = self.rights(owner)
        if self._entry_of(name) is None or not self._is_named(name, rights):
            raise NotFound(
                f"There is no model {reprlib.repr(name)} here; GET /v1/models lists those there"
                " are.",
                code="model_not_found",
                param="model",
            )
        self.check_profile("agent" if self._scope_of(name) == "agents" else "chat", owner, name)
        return self._models.get(name) or self._describe(name)

    def check_profile(self, profile: Profile, owner: str, name: str = "") -> None:
        """See that the owner may use agents, or plain models. Raises `Forbidden`."""
        rights = self.rights(owner)
        if profile == "agent" and "agents" not in rights.scopes:
            which = (
                f"{reprlib.repr(name)} is an agent" if name else "This conversation is an agent's"
            )
            raise Forbidden(
                f"{which}, and this API key may not use agents: it lacks the scope agents "
                "(ccapi key create --scope), or is not in auth.agent_keys.",
                code="agents_not_allowed",
                param="model",
            )
        if profile == "chat":
            rights.check(("chat",))

    def resolve(self, name: str | None, owner: str = LOCAL) -> Choice:
        """What `name` stands for; None is the default model, or the first one of a key that may
        not use that. Raises as `get` does."""
        if name is None:
            name = self._default
            if not self._is_named(name, self.rights(owner)):
                name = next((model.id for model in self.list(owner)), name)
        self.get(name, owner)
        means = self._meaning.get(name, name)
        model = means.removeprefix(AGENT_PREFIX)
        return Choice(model, "chat" if model == means else "agent")


def plain_name(name: str) -> str:
    """The model's own name, whether it is to be an agent or not."""
    return name.removeprefix(AGENT_PREFIX)


def name_of(setup: Setup) -> str:
    """The name by which a client asks for the model of `setup` again."""
    return f"{AGENT_PREFIX}{setup.model}" if setup.profile == "agent" else setup.model


@asynccontextmanager
async def open_learning(catalog: ModelCatalog, bus: Bus) -> AsyncIterator[None]:
    """Have `catalog` learn what children list while the block runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catalog.listen, bus)
        yield
        nursery.cancel_scope.cancel()
