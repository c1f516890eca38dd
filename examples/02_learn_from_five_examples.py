"""Meta-learn on some digits, then teach the result two unseen digits from five examples each."""

from __future__ import annotations

import torch

import learnforge as lf


def main() -> float:
    known = lf.load_task("digits", classes=[0, 1, 2, 3, 5, 6], test_classes=[4, 7], rotations=2)
    network = lf.load_method("model.conv4")(width=16, blocks=3)
    method = lf.load_method("meta-learner.maml")(inner_rate=0.1, inner_steps=2)
    settings = {"iterations": 60, "tasks": 4, "learning_rate": 1e-2, "engine": "vmap", "test_episodes": 400}
    learner = lf.meta_train(network, method, known, ways=2, shots=5, queries=5, **settings)
    unseen = lf.load_task("digits", classes=[4, 7])
    first_five = torch.cat([(unseen.train.labels == label).nonzero().flatten()[:5] for label in (0, 1)])
    support = unseen.train.select(first_five)
    quick = lf.adapt(learner, support.images, support.labels)
    predicted = quick.predict(unseen.test.images).argmax(1)
    return float((predicted == unseen.test.labels).double().mean())


if __name__ == "__main__":
    print(f"accuracy on unseen 4 and 7 after five examples each: {main():.1%}")
