"""What stages measure of a network: accuracy by class, mistakes, and no more than a report needs."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from attrs import evolve, fields, frozen
from PIL import Image
from torch import Tensor, nn

from learnforge import ArtifactError, Task
from learnforge_kit import MemorySplit
from learnforge_kit.data.pictures import as_png
from learnforge_kit.measured import Measured, NetworkCosts, nested
from learnforge_kit.training import measures
from learnforge_kit.training.measures import class_accuracies, find_mistakes, find_most_wrong, judge
from learnforge_plugins.stages.exported import Exported
from learnforge_plugins.stages.measured import Baseline, Distilled, Searched, Transferred
from learnforge_plugins.stages.meta.measured import MetaLearnt

COUNTS = torch.tensor([[3, 1, 0], [2, 0, 2], [0, 0, 0]])


class Constant(nn.Module):
    """Names one class for everything."""

    def forward(self, images: Tensor) -> Tensor:
        scores = torch.zeros(len(images), 3)
        scores[:, 1] = 1.0
        return scores


def test_accuracy_of_each_class() -> None:
    """Right over all of the row; a class without images has none."""
    assert class_accuracies(COUNTS) == [0.75, 0.0, None]


def test_mistakes_by_how_often_they_are_made() -> None:
    """Most frequent first, equals in their order; what never happens is left out."""
    assert find_mistakes(COUNTS) == [[1, 0, 2], [1, 2, 2], [0, 1, 1]]
    assert find_mistakes(COUNTS, 1) == [[1, 0, 2]]


def test_all_confusions_are_kept_for_few_classes_only(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit accuracies and mistakes remain."""
    test = MemorySplit(task.test.images[:4], torch.tensor([0, 1, 1, 2]))  # type: ignore[attr-defined]
    small = evolve(task, test=test)
    found = judge(Constant(), small, confidence=False)
    assert found.confusion == [[0, 1, 0], [0, 2, 0], [0, 1, 0]]
    assert found.class_accuracy == [0.0, 1.0, 0.0]
    assert found.mistakes == [[0, 1, 1], [2, 1, 1]]
    monkeypatch.setattr(measures, "MOST_CLASSES", 2)
    assert judge(Constant(), small, confidence=False) == evolve(found, confusion=None)


def test_the_most_wrong_images_are_kept(task: Task) -> None:
    """Those with the highest confidence in a wrong class, the highest first, as PNG."""
    images = task.test.images[:6]  # type: ignore[attr-defined]
    labels = torch.tensor([0, 1, 1, 2, 0, 1])
    logits = torch.tensor([[0.0, 1, 0], [0, 9, 0], [5, 0, 0], [0, 3, 0], [9, 0, 0], [0, 0, 0.5]])
    found = find_most_wrong(logits, MemorySplit(images, labels), most=3)
    assert [(own["true"], own["predicted"]) for own in found] == [(1, 0), (2, 1), (0, 1)]
    assert [own["confidence"] for own in found] == pytest.approx(
        [float(logits[k].softmax(0).max()) for k in (2, 3, 0)]
    )
    for own, place in zip(found, (2, 3, 0), strict=True):
        with Image.open(io.BytesIO(base64.b64decode(own["image"]))) as opened:
            assert torch.equal(torch.from_numpy(np.asarray(opened).copy()), images[place, 0])


def test_large_images_are_shrunk() -> None:
    """To 96 pixels of the longer side; of two channels the first is shown."""
    for channels, mode in ((1, "L"), (2, "L"), (3, "RGB")):
        text = as_png(torch.zeros(channels, 100, 200, dtype=torch.uint8))
        with Image.open(io.BytesIO(base64.b64decode(text))) as opened:
            assert opened.size == (96, 48)
            assert opened.mode == mode


def test_confidence_is_measured_of_the_stages_own_network(task: Task) -> None:
    """With calibration by the validation split's temperature; not for baselines and teachers."""
    found = judge(Constant(), task).confidence
    assert found is not None
    shares = torch.tensor([0.0, 1.0, 0.0]).softmax(0)
    own = float((task.test.labels == 1).double().mean())
    assert found.calibration_error == pytest.approx(abs(float(shares[1]) - own), abs=1e-6)
    (point,) = found.reliability
    assert point == pytest.approx([float(shares[1]), own, len(task.test)])
    assert found.temperature is None  # the flatter the better, for scores that say nothing
    assert len(found.most_wrong) == 12
    assert judge(Constant(), task, confidence=False).confidence is None


@frozen(kw_only=True)
class Inner(Measured):
    """A record in another."""

    score: float
    note: str | None = None


@frozen(kw_only=True)
class Outer(Measured):
    """A record with one beside its own names, one that may be missing, and one in a table."""

    own: Inner = nested(Inner, prefix="")
    other: Inner | None = nested(Inner, prefix="other_", default=None)
    table: Inner | None = nested(Inner, default=None)
    count: int


def test_records_are_read_as_they_are_written() -> None:
    """Names are flat, with their prefixes; what was not measured is left out; others' names do no harm."""
    few = Outer(own=Inner(score=0.5), count=2)
    all_ = Outer(own=Inner(score=0.5, note="n"), other=Inner(score=0.25), table=Inner(score=1.0), count=2)
    assert few.as_metrics() == {"score": 0.5, "count": 2}
    written = {"score": 0.5, "note": "n", "other_score": 0.25, "table": {"score": 1.0}, "count": 2}
    assert all_.as_metrics() == written
    for record in (few, all_):
        assert Outer.of(record.as_metrics() | {"seconds": 1.0, "other_name": "x"}) == record
    for name in ("score", "count"):
        with pytest.raises(ArtifactError, match=f"must have '{name}'"):
            Outer.of({n: value for n, value in written.items() if n != name})


ASSESSED = """
    validation_accuracy test_accuracy class_accuracy mistakes confusion
    calibration_error reliability most_wrong temperature scaled_calibration_error only_class
    validation_measures test_measures
"""
COSTS = " parameters macs peak_activation_bytes latency_ms "
TRIALS = " objectives history trials failed stopped refused repeats front searcher design options "
UNLABELLED = " source_accuracy validator "
NAMES = {
    Searched: ASSESSED + COSTS + TRIALS,
    Baseline: ASSESSED + COSTS + UNLABELLED + "history",
    Distilled: ASSESSED
    + COSTS
    + """teacher_parameters teacher_macs teacher_latency_ms capacity_ratio accuracy_gap agreement assistants
    teacher_forwards warnings history"""
    + "".join(f" {who}_{name}" for who in ("teacher", "baseline") for name in ASSESSED.split()),
    Transferred: ASSESSED
    + COSTS
    + UNLABELLED
    + "changes history pairs baseline_name"
    + "".join(f" baseline_{name}" for name in ASSESSED.split()),
    MetaLearnt: COSTS
    + """ways shots normalisation seen_upstream engine measure test history validation validation_is_seen
    by_shots""",
    Exported: """test_accuracy test_measures network_accuracy network_measures agreement max_difference
    mean_difference relative_difference images latency_ms network_latency_ms latency_64_ms
    network_latency_64_ms is_exact is_equal bytes classes file parameters temperature""",
}


@pytest.mark.parametrize("record", NAMES, ids=lambda record: record.__name__)
def test_names_in_the_metrics_stay(record: type[Measured]) -> None:
    """Run folders and scripts read them, so none may be renamed by the way."""
    assert sorted(names_of(record)) == sorted(NAMES[record].split())


def names_of(record: type[Measured]) -> list[str]:
    """List the names that a record has in the metrics."""
    found = []
    for own in fields(record):
        prefix = own.metadata.get("prefix")
        inner = names_of(own.metadata["record"]) if prefix is not None else [own.name]
        found += [f"{prefix or ''}{name}" for name in inner]
    return found


def test_a_record_that_is_there_in_part_is_an_error() -> None:
    """It is never taken for one that was not measured."""
    whole = {"validation_accuracy": 0.5, "test_accuracy": 0.25}
    full = Baseline.of({**whole, "history": {}, "seconds": 1.0, **dict.fromkeys(COSTS.split(), 1)})
    assert full.costs == NetworkCosts(parameters=1, macs=1, peak_activation_bytes=1, latency_ms=1)
    assert Baseline.of({**whole, "history": {}}).costs is None
    with pytest.raises(ArtifactError, match="NetworkCosts must have 'parameters'"):
        Baseline.of({**whole, "history": {}, "macs": 3.0})
