"""The report in headless Chromium: drawn without a network, readable on a phone, in the dark and in print,
and accessible by axe-core.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch
from attrs import evolve
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from learnforge import Section
from learnforge_kit.data.pictures import as_png
from learnforge_plugins.reports.device import read_profile
from learnforge_plugins.reports.sections import make_sections
from learnforge_plugins.reports.write import to_html
from tests.plugins.reports.samples import META, SEARCH, TRANSFER, make_search, stage, summary

NAMES = ("chromium", "chromium-browser", "google-chrome")
MOST = 6 * 2**20
"""Bytes that a report may have."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium as it is installed, or as LEARNFORGE_TEST_BROWSER names it, which then must be there."""
    wanted = os.environ.get("LEARNFORGE_TEST_BROWSER")
    found = next((path for name in ([wanted] if wanted else NAMES) if (path := shutil.which(name))), None)
    if found is None:
        assert not wanted, f"LEARNFORGE_TEST_BROWSER must name an executable, got {wanted!r}"
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    with sync_playwright() as tool:
        own = tool.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield own
        own.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report that has every kind of section, figure and picture."""
    folder = tmp_path_factory.mktemp("report")
    curve = [{"epoch": epoch, "loss": 1 / epoch, "accuracy": 1 - 1 / epoch} for epoch in range(1, 9)]
    image = as_png(torch.arange(64, dtype=torch.uint8).view(1, 8, 8))
    compared = TRANSFER | {
        "history": {"student": curve, "baseline": curve},
        "confusion": [[3, 1, 0, 0], [0, 4, 0, 0], [1, 0, 2, 1], [0, 0, 0, 4]],
        "calibration_error": 0.02,
        "temperature": 1.5,
        "scaled_calibration_error": 0.01,
        "reliability": [[0.5, 0.4, 10], [0.95, 0.9, 30]],
        "most_wrong": [{"true": 0, "predicted": 1, "confidence": 0.9, "image": image}] * 12,
    }
    plain_transfer = stage("transfer", compared)
    classes = ["a", "b", "c", "a class of a very long name"]
    transfer = evolve(plain_transfer, task={**plain_transfer.task, "classes": classes})
    by_shots = {"by_shots": [[1, 0.8, 0.01], [5, 0.9, 0.01]]}
    plain = Section("a plugin's", figures=[go.Figure(layout={"title": "plain"})])
    run = summary(
        stage("search", SEARCH | make_search(16)), transfer, evolve(stage("meta", META | by_shots), name="m")
    )
    profile = folder / "profile.json"
    profile.write_text(
        '{"device": "phone", "runtime": "onnxruntime 1, 1 threads", "peak_mebibytes": 40.5, "layers": {},'
        ' "networks": {"runs/x/meta": {"latency_ms": {"1": 0.25, "64": 3}}}}'
    )
    file = folder / "report.html"
    file.write_text(to_html(run, [*make_sections(run), read_profile(profile), plain]), encoding="utf-8")
    return file


def open_page(browser: Browser, file: Path, **context: Any) -> tuple[Page, list[str]]:
    """Open a page without a network, wait until its figures are drawn, and return what went wrong too."""
    page = browser.new_context(offline=True, **context).new_page()
    page.set_default_timeout(120_000)  # ms; a busy machine draws slowly
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    page.goto(file.as_uri())
    page.wait_for_function("document.querySelectorAll('.plot .main-svg').length > 0")
    page.wait_for_load_state("networkidle")
    return page, faults


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_is_readable_everywhere(browser: Browser, report: Path, scheme: Any, width: int) -> None:
    """On a desk and a phone, light and dark: all figures and pictures are drawn, nothing is fetched or fails,
    nothing sticks out of the page, and axe-core finds no serious fault.
    """
    size: Any = {"width": width, "height": 800}
    page, faults = open_page(browser, report, color_scheme=scheme, viewport=size)
    assert faults == []
    undrawn = "[...document.querySelectorAll('.plot')].filter(f => !f.querySelector('.main-svg')).length"
    assert page.locator(".plot").count() == 12
    assert page.evaluate(undrawn) == 0
    assert page.evaluate("[...document.images].map(i => i.naturalWidth)") == [8] * 12
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".modebar-btn").count() == 0  # they would cover the titles
    found = Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
    parts = (".xtick text", ".gtitle", ".legendtext", ".axis-title", ".axis-extent-text")
    shown = ", ".join(f".themed {part}" for part in parts)
    labels = f"[...document.querySelectorAll('{shown}')]"
    colours = page.evaluate(f"[...new Set({labels}.map(t => getComputedStyle(t).fill))]")
    assert colours == [page.evaluate("getComputedStyle(document.body).color")]
    title = "document.querySelector('.plot:not(.themed) .gtitle')"
    assert page.evaluate(f"getComputedStyle({title}).fill") == "rgb(42, 63, 95)"  # Plotly's own, on white
    page.context.close()


def test_figures_fit_the_printed_page(browser: Browser, report: Path) -> None:
    """In print no figure is wider than A4 less its margins, and the page is light whatever the screen is."""
    size: Any = {"width": 1280, "height": 800}
    page, _ = open_page(browser, report, color_scheme="dark", viewport=size)
    page.emulate_media(media="print")
    widths = page.evaluate(
        "[...document.querySelectorAll('.plot .main-svg')].map(f => f.getBoundingClientRect().width)"
    )
    assert max(widths) <= 718
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    titles = "[...document.querySelectorAll('.themed .gtitle')]"
    assert page.evaluate(f"[...new Set({titles}.map(t => getComputedStyle(t).fill))]") == ["rgb(0, 0, 0)"]
    page.set_viewport_size({"width": 718, "height": 800})
    edges = "[...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right)"
    assert max(page.evaluate(edges)) <= 718
    page.context.close()


def test_the_keyboard_reaches_what_scrolls(browser: Browser, report: Path) -> None:
    """On a small phone the figure of designs is wider than the page; its frame takes focus and scrolls."""
    size: Any = {"width": 300, "height": 800}
    page, _ = open_page(browser, report, viewport=size)
    frame = page.get_by_label("Designs, choice by choice")
    assert frame.get_attribute("tabindex") == "0"  # Chromium would take the focus without it, others not
    frame.focus()
    before = frame.evaluate("f => f.scrollLeft")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("f => f.scrollLeft > 0", arg=frame.element_handle())
    assert before == 0
    page.context.close()


def test_the_report_is_small(report: Path) -> None:
    """Plotly's script is most of it, and stands in it once."""
    assert report.stat().st_size < MOST
    assert report.read_text(encoding="utf-8").count("plotly.js v") == 1
