"""Run this folder as a package whose name collides with none of the user's modules."""

import importlib
import importlib.util
import os
import sys

if __name__ == "__main__":
    if importlib.util.find_spec("numpy") is None:
        sys.exit("this Python has no NumPy; install it, or name another Python with --python")
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != folder]
    spec = importlib.util.spec_from_file_location(
        "_twinlm_child", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    package = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules["_twinlm_child"] = package
    spec.loader.exec_module(package)  # type: ignore[union-attr]
    importlib.import_module("_twinlm_child.serve").serve(sys.argv[1])
