"""Conformance suites: what every method of a kind must keep to, for plugin authors to run over their own.

    from learnforge.testing import DistillerSuite

    class TestSoft(DistillerSuite):
        method = Soft

`learnforge conformance distiller.soft` runs the same checks without pytest.
"""
