"""What networks cost, counted by hand."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve
from torch import nn

from learnforge.kinds.cost import COSTS, Cost
from learnforge.kinds.space import design_key
from learnforge_kit.costs.measuring import measure_cost, measure_latency, time_call


def cost_of(make, task, shape=(1, 8, 8)):
    """Build on the meta device and measure."""
    with torch.device("meta"):
        module = make()
    return measure_cost(module, evolve(task.info, input_shape=shape))


def chain(inplace=False):
    """Convolution, ReLU, and a linear head."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(2 * 8 * 8, 3)
    )


def test_cost_of_a_chain_by_hand(task):
    """A convolution 1 → 2 of 3 × 3 on 8 × 8 and a linear layer 128 → 3.

    Parameters: 2 · 9 + 2 and 128 · 3 + 3. Multiply-adds: 64 · 2 · 9 and 128 · 3. Memory is largest in the
    ReLU: the image (64 numbers), its input and its output (128 each), 4 bytes a number.
    """
    assert cost_of(chain, task) == Cost(20 + 387, 1152 + 384, 4 * (64 + 128 + 128))


def test_in_place_relu_saves_memory(task):
    """In place, the ReLU needs no new output: the peak is at the linear layer, 64 + 128 + 3 numbers."""
    assert cost_of(lambda: chain(inplace=True), task) == Cost(407, 1536, 4 * (64 + 128 + 3))


@pytest.mark.parametrize(
    ("make", "parameters", "macs"),
    [
        (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), 36, 64 * 4 * 9),
        (lambda: nn.Conv2d(4, 6, 1, bias=False), 24, 64 * 6 * 4),
        (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), 216, 16 * 6 * 4 * 9),
        (lambda: nn.Conv2d(4, 6, (1, 3), padding=(0, 1)), 72 + 6, 64 * 6 * 4 * 3),
        (lambda: nn.BatchNorm2d(4), 8, 0),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), 2570, 2560),
        (lambda: nn.Identity(), 0, 0),
    ],
)
def test_layers_by_hand(task, make, parameters, macs):
    """Depthwise, pointwise, strided and oblong convolutions, normalisation and linear layers on 4 × 8 × 8."""
    cost = cost_of(make, task, (4, 8, 8))
    assert (cost.parameters, cost.macs) == (parameters, macs)


class Residual(nn.Module):
    """Keeps its input alive over two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(1, 1, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.second(self.first(x))


def test_memory_of_a_skip_connection_by_hand(task):
    """Input, output of the second convolution and their sum: 3 · 64 numbers; the first one's is gone."""
    assert cost_of(Residual, task).peak_activation_bytes == 4 * 3 * 64

    def two():
        return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), Residual())

    # image, skip, second's output, sum; in the second: image, skip, first's output, second's output
    assert cost_of(two, task).peak_activation_bytes == 4 * 4 * 64


def test_weights_do_not_count_as_activations(task):
    """A view of a large weight is no activation: an image of 64 numbers and 3 outputs are all."""
    cost = cost_of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), task)
    assert cost.peak_activation_bytes == 4 * (64 + 3)


def test_measuring_leaves_the_mode_alone(task):
    """A module is measured in eval mode and handed back as it was, training or not."""
    for is_training in (True, False):
        with torch.device("meta"):
            module = chain().train(is_training)
        measure_cost(module, task.info)
        assert all(m.training is is_training for m in module.modules())


def test_cost_as_metrics_has_the_names_of_limits():
    """The names of a cost are those that limits and objectives use, but for the latency."""
    assert Cost(1, 2, 3).as_metrics() == {"parameters": 1, "macs": 2, "peak_activation_bytes": 3}
    assert (*Cost(1, 2, 3).as_metrics(), "latency_ms") == COSTS


def test_design_key():
    """Equal designs share a key of 16 hex digits, in any order of keys; others do not."""
    key = design_key({"depth": 2, "widths": [8, 16]})
    assert key == design_key({"widths": [8, 16], "depth": 2})
    assert len(key) == 16
    assert key != design_key({"depth": 2, "widths": [16, 8]})


def test_latency_is_positive_and_leaves_mode_and_threads(task):
    """A latency is above 0 milliseconds; training mode and thread count are put back."""
    module = chain().train()
    torch.set_num_threads(2)
    assert 0 < measure_latency(module, task.info, threads=1) < 1000
    assert module.training
    assert torch.get_num_threads() == 2


def test_timed_call_sees_eval_mode_and_its_threads_and_errors_restore():
    """Calls run in eval mode with the threads asked for, 5 to warm up and 30 timed; errors restore both."""
    module, seen = nn.Identity().train(), []
    torch.set_num_threads(2)
    time_call(lambda: seen.append((module.training, torch.get_num_threads())), module, torch.device("cpu"), 1)
    assert seen == [(False, 1)] * 35

    def broken():
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        time_call(broken, module, torch.device("cpu"), 1)
    assert module.training
    assert torch.get_num_threads() == 2
