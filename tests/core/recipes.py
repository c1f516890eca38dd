"""Small recipes that several tests run."""

from __future__ import annotations

from typing import Any

ROAD = """
[run]
name = "small"
device = "cpu"

[task]
use = "digits"
classes = [0, 1, 2]

[[stage]]
kind = "search"
name = "search"
use = "evolution"
options = { population = 2, tournament = 2 }
space = { use = "residual", stages = 1, blocks = 1, max_width = 16 }
trials = 4
batch = 2
train = { epochs = 2 }
retrain = { epochs = 3 }

[[stage]]
kind = "distill"
name = "distill"
use = "kd"
student = { use = "conv4", width = 4, blocks = 2 }
train = { epochs = 4, ema = 0.9 }

[[stage]]
kind = "transfer"
name = "transfer"
use = "fine-tune"
options = { head_epochs = 2 }
task = { use = "digits", classes = [6, 8, 9], labels_per_class = 10 }
train = { epochs = 5, batch_size = 16, crop = 1 }

[[stage]]
kind = "meta"
name = "meta"
use = "maml"
task = { use = "digits", classes = [0, 1, 2, 6, 8, 9], rotations = 2, test_classes = [4, 7] }
episodes = { ways = 3, shots = 1, queries = 3 }
engine = "vmap"
iterations = 20
tasks = 2
validation_episodes = 20
test_episodes = 400

[[stage]]
kind = "export"
name = "export"
use = "torch-export"
task = { use = "digits", classes = [0, 1, 2, 6, 8, 9], rotations = 2, test_classes = [4, 7] }
"""

DISTILL: dict[str, Any] = {
    "run": {"name": "two stages", "device": "cpu"},
    "task": {"use": "digits", "classes": [0, 1, 2]},
    "stage": [
        {
            "kind": "distill",
            "name": "first",
            "use": "kd",
            "teacher": {"use": "conv4", "width": 4, "blocks": 2},
            "teacher_train": {"epochs": 0},
            "student": {"use": "conv4", "width": 4, "blocks": 1},
            "train": {"epochs": 1},
            "baseline": False,
        },
        {
            "kind": "transfer",
            "name": "second",
            "use": "fine-tune",
            "task": {"use": "digits", "classes": [6, 8]},
            "train": {"epochs": 1},
            "baseline": False,
        },
    ],
}
"""Two quick stages, the second made from the first."""
