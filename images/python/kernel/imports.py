"""A part of the Python kernel: what happens when user code imports certain modules; nothing is imported here."""


class Hooks:
    """Finds modules that something is done to when user code imports them: see HOOKED."""

    def find_spec(self, name, path=None, target=None):
        if name not in HOOKED:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if name not in SHIMS:
                    spec.loader = Hooked(spec.loader, HOOKED[name])
                return spec
        if name in SHIMS:
            load("rich")
            return shim_spec(name)
        return None


class Hooked:
    """A loader that calls a function with the loaded module."""

    def __init__(self, loader, hook):
        self.loader, self.hook = loader, hook

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.hook(module)


def seed_linecache(linecache):
    """Gives linecache the cells so far."""
    linecache.cache.update(kernel.sources)


def patch_subprocess(module):
    """Puts the output of children in order."""
    kernel.put_in_order(module, "fork_exec")


def patch_pyplot(pyplot):
    """Makes plt.show() display the open figures."""
    load("rich")
    pyplot.show = show_figures_now


def standard(name):
    """Imports a module of the standard library, not a file of that name in the workspace."""
    path, sys.path = sys.path, kernel.path
    try:
        return _import(name)
    finally:
        sys.path = path


SHIMS = ("IPython", "IPython.display", "IPython.core", "IPython.core.display", "IPython.core.getipython")
HOOKED = {"linecache": seed_linecache, "_posixsubprocess": patch_subprocess, "matplotlib.pyplot": patch_pyplot,
          **dict.fromkeys(SHIMS)}
