"""What the report says: a verdict, a table of stages, and a section for each stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from learnforge.report import RunSummary, Section, StageSummary
from learnforge_kit.measured import Assessment, Measured, OnTest, nested, spell_score
from learnforge_plugins.reports import figures
from learnforge_plugins.reports.others import other_section, other_verdict
from learnforge_plugins.reports.spelling import (
    further_words,
    inputs_of,
    main_words,
    most_wrong_pictures,
    right_words,
)
from learnforge_plugins.stages.exported import Exported
from learnforge_plugins.stages.measured import Distilled, Searched, Transferred, Trials
from learnforge_plugins.stages.meta.measured import Adapted, MetaLearnt

MOST_WORST = 3
"""Classes that the report names as the worst."""

MOST_NAMES = 6
"""Classes that the verdict names."""


@frozen(kw_only=True)
class Shown(Measured):
    """What the table of stages shows of any stage, where it was measured; see the records of each kind."""

    measure: str = "accuracy"
    ways: int = 1
    shots: int = 1
    test: Adapted | None = nested(Adapted, default=None)
    tested: OnTest | None = nested(OnTest, prefix="", default=None)
    teacher: OnTest | None = nested(OnTest, prefix="teacher_", default=None)
    baseline: OnTest | None = nested(OnTest, prefix="baseline_", default=None)
    baseline_name: str | None = None
    agreement: float | None = None
    only_class: str | None = None
    parameters: int | None = None
    macs: int | None = None
    latency_ms: float | None = None
    trials: int = 0
    repeats: int = 0


def make_sections(run: RunSummary) -> list[Section]:
    """Return the core's sections of a run's report."""
    finished = [stage for stage in run.stages if stage.is_finished]
    columns = stage_columns(run.stages)
    own = [
        section
        for stage in finished
        for section in (
            _with_data(_STAGES.get(stage.kind, other_section)(stage), stage),
            *_tuned_sections(stage),
            *_searched_sections(stage),
        )
    ]
    words = (
        f"{columns[2].capitalize()} is on test data. macs are multiply-adds for one input; latency is the "
        "median for one input on one thread; seconds are those of the whole stage."
    )
    table = Section("Stages", words, columns, [stage_row(stage) for stage in run.stages])
    verdict = Section("What came out", _verdict(run, finished))
    return [verdict, table, *own, *_open_sections(run), *_costs(finished), _provenance(run)]


def _with_data(section: Section, stage: StageSummary) -> Section:
    """Begin a stage's section with what it learnt from and was judged on."""
    sizes = [
        f"{stage.task[split]:,} {split}" for split in ("train", "validation", "test") if stage.task[split]
    ]
    if not sizes:
        return section
    data = f"{stage.task['name']}: {', '.join(sizes)} {inputs_of(stage)}."
    return evolve(section, words=f"{data} {section.words}".strip())


def stage_columns(stages: Iterable[StageSummary]) -> tuple[str, ...]:
    """Return the headings of the table of stages: what they are judged by is an accuracy, unless one is
    judged by a loss or a return.
    """
    shown = [Shown.of(stage.metrics) for stage in stages]
    measures = {m.measure if m.test is not None or m.tested is None else m.tested.measure for m in shown}
    score = "accuracy" if measures <= {"accuracy"} else "score"
    return ("stage", "method", score, "against", "parameters", "macs", "latency", "seconds")


def stage_row(stage: StageSummary) -> tuple[str, ...]:
    """Return a stage's row in the table of stages."""
    if not stage.metrics:
        return (stage.name, stage.method.get("use", ""), stage.state, "", "", "", "", "")
    m = Shown.of(stage.metrics)
    return (
        stage.name,
        str(stage.method.get("use", "")),
        _main_score(m),
        _comparison(m),
        "" if m.parameters is None else f"{m.parameters:,}",
        "" if m.macs is None else f"{m.macs:,}",
        "" if m.latency_ms is None else f"{m.latency_ms:.2f} ms",
        f"{stage.seconds:.1f}",
    )


def main_score(metrics: Mapping[str, Any]) -> float | None:
    """Return a stage's accuracy on test data, in [0, 1]; None where it has no accuracy."""
    m = Shown.of(metrics)
    if m.test is not None:
        return m.test.after if m.measure == "accuracy" else None
    return None if m.tested is None else m.tested.test_accuracy


def _main_score(m: Shown) -> str:
    if m.test is not None:
        return _after(m.test, m.measure)
    return "" if m.tested is None else main_words(m.tested)


def _comparison(m: Shown) -> str:
    if m.only_class is not None:
        return f"names {m.only_class!r} for every image"
    if m.test is not None:
        return f"{_before(m.test, m.measure)} before, {_episode(m)}"
    if m.baseline is not None:
        name = _baseline_name(m) if m.teacher is None else "without teacher"
        return f"{main_words(m.baseline)} {name}"
    if m.agreement is None:
        return ""
    measure = "accuracy" if m.tested is None else m.tested.measure
    if measure == "accuracy":
        return f"same class as the network for {m.agreement:.1%}"
    return f"{measure} {spell_score(measure, m.agreement)} of the network's answers"


def _baseline_name(m: Shown | Transferred) -> str:
    """Name a transfer's baseline; without labels it knows the labelled task alone."""
    return m.baseline_name or "from scratch"


def _before(scores: Adapted, measure: str) -> str:
    """Spell the score before adaptation, with its confidence interval."""
    return _spell(scores.before, scores.before_interval, measure)


def _after(scores: Adapted, measure: str) -> str:
    """Spell the score after adaptation, with its confidence interval."""
    return _spell(scores.after, scores.after_interval, measure)


def _spell(mean: float, interval: float, measure: str) -> str:
    return f"{mean:.1%} ± {100 * interval:.1f}" if measure == "accuracy" else f"{mean:.3f} ± {interval:.3f}"


def _episode(m: Shown | MetaLearnt) -> str:
    """Spell the size of an episode."""
    return f"{m.shots} rollouts" if m.measure == "return" else f"{m.ways}-way {m.shots}-shot"


def _verdict(run: RunSummary, finished: list[StageSummary]) -> str:
    sentences = [_VERDICTS.get(stage.kind, other_verdict)(stage) for stage in finished]
    sentences += [words for stage in finished if (words := _constant_words(stage))]
    open_ones = [stage.name for stage in run.stages if not stage.is_finished]
    if open_ones:
        sentences.append(f"Not finished: {', '.join(open_ones)}.")
    return "\n\n".join(sentences) or "Nothing is finished yet."


def _constant_words(stage: StageSummary) -> str:
    """Say that a stage's network names one class for every image, and what that is worth."""
    only = Shown.of(stage.metrics).only_class
    if only is None:
        return ""
    return (
        f"The network of {stage.name!r} names {only!r} for every validation image: its accuracy is the share "
        "of that class, and it has learnt nothing. Train it longer, or with another learning rate."
    )


def _search_verdict(stage: StageSummary) -> str:
    m = Searched.of(stage.metrics)
    words = right_words(m.assessment, stage)
    return (
        f"The search trained {m.search.trials} different designs and handed on one with "
        f"{m.costs.parameters:,} parameters that gets {words}."
    )


def _distill_verdict(stage: StageSummary) -> str:
    m = Distilled.of(stage.metrics)
    words = (
        f"It taught a student of {m.costs.parameters:,} parameters on {stage.task['train']:,} "
        f"{inputs_of(stage)}, which gets {right_words(m.assessment, stage, False)} where its teacher gets "
        f"{main_words(m.teacher)}"
    )
    if m.baseline is not None:
        words += f"; without its teacher the same student gets {main_words(m.baseline)}"
    return (
        f"{words}. It has {m.costs.parameters / m.teacher_parameters:.2g} times the teacher's parameters and "
        f"{m.costs.macs / m.teacher_macs:.2g} times its multiply-adds, and takes "
        f"{m.costs.latency_ms / m.teacher_latency_ms:.2g} times as long for one input in torch."
    )


def _transfer_verdict(stage: StageSummary) -> str:
    m = Transferred.of(stage.metrics)
    words = (
        f"Carried to {stage.task['name']}, {stage.task['train']:,} {inputs_of(stage)}, it gets "
        f"{main_words(m.assessment)}"
    )
    if m.baseline is not None:
        words += f", {_baseline_name(m)} {main_words(m.baseline)}"
    return words + "."


def _meta_verdict(stage: StageSummary) -> str:
    m = MetaLearnt.of(stage.metrics)
    before, after = _before(m.test, m.measure), _after(m.test, m.measure)
    if m.measure == "loss":
        count = m.ways * m.shots
        return f"From {count} examples it learns a new task to a loss of {after}, from {before} before."
    if m.measure == "return":
        return (
            f"From {m.shots} rollouts in a new environment the policy learns to a mean return of {after}, "
            f"from {before} before."
        )
    seen = " (test classes were seen upstream)" if m.seen_upstream else ""
    is_fresh = stage.parts.get("settings", {}).get("fresh")
    who = "the same network, from fresh weights," if is_fresh else "it"
    return (
        f"From {m.shots} example{'s' if m.shots > 1 else ''} each {who} learns {m.ways} new "
        f"classes to an accuracy of {after}{seen}, from {before} before."
    )


def _export_verdict(stage: StageSummary) -> str:
    m = Exported.of(stage.metrics)
    own = m.proof.file
    if own.measure != "accuracy":
        agreement = spell_score(own.measure, m.proof.agreement)
        return (
            f"The exported file has {m.bytes / 1024:.0f} KiB and takes {m.proof.latency_ms:.2f} ms for one "
            f"input on one thread. It gets {main_words(own)} on {m.proof.images:,} test {inputs_of(stage)}, "
            f"and {own.measure} {agreement} where the network's answers are the targets."
        )
    return (
        f"The exported file has {m.bytes / 1024:.0f} KiB and takes {m.proof.latency_ms:.2f} ms an image on "
        f"one thread. It gets {main_words(own)} of {m.proof.images:,} {inputs_of(stage)} of "
        f"{_list(m.classes)} right, and names the same class as the network for {m.proof.agreement:.1%}."
    )


def _list(names: Sequence[str]) -> str:
    """Spell names, the first few of many."""
    few = ", ".join(names[:MOST_NAMES])
    return few if len(names) <= MOST_NAMES else f"{few} and {len(names) - MOST_NAMES} others"


def _search_section(stage: StageSummary) -> Section:
    m = Searched.of(stage.metrics)
    again = (
        f"The network that is handed on was trained again, longer: {m.assessment.measure} "
        f"{_both(m.assessment)[0]} on validation data and {_both(m.assessment)[1]} on test data. "
    )
    title = f"{stage.name}: search by {stage.method['use']}"
    return _search_words(title, m.search, " ".join(filter(None, (again, further_words(m.assessment)))) + " ")


def _search_words(title: str, search: Trials, more: str = "") -> Section:
    """Return the section of a search: of architectures, of a stage's options, or of one that is
    not finished.
    """
    objectives = [name.removeprefix("-") for name in search.objectives]
    counts = (
        (search.stopped, "of them stopped early"),
        (search.failed, "of them failed"),
        (search.repeats, "repeated"),
        (search.refused, "refused"),
    )
    states = ", ".join(
        [f"{search.trials} evaluated", *(f"{count} {words}" for count, words in counts if count)]
    )
    shown = _shown(search)
    columns = list(dict.fromkeys([*objectives, "parameters", "macs"]))
    known = [name for name in columns if all(name in r["metrics"] for r in shown)]
    rows = [
        (str(r["number"]), *(_number(name, r["metrics"][name]) for name in known), f"{r['seconds']:.1f}")
        for r in shown
    ]
    words = (
        f"{more}Objectives: {', '.join(search.objectives)}. Designs: {states}. All of this section is on "
        f"validation data; the table shows {'the Pareto set' if search.front else 'the best'}."
    )
    drawn = [figures.search_history, figures.pareto, figures.costs, figures.importance, figures.parallel]
    pictures = [picture for draw in drawn if shown and (picture := draw(search)) is not None]
    return Section(title, words, ("trial", *known, "seconds"), rows, pictures)


def _shown(search: Trials) -> list[Any]:
    """Return the records that a table shows: the Pareto set, or the best few, best first."""
    name = search.objectives[0].removeprefix("-")
    sign = -1.0 if not search.objectives[0].startswith("-") else 1.0
    judged = [r for r in search.history if r["state"] == "evaluated" and name in r["metrics"]]
    front = [r for r in judged if r["number"] in search.front] if search.front else judged
    return sorted(front, key=lambda r: sign * r["metrics"][name])[: None if search.front else 5]


def _number(name: str, value: float) -> str:
    if name == "accuracy":
        return f"{value:.1%}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def _open_sections(run: RunSummary) -> list[Section]:
    """Return a section for each stage that is not finished and has trials already."""
    return [
        _search_words(f"{stage.name}: not finished", Trials.of(stage.progress))
        for stage in run.stages
        if not stage.is_finished and stage.progress
    ]


def _costs(finished: Sequence[StageSummary]) -> list[Section]:
    """Return the section of what the run took, if anything is finished."""
    rows = []
    for stage in finished:
        tables = [stage.metrics, *(stage.metrics.get(name) or {} for name in ("tuned", "searched"))]
        searches = [Shown.of(table) for table in tables]
        counts = sum(own.trials for own in searches), sum(own.repeats for own in searches)
        peak = stage.peak_mebibytes
        memory = "" if peak is None else f"{peak:,.0f} MiB"
        rows.append((stage.name, f"{stage.seconds:,.1f}", memory, *(str(n) if n else "" for n in counts)))
    total = sum(stage.seconds for stage in finished)
    words = (
        f"All in all {total:,.0f} seconds. They are those of the attempts that finished the stages. Peak "
        "memory is of the process without its workers, on a GPU of its tensors. A design that is proposed "
        "again is not trained again."
    )
    columns = ("stage", "seconds", "peak memory", "trials", "repeats saved")
    return [Section("What it took", words, columns, rows)] if rows else []


def _tuned_sections(stage: StageSummary) -> list[Section]:
    """Return the section of the search over a stage's options, if there was one."""
    if not stage.metrics.get("tuned"):
        return []
    tuned = Trials.of(stage.metrics["tuned"])
    chosen = ", ".join(
        f"{path.removeprefix('options.')} = {value}" for path, value in (tuned.options or {}).items()
    )
    title = f"{stage.name}: options by {tuned.searcher}"
    return [_search_words(title, tuned, f"Chosen: {chosen}. ")]


def _searched_sections(stage: StageSummary) -> list[Section]:
    """Return the section of the search for a student, if there was one."""
    if not stage.metrics.get("searched"):
        return []
    searched = Trials.of(stage.metrics["searched"])
    words = f"Chosen: the student of trial {_trial_of(searched)}. "
    return [_search_words(f"{stage.name}: student by {searched.searcher}", searched, words)]


def _trial_of(searched: Trials) -> int:
    """Return the number of the trial that evaluated the chosen design."""
    own = [r for r in searched.history if r["state"] == "evaluated" and r["design"] == searched.design]
    return int(own[0]["number"])


def _teaching_words(m: Distilled) -> str:
    """Say how student and teacher stand to each other, and what teaching cost."""
    measure = m.assessment.measure
    is_share = measure == "accuracy"
    agreement = (
        f"Student and teacher name the same class for {m.agreement:.1%} of the test inputs."
        if is_share
        else f"With the teacher's answers as targets the student gets {measure} {m.agreement:.3f}."
    )
    gap = f"{100 * m.accuracy_gap:+.1f} points" if is_share else f"{m.accuracy_gap:+.3f} in {measure}"
    words = [
        f"{agreement} The teacher has {m.capacity_ratio:.1f} times the student's parameters; on validation "
        f"data it gets {gap}."
    ]
    if m.assistants:
        chain = ", ".join(_spell_model(model) for model in m.assistants)
        words.append(f"Between them taught, largest first: {chain}.")
    forwards = m.teacher_forwards
    if forwards["computed"] < forwards["asked"]:
        words.append(
            f"The teacher was asked for {forwards['asked']:,} views and computed {forwards['computed']:,}: "
            f"its cache saved {forwards['saved']:.1%} of the forward passes."
        )
    words += [f"Note: {warning}." for warning in m.warnings]
    return " ".join(words)


def _spell_model(model: Mapping[str, Any]) -> str:
    options = [f"{name} = {value}" for name, value in model.items() if name != "use"]
    return f"{model['use']} ({', '.join(options)})"


def _distill_section(stage: StageSummary) -> Section:
    m = Distilled.of(stage.metrics)
    rows = [
        *_compared_rows("student", "without its teacher", m),
        ("teacher", *_both(m.teacher), f"{m.teacher_parameters:,}"),
    ]
    return _compared_section(stage, m, rows, [_teaching_words(m)])


def _transfer_section(stage: StageSummary) -> Section:
    m = Transferred.of(stage.metrics)
    rows = _compared_rows("transferred", _baseline_name(m), m)
    return _compared_section(stage, m, rows, [*_transfer_words(m)])


def _compared_rows(name: str, baseline: str, m: Distilled | Transferred) -> list[tuple[str, ...]]:
    """Return the rows of a network and of its baseline."""
    networks = [(name, m.assessment)]
    if m.baseline is not None:
        networks.append((f"{baseline}, same budget", m.baseline))
    return [(name, *_both(own), f"{m.costs.parameters:,}") for name, own in networks]


def _both(own: Assessment) -> tuple[str, str]:
    """Spell what a form measures first, on validation and on test data."""
    return spell_score(own.measure, own.validation), spell_score(own.measure, own.test)


def _compared_section(
    stage: StageSummary, m: Distilled | Transferred, rows: list[tuple[str, ...]], words: list[str]
) -> Section:
    own, classes = m.assessment, stage.task["classes"]
    words += [further_words(own), _worst_words(own, classes), _calibration_words(own)]
    pictures = [figures.curves(m.history)]
    if own.confusion is not None:
        pictures.append(figures.confusion(own.confusion, classes))
    if own.confidence is not None:
        pictures.append(figures.reliability(own.confidence.reliability))
    return Section(
        f"{stage.name}: {stage.kind} by {stage.method['use']}",
        " ".join(part for part in words if part),
        ("network", f"validation {own.measure}", f"test {own.measure}", "parameters"),
        rows,
        pictures,
        [*most_wrong_pictures(own, classes)],
        "The most confident mistakes on test images:",
    )


def _transfer_words(m: Transferred) -> Iterator[str]:
    """Say what was changed to carry a network over, and how a labelled task stands to the new one."""
    if m.changes:
        yield f"Changed for the new task: {'; '.join(m.changes)}."
    if m.unlabelled is not None:
        yield f"On validation images of the labelled task it gets {m.unlabelled.source_accuracy:.1%}."
        other = [f"{labelled} = {new}" for labelled, new in m.pairs or () if labelled != new]
        yield f"Classes are paired in their order: {', '.join(other)}." if other else ""


def _calibration_words(m: Assessment) -> str:
    """Say how far the network's confidence is from its accuracy."""
    if m.confidence is None:
        return ""
    error = m.confidence.calibration_error
    words = f"Its confidence is off by {error:.1%} on average (expected calibration error)"
    if m.confidence.temperature is None:
        return words + "."
    return (
        f"{words}, by {m.confidence.scaled_calibration_error:.1%} with scores divided by "
        f"{m.confidence.temperature:.2f}, as fits the validation images best."
    )


def _worst_words(m: Assessment, classes: Sequence[str]) -> str:
    """Say which classes the network does badly on, and what it takes them for."""
    known = [(own, label) for label, own in enumerate(m.class_accuracy) if own is not None and own < 1]
    parts = []
    for accuracy, label in sorted(known)[:MOST_WORST]:
        taken = [classes[predicted] for true, predicted, _ in m.mistakes if true == label]
        parts.append(f"{classes[label]} {accuracy:.1%}" + (f" (taken for {taken[0]})" if taken else ""))
    return f"Classes that it does worst on: {', '.join(parts)}." if parts else ""


def _meta_section(stage: StageSummary) -> Section:
    m = MetaLearnt.of(stage.metrics)
    rows = [
        (name, str(own.episodes), _before(own, m.measure), _after(own, m.measure))
        for name, own in (("validation", m.validation), ("test", m.test))
        if own is not None
    ]
    seen = ", ".join(m.seen_upstream)
    is_policy = m.measure == "return"
    shots = [figures.by_shots(m.by_shots, m.measure)] if m.by_shots else []
    word = "rollouts" if is_policy else "shots"
    rows += [
        (f"test, {int(count)} {word}", str(m.test.episodes), "", _spell(mean, interval, m.measure))
        for count, mean, interval in m.by_shots or ()
        if count != m.shots
    ]
    training = figures.returns(m.history["meta"]) if is_policy else figures.curves(m.history)
    words = (
        f"{_episode(m)}, {m.measure}, mean and 95 % confidence interval over "
        f"episodes, batch statistics: {m.normalisation}, engine: {m.engine}. Test classes that an "
        f"earlier stage was trained on: {seen or 'none'}."
    )
    if m.validation_is_seen:
        words += (
            " Validation episodes are of classes that were trained on, by other images, so they are easier."
        )
    return Section(
        f"{stage.name}: meta-learning by {stage.method['use']}",
        words,
        ("split", "episodes", "before adaptation", "after adaptation"),
        rows,
        [training, figures.adaptation(m.test, m.measure), *shots],
    )


def _export_section(stage: StageSummary) -> Section:
    m = Exported.of(stage.metrics)
    own, measure = m.proof, m.proof.file.measure
    is_share = measure == "accuracy"
    spelled = [spell_score(measure, value) for value in (own.file.test, own.network.test, own.agreement)]
    rows = [
        ("file", f"{stage.name}/{m.file}, {m.bytes:,} bytes"),
        ("classes" if is_share else "outputs", ", ".join(m.classes)),
        (f"{measure} of the file", f"{spelled[0]} of {own.images} test {inputs_of(stage)}"),
        (f"{measure} of the network", spelled[1]),
        ("same class as the network" if is_share else f"{measure} of the network's answers", spelled[2]),
        (
            "difference of class scores" if is_share else "difference of outputs",
            f"at most {own.max_difference:.2g}, on average {own.mean_difference:.2g}",
        ),
        ("latency of the file, batch 1, 1 thread", f"{own.latency_ms:.3f} ms"),
        ("latency of the network in torch, batch 1, 1 thread", f"{own.network_latency_ms:.3f} ms"),
        ("latency of the file, batch 64, 1 thread", f"{own.latency_64_ms:.3f} ms"),
        ("latency of the network in torch, batch 64, 1 thread", f"{own.network_latency_64_ms:.3f} ms"),
    ]
    title = f"{stage.name}: export by {stage.method['use']}"
    return Section(title, further_words(own.file), ("what", "measured"), rows)


def _plugin_options(plugins: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the command line has to say again: plugin files, and names beside the recipe's."""
    for file in plugins.get("files", ()):
        yield f" --plugin {file['path']}"
    for wish in plugins.get("wishes", ()):
        if wish["where"] != "`[plugins]`":  # the recipe says that itself
            yield from (f" --plugin {name}" for name in wish["enable"])
            yield from (f" --no-plugin {name}" for name in wish["disable"])


def _provenance(run: RunSummary) -> Section:
    rows = [
        ("seed", str(run.seed)),
        ("device", f"{run.device}, {run.threads} thread{'s' if run.threads > 1 else ''}"),
    ]
    rows += [(name, value) for name, value in (("processor", run.processor), ("day", run.day)) if value]
    rows += [(name, value) for name, value in run.versions.items()]
    loaded = run.plugins.get("loaded", ())
    owners = sorted({(entry["distribution"], entry["version"]) for entry in loaded})
    rows += [(f"plugins of {owner}", version) for owner, version in owners if owner != "learnforge"]
    options = "".join(_plugin_options(run.plugins))
    again = f"learnforge run {run.folder}/recipe.toml --run NEW_FOLDER{options}"
    words = (
        f"The same numbers again, on the same machine: {again}. Whether another environment can give them: "
        f"learnforge check {run.folder}{options}. The papers behind its methods: learnforge cite {run.folder}"
    )
    return Section("Provenance", words, ("what", "value"), rows)


_STAGES: dict[str, Callable[[StageSummary], Section]] = {
    "search": _search_section,
    "distill": _distill_section,
    "transfer": _transfer_section,
    "meta": _meta_section,
    "export": _export_section,
}


_VERDICTS: dict[str, Callable[[StageSummary], str]] = {
    "search": _search_verdict,
    "distill": _distill_verdict,
    "transfer": _transfer_verdict,
    "meta": _meta_verdict,
    "export": _export_verdict,
}
