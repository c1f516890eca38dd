"""Bring hooks that others implement: a plugin tells who wants to know how confident a network is.

The first half is a plugin; the listener is somebody else's object, handed to a run in Python.
"""

import pluggy
from attrs import field, frozen

import learnforge as lf
from learnforge_kit import predict


class Specs:
    """The hooks that this plugin calls."""

    @lf.hookspec
    def learnforge_confidence(self, stage: str, confidence: float) -> None:
        """Hear the mean probability of the class that a finished stage's network names, in [0, 1]."""


_MANAGERS: list[pluggy.PluginManager] = []


@lf.hookimpl
def learnforge_add_hooks(manager: pluggy.PluginManager) -> None:
    manager.add_hookspecs(Specs)
    _MANAGERS[:] = [manager]


@lf.hookimpl
def learnforge_stage_finished(stage: str, artifact: lf.Artifact) -> None:
    task = lf.load_task("digits", classes=[0, 1, 2])
    scores = predict(artifact.network(lf.Plugins()).eval(), task.validation, task.info)
    confidence = float(scores.softmax(1).max(1).values.mean())
    _MANAGERS[0].hook.learnforge_confidence(stage=stage, confidence=confidence)


@frozen(eq=False)
class Listener:
    """Somebody else's listener."""

    heard: dict[str, float] = field(factory=dict)

    @lf.hookimpl
    def learnforge_confidence(self, stage: str, confidence: float) -> None:
        self.heard[stage] = confidence


def main() -> dict[str, float]:
    listener = Listener()
    stage = {"kind": "distill", "use": "kd", "teacher": {"use": "conv4", "width": 8}, "teacher_train": {},
             "student": {"use": "conv4", "width": 4}, "train": {"epochs": 3}}  # fmt: skip
    recipe = {"task": {"use": "digits", "classes": [0, 1, 2]}, "stage": [stage]}
    lf.run(recipe, plugins=lf.PluginChoice(files=[__file__]), hooks=[listener])
    print(listener.heard)
    return listener.heard


if __name__ == "__main__":
    main()
