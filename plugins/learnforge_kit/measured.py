"""Records of what a stage measures, as `metrics.json` holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from attrs import NOTHING, field, fields, frozen

from learnforge.errors import ArtifactError


def nested(cls: type[Measured], *, prefix: str | None = None, default: Any = NOTHING) -> Any:
    """Return a field that holds another record.

    Args:
        cls: The record's class.
        prefix: Put before each of its names, which stand beside those of the record around it; None for a
            table of the field's own name.
        default: None where it may be missing.
    """
    return field(default=default, metadata={"record": cls, "prefix": prefix})


@frozen(kw_only=True)
class Measured:
    """What a kind of stage measures: a frozen attrs class whose fields are the names in `metrics.json`. A
    field that is None was not measured, and is left out there.
    """

    def as_metrics(self) -> dict[str, Any]:
        """Return {name: value} as `Artifact.metrics` holds it."""
        found: dict[str, Any] = {}
        for own in fields(type(self)):
            value, prefix = getattr(self, own.name), own.metadata.get("prefix")
            if isinstance(value, Measured) and prefix is not None:
                found |= {prefix + name: item for name, item in value.as_metrics().items()}
            elif value is not None:
                found[own.name] = value.as_metrics() if isinstance(value, Measured) else value
        return found

    @classmethod
    def of(cls, metrics: Mapping[str, Any], prefix: str = "") -> Self:
        """Read a record out of metrics, among which there may be others.

        Args:
            metrics: {name: value}.
            prefix: Stands before each name.

        Raises:
            ArtifactError: One that must be there is missing.
        """
        values: dict[str, Any] = {}
        for own in fields(cls):
            name, inner = prefix + own.name, own.metadata.get("record")
            if inner is None:
                if name in metrics:
                    values[own.name] = metrics[name]
                elif own.default is NOTHING:
                    raise ArtifactError(f"the metrics of a {cls.__name__} must have {name!r}, it is missing")
            elif own.metadata["prefix"] is None:
                if own.default is NOTHING or inner.is_in(metrics.get(name) or {}):
                    values[own.name] = inner.of(metrics.get(name) or {})
            elif own.default is NOTHING or inner.is_in(metrics, prefix + own.metadata["prefix"]):
                values[own.name] = inner.of(metrics, prefix + own.metadata["prefix"])
        return cls(**values)

    @classmethod
    def is_in(cls, metrics: Mapping[str, Any], prefix: str = "") -> bool:
        """Tell whether metrics have all that a record of this class must have."""
        must = [f.name for f in fields(cls) if f.default is NOTHING and "record" not in f.metadata]
        return all(prefix + name in metrics for name in must)
