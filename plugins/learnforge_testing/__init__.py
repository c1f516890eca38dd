"""Conformance suites: what every method of a kind must keep to, for plugin authors to run over their own.

    from learnforge_testing import DistillerSuite

    class TestSoft(DistillerSuite):
        method = Soft

`learnforge conformance distiller.soft` runs the same checks without pytest. The public names stand in
`__init__.pyi`; they are imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
