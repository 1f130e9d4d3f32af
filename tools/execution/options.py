"""Options of builders whose tasks run in several processes or on an engine."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from modalkit.plugin import Settings


class Execution(Settings):
    """Where a builder's tasks run. These options do not change the dataset."""

    workers: int | None = Field(None, ge=1, description="number of processes; by default one for each available core")
    engine: Literal["dask"] | None = Field(
        None, description="run the tasks on this engine, which repeats the tasks of a worker that dies on another one"
    )
    address: str | None = Field(
        None,
        description="HOST:PORT of the engine's scheduler; by default a cluster is started on this machine. Its workers "
        "need the same versions of packages, and --out and the source under the same paths",
    )

    @field_validator("address")
    @classmethod
    def _of_an_engine(cls, address: str | None, info: ValidationInfo) -> str | None:
        if address is not None and info.data.get("engine") is None:
            raise PydanticCustomError("alone", "belongs to an engine; give the engine too, such as dask")
        if address is not None and info.data.get("workers") is not None:
            raise PydanticCustomError("workers", "is a cluster with its own workers; leave out the number of workers")
        return address

    def execution(self) -> dict[str, Any]:
        """Return these options as arguments of `map_tasks`."""
        return {name: getattr(self, name) for name in Execution.model_fields}
