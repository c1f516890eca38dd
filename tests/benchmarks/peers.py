"""What surrounds training, beside what one would use instead: all tables by one command.

    python tests/benchmarks/peers.py PHOTOS SIGNS [--pairs 5] [--many 100000] [--weights FILE]

PHOTOS and SIGNS have a folder for each class; SIGNS at least ten. Each table is a script of its own, which
says what is measured and how; they run one after another. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Run the scripts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("signs", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--weights", type=Path)
    given = parser.parse_args()
    pairs = ["--pairs", given.pairs]
    weights = ["--weights", given.weights] if given.weights else []
    scripts = {
        "loading": [given.photos, *pairs, "--many", given.many],
        "prediction": pairs,
        "episodes": [given.signs, *pairs, *weights],
        "training_step": ["--epochs", given.pairs],
        "driver": pairs,
    }
    for name, words in scripts.items():
        print(f"\n# {name}", flush=True)
        file = Path(__file__).with_name(f"{name}.py")
        subprocess.run([sys.executable, file, *map(str, words)], check=False)


if __name__ == "__main__":
    main()
