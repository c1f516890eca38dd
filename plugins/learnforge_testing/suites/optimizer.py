"""What every optimizer must keep to: it goes downhill at the rate and decay that it is given, by the closure
alone, and goes on from its state.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from learnforge.kinds.optimizer import Optimizer
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import require
from learnforge_testing.toys import make_network, make_task

STEPS = 20


class OptimizerSuite(MethodSuite):
    """Checks of an optimizer on a small convolutional network and one batch.

    Args:
        learning_rate: Rate at which the method must lower the loss of the batch within 20 steps.
    """

    kind: ClassVar[str] = "optimizer"
    base: ClassVar[type] = Optimizer
    learning_rate: ClassVar[float] = 0.01

    def result(self) -> Any:
        network, optimizer = self._begin()
        losses = [_step(network, optimizer) for _ in range(5)]
        return [losses, *network.state_dict().values()]

    def test_loss_goes_down(self) -> None:
        """Twenty steps on one batch lower its loss."""
        network, optimizer = self._begin()
        losses = [float(_step(network, optimizer)) for _ in range(STEPS)]
        last = float(_loss(network).detach())
        require(
            last < losses[0],
            f"{STEPS} steps at the rate {self.learning_rate:g} must lower the loss, it went from "
            f"{losses[0]:.4f} to {last:.4f}; the suite's `learning_rate` sets another",
        )

    def test_parameters_are_each_in_one_group(self) -> None:
        """What `make` gives is a torch optimizer that holds every parameter it was given, once."""
        network = make_network(make_task().info)
        optimizer = self._make(list(network.parameters()))
        require(isinstance(optimizer, torch.optim.Optimizer), f"must be a torch optimizer, got {optimizer!r}")
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        require(
            sorted(held) == sorted(map(id, network.parameters())),
            "`param_groups` must hold each parameter once: the training sets rates there",
        )

    def test_closure_is_called(self) -> None:
        """A step evaluates the batch, and gradients are switched on as before afterwards."""
        network, optimizer = self._begin()
        calls = []

        def closure() -> Any:
            calls.append(1)
            return _backward(network)

        optimizer.step(closure)
        require(bool(calls), "`step` must call the closure that it is given")
        require(torch.is_grad_enabled(), "gradients must be left switched on")

    def test_rate_is_the_one_of_the_group(self) -> None:
        """A rate that is set in `param_groups` counts from the next step on; at 0 no weight moves."""
        network, optimizer = self._begin()
        _step(network, optimizer)
        before = _parameters(network)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        _step(network, optimizer)
        require(
            all(map(torch.equal, before, _parameters(network))),
            "with `lr` set to 0 in `param_groups` a step must leave the weights as they are",
        )

    def test_groups_have_rates_of_their_own(self) -> None:
        """Parameters of a group with the rate 0 stay, the others move; or `make` refuses such groups."""
        network = make_network(make_task().info)
        first, *others = network.parameters()
        groups = [self._group([first], lr=0.0), self._group(others)]
        try:
            optimizer = self.make().make(groups)
        except ValueError:
            return
        before = _parameters(network)
        _step(network, optimizer)
        moved = [not torch.equal(a, b) for a, b in zip(before, _parameters(network), strict=True)]
        require(not moved[0], "a parameter in a group with `lr` 0 must stay")
        require(any(moved[1:]), "parameters in the other group must move")

    def test_weights_decay(self) -> None:
        """`weight_decay` makes the weights smaller than they would be; or `make` refuses any."""
        norms = []
        for decay in (0.0, 1.0):
            network = make_network(make_task().info)
            try:
                optimizer = self._make(list(network.parameters()), weight_decay=decay)
            except ValueError:
                return
            for _ in range(5):
                _step(network, optimizer)
            norms.append(float(sum(p.square().sum() for p in _parameters(network))))
        require(
            norms[1] < norms[0],
            f"with `weight_decay` 1 the weights must end smaller than without; their squares sum up to "
            f"{norms[1]:g} and {norms[0]:g}",
        )

    def test_goes_on_from_its_state(self) -> None:
        """After `state_dict`, saved as a checkpoint is, and `load_state_dict` into a fresh one, further steps
        give the same bits.
        """
        network, optimizer = self._begin()
        for _ in range(3):
            _step(network, optimizer)
        file = io.BytesIO()
        torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, file)
        for _ in range(3):
            _step(network, optimizer)
        file.seek(0)
        try:
            state = torch.load(file, weights_only=True)
        except Exception as error:
            raise AssertionError(f"`state_dict` must be of tensors and plain data: {error}") from error
        again, fresh = self._begin()
        again.load_state_dict(state["network"])
        fresh.load_state_dict(state["optimizer"])
        for _ in range(3):
            _step(again, fresh)
        require(
            all(map(torch.equal, _parameters(network), _parameters(again))),
            "what goes on from `state_dict` must end with the same bits: all that a step depends on must be "
            "in there",
        )

    def test_trainings_are_independent(self) -> None:
        """Two optimizers made of the same method are independent, and a second one begins afresh."""
        method = self.make()
        ends = []
        for _ in range(2):
            network = make_network(make_task().info)
            optimizer = method.make([self._group(list(network.parameters()))])
            for _ in range(3):
                _step(network, optimizer)
            ends.append(_parameters(network))
        require(
            all(map(torch.equal, *ends)),
            "what one training did must not reach another's optimizer: state belongs to what `make` returns",
        )

    def _begin(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        network = copy.deepcopy(make_network(make_task().info)).train()
        return network, self._make(list(network.parameters()))

    def _make(self, parameters: list[nn.Parameter], weight_decay: float = 0.0) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = self.make().make([self._group(parameters, weight_decay=weight_decay)])
        return made

    def _group(
        self, parameters: list[nn.Parameter], lr: float | None = None, weight_decay: float = 0.0
    ) -> dict[str, Any]:
        rate = self.learning_rate if lr is None else lr
        return {"params": parameters, "lr": rate, "weight_decay": weight_decay}


def _loss(network: Callable[[Tensor], Tensor]) -> Tensor:
    task = make_task()
    images, labels, _ = next(iter(task.train.batches(torch.arange(len(task.train)), len(task.train))))
    return nn.functional.cross_entropy(network(images.float() / 255), labels)


def _backward(network: nn.Module) -> Tensor:
    with torch.enable_grad():
        network.zero_grad()
        loss = _loss(network)
        loss.backward()
    return loss


def _step(network: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """Take a step, and return the loss at its first evaluation."""
    losses: list[Tensor] = []

    def closure() -> Any:
        losses.append(_backward(network).detach())
        return losses[-1]

    optimizer.step(closure)
    require(bool(losses), "`step` must call the closure that it is given")
    return losses[0]


def _parameters(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]
