"""Train every entry of an ablation matrix under torchrun, and report curves and tables."""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

__version__ = "0.2.0"


def _import_variants() -> None:
    """Import the `variants` next to this package, so that no folder of that name shadows it."""
    spec = PathFinder.find_spec("variants", [os.path.dirname(os.path.dirname(__file__))])
    assert spec is not None and spec.loader is not None
    loaded = sys.modules.get("variants")
    if loaded is not None and loaded.__file__ == spec.origin:
        return
    for name in list(sys.modules):
        if name == "variants" or name.startswith("variants."):
            del sys.modules[name]
    module = module_from_spec(spec)
    sys.modules["variants"] = module
    spec.loader.exec_module(module)


_import_variants()
