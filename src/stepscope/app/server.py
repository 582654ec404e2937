"""What answers the questions of `stepscope play` and `stepscope watch`: the typed addresses, and their description."""

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

import stepscope
from stepscope.app.endpoint import BadRequest, Call, Endpoint, Stream, Text, accept, plain, schema
from stepscope.app.security import Application
from stepscope.errors import UserError
from stepscope.graph import FormulaError

__all__ = ["application", "openapi"]

_MOST_CALLS = 4  # at work at a time; more wait
_SECONDS = 60.0  # that a call may take; streams end themselves


def application(page: str, endpoints: Sequence[Endpoint]) -> Application:
    """The ASGI application that answers at the endpoints' addresses; the page and its files are served before it."""
    limit = anyio.CapacityLimiter(_MOST_CALLS)
    description = openapi(endpoints)

    async def described(_request: Request) -> Response:
        return JSONResponse(description)

    async def by_name(_request: Request) -> Response:
        return RedirectResponse("/", 303)

    routes = [
        Route(f"/{page}", by_name),
        Route("/api/openapi.json", described),
        *(Route(one.path, _handler(one, limit), methods=[one.method]) for one in endpoints),
    ]
    return Starlette(routes=routes, exception_handlers=_HANDLERS)


def _handler(one: Endpoint, limit: anyio.CapacityLimiter) -> Callable[[Request], Any]:
    async def handle(request: Request) -> Response:
        query = accept(one.takes, await _given(one, request))
        call = Call()
        answer: Any = None
        problem: Exception | None = None
        async with anyio.create_task_group() as group:

            async def leave() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                call.leave()
                group.cancel_scope.cancel()

            group.start_soon(leave)
            try:
                with anyio.fail_after(_SECONDS):
                    work = functools.partial(one.function, query, call)
                    answer = await anyio.to_thread.run_sync(work, limiter=limit, abandon_on_cancel=True)
            except Exception as error:  # carried out of the group, which would wrap it
                call.leave()
                problem = error
            group.cancel_scope.cancel()
        if problem is not None:
            raise problem
        if isinstance(answer, Stream):
            return StreamingResponse(_pieces(answer.pieces, call, limit), media_type=answer.media)
        if isinstance(answer, Text):
            return Response(answer.content, media_type=answer.media)
        return JSONResponse(plain(answer))  # nobody reads it if the browser has left

    return handle


async def _given(one: Endpoint, request: Request) -> Any:
    if one.method == "GET":
        pairs = request.query_params.multi_items()
        if len({name for name, _ in pairs}) != len(pairs):
            raise BadRequest("each name may be given once.")
        return dict(pairs)
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON.") from error


async def _pieces(pieces: Iterator[bytes], call: Call, limit: anyio.CapacityLimiter) -> AsyncIterator[bytes]:
    """The pieces as they are made; each is made in a thread, and leaving closes the iterator."""
    end = object()
    try:
        while (piece := await anyio.to_thread.run_sync(next, pieces, end, limiter=limit)) is not end:
            assert isinstance(piece, bytes)
            yield piece
    finally:
        call.leave()
        close = getattr(pieces, "close", None)
        if close is not None:
            # When the server ends, a piece may still be in the making: that sees that nobody waits, and ends by itself.
            with anyio.CancelScope(shield=True), contextlib.suppress(ValueError):
                await anyio.to_thread.run_sync(close)


async def _refused(_request: Request, error: Exception) -> Response:
    body: dict[str, Any] = {"error": str(error)}
    if isinstance(error, FormulaError):
        body |= {"error": error.problem, "position": error.position}
    return JSONResponse(body, 400 if isinstance(error, BadRequest) else 422)


async def _status(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


async def _late(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": f"this took more than {_SECONDS:g} seconds; ask for less"}, 503)


async def _broken(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "the server made a mistake; its terminal shows it"}, 500)


_HANDLERS: Any = {
    UserError: _refused,
    HTTPException: _status,
    TimeoutError: _late,
    Exception: _broken,
}


def openapi(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI 3.1 description of the addresses."""
    paths: dict[str, Any] = {}
    for one in endpoints:
        shape = schema(one.takes)
        about: dict[str, Any] = {"summary": one.summary, "operationId": one.function.__name__}
        if one.method == "GET":
            required = shape.get("required", [])
            about["parameters"] = [
                {"name": name, "in": "query", "required": name in required, "schema": part}
                for name, part in shape["properties"].items()
            ]
        else:
            about["requestBody"] = {"required": True, "content": {"application/json": {"schema": shape}}}
        media = "application/octet-stream" if one.gives is Stream else "application/json"
        given = {"type": "string"} if one.gives in (Stream, Text) else schema(one.gives)
        refused = {"description": "Refused; `error` says why, `position` where in a formula."}
        about["responses"] = {
            "200": {"description": "Done.", "content": {media: {"schema": given}}},
            "400": refused,
            "422": refused,
        }
        paths.setdefault(one.path, {})[one.method.lower()] = about
    return {"openapi": "3.1.0", "info": {"title": "stepscope", "version": stepscope.__version__}, "paths": paths}
