"""What most tests of the routes use: a double of the gateway, and a client of the app before it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ...support.asgi import Client
from ...support.gateway_double import GatewayDouble, app_of, open_gateway_double


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayDouble]:
    async with open_gateway_double() as double:
        yield double


@pytest.fixture
async def client(gateway: GatewayDouble) -> Client:
    return Client(app_of(gateway))
