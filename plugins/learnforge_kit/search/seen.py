"""What samplers of one study have seen of its search space, so that a fresh one need not read every trial."""

from __future__ import annotations

import optuna
from optuna.search_space import IntersectionSearchSpace
from optuna.search_space.group_decomposed import _GroupDecomposedSearchSpace, _SearchSpaceGroup
from optuna.trial import TrialState


class SeenChoices:
    """Which choices all trials of a study have, and which come up together.

    Both are functions of the finished trials alone, whoever looked at them before.

    Args:
        study: The study.
    """

    def __init__(self, study: optuna.Study):
        self.study = study
        self._spaces: dict[str, object] = {}

    def show(self, sampler: optuna.samplers.BaseSampler) -> None:
        """Give a sampler, which has seen nothing yet, what the ones before it have seen."""
        for name, value in vars(sampler).items():
            if isinstance(value, IntersectionSearchSpace):  # Optuna's own, which remembers where it was
                setattr(sampler, name, self._spaces.setdefault(name, value))
            elif isinstance(value, _GroupDecomposedSearchSpace):
                setattr(sampler, name, self._spaces.setdefault(name, _Groups(value._include_pruned)))


class _Groups(_GroupDecomposedSearchSpace):
    """Choices that come up together. Optuna's own looks at every trial each time."""

    def __init__(self, include_pruned: bool):
        super().__init__(include_pruned)
        self._states = (TrialState.COMPLETE, *((TrialState.PRUNED,) if include_pruned else ()))
        self._numbers: list[int] = []

    def calculate(self, study: optuna.Study, use_cache: bool = False) -> _SearchSpaceGroup:
        """Return the groups, whose order is that of the trials' numbers: where a trial finished late, they
        are found anew.
        """
        trials = study.get_trials(deepcopy=False, states=self._states)
        numbers = [trial.number for trial in trials]
        if numbers[: len(self._numbers)] != self._numbers:
            self._search_space, self._numbers = _SearchSpaceGroup(), []
        for trial in trials[len(self._numbers) :]:
            self._search_space.add_distributions(trial.distributions)
        self._numbers = numbers
        return self._search_space
