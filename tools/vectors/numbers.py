"""A list of numbers from the wire, that becomes an array at once: what comes after it walks no Python list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from quarterdeck.tools.arguments import FromJsonText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _FromList:
    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        del source, handler
        return core_schema.no_info_after_validator_function(
            _to_array, core_schema.list_schema(core_schema.float_schema(strict=True))
        )


def _to_array(numbers: Sequence[float]) -> NDArray[np.float64]:
    import numpy as np  # not before the first vector: the start of a server waits for nothing

    return np.array(numbers, np.float64)


if TYPE_CHECKING:
    Numbers: TypeAlias = NDArray[np.float64]
else:
    Numbers = Annotated[Any, _FromList(), FromJsonText]
