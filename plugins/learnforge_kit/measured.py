"""Records of what a stage measures, as `metrics.json` holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from attrs import NOTHING, field, fields, frozen

from learnforge.errors import ArtifactError

History = Mapping[str, Sequence[Mapping[str, Any]]]
"""{name of a training: what was measured after each epoch}."""

MOST_CLASSES = 100
"""Classes up to which all confusions are kept; for a thousand they would be a million numbers."""


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
        """Read a record out of metrics, among which there may be others. Values are taken as they are.

        Args:
            metrics: {name: value}.
            prefix: Stands before each name.

        Raises:
            ArtifactError: One that must be there is missing. A nested record may be missing as a whole, where
                it has a default.
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
                if own.default is NOTHING or inner.is_in(metrics.get(name)):
                    values[own.name] = inner.of(metrics.get(name) or {})
            elif own.default is NOTHING or inner.is_in(metrics, prefix + own.metadata["prefix"]):
                values[own.name] = inner.of(metrics, prefix + own.metadata["prefix"])
        return cls(**values)

    @classmethod
    def is_in(cls, metrics: Any, prefix: str = "") -> bool:
        """Tell whether metrics, a table, have anything that a record of this class must have."""
        must = [f.name for f in fields(cls) if f.default is NOTHING and "record" not in f.metadata]
        return isinstance(metrics, Mapping) and any(prefix + name in metrics for name in must)


@frozen(kw_only=True)
class Confidence(Measured):
    """How well a network knows what it knows, and where it is most wrong.

    Args:
        calibration_error: Expected calibration error on test images, in [0, 1].
        reliability: [mean confidence, accuracy, images] of each bin that has images.
        most_wrong: Wrong predictions with the highest confidence, as `find_most_wrong` gives them.
        temperature: What class scores are divided by to fit the validation images best; None where the
            flattest scores fit best.
        scaled_calibration_error: Calibration error with scores divided by it, in [0, 1].
    """

    calibration_error: float
    reliability: list[list[float]]
    most_wrong: list[dict[str, Any]]
    temperature: float | None = None
    scaled_calibration_error: float | None = None


def spell_score(measure: str, value: float) -> str:
    """Spell what a form measures: an accuracy in per cent.

    >>> spell_score("accuracy", 0.5), spell_score("r2", 0.5)
    ('50.0%', '0.500')
    """
    return f"{value:.1%}" if measure == "accuracy" else f"{value:.3f}"


def beyond_accuracy(measures: Mapping[str, float]) -> dict[str, float] | None:
    """Return what a form measures, or None where it is the accuracy alone, which has a field of its own."""
    return None if set(measures) == {"accuracy"} else dict(measures)


@frozen(kw_only=True)
class OnTest(Measured):
    """How a network, or a file, does on test data.

    Args:
        test_accuracy: Share of test images that are classified correctly, in [0, 1]; None for a form of tasks
            that has no accuracy.
        test_measures: What such a form measures, {name: value}, what stages choose by first; None where it is
            the accuracy alone.
    """

    test_accuracy: float | None = None
    test_measures: Mapping[str, float] | None = None

    @classmethod
    def of_scores(cls, measures: Mapping[str, float], **more: Any) -> Self:
        """Record what a form measures on test data, {name: value}, beside other fields."""
        accuracy, others = measures.get("accuracy"), beyond_accuracy(measures)
        return cls(test_accuracy=accuracy, test_measures=others, **more)

    @property
    def measure(self) -> str:
        """Name of what stages choose by."""
        return next(iter(self.test_measures or ("accuracy",)))

    @property
    def test(self) -> float:
        """What stages choose by; more is better."""
        return _first(self.test_accuracy, self.test_measures)

    @classmethod
    def is_in(cls, metrics: Any, prefix: str = "") -> bool:
        names = (f"{prefix}test_accuracy", f"{prefix}test_measures")
        return isinstance(metrics, Mapping) and any(name in metrics for name in names)


def _first(accuracy: float | None, measures: Mapping[str, float] | None) -> float:
    found = next(iter(measures.values())) if measures else accuracy
    assert found is not None, "one of the two is measured"
    return found


@frozen(kw_only=True)
class Assessment(OnTest):
    """How a network does on data that it has not learnt from; see also `OnTest`.

    Args:
        validation_accuracy: Share of validation images that are classified correctly, in [0, 1]; None for a
            form of tasks that has no accuracy.
        validation_measures: What such a form measures on validation data.
        class_accuracy: That of each class, in [0, 1]; None for one without images.
        mistakes: The most frequent mistakes on test images, [true class, predicted class, images].
        confusion: Test images by true class (row) and predicted class (column); None beyond
            `MOST_CLASSES` classes.
        confidence: How well it knows what it knows; None for a teacher, and for a baseline beside a network.
        only_class: Name of the one class that it names for every validation image; None where it tells them
            apart.
    """

    validation_accuracy: float | None = None
    validation_measures: Mapping[str, float] | None = None
    class_accuracy: Sequence[float | None] = ()
    mistakes: Sequence[Sequence[int]] = ()
    confusion: list[list[int]] | None = None
    confidence: Confidence | None = nested(Confidence, prefix="", default=None)
    only_class: str | None = None

    @property
    def validation(self) -> float:
        """What stages choose by, on validation data; more is better."""
        return _first(self.validation_accuracy, self.validation_measures)


@frozen(kw_only=True)
class NetworkCosts(Measured):
    """What a network costs.

    Args:
        parameters: Its parameters.
        macs: Multiply-adds for one image.
        peak_activation_bytes: Largest activations that are held at once, in bytes, for one image.
        latency_ms: Median milliseconds for one image on one thread.
    """

    parameters: int
    macs: int
    peak_activation_bytes: int | None = None
    latency_ms: float
