"""Redaction is refused in languages in which numbers cannot be found, at the start of a stream and later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from aiohttp import ClientSession
from peer import connected, listening
from speakers import running_fake

from myna.inference.engines import registry
from myna.inference.engines.fake.engine import silence, spoken
from myna.server.app import Server

RAW = "encoding=linear16&sample_rate=16000"
KNOWN = "da, de, en, es, fr, it, nl, pt"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    fake = registry.kinds()["fake"]
    assert fake.bundled is not None
    speaking = replace(fake, bundled=replace(fake.bundled, languages=("en", "de", "pl")))
    with mock.patch.dict(registry.kinds(), {"fake": speaking}):
        async with running_fake() as started:
            yield started


@pytest.mark.parametrize("path", ["/v1/listen", "/v2/listen"])
@pytest.mark.parametrize("redact", ["numbers", "aggressive_numbers"])
@pytest.mark.parametrize("language", ["pl", ""])
async def test_live_redaction_in_a_language_without_number_words_is_refused(
    server: Server, path: str, redact: str, language: str
) -> None:
    named = {"/v1/listen": "language", "/v2/listen": "model=flux-general-multi&language_hint"}[path]
    query = f"{RAW}&redact={redact}" + (f"&{named}={language}" if language else "")
    async with ClientSession() as session, session.get(f"{server.url}{path}?{query}") as response:
        assert response.status == 400
        said = (await response.json())["err_msg"]
        assert KNOWN in said
        assert f"'{language}'" in said if language else "fake" in said


@pytest.mark.parametrize("redact", ["true", "numbers", "aggressive_numbers", "pci", "ssn"])
@pytest.mark.parametrize("language", ["&language=pl", "&language=pl-PL", "&language=multi", ""])
async def test_file_redaction_in_a_language_without_number_words_is_refused(
    server: Server, redact: str, language: str
) -> None:
    audio = np.concatenate([spoken(1), silence(1)]).tobytes()
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/listen?{RAW}&redact={redact}{language}", data=audio) as response,
    ):
        assert response.status == 400
        assert KNOWN in (await response.json())["err_msg"]


@pytest.mark.parametrize("query", ["redact=numbers&language=de-CH", "redact=false&language=pl", "language=pl"])
async def test_a_redaction_that_can_be_kept_is_confirmed(server: Server, query: str) -> None:
    async with listening(server, f"{RAW}&{query}") as peer:
        await peer.send({"type": "CloseStream"})
        await peer.rest()


@pytest.mark.parametrize(
    "message",
    [{"features": {"redact": True}}, {"features": {"redact": ["numbers"]}}, {"redact": "numbers"}],
)
async def test_a_redaction_requested_midway_is_not_confirmed(server: Server, message: dict[str, object]) -> None:
    async with listening(server, f"{RAW}&language=en") as peer:
        await peer.send({"type": "Configure", **message})
        failure = await peer.until("ConfigureFailure")
        assert failure["code"] == "CONFIGURE_REDACT_NOT_SUPPORTED"


@pytest.mark.parametrize(
    "message",
    [
        {"language_hints": ["pl"]}, {"language_hints": ["en", "de"]}, {"language_hints": []}, {"redact": ["numbers"]},
    ],
)  # fmt: skip
async def test_a_flux_client_cannot_switch_to_a_language_that_is_not_redacted(
    server: Server, message: dict[str, object]
) -> None:
    query = f"?{RAW}&model=flux-general-multi&language_hint=de&redact=numbers"
    async with connected(server, query, "/v2/listen") as peer:
        await peer.send({"type": "Configure", **message})
        assert "redact" in (await peer.until("ConfigureFailure"))["description"]
        await peer.send({"type": "Configure", "language_hints": ["en"]})
        await peer.until("ConfigureSuccess")
