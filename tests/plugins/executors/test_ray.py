"""Ray: a real cluster on this machine gives the trials of other executors, and one that is there can be
joined.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from tests.plugins.stages.conftest import QUICK, search, toy_plugins  # noqa: F401 - fixtures

from learnforge import Plugins, Slot

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.xdist_group("ray"),
]


def _nothing(slot: Slot) -> None:
    """Set nothing up."""


def _pid() -> int:
    return os.getpid()


@pytest.mark.slow
def test_trials_are_the_same_in_a_cluster(search: Any) -> None:  # noqa: F811
    """With `batch = 8` two actors find the trials that one worker finds, and the cluster ends with them."""
    options: dict[str, Any] = {"trials": 10, "batch": 8, "train": QUICK}
    alone = search(**options)[1]
    assert search(**options, executor="ray", workers=2)[1] == alone
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_running_cluster_is_joined_and_left(plugins: Plugins) -> None:
    """With a cluster there already, actors take their CPUs in it, and it stays when they are gone."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        executor = plugins.load("executor", "ray")(address="auto")
        (opened,) = executor.open([Slot(threads=1)], _nothing, ())
        assert opened.submit(_pid).result(timeout=120) != os.getpid()
        assert ray.available_resources()["CPU"] == 1.0
        opened.shutdown()
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_gpus_are_asked_for_where_the_slot_is_one(plugins: Plugins) -> None:
    """A slot on a GPU reserves `gpus`, one on the CPU none; threads are CPUs in a cluster that others use."""
    executor = plugins.load("executor", "ray")(gpus=0.5)
    assert executor._resources(Slot(threads=3, device="cuda:0")) == {"num_cpus": 3, "num_gpus": 0.5}
    assert executor._resources(Slot(threads=1)) == {"num_cpus": 1, "num_gpus": 0.0}
