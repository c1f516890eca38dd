"""The file of results that a comparison goes on from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from learnforge.files import fingerprint, make_folder
from learnforge.runlog import cut_torn_line


class Ledger:
    """Results of earlier calls under the same conditions, one line of JSON each.

    Args:
        file: The file; None keeps nothing.
        conditions: What the results depend on, JSON-able; lines made under others are passed over.
    """

    def __init__(self, file: Path | None, conditions: Mapping[str, Any]):
        self.file, self.conditions = file, fingerprint(dict(conditions))

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield what is there; a torn last line is left out."""
        if self.file is None or not self.file.exists():
            return
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if data.pop("conditions", None) == self.conditions:
                yield data

    def append(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Keep results."""
        if self.file is None:
            return
        make_folder(self.file.parent)
        cut_torn_line(self.file)
        with self.file.open("a", encoding="utf-8") as stream:
            for result in results:
                stream.write(json.dumps({"conditions": self.conditions, **result}) + "\n")
