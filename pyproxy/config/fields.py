"""What the structs of the configuration say of their keys."""

from __future__ import annotations

from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from pyproxy.config.sections import Size


def nested_table(annotation: Any) -> tuple[type[Struct] | None, bool]:
    """Whether a field's type is a table of its own (its struct) and whether it is a list of them."""
    if get_origin(annotation) is Annotated:
        return nested_table(get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation, False
    arguments = [argument for argument in get_args(annotation) if argument not in (type(None), Ellipsis)]
    is_wrapper = get_origin(annotation) in (tuple, Union) or type(annotation).__name__ == "UnionType"
    if is_wrapper and len(arguments) == 1:
        struct, _ = nested_table(arguments[0])
        return struct, struct is not None and get_origin(annotation) is tuple
    return None, False


def _metas(field: msgspec.structs.FieldInfo) -> list[Meta]:
    return [item for item in getattr(field.type, "__metadata__", ()) if isinstance(item, Meta)]


def field_allowed(field: msgspec.structs.FieldInfo) -> str:
    """Say what a key may be set to."""
    return next((str(meta.extra["allowed"]) for meta in _metas(field) if meta.extra), "")


def field_description(field: msgspec.structs.FieldInfo) -> str:
    """Say what a key is for."""
    return next((meta.description for meta in _metas(field) if meta.description), "")


def field_default(field: msgspec.structs.FieldInfo) -> str:
    """Say what a key is when it is left out."""
    told = next((meta.extra.get("default") for meta in _metas(field) if meta.extra), None)
    if told is not None:
        return str(told)
    if field.required:
        return "required"
    if isinstance(field.default, Size):
        return f'"{int(field.default) >> 30}GiB"'
    return str(msgspec.json.encode(field.default), "ascii")
