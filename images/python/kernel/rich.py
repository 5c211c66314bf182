"""A part of the Python kernel: MIME bundles, display(), figures, and a stand-in for IPython where there is none."""

TEXT_METHODS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "image/svg+xml": "_repr_svg_",
    "text/latex": "_repr_latex_",
    "application/javascript": "_repr_javascript_",
}
BINARY_METHODS = {"image/png": "_repr_png_", "image/jpeg": "_repr_jpeg_", "application/pdf": "_repr_pdf_"}
METHODS = {**TEXT_METHODS, **BINARY_METHODS, "application/json": "_repr_json_"}


def method(value, name):
    """A method that the value really has: not that of a class's instances, nor of what answers to every name."""
    try:
        if isinstance(value, type) or getattr(value, "_no_object_has_this_method_", None) is not None:
            return None
        found = getattr(value, name, None)
    except Exception:
        return None  # A __getattr__ or a property that fails says no more than that there is none.
    return found if callable(found) else None


def represent(value, include=None, exclude=None):
    """The value's representations as texts, one for each MIME type; text/plain first, whole."""
    data = {}
    bundled = called(value, "_repr_mimebundle_", include=include, exclude=exclude)
    if isinstance(bundled, tuple):
        bundled = bundled[0]
    if isinstance(bundled, dict):
        data.update(bundled)
    if is_figure(value) and "image/png" not in data:
        data["image/png"] = png(value)
    for mime, name in METHODS.items():
        if mime not in data and (include is None or mime in include) and not (exclude and mime in exclude):
            found = called(value, name)
            data[mime] = found[0] if isinstance(found, tuple) and len(found) == 2 else found
    if not isinstance(data.get("text/plain"), str):
        data["text/plain"] = repr(value)
    return data


def called(value, name, **arguments):
    """What a representation method returns; None, and a note on stderr, when it raises."""
    try:
        found = method(value, name)
        return None if found is None else found(**arguments)
    except NotImplementedError:
        return None
    except Exception as error:
        try:
            load("errors")
            sys.stderr.write("%s of %s raised:\n%s" % (name, type(value).__name__, "".join(rendered(error))))
        except Exception:
            pass  # A note that cannot be written or made is not worth the cell.
        return None


def as_text(mime, value):
    """A representation as the protocol carries it; None when it is of no use."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64(value)
    if mime.endswith("json") and not isinstance(value, str):
        try:
            return standard("json").dumps(value, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            return None
    return value if isinstance(value, str) else None


def bounded(data):
    """The representations within the cell's limits, and how many bytes were left out."""
    plain, dropped = clip(data.pop("text/plain", ""), kernel.limit)
    texts, left = {"text/plain": plain}, kernel.media
    for mime, value in data.items():
        text = as_text(mime, value) if value is not None and isinstance(mime, str) else None
        if text is None:
            continue
        # A character takes at most four bytes.
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if size > left:
            dropped += size
        else:
            left -= size
            texts[mime] = text
    return {"data": texts, "dropped": dropped}


def bundle_of_result(value):
    """The last value of a cell; None when it displays itself."""
    show_itself = method(value, "_ipython_display_")
    if show_itself is not None:
        show_itself()
        return None
    data = represent(value)
    if is_figure(value):
        kernel.shown.append(value)
    return bounded(data)


def show_data(data):
    """Sends one displayed bundle; in a session without displays its text goes where print goes."""
    sys.stdout.flush()
    if not kernel.displays:
        print(data.get("text/plain", ""))
        return
    message = {"type": "display", "cell": None}
    message.update(bounded(data))
    if not kernel.capture.show(message):
        # A child of fork, or a thread between cells.
        print(message["data"]["text/plain"])


def show_objects(*objects, include=None, exclude=None, raw=False, **options):
    """display(): one message for each object. Options of IPython's that concern a page in a browser have no effect."""
    for value in objects:
        if raw and isinstance(value, dict):
            show_data(dict(value))
            continue
        show_itself = method(value, "_ipython_display_")
        if show_itself is not None:
            show_itself()
            continue
        show_data(represent(value, include, exclude))
        if is_figure(value):
            kernel.shown.append(value)


def is_figure(value):
    """Whether it is a matplotlib figure; imports nothing."""
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


def png(figure):
    """The picture of a matplotlib figure."""
    file = _io.BytesIO()
    if figure.canvas is None or not hasattr(figure.canvas, "print_png"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        FigureCanvasAgg(figure)
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


def show_figures():
    """Displays the open figures that the cell has not shown yet, and closes all."""
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is None or not kernel.displays:
        return
    managers = helpers.Gcf.get_all_fig_managers()
    try:
        for manager in managers:
            figure = manager.canvas.figure
            if not any(figure is shown for shown in kernel.shown):
                show_data({"text/plain": repr(figure), "image/png": png(figure)})
    finally:
        if managers:
            helpers.Gcf.destroy_all()


def show_figures_now(*args, **kwargs):
    """Display the open figures and close them; stands in for matplotlib.pyplot.show()."""
    show_figures()


class Shown:
    """Something of IPython.display: data and its MIME type."""

    mime = "text/plain"

    def __init__(self, data=None, url=None, filename=None, metadata=None, **options):
        if hasattr(data, "__fspath__"):
            data = os.fspath(data)
        if isinstance(data, str) and len(data) < 1000 and os.path.isfile(data):
            data, filename = None, data
        if data is None and url is not None:
            raise ValueError("there is no network to fetch %r from; pass the data" % (url,))
        if data is None and filename is not None:
            with open(filename, "rb") as file:
                data = file.read()
        if isinstance(data, bytes) and not isinstance(self, Image):
            data = data.decode("utf-8")
        self.data, self.metadata, self.filename = data, metadata or {}, filename

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {self.mime: self.data, "text/plain": repr(self)}

    def __repr__(self):
        return "<IPython.core.display.%s object>" % type(self).__name__


class Image(Shown):
    """A picture from bytes, or from the file of a name."""

    def __init__(self, data=None, url=None, filename=None, format=None, **options):
        super().__init__(data, url, filename)
        if not isinstance(self.data, bytes):
            raise ValueError("an Image is made of bytes or of the name of a file, not of %.40r" % (self.data,))
        kinds = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"%PDF": "pdf"}
        found = [kind for start, kind in kinds.items() if self.data.startswith(start)]
        kind = (format or (found or ["png"])[0]).lower().replace("jpg", "jpeg")
        self.format, self.mime = kind, "application/pdf" if kind == "pdf" else "image/" + kind


class Code(Shown):
    """Source text."""

    mime = "text/html"

    def __init__(self, data=None, url=None, filename=None, language=None, **options):
        super().__init__(data, url, filename)
        self.language = language

    def _repr_mimebundle_(self, include=None, exclude=None):
        escaped = self.data.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return {"text/html": "<pre><code>%s</code></pre>" % escaped, "text/plain": self.data}

    def __repr__(self):
        return self.data


def kind_of(name, mime):
    """A class of IPython.display that carries one MIME type."""
    return type(name, (Shown,), {"mime": mime, "__module__": "IPython.display", "__doc__": "%s to display." % name})


def shim_spec(name):
    """A small module in the place of one of IPython's, for code written for notebooks."""
    machinery = _import("importlib.machinery").machinery
    return machinery.ModuleSpec(name, Shim(), is_package=name in ("IPython", "IPython.core"))


class Shim:
    """The loader of these modules."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        kinds = {"HTML": "text/html", "Markdown": "text/markdown", "Latex": "text/latex", "Math": "text/latex",
                 "JSON": "application/json", "SVG": "image/svg+xml", "Javascript": "application/javascript",
                 "Pretty": "text/plain"}
        offered = {name: kind_of(name, mime) for name, mime in kinds.items()} if not SHIM else SHIM
        if not SHIM:
            offered.update(Image=Image, Code=Code, DisplayObject=Shown, display=display, clear_output=clear_output,
                           get_ipython=lambda: None)
            for one in (Image, Code, Shown):
                one.__module__ = "IPython.display"
            SHIM.update(offered)
        module.__dict__.update(offered)
        module.version_info, module.__version__ = (0, 0, 0), "0"


SHIM = {}


def clear_output(wait=False):
    """Does nothing: what was sent stays."""
