"""The OpenAPI 3.1 document of the control API, made from the table of its operations and the types it exchanges."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from pyproxy import __version__
from pyproxy.daemon.routes import PATH_PARAMETERS, ROUTES, Parameter, Route
from pyproxy.frontend.messages import API_VERSION, ErrorReply

LARGEST_LUN: Final = 16383
_REFERENCE: Final = "#/components/schemas/{name}"
_FAILURES: Final = {
    "400": "malformed request",
    "404": "no such guest, unit or device",
    "409": "refused: the text says why and what to do",
    "502": "the device could not be asked; errno and fate_unknown are set",
}


def document() -> dict[str, Any]:
    """Return the document; JSON's types only."""
    types = {kind for route in ROUTES for kind in (route.answer, route.body) if kind is not None} | {ErrorReply}
    ordered = sorted(types, key=lambda kind: kind.__name__)
    references, components = msgspec.json.schema_components(ordered, ref_template=_REFERENCE)
    schemas = dict(zip(ordered, references, strict=True))
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(f"/{API_VERSION}{route.path}", {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pyproxy control API",
            "version": __version__,
            "description": "HTTP and JSON on the daemon's Unix socket. Byte strings are base64, reservation keys text.",
        },
        "paths": paths,
        "components": {"schemas": {name: components[name] for name in sorted(components)}},
    }


def _operation(route: Route, schemas: dict[type[msgspec.Struct], Any]) -> dict[str, Any]:
    answer = {"type": "object"} if route.answer is None else schemas[route.answer]
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {
            "200": {"description": route.summary, "content": {"application/json": {"schema": answer}}},
            **{
                status: {"description": told, "content": {"application/json": {"schema": schemas[ErrorReply]}}}
                for status, told in _FAILURES.items()
            },
        },
    }
    in_path = [PATH_PARAMETERS[name] for name in re.findall(r"{(\w+)}", route.path)]
    parameters = [_parameter(one, "path") for one in in_path] + [_parameter(one, "query") for one in route.query]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        needed = any(field.required for field in msgspec.structs.fields(route.body))
        operation["requestBody"] = {
            "required": needed,
            "content": {"application/json": {"schema": schemas[route.body]}},
        }
    return operation


def _parameter(parameter: Parameter, where: str) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 0, "maximum": LARGEST_LUN} if parameter.number else {"type": "string"}
    return {
        "name": parameter.name,
        "in": where,
        "required": parameter.required,
        "description": parameter.meaning,
        "schema": schema,
    }
