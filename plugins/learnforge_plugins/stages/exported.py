"""What an export stage measures; reports read it back by this record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from learnforge_kit.measured import Measured, OnTest, nested


@frozen(kw_only=True)
class Agreement(Measured):
    """How an exported file compares with its network, on test images.

    Args:
        file: How the file does.
        network_accuracy: Of the network, in [0, 1]; None for a form of tasks that has no accuracy.
        network_measures: What such a form measures of the network.
        agreement: Share of images for which both name the same class, in [0, 1]; for other forms than
            classification what the form measures first, with the network's answers as targets.
        max_difference: Largest difference of class scores, or of what else is put out.
        mean_difference: Mean difference of class scores.
        relative_difference: The largest over the largest class score.
        images: How many.
        latency_ms: Milliseconds of the file for one image on one thread.
        network_latency_ms: Those of the network.
        latency_64_ms: Milliseconds of the file for 64 images on one thread.
        network_latency_64_ms: Those of the network.
        is_exact: Whether the exporter promises the network's own scores.
        is_equal: Whether the scores are within the tolerance.
    """

    file: OnTest = nested(OnTest, prefix="")
    network_accuracy: float | None = None
    network_measures: Mapping[str, float] | None = None
    agreement: float
    max_difference: float
    mean_difference: float
    relative_difference: float
    images: int
    latency_ms: float
    network_latency_ms: float
    latency_64_ms: float
    network_latency_64_ms: float
    is_exact: bool
    is_equal: bool

    @property
    def network(self) -> OnTest:
        """How the network does."""
        return OnTest(test_accuracy=self.network_accuracy, test_measures=self.network_measures)


@frozen(kw_only=True)
class Exported(Measured):
    """What an export stage measures.

    Args:
        proof: How the file compares with its network.
        bytes: Size of the file.
        classes: Their names.
        file: The file's name in the stage's folder.
        parameters: Those of the network.
        temperature: What class scores are divided by for a better confidence.
    """

    proof: Agreement = nested(Agreement, prefix="")
    bytes: int
    classes: Sequence[str]
    file: str
    parameters: int
    temperature: float | None = None
