"""What the tests of OpenAI's Python library stand on: the real server, with a provider that answers
as they say. What they have in common stands here; each file has its own part of `/v1`."""

import re

import httpx2
import pytest
from network import Network
from openai import OpenAI
from server import Server, speaking_to
from upstream import Upstream


@pytest.fixture(scope="session")
def provider():
    upstream = Upstream()
    yield upstream
    upstream.stop()


@pytest.fixture(scope="session")
def server(provider):
    server = Server(speaking_to(provider))
    yield server
    server.stop()


@pytest.fixture
def upstream(provider):
    """The provider; it must be asked for all that it was told to answer, and for nothing else."""
    provider.begin()
    yield provider
    provider.check()


@pytest.fixture
def client(server):
    """The library, without its own repeats."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=15) as client:
        yield client


@pytest.fixture
def network(server):
    network = Network(server.url)
    yield network
    network.stop()


@pytest.fixture
def session(request):
    """The id of a session of the test's own."""
    return re.sub(r"\W", "-", request.node.name)[:100]


@pytest.fixture
def stored(server):
    """Reads what the server's own routes show of a session: pairs of role and text."""

    def read(session):
        answer = httpx2.get(f"{server.url}/api/chat-sessions/{session}/messages", timeout=15)
        assert answer.status_code == 200, answer.text
        return [(message["role"], message["content"]) for message in answer.json()["data"]["messages"]]

    return read


def saying(text, session=None, **more):
    """What a request says, of a session if one is named."""
    extra = {"extra_body": {"session_id": session}} if session else {}
    return {"model": "m", "messages": [{"role": "user", "content": text}], **extra, **more}
