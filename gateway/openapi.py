"""The OpenAPI document of the HTTP API, made from the table of its calls and their types."""

from __future__ import annotations

import re
from types import UnionType
from typing import Any, Final, get_args

import msgspec

from gateway.api_calls import CALLS, COMMON, PREFIX, STATUSES, Call
from gateway.api_types import Problem, SendRequest
from gateway.messages import PlayerId

_REF: Final = "#/components/schemas/{name}"
_SECURITY: Final = "key"
#: One of these, and no more, names who gets a message.
_TARGETS: Final = ("target_id", "room", "all")


def build_openapi(version: str) -> dict[str, Any]:
    """Return the document; `version` is the gateway's."""
    paths: dict[str, Any] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "game-gateway",
            "version": version,
            "description": "What a game's backend may ask of its message gateway. Durations are "
            "in seconds, sizes in bytes, times in Unix seconds.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": PREFIX}],
        "security": [{_SECURITY: []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                _SECURITY: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key made by `game-gateway api-keys add`",
                }
            },
            "schemas": _schemas(),
        },
    }


def _types() -> list[Any]:
    types: list[Any] = [Problem]
    for call in CALLS:
        given = (call.body, call.query, *_members(call.answer))
        types += [each for each in given if each is not None]
    return types


def _members(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, which msgspec's schemas do not know for structs."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _schemas() -> dict[str, Any]:
    _, components = msgspec.json.schema_components(_types(), ref_template=_REF)
    send = components[SendRequest.__name__]
    send["oneOf"] = [{"required": [target]} for target in _TARGETS]
    return components


def _schema(kind: Any) -> dict[str, Any]:
    members = _members(kind)
    if len(members) > 1:
        return {"anyOf": [_schema(member) for member in members]}
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return schema


def _operation(call: Call) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.summary,
        "description": f"Needs the scope `{call.scope}`.",
        "responses": {
            "200": {
                "description": "Done",
                "content": {"application/json": {"schema": _schema(call.answer)}},
            },
            **_refusals(call),
        },
    }
    parameters = [*_path_parameters(call), *_query_parameters(call)]
    if parameters:
        operation["parameters"] = parameters
    if call.body is not None:
        operation["requestBody"] = {
            "required": call.body_required,
            "content": {"application/json": {"schema": _schema(call.body)}},
        }
    return operation


def _refusals(call: Call) -> dict[str, Any]:
    codes = [*COMMON, "unavailable", *call.refusals]
    if call.body is not None:
        codes += ["too_large", "unsupported_media_type"]
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(STATUSES[code], []).append(code)
    return {
        str(status): {
            "description": f"Refused: {', '.join(f'`{code}`' for code in found)}",
            "content": {"application/problem+json": {"schema": _schema(Problem)}},
            **(_retry_after() if status in {429, 503, 507} else {}),
        }
        for status, found in sorted(by_status.items())
    }


def _retry_after() -> dict[str, Any]:
    header = {"description": "Seconds to wait", "schema": {"type": "integer"}}
    return {"headers": {"Retry-After": header}}


def _path_parameters(call: Call) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _schema(PlayerId)}
        for name in re.findall(r"\{(\w+)\}", call.path)
    ]


def _query_parameters(call: Call) -> list[dict[str, Any]]:
    if call.query is None:
        return []
    schema = msgspec.json.schema_components([call.query], ref_template=_REF)[1]
    properties = schema[call.query.__name__]["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": _without_null(property_)}
        for name, property_ in properties.items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a query's parameter, which is there or not but never null."""
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema
