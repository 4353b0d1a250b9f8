"""Gives every request its id, and an answer in the error format of its address whatever goes wrong."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

from myna.runtime.errors import Refusal
from myna.server.http.errors import error_response
from myna.server.http.request_id import REQUEST_ID
from myna.server.http.wrong_addresses import ADDRESSES

log = structlog.get_logger()


@web.middleware
async def answered(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Give the request its id. Answer in JSON what the handler raises, and log an unexpected error with its trace."""
    request[REQUEST_ID] = str(uuid.uuid4())
    try:
        return await handler(request)
    except ConnectionResetError:
        log.info("a client disconnected before its answer", path=request.path)
        return web.Response(status=499)
    except web.RequestPayloadError:
        return error_response(Refusal(400, "broken_body", "The body is incomplete or wrongly encoded."), request)
    except web.HTTPNotFound:
        addresses = request.app[ADDRESSES]
        meant = addresses.meant_by(request.path)
        message = f"The address {request.path[:200]} does not exist." + (f" {addresses.advice(meant)}" if meant else "")
        return error_response(Refusal(404, "not_found", message), request, meant)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        other = request.app[ADDRESSES].taking(request.method, request.path)
        message = f"{request.path[:200]} accepts {allowed}." + (f" {other} accepts {request.method}." if other else "")
        response = error_response(Refusal(405, "method_not_allowed", message), request)
        response.headers["Allow"] = allowed
        return response
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_response(Refusal(error.status, error.reason.lower().replace(" ", "_"), error.text or ""), request)
    except Exception:
        log.exception("a request failed", request_id=request[REQUEST_ID], method=request.method, path=request.path)
        return _failed(request)


def _failed(request: web.Request) -> web.StreamResponse:
    if request.writer.output_size > 0:  # the answer has begun: only a broken connection can tell the client
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)
    message = f"The server failed on this request. Its log has the reason under the id {request[REQUEST_ID]}."
    response = error_response(Refusal(500, "internal_error", message), request)
    response.force_close()  # the rest of the body is unread
    return response


class Router(web.UrlDispatcher):
    """Answers `Expect` headers. aiohttp would do so before any middleware, and fails on a value that is not UTF-8."""

    async def resolve(self, request: web.Request) -> UrlMappingMatchInfo:
        """Return the route of a request, which may be an error's."""
        found = await super().resolve(request)
        found.route._expect_handler = _expected
        return found


async def _expected(request: web.Request) -> web.Response | None:
    if request.version < HttpVersion11:
        return None
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # this is not the beginning of the answer
        return None
    request[REQUEST_ID] = str(uuid.uuid4())
    return error_response(Refusal(417, "expectation_failed", "Expect must be 100-continue or absent."), request)
