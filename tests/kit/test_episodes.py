"""Episodes are pure functions of seed and number; support and query never share an image."""

from __future__ import annotations

import pytest
import torch

from learnforge.errors import TaskError
from learnforge.kinds.seen.episodes import EpisodeShape
from learnforge_kit.data.episodes import ImageEpisodeSource

SHAPE = EpisodeShape(ways=3, shots=2, queries=4)


def make_source(counts=(6, 9, 7, 12, 6), shape=SHAPE, labels=None):
    """Make a source whose images tell their own position: image i is filled with i."""
    labels = labels or range(len(counts))
    column = torch.tensor([label for label, n in zip(labels, counts, strict=True) for _ in range(n)])
    column = column[torch.randperm(len(column), generator=torch.Generator().manual_seed(0))]
    images = torch.arange(len(column)).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return ImageEpisodeSource.of(images, column, shape, "train"), column


def positions(labelled):
    """Return which images an episode shows: [task, image]."""
    return labelled.images[:, :, 0, 0, 0].long()


def test_shapes_and_labels():
    """Images come as [task, way · count, …], labels as 0 … ways - 1, each as often as asked."""
    episodes = make_source()[0].draw(0, torch.arange(5))
    assert episodes.support.images.shape == (5, 6, 1, 2, 2)
    assert episodes.query(None).images.shape == (5, 12, 1, 2, 2)
    assert episodes.support.labels.tolist() == [[0, 0, 1, 1, 2, 2]] * 5
    assert episodes.query(None).labels.tolist() == [[0] * 4 + [1] * 4 + [2] * 4] * 5


def test_each_image_belongs_to_the_class_that_it_stands_for():
    """Every image has the label that `classes` gives for its way, whatever the sizes and gaps of labels."""
    source, column = make_source(labels=[2, 3, 5, 8, 11])
    episodes = source.draw(1, torch.arange(40))
    for part in (episodes.support, episodes.query(None)):
        expected = episodes.classes.gather(1, part.labels)
        assert torch.equal(column[positions(part)], expected)


def test_images_are_never_shared():
    """All images of an episode differ: none is in support and query both, or twice in either."""
    episodes = make_source()[0].draw(2, torch.arange(200))
    both = torch.cat([positions(episodes.support), positions(episodes.query(None))], 1)
    assert all(len(set(row)) == 18 for row in both.tolist())


def test_classes_of_an_episode_are_distinct_and_all_come_up():
    """An episode's classes differ, and every class and image of the split is drawn sooner or later."""
    episodes = make_source()[0].draw(3, torch.arange(200))
    assert all(len(set(row)) == 3 for row in episodes.classes.tolist())
    counts = torch.bincount(episodes.classes.flatten(), minlength=5)
    # 120 of 600 expected for each of five classes; five standard deviations are 35
    assert 85 < int(counts.min()) <= int(counts.max()) < 155
    assert len(positions(episodes.support).unique()) == 40


def test_episode_is_a_pure_function_of_seed_and_number():
    """Number 7 is the same alone, in any batch, and after others; other numbers give other episodes."""
    source, _ = make_source()
    batch = source.draw(4, torch.tensor([3, 7, 1]))
    alone = source.draw(4, torch.tensor([7]))
    assert torch.equal(positions(batch.support)[1], positions(alone.support)[0])
    assert torch.equal(positions(batch.query(None))[1], positions(alone.query(None))[0])
    assert not torch.equal(positions(batch.support)[0], positions(batch.support)[1])
    assert not torch.equal(positions(source.draw(5, torch.tensor([7])).support), positions(alone.support))


def test_whole_class_can_be_used():
    """A class with just shots + queries images shows all of them, beside far larger classes."""
    source, column = make_source(counts=(6, 200), shape=EpisodeShape(2, 2, 4))
    episodes = source.draw(0, torch.arange(20))
    both = torch.cat([positions(episodes.support), positions(episodes.query(None))], 1)
    small = set((column == 0).nonzero().flatten().tolist())
    assert all(small <= set(row) for row in both.tolist())


def test_too_few_classes_are_refused():
    """A split with fewer classes than ways is refused with both numbers and advice."""
    with pytest.raises(
        TaskError,
        match=r"the train split must have at least ways = 3 classes, it has 2. Lower `episodes.ways`, or",
    ):
        make_source(counts=(9, 9))


def test_too_few_images_are_refused():
    """A class with fewer images than an episode takes is refused with the need and the smallest."""
    with pytest.raises(
        TaskError,
        match=r"every class of the train split needs shots \+ queries = 6 images, but 2 have fewer "
        r"\(the smallest 3\). Lower `episodes.shots` or `episodes.queries`",
    ):
        make_source(counts=(9, 5, 9, 3))


@pytest.mark.parametrize(("name", "least"), [("ways", 1), ("shots", 1), ("queries", 1)])
def test_shape_has_bounds(name, least):
    """Ways, shots and queries are from 1; a regression has one way."""
    assert getattr(EpisodeShape(**{name: least}), name) == least
    with pytest.raises(ValueError, match=f"'{name}' must be >= {least}: {least - 1}"):
        EpisodeShape(**{name: least - 1})
