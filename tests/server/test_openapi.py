"""The handlers match the OpenAPI document: generated requests, valid and invalid, get the answers it describes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from myna.clients.local_server import LocalServer, local_server
from myna.server.dialects.registry import description
from myna.server.http.openapi import PATH

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [(path, method) for path, operations in description()["paths"].items() for method in operations]
"""Every route except the WebSockets and the page."""


@pytest.fixture(scope="module")
def fake() -> Iterator[LocalServer]:
    with local_server("fake") as started:
        yield started


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_answers_as_it_is_described(fake: LocalServer, path: str, method: str) -> None:
    schema = schemathesis.openapi.from_url(fake.url + PATH)
    operation = schema[path][method.upper()]
    described = description()["paths"][path][method]
    takes_something = "parameters" in described or "requestBody" in described
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if takes_something else (GenerationMode.POSITIVE,):

        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=fake.url, checks=CHECKS)

        ask()
