"""What does a meta-learnt network make of a few examples of classes that it has never seen, and how long does
`learnforge adapt` take?

    learnforge run digits
    python tests/benchmarks/adaptation.py runs/digits [--draws 20] [--rounds 5]

The first table draws classes out of the eight that the digits 4 and 7 make when they are turned, teaches them
by five images each, and names all other images of them. The second is of the command, start-up included, with
five classes of five files, beside a Python that imports torch.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import learnforge as lf
import learnforge_kit as kit
from learnforge.randomness import derive
from learnforge_kit.drawing import permutation

WAYS, SHOTS = (2, 3, 5, 8), 5


def draw(labels: Tensor, ways: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the rows of the examples, class by class, and of all other images of the classes."""
    known = labels.unique()
    chosen = known[permutation(derive(seed, "classes"), len(known))[:ways]]
    members = [(labels == label).nonzero().flatten() for label in chosen]
    shuffled = [rows[permutation(derive(seed, "images", int(rows[0])), len(rows))] for rows in members]
    return torch.cat([rows[:SHOTS] for rows in shuffled]), torch.cat([rows[SHOTS:] for rows in shuffled])


def accuracy(learner: lf.Artifact, test: kit.MemorySplit, ways: int, seed: int) -> float:
    """Teach classes and return the share of other images that is named rightly."""
    support, query = draw(test.labels, ways, seed)
    names, places = test.labels[support].unique(return_inverse=True)
    taught = lf.adapt(learner, test.images[support], places, classes=[str(int(name)) for name in names])
    found = names[taught.predict(test.images[query]).argmax(1)]
    return float((found == test.labels[query]).double().mean())


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def time_command(run: Path, test: kit.MemorySplit, rounds: int) -> None:
    """Print what the command takes, and what importing torch does."""
    with tempfile.TemporaryDirectory() as folder:
        support, _ = draw(test.labels, 5, 0)
        for row in support.tolist():
            file = Path(folder, "support", f"class {int(test.labels[row])}", f"{row}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(test.images[row, 0].numpy()).save(file)
        adapt = [sys.executable, "-m", "learnforge", "adapt", str(run), "--support", f"{folder}/support"]
        adapt += ["--overwrite", "--to", f"{folder}/taught"]
        ways = {"import torch": [sys.executable, "-c", "import torch"], "learnforge adapt": adapt}
        times = [{name: seconds(command) for name, command in ways.items()} for _ in range(rounds)]
    for name in ways:
        own = sorted(each[name] for each in times)
        print(f"{name:17} {statistics.median(own):5.2f} s ({own[0]:.2f} to {own[-1]:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    learner = lf.load(args.run / "meta")
    test = lf.load_task("digits", rotations=4, test_classes=[4, 7]).test
    assert isinstance(test, kit.MemorySplit)
    print(f"{SHOTS} examples of each class, {args.draws} draws: mean ± standard error, in per cent")
    for ways in WAYS:
        found = [100 * accuracy(learner, test, ways, seed) for seed in range(args.draws)]
        error = statistics.stdev(found) / args.draws**0.5
        spread = f"{min(found):.1f} to {max(found):.1f}"
        print(f"{ways} classes {statistics.mean(found):5.1f} ± {error:.1f} ({spread})")
    time_command(args.run, test, args.rounds)


if __name__ == "__main__":
    main()
