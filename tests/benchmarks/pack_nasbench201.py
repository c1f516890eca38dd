"""Packs the CSV file of NAS-Bench-201 into the table that learnforge ships.

python tests/benchmarks/pack_nasbench201.py --csv nasbench201-cifar10.csv.gz
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
from pathlib import Path

import numpy as np

from learnforge_plugins.tables import nasbench201 as table

SOURCES = {
    "validation": ("val_accuracy_12ep", 1.0),
    "seconds": ("train_seconds_12ep", 1.0),
    "test": ("test_accuracy_200ep", 1.0),
    "parameters": ("params_m", 1e6),
    "macs": ("flops_m", 1e6),
    "logsynflow": ("logsynflow", 1.0),
    "naswot": ("naswot", 1.0),
    "raspi4_ms": ("latency_ms_raspi4", 1.0),
    "1080ti_ms": ("latency_ms_1080ti", 1.0),
}
"""Column of the table: (column of the CSV file, factor)."""


def main() -> None:
    """Read, order and write; refuse a file that lacks a cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, required=True)
    given = parser.parse_args()
    with gzip.open(given.csv, "rt", encoding="utf-8") as stream:
        rows = {parse(row["arch"]): row for row in csv.DictReader(stream)}
    cells = list(itertools.product(table.OPERATIONS, repeat=6))
    missing = [cell for cell in cells if cell not in rows]
    if missing:
        raise SystemExit(
            f"{given.csv} must hold all {len(cells)} cells, {len(missing)} are missing: {missing[0]}"
        )
    columns = {
        name: np.array([float(rows[cell][source]) * factor for cell in cells], dtype=np.float32)
        for name, (source, factor) in SOURCES.items()
    }
    target = Path(table.__file__).with_name("nasbench201.npz")
    np.savez_compressed(target, **columns)
    print(f"{target}: {len(cells)} cells, {target.stat().st_size:,} bytes")


def parse(text: str) -> tuple[str, ...]:
    """Read the benchmark's string, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`, into the operations of its
    edges.
    """
    return tuple(part.split("~")[0] for node in text.split("+") for part in node.strip("|").split("|"))


if __name__ == "__main__":
    main()
