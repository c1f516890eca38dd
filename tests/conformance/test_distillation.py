"""Built-in plugins of some kinds keep the duties of their kind."""

from __future__ import annotations

from learnforge import Plugins
from tests.conformance.registered import keeps_its_duties, of_kinds


@of_kinds("distiller", "form", "task")
def test_it_keeps_its_duties(name: str, plugins: Plugins) -> None:
    """The plugin passes the suite of its kind."""
    assert keeps_its_duties(name, plugins)
