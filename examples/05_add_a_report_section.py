"""Bring a section for the report: where the time went.

This file is a plugin: `learnforge run recipe.toml --plugin 05_add_a_report_section.py` has the section too.
"""

import tempfile
from pathlib import Path

import learnforge as lf
from learnforge_plugins.reports.plugin import report_sections
from learnforge_plugins.reports.write import write_report


@lf.hookimpl
def learnforge_report_sections(run: lf.RunSummary) -> list[lf.Section]:
    total = sum(stage.seconds for stage in run.stages)
    rows = [(stage.name, f"{stage.seconds:.1f} s", f"{stage.seconds / total:.0%}") for stage in run.stages]
    return [lf.Section("Where the time went", columns=("stage", "time", "share"), rows=rows)]


RECIPE = {
    "run": {"name": "timed"},
    "task": {"use": "digits", "classes": [0, 1, 2]},
    "stage": [
        {"kind": "distill", "use": "kd", "teacher": {"use": "conv4", "width": 8},
         "teacher_train": {"epochs": 3},
         "student": {"use": "conv4", "width": 4}, "train": {"epochs": 3}},
        {"kind": "export", "use": "torch-export"},
    ],
}  # fmt: skip


def main() -> str:
    with tempfile.TemporaryDirectory() as folder:
        run = lf.run(RECIPE, folder, plugins=lf.PluginChoice(files=[__file__]))
        write_report(Path(folder), report_sections(run))
        report = (Path(folder) / "report.md").read_text(encoding="utf-8")
    section = report[report.index("## Where the time went") :].split("\n## ")[0]
    print(section)
    return section


if __name__ == "__main__":
    main()
