"""Fixtures for the tests of OpenAI's Python library: the real server and a scripted provider."""

import re

import httpx2
import pytest
from lossy_proxy import LossyProxy
from openai import OpenAI
from server import Server, provider_settings
from upstream import Upstream


@pytest.fixture(scope="session")
def provider():
    upstream = Upstream()
    yield upstream
    upstream.stop()


@pytest.fixture(scope="session")
def server(provider):
    server = Server(provider_settings(provider))
    yield server
    server.stop()


@pytest.fixture
def upstream(provider):
    """The provider. It must receive exactly the requests that the test has scripted."""
    provider.reset()
    yield provider
    provider.check_done()


@pytest.fixture
def client(server):
    """The library without retries."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=15) as client:
        yield client


@pytest.fixture
def proxy(server):
    proxy = LossyProxy(server.url)
    yield proxy
    proxy.stop()


@pytest.fixture
def session(request):
    """A session id that no other test uses."""
    return re.sub(r"\W", "-", request.node.name)[:100]


@pytest.fixture
def stored(server):
    """Reads the messages of a session, as pairs of role and text, from the server's own routes."""

    def read(session):
        response = httpx2.get(f"{server.url}/api/chat-sessions/{session}/messages", timeout=15)
        assert response.status_code == 200, response.text
        return [(message["role"], message["content"]) for message in response.json()["data"]["messages"]]

    return read


def create_request(text, session=None, **more):
    """Returns the arguments of a request with one message, optionally for a session."""
    extra = {"extra_body": {"session_id": session}} if session else {}
    return {"model": "m", "messages": [{"role": "user", "content": text}], **extra, **more}
