"""What every model must keep to: a network for any task, of weights that can be drawn, saved and loaded."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NoReturn

import attrs
import torch

from learnforge.errors import ArtifactError, RecipeError
from learnforge.kinds.model import Model
from learnforge.options.structure import option_key
from learnforge.randomness import seeded
from learnforge.spec import copy_weights, load_weights
from learnforge_kit.networks.heads import replace_heads
from learnforge_testing.method import MethodSuite
from learnforge_testing.network import (
    Build,
    Shape,
    build_seeded,
    make_images,
    make_info,
    require_cost,
    require_independence,
    require_scores_everywhere,
    require_seeded,
    require_step,
    score_images,
    usual_shapes,
)
from learnforge_testing.suite import needs, require

OUTPUTS = 7


NEW_OUTPUTS = 5


class ModelSuite(MethodSuite):
    """Checks of models, without the pretrained weights that their options may name.

    A model that wants images of certain shapes overrides `shapes`.
    """

    kind: ClassVar[str] = "model"
    base: ClassVar[type] = Model

    def shapes(self) -> Sequence[Shape]:
        """Return input shapes, channels, height and width, the smallest first."""
        return usual_shapes(self.method.smallest_image)

    @property
    def form(self) -> str:
        """Return the form of task that the model is checked with: classification, if it is for that."""
        forms = self.method.forms
        return "classification" if forms is None or "classification" in forms else min(forms)

    def result(self) -> Any:
        info = make_info(self.shapes()[0], form=self.form)
        network = build_seeded(self._build, info)
        return [network.state_dict(), score_images(network, make_images(info, 2))]

    def test_network_gives_a_score_for_each_class(self) -> None:
        """Scores are float [batch, class] and finite, for images, batches and classes of several sizes."""
        require_scores_everywhere(self._build, self.shapes(), self._name, self.form)

    def test_network_trains_a_step(self) -> None:
        """One training step has a finite loss, and every parameter gets a finite gradient."""
        for shape in self.shapes()[:2]:
            require_step(self._build, shape, self._name, self.form)

    def test_network_scores_images_one_by_one(self) -> None:
        """In eval mode an image's scores depend on it alone: not on chance, its batch or an earlier call."""
        require_independence(self._build, self.shapes()[0], self._name, self.form)

    def test_cost_is_known_before_building(self) -> None:
        """On the meta device the network costs the parameters that it really has."""
        for shape in self.shapes():
            require_cost(self._build, shape, self._name, self.form)

    def test_weights_are_drawn_from_torchs_generator(self) -> None:
        """The same seed of torch's global generator gives the same weights, another one others."""
        require_seeded(self._build, self.shapes()[0], self._name, self.form)

    @needs(lambda suite: suite.form == "classification", "the model is not for classification")
    def test_head_can_be_replaced(self) -> None:
        """The layers that the scores come from are found, and new ones give other classes."""
        network = build_seeded(self._build, make_info(self.shapes()[0], OUTPUTS))
        new = make_info(self.shapes()[0], NEW_OUTPUTS)
        try:
            with seeded(1):
                replace_heads(network, new)
        except ArtifactError as error:
            raise AssertionError(
                f"a linear layer or convolution must give the scores, and be replaceable: {error}"
            ) from error
        found = list(score_images(network, make_images(new, 2)).shape)
        require(found == [2, NEW_OUTPUTS], f"with a new head scores must be [2, {NEW_OUTPUTS}], got {found}")

    def test_weights_are_all_in_the_state_dict(self) -> None:
        """A network of other weights that loads a state dict computes what its owner does, bit for bit."""
        info = make_info(self.shapes()[0], form=self.form)
        first, second = (build_seeded(self._build, info, seed) for seed in (0, 1))
        images = make_images(info, 6)
        with seeded(0):
            first.train()(images)  # statistics leave their initial values
        try:
            load_weights(second, copy_weights(first))
        except ArtifactError as error:
            raise AssertionError(f"a state dict must fit a network of another seed: {error}") from error
        found, wanted = (score_images(network, images) for network in (second, first))
        require(
            torch.equal(found, wanted),
            "all that a network computes with must be in its state dict; with that of another network its "
            f"scores must be those, off by {float((found - wanted).abs().max()):.2g}",
        )

    def test_other_options_stay_without_pretrained_weights(self) -> None:
        """`without_pretrained` gives the same model, but for options that it turns off."""
        for model in self._variants():
            bare = model.without_pretrained()
            require(
                type(bare) is type(model),
                f"`without_pretrained` must return a {self._name}, got {type(bare).__name__}",
            )
            for field in attrs.fields(self.method):
                before, after = getattr(model, field.name), getattr(bare, field.name)
                require(
                    after == before or after in (None, False),
                    f"`without_pretrained` must keep {field.name} = {before!r} or turn it off, got {after!r}",
                )
            again = bare.without_pretrained()
            require(again == bare, f"`without_pretrained` must leave {bare} as it is, got {again}")

    def test_building_without_pretrained_weights_is_offline(self) -> None:
        """Without pretrained weights, neither `require` nor `build` asks the network for anything."""
        model = self.make().without_pretrained()
        with _offline() as asked:
            try:
                model.require()
                build_seeded(model.build, make_info(self.shapes()[0], form=self.form))
            except Exception:
                if not asked:
                    raise
        require(not asked, f"without pretrained weights nothing must be fetched, asked for {asked}")

    @property
    def _build(self) -> Build:
        build: Build = self.make().without_pretrained().build
        return build

    @property
    def _name(self) -> str:
        return str(self.method.__name__)

    def _variants(self) -> Iterator[Model]:
        """Yield the model, and for each option of plain values one with another value, where it takes one."""
        model: Model = self.make()
        yield model
        for field in (field for field in attrs.fields(self.method) if field.init):
            for value in _others(getattr(model, field.name)):
                with contextlib.suppress(RecipeError):
                    yield self.make(**{option_key(field): value})
                    break


def _others(value: Any) -> Sequence[Any]:
    """Return values of the same type that an option may take instead."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return value + 1, value - 1, 2 * value
    return (value / 2, value * 2, value + 0.1) if isinstance(value, float) else ()


@contextlib.contextmanager
def _offline() -> Iterator[list[Any]]:
    """Refuse every connection of this process for a block, and note what was asked for."""
    names = ("getaddrinfo", "create_connection")
    before = {name: getattr(socket, name) for name in names}
    asked: list[Any] = []

    def refuse(address: Any, *arguments: Any, **options: Any) -> NoReturn:
        asked.append(address)
        raise OSError("no network in this check")

    try:
        for name in names:
            setattr(socket, name, refuse)
        yield asked
    finally:
        for name, function in before.items():
            setattr(socket, name, function)
