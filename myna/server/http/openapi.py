"""The OpenAPI 3.1 document at `/openapi.json`: its operations, and its components out of typed dictionaries.

A handler's answer is a `TypedDict`: mypy checks the handler against it, pydantic writes its JSON schema.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from myna import __version__
from myna.server.http.json_answer import json_answer

PATH = "/openapi.json"
Schema = dict[str, Any]
_COMPONENTS = "#/components/schemas/"
TEXT: Schema = {"type": "string"}


@dataclass(frozen=True, slots=True)
class RouteDescriptions:
    """The description of some routes. `components` are the typed dictionaries that its operations refer to."""

    paths: Schema
    components: tuple[Any, ...] = field(default=())


def document(parts: Iterable[RouteDescriptions]) -> Schema:
    """Return the whole document."""
    described = operation("This description.", {"200": json_response({"type": "object"})}, error=None)
    parts = (RouteDescriptions({PATH: {"get": described}}), *parts)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Myna",
            "version": __version__,
            "description": "Speech to text. Live streams are WebSockets, which OpenAPI does not describe: see docs/.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {"token": []}],
        "paths": {path: operations for part in parts for path, operations in part.paths.items()},
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`Token KEY`.",
                },
            },
            "schemas": _schemas(component for part in parts for component in part.components),
        },
    }


def handler(described: Schema) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that sends the document."""

    async def send(_request: web.Request) -> web.Response:
        return json_answer(described)

    return send


def operation(
    summary: str,
    responses: Schema,
    *,
    error: Schema | None,
    parameters: list[Schema] | None = None,
    body: Schema | None = None,
    takes_files: bool = False,
) -> Schema:
    """Return an operation. `error` describes its refusals; None: the operation requires no key."""
    described: Schema = {"summary": summary, "responses": dict(responses)}
    if error is None:
        described["security"] = []
    else:
        described["responses"] |= {"401": error, "403": error}
        if takes_files:
            described["responses"] |= {"429": error, "503": error}
    if parameters:
        described["parameters"] = parameters
    if body:
        described["requestBody"] = body
    return described


def json_response(schema: Schema, *, media_type: str = "application/json", description: str = "") -> Schema:
    """Return a response with this body."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def json_body(schema: Schema, *, required: bool) -> Schema:
    """Return a request's body in JSON."""
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def reference(component: Any) -> Schema:
    """Return a response whose body is a component."""
    return json_response(schema_of(component))


def schema_of(component: Any) -> Schema:
    """Return a reference to a component's schema."""
    return {"$ref": _COMPONENTS + _name(component)}


def object_of(required: tuple[str, ...] | None = None, **properties: Schema) -> Schema:
    """Return an object's schema; all properties are `required` unless that names some."""
    return {"type": "object", "required": list(properties if required is None else required), "properties": properties}


def path_parameter(name: str) -> Schema:
    """Return a parameter in the address's path."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def query_parameter(name: str, schema: Schema, *, required: bool = False) -> Schema:
    """Return a parameter in the address's query."""
    return {"name": name, "in": "query", "required": required, "schema": schema}


def _name(component: Any) -> str:
    """Return a component's public name: its title, or its class's name."""
    title = getattr(component, "__pydantic_config__", {}).get("title")
    return str(title or component.__name__)


class _Schemas(GenerateJsonSchema):
    """Gives properties no titles: they would repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return whether a property gets a title."""
        del schema
        return False


def _schemas(components: Iterable[Any]) -> Schema:
    schemas: Schema = {}
    for component in components:
        schema = TypeAdapter(component).json_schema(
            ref_template=_COMPONENTS + "{model}", schema_generator=_Schemas, mode="serialization"
        )
        nested = schema.pop("$defs", {})
        text = json.dumps([schema, *nested.values()])
        for class_name, definition in nested.items():
            text = text.replace(f'"{_COMPONENTS}{class_name}"', f'"{_COMPONENTS}{definition["title"]}"')
        schemas |= {each["title"]: each for each in json.loads(text)}
    return schemas
