"""Part of programs that run in a session, as embed.py puts it into them: figures of matplotlib, which
need not be there."""


class ImportHook:
    """In sys.meta_path: has change(module) look at modules of these names once they are imported."""

    def __init__(self, names, change):
        self.names, self.change = names, change
        self.busy = False

    def find_spec(self, name, path=None, target=None):
        if name not in self.names or self.busy:
            return None
        import importlib.util
        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            self.change(module)
        spec.loader.exec_module = exec_module
        return spec


def draw(figure):
    """Its PNG."""
    import io
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()
