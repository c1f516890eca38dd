"""Contrastive distillation: the contrast by hand, negatives, and what the banks remember."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge import Outputs

PLAIN = {"features": 2, "temperature": 1.0, "labels": 0.0, "weight": 1.0}


def _criterion(make: Any, labels: list[int], bank: Tensor, /, **options: Any) -> Any:
    """Make the criterion with maps that change nothing and a bank of one's own."""
    count, width = len(labels), bank.shape[1]
    task: Any = SimpleNamespace(train=SimpleNamespace(labels=torch.tensor(labels)))
    level = Outputs(torch.zeros(count, 2), {"embedding": torch.zeros(count, width)})
    made = make("crd", **{**PLAIN, **options}).criterion(level, level, task)
    for layer in (made.student_map, made.teacher_map):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    made.student_bank, made.teacher_bank = bank.clone(), bank.clone()
    return made


def _outputs(*rows: list[float]) -> Outputs:
    return Outputs(torch.zeros(len(rows), 2), {"embedding": torch.tensor(rows)})


def test_loss_worked_by_hand(make: Any, batch_of: Any) -> None:
    """Two images at right angles: scores 1 and 0, Z = 2 · (e + 1) / 2, N / M = 1/2, in both directions."""
    criterion = _criterion(make, [0, 1], torch.eye(2))
    found = criterion(_outputs([1.0, 0.0]), _outputs([1.0, 0.0]), batch_of([0]))
    own, other = math.e / (math.e + 1), 1 / (math.e + 1)
    one_way = -math.log(own / (own + 0.5)) - math.log(1 - other / (other + 0.5))
    assert found.item() == pytest.approx(2 * one_way, rel=1e-5)
    assert float(criterion.own_log_z) == pytest.approx(math.log(math.e + 1), rel=1e-6)


def test_temperature_and_weights(make: Any, batch_of: Any) -> None:
    """tau divides the scores, `weight` and `labels` multiply their parts."""
    criterion = _criterion(make, [0, 1], torch.eye(2), temperature=0.5, weight=3.0, labels=2.0)
    found = criterion(_outputs([1.0, 0.0]), _outputs([1.0, 0.0]), batch_of([0]))
    square = math.e**2
    own, other = square / (square + 1), 1 / (square + 1)
    one_way = -math.log(own / (own + 0.5)) - math.log(1 - other / (other + 0.5))
    assert found.item() == pytest.approx(3 * 2 * one_way + 2 * math.log(2.0), rel=1e-5)


def test_negatives_are_of_other_classes(make: Any, batch_of: Any) -> None:
    """All images of other classes where there are few, else as many as asked for, without repetition."""
    labels = [0, 0, 1, 1, 2, 2]
    bank = torch.eye(6)
    few = _criterion(make, labels, bank, features=6, negatives=16)
    batch = evolve(batch_of([0, 2]), indices=torch.tensor([0, 3]))
    batch = evolve(batch, labels=torch.tensor([0, 1]))
    want = [[False, False, True, True, True, True], [True, True, False, False, True, True]]
    assert few._draw(batch).tolist() == want
    drawn = _criterion(make, labels, bank, features=6, negatives=3)._draw(batch)
    assert drawn.sum(1).tolist() == [3, 3]
    assert not bool((drawn & ~torch.tensor(want)).any())


def test_banks_move_towards_what_they_see(make: Any, batch_of: Any) -> None:
    """A visited entry is momentum · old + (1 - momentum) · new, scaled to length 1; the others stay."""
    criterion = _criterion(make, [0, 1], torch.eye(2), momentum=0.75)
    criterion.train()
    criterion(_outputs([0.0, 2.0]), _outputs([1.0, 0.0]), batch_of([0]))
    length = math.hypot(0.75, 0.25)
    assert torch.allclose(criterion.student_bank, torch.tensor([[0.75 / length, 0.25 / length], [0.0, 1.0]]))
    assert torch.equal(criterion.teacher_bank, torch.eye(2))
    criterion.eval()
    before = criterion.student_bank.clone()
    criterion(_outputs([1.0, 2.0]), _outputs([1.0, 0.0]), batch_of([0]))
    assert torch.equal(criterion.student_bank, before)


def test_z_is_estimated_once(make: Any, batch_of: Any) -> None:
    """The first batch fixes Z; a restored criterion keeps the Z that it was saved with."""
    criterion = _criterion(make, [0, 1], torch.eye(2))
    criterion(_outputs([1.0, 0.0]), _outputs([1.0, 0.0]), batch_of([0]))
    known = float(criterion.own_log_z)
    criterion(_outputs([0.0, 1.0]), _outputs([1.0, 1.0]), batch_of([0]))
    assert float(criterion.own_log_z) == known
    other = _criterion(make, [0, 1], torch.eye(2))
    other.load_state_dict(criterion.state_dict())
    other(_outputs([0.0, 1.0]), _outputs([1.0, 1.0]), batch_of([0]))
    assert float(other.own_log_z) == known


def test_a_closer_student_loses_less(make: Any, batch_of: Any) -> None:
    """The loss falls as the student's embedding turns to the teacher's of the same image."""
    losses = []
    for angle in (0.0, 0.5, 1.0):
        criterion = _criterion(make, [0, 1], torch.eye(2))
        criterion.own_log_z.fill_(1.3)
        criterion.known_log_z.fill_(1.3)
        own = _outputs([math.cos(angle), math.sin(angle)])
        losses.append(criterion(own, _outputs([1.0, 0.0]), batch_of([0])).item())
    assert losses == sorted(losses)
