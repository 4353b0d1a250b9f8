"""Serves `/docs`: the routes of the OpenAPI document as a page that needs no script, style or image of another server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from html import escape
from typing import Any

from aiohttp import web

from myna.server.http.openapi import PATH, TEXT, RouteDescriptions, Schema, json_response, operation

ADDRESS = "/docs"
_DESCRIBED = operation("This page.", {"200": json_response(TEXT, media_type="text/html")}, error=None)
DESCRIPTION = RouteDescriptions({ADDRESS: {"get": _DESCRIBED}})
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
}
_STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td{padding:.1rem 1rem .1rem 0;vertical-align:top}code{font-size:.95em}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8bf}}"
)


def handler(described: Schema) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that sends the page of this OpenAPI document."""
    page = "".join(_page(described))

    async def send(_request: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html", headers=_HEADERS)

    return send


def _page(described: Schema) -> Iterator[str]:
    info = described["info"]
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title><style>{_STYLE}</style>"
    yield f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
    yield f'<p>The same for programs: <a href="{PATH}">{PATH}</a>. Requests need a key if the server has keys.</p>'
    for path, operations in described["paths"].items():
        for method, each in operations.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(each['summary'])}</p>"
            yield from _table(each)


def _table(each: Schema) -> Iterator[str]:
    rows = [
        (given["name"], f"in the {given['in']}", given["schema"], given.get("required", False))
        for given in each.get("parameters", ())
    ]
    for kind, content in each.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        required = schema.get("required", ())
        rows += [(name, kind, field, name in required) for name, field in schema.get("properties", {}).items()]
    if rows:
        yield "<table>"
        for name, where, schema, needed in rows:
            mark = "required" if needed else ""
            yield f"<tr><td><code>{escape(name)}</code><td>{escape(_type(schema))}<td>{escape(where)}<td>{mark}</tr>"
        yield "</table>"


def _type(schema: Any) -> str:
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    named = {"string": "text", "binary": "file", "uri": "address"}
    return str(named.get(schema.get("format", ""), named.get(kind, kind)))
