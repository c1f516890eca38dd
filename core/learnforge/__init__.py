"""learnforge: search a network, distil it, transfer it, teach it to learn from a few examples, export it.

    import learnforge as lf
    digits = lf.load_task("digits")
    found = lf.search(digits, space="residual", method="evolution", trials=24)
    small = lf.distill(found, student="mobilenet", method="kd")

The public names stand in `__init__.pyi`. They are imported when they are first used, so `import learnforge`
costs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
