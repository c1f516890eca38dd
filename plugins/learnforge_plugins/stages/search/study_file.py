"""A study in an SQLite file and in memory: read from memory, written trial by trial, not choice by choice."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def _as_read(value: Any) -> Any:
    """Return a value as it comes out of the file, and the caller's no longer."""
    return json.loads(json.dumps(value))


class StudyFile(BaseStorage):
    """Stores what a trial is asked in one transaction, in Optuna's own tables.

    Until `write` is called, or something else is stored, what was asked is in memory alone: a kill forgets
    the trial, and it is asked again.

    Args:
        file: Optuna's storage in the file, which nobody else writes to meanwhile.
    """

    def __init__(self, file: RDBStorage):
        self._file, self._memory = file, InMemoryStorage()
        self._studies: dict[int, int] = {}  # {id in memory: id in the file}
        self._trials: dict[int, int] = {}
        self._asked: dict[int, int] = {}  # {id of a trial that is in memory alone: id of its study}
        for study in file.get_all_studies():
            self._read(study)

    def _read(self, study: FrozenStudy) -> None:
        own = self._memory.create_new_study(study.directions, study.study_name)
        self._studies[own] = study._study_id
        for key, value in study.user_attrs.items():
            self._memory.set_study_user_attr(own, key, value)
        for key, value in study.system_attrs.items():
            self._memory.set_study_system_attr(own, key, value)
        for trial in self._file.get_all_trials(study._study_id, deepcopy=False):
            self._trials[self._memory.create_new_trial(own, trial)] = trial._trial_id

    def write(self) -> None:
        """Write the trials that were asked and are in memory alone."""
        if not self._asked:
            return
        from sqlalchemy.orm import Session  # slow to import, so only where a file is written

        with Session(self._file.engine) as session, session.begin():
            added = {trial_id: self._add(session, trial_id) for trial_id in self._asked}
        self._trials |= added
        self._asked.clear()

    def _add(self, session: Session, trial_id: int) -> int:
        """Add a trial that runs, and return its id in the file; RDBStorage makes queries for each choice."""
        from optuna.storages._rdb import models

        trial = self._memory.get_trial(trial_id)
        row = models.TrialModel(
            study_id=self._studies[self._asked[trial_id]],
            number=trial.number,
            state=trial.state,
            datetime_start=trial.datetime_start,
        )
        session.add(row)
        session.flush()
        own = row.trial_id
        for name, distribution in trial.distributions.items():
            session.add(
                models.TrialParamModel(
                    trial_id=own,
                    param_name=name,
                    param_value=distribution.to_internal_repr(trial.params[name]),
                    distribution_json=distribution_to_json(distribution),
                )
            )
        for key, value in trial.system_attrs.items():
            session.add(models.TrialSystemAttributeModel(trial_id=own, key=key, value_json=json.dumps(value)))
        return int(own)

    # what is stored at once

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        study_id = self._memory.create_new_study(directions, study_name)
        self._studies[study_id] = self._file.create_new_study(directions, study_name)
        return study_id

    def delete_study(self, study_id: int) -> None:
        self._file.delete_study(self._studies.pop(study_id))
        self._memory.delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self.write()
        self._file.set_study_user_attr(self._studies[study_id], key, value)
        self._memory.set_study_user_attr(study_id, key, _as_read(value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.write()
        self._file.set_study_system_attr(self._studies[study_id], key, value)
        self._memory.set_study_system_attr(study_id, key, _as_read(value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.write()
        self._file.set_trial_user_attr(self._trials[trial_id], key, value)
        self._memory.set_trial_user_attr(trial_id, key, _as_read(value))

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self.write()
        self._file.set_trial_intermediate_value(self._trials[trial_id], step, intermediate_value)
        self._memory.set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        self.write()
        self._file.set_trial_state_values(self._trials[trial_id], state, values)
        return self._memory.set_trial_state_values(trial_id, state, values)

    # what is stored at once only of trials that the file has

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if template_trial is None:
            trial_id = self._memory.create_new_trial(study_id)
            self._asked[trial_id] = study_id
            return trial_id
        self.write()
        own = self._file.create_new_trial(self._studies[study_id], template_trial)
        trial_id = self._memory.create_new_trial(study_id, template_trial)
        self._trials[trial_id] = own
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        if trial_id in self._trials:
            own = self._trials[trial_id]
            self._file.set_trial_param(own, param_name, param_value_internal, distribution)
        self._memory.set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if trial_id in self._trials:
            self._file.set_trial_system_attr(self._trials[trial_id], key, value)
        self._memory.set_trial_system_attr(trial_id, key, _as_read(value))

    # what is read

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._memory.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._memory.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._memory.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._memory.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._memory.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        return self._memory.get_all_studies()

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._memory.get_trial(trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._memory.get_all_trials(study_id, deepcopy, states)

    def remove_session(self) -> None:
        """Close the file; what was not written is given up."""
        self._file.remove_session()
        self._file.engine.dispose()
