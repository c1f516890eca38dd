"""Building blocks that methods are made of: training, networks, data, costs, samplers, engines.

The public names stand in `__init__.pyi`. They are imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
