"""Teach a meta-learnt network two unseen digits by name, export it to ONNX, and run the file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import learnforge as lf
from learnforge import Plugins
from learnforge_kit import open_predictor


def main() -> float:
    known = lf.load_task("digits", classes=[0, 1, 2, 3, 5, 6], test_classes=[4, 7], rotations=2)
    network = lf.load_method("model.conv4")(width=16, blocks=3)
    settings = {"iterations": 60, "tasks": 4, "learning_rate": 1e-2, "test_episodes": 400}
    learner = lf.meta_train(network, "protonet", known, ways=2, shots=5, queries=5, **settings)

    unseen = lf.load_task("digits", classes=[4, 7])
    first_five = torch.cat([(unseen.train.labels == label).nonzero().flatten()[:5] for label in (0, 1)])
    support = unseen.train.select(first_five)
    taught = lf.adapt(learner, support.images, support.labels, classes=["4", "7"])

    with tempfile.TemporaryDirectory() as folder:
        exported = lf.export(taught, unseen, "onnx", run=folder)
        file = open_predictor(Path(folder) / "export" / exported.metrics["file"], Plugins())
        named = [file.task.classes[k] for k in file.score(unseen.test.images).argmax(1).tolist()]
    true = [unseen.info.classes[label] for label in unseen.test.labels.tolist()]
    return sum(name == label for name, label in zip(named, true, strict=True)) / len(true)


if __name__ == "__main__":
    print(f"accuracy of the exported file on unseen 4 and 7 after five examples each: {main():.1%}")
