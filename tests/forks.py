"""How the tests start processes: forks of a server that has imported and done no more, which saves the imports."""

import multiprocessing

METHOD = "forkserver"
_MODULES = ["torch", "torchvision", "pytorch_lightning.cli", "lpips", "scipy.linalg"]
multiprocessing.get_context(METHOD).set_forkserver_preload(_MODULES)
