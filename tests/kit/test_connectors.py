"""Connectors bring a student's features to the teacher's shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from learnforge import StageError
from learnforge.kinds.seen.network import Layers
from learnforge_kit import Connector, match_extent, pair_stages, pool


@pytest.mark.parametrize(
    ("student", "teacher", "wanted"),
    [
        ((2, 3, 8, 8), (2, 5, 8, 8), (2, 5, 8, 8)),
        ((2, 3, 8, 8), (2, 5, 4, 4), (2, 5, 4, 4)),
        ((2, 3, 4, 4), (2, 5, 8, 8), (2, 5, 4, 4)),
        ((2, 3, 8, 2), (2, 5, 4, 4), (2, 5, 4, 2)),
        ((2, 3), (2, 5), (2, 5)),
        ((2, 3, 4, 4), (2, 5), (2, 5)),
        ((2, 7, 3), (2, 5, 4, 4), (2, 5)),
    ],
)
def test_shapes_meet(student: tuple[int, ...], teacher: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Both come out in one shape: the teacher's channels, the smaller height and width."""
    own, known = torch.randn(student), torch.randn(teacher)
    connector = Connector(own, known)
    guess, hint = connector(own, known)
    assert tuple(guess.shape) == tuple(hint.shape) == wanted
    assert type(connector.map) is (nn.Conv2d if len(wanted) == 4 else nn.Linear)


def test_equal_extents_pass_as_they_are() -> None:
    """Nothing is computed where there is nothing to bring together."""
    own, known = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    assert match_extent(own, known)[0] is own
    assert match_extent(own, known)[1] is known


def test_pooling_by_hand() -> None:
    """Maps and tokens are averaged to one vector an image."""
    assert pool(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).tolist() == [[3.0]]
    assert pool(torch.tensor([[[1.0, 5.0], [3.0, 7.0]]])).tolist() == [[2.0, 6.0]]
    assert pool(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]]


def test_stages_pair_from_the_last() -> None:
    """The deeper network's first stages are left over."""
    one, other = (Layers(nn.Identity(), {}, stages) for stages in (("a", "b"), ("c", "d", "e")))
    assert pair_stages(one, other) == {"stage 1": "stage 2", "stage 2": "stage 3"}
    assert pair_stages(other, one) == {"stage 2": "stage 1", "stage 3": "stage 2"}
    with pytest.raises(StageError, match="the teacher Identity has no stages"):
        pair_stages(one, Layers(nn.Identity(), {}))
