"""Search a network on handwritten digits, then teach a much smaller one what it knows."""

from __future__ import annotations

import learnforge as lf


def main() -> lf.Artifact:
    digits = lf.load_task("digits", classes=[0, 1, 2, 3, 5])
    space = lf.load_method("space.residual")(stages=2, blocks=1, max_width=16)
    found = lf.search(digits, space=space, method="evolution", trials=4, train={"epochs": 6})
    student = lf.load_method("model.conv4")(width=10, blocks=2)
    method = lf.load_method("distiller.kd")(temperature=2.0)
    return lf.distill(found, student=student, method=method, train={"epochs": 15, "learning_rate": 0.02})


if __name__ == "__main__":
    metrics = main().metrics
    print(f"teacher {metrics['teacher_test_accuracy']:.1%} with {metrics['teacher_parameters']:,} parameters")
    print(f"student {metrics['test_accuracy']:.1%} with {metrics['parameters']:,} parameters")
    print(f"student without its teacher {metrics['baseline_test_accuracy']:.1%}")
