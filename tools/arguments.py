"""Arguments of tools: strict in either spelling, and plain about every mistake. Knows nothing of the SDK, whose import
takes longer than most commands do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from quarterdeck.storage.errors import InvalidArgumentError


class Arguments(BaseModel):
    """Base of every tool's arguments: camelCase or snake_case, nothing unknown, no silent conversion."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        strict=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_means_left_out(cls, data: Any) -> Any:
        """Some clients send every optional argument, null where they have nothing to say."""
        if not isinstance(data, dict):
            return data
        given = cast("dict[str, Any]", data)
        if None not in given.values():
            return given
        optional = {
            name
            for field_name, field in cls.model_fields.items()
            if not field.is_required() and field.annotation is not Any  # any JSON may be null on purpose
            for name in (field_name, field.alias)
        }
        return {name: value for name, value in given.items() if value is not None or name not in optional}


def _decode_list(value: Any) -> Any:
    """Some clients send a list or object as its JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


FromJsonText = BeforeValidator(_decode_list)
"""For list and object arguments (never for a value to be stored): accept their JSON text too."""

Limit = Annotated[int, Field(ge=1, le=500)]
"""A page size; `= 50` where it is used."""


def explain(tool: str, exc: ValidationError, model: type[BaseModel]) -> str:
    """Say in one line what is wrong with the arguments, and what would be right."""
    errors = exc.errors(include_url=False, include_context=False)
    parts = list(dict.fromkeys(_explain_one(error, model) for error in errors))
    return f"{tool}: " + "; ".join(parts[:5])


def _explain_one(error: ErrorDetails, model: type[BaseModel]) -> str:
    path = error["loc"]
    where = ".".join(str(part) for part in path) or "arguments"
    match error["type"]:
        case "extra_forbidden":
            return f"unknown argument '{where}' (valid: {_names(_model_at(model, path[:-1]))})"
        case "missing":
            return f"missing argument '{where}' (arguments: {_names(_model_at(model, path[:-1]))})"
        case "model_type" | "model_attributes_type":
            return f"{where}: should be an object (arguments: {_names(_model_at(model, path))}), got {_show(error)}"
        case _:
            text = error["msg"].removeprefix("Value error, ")
            return f"{where}: {text[:1].lower()}{text[1:]}, got {_show(error)}"


def _show(error: ErrorDetails) -> str:
    shown = json.dumps(error["input"], ensure_ascii=False, default=repr).encode("utf-8", "replace").decode()
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _names(model: type[BaseModel]) -> str:
    return ", ".join(field.alias or name for name, field in model.model_fields.items()) or "none"


def _model_at(model: type[BaseModel], path: Sequence[int | str]) -> type[BaseModel]:
    """The nested model that an error's path leads to."""
    for part in path:
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        if field is not None:
            model = _model_in(field.annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for arm in get_args(annotation) if (model := _model_in(arm))), None)


def check_applies(args: Arguments, action: str, applies: Mapping[str, Sequence[str]]) -> None:
    """Refuse arguments that have no meaning for an action; `applies` names the actions for which each one has.

    Raises:
        InvalidArgumentError: one was given, and is not its default.
    """
    for name in args.model_fields_set & applies.keys():
        field = type(args).model_fields[name]
        if action not in applies[name] and getattr(args, name) != field.default:
            raise InvalidArgumentError(
                f"{field.alias}: has no meaning for {action}, only for {', '.join(applies[name])}"
            )


def read_cursor(cursor: str | None) -> int | None:
    """The position that a page's `nextCursor` named.

    Raises:
        InvalidArgumentError: it is not one of ours.
    """
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise InvalidArgumentError("cursor: pass the nextCursor of the page before, unchanged, or none")
    return int(cursor)
