"""A part of the Python kernel: what only some cells need, errors, IPython's own syntax and top-level await."""

ADVICE = {
    "pip": "packages come with the image and there is no network; ask for an image that has what you need",
    "conda": "packages come with the image and there is no network; ask for an image that has what you need",
    "time": "measure with time.perf_counter(); the answer to each cell tells its duration and CPU time",
    "timeit": "use the timeit module: timeit.timeit('code', globals=globals(), number=1000)",
    "bash": "use subprocess.run([...], check=True)",
    "sh": "use subprocess.run([...], check=True)",
    "!": "use subprocess.run([...], check=True)",
    "?": "use help(obj) or print(obj.__doc__)",
    "cd": "use os.chdir(path)",
    "pwd": "use os.getcwd()",
    "ls": "use os.listdir(path)",
    "env": "use os.environ",
    "writefile": "use pathlib.Path(name).write_text(text)",
    "run": "use runpy.run_path(path)",
    "debug": "there is no debugger here; print what you want to see",
    "pdb": "there is no debugger here; print what you want to see",
}
# Set up what is so already: figures are displayed at the end of the cell.
SILENT = ("%matplotlib", "%config InlineBackend")


def without_magics(code, name, flags, error):
    """The code with the lines that say how to show figures taken out, and without the indentation of its first line.

    Raises a SyntaxError that says what to do instead for everything else that only IPython understands.
    """
    lines = code.split("\n")
    if isinstance(error, IndentationError) and error.msg == "unexpected indent":
        first = next(line for line in lines if line.strip())
        indent = first[:len(first) - len(first.lstrip())]
        if indent and all(line.startswith(indent) or not line.strip() for line in lines):
            code = "\n".join([line[len(indent):] for line in lines])
            kernel.remember(name, code)
            return code
    while True:
        number = (error.lineno or 0) - 1
        line = lines[number] if 0 <= number < len(lines) else ""
        bare = line.strip()
        if not bare.startswith(SILENT):
            advice = advice_for(bare)
            if advice is None:
                raise error
            place = (name, number + 1, len(line) - len(line.lstrip()) + 1, line)
            raise SyntaxError(advice, place) from None
        lines[number] = line[:len(line) - len(line.lstrip())] + "pass"
        code = "\n".join(lines)
        try:
            _compile(code, name, "exec", flags | ONLY_AST, True)
            return code
        except SyntaxError as again:
            error = again


def advice_for(line):
    """What to do instead of a line of IPython's; None when it is none."""
    before, equals, after = line.partition("=")
    if equals and before.strip().isidentifier() and after.strip()[:1] in ("!", "%"):
        line = after.strip()
    if line.startswith("!"):
        word, kind = "!", "a shell command"
    elif line.startswith("%"):
        word, kind = (line.lstrip("%").split() or [""])[0], "a magic command"
    elif line.startswith("?") or line.endswith("?"):
        word, kind = "?", "a question"
    else:
        return None
    shown = line if len(line) <= 60 else line[:57] + "..."
    advice = ADVICE.get(word.lstrip("!"), ADVICE.get(word))
    return "`%s` is %s of IPython, and cells are plain Python%s" % (shown, kind, ": " + advice if advice else "")


def fill_error(done, error, limit):
    """Puts what ended the cell into the message."""
    if isinstance(error, SystemExit):
        done["exit_code"] = exit_code(error)
        if done["exit_code"] == 0:
            return
    done["status"] = "error"
    done["result"] = None
    name = type(error).__name__
    try:
        message = str(error)
        if name == "BdbQuit" and not message:
            message = "the debugger found no input; give its commands as the cell's standard input"
    except BaseException as inner:
        message = "<str() of the exception raised %s>" % type(inner).__name__
    try:
        text = "".join(rendered(error)).rstrip("\n")
    except BaseException as inner:
        text = "%s: %s (rendering its traceback raised %s)" % (name, message, type(inner).__name__)
    done["error"] = {"name": name, "message": clip(message, limit)[0], "traceback": clip(text, limit)[0].split("\n")}


def rendered(error):
    """The lines of a traceback without the kernel's own frames, those of chained exceptions included."""
    traceback = standard("traceback")
    # What comes before the cell's first frame ran the cell: this kernel, and asyncio for a cell that awaits.
    top = error.__traceback__
    while top is not None and not top.tb_frame.f_code.co_filename.startswith("<cell "):
        top = top.tb_next
    summary = traceback.TracebackException(type(error), error, top or error.__traceback__)
    pending, seen = [summary], set()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.stack[:] = [frame for frame in one.stack if frame.filename != "<kernel>"]
        pending += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]
    return summary.format()


def exit_code(error):
    """What `python FILE` would exit with."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    try:
        sys.stderr.write("%s\n" % (code,))
    except Exception:
        pass  # User code may have replaced or closed it; the exit code stands.
    return 1


def run_awaited(session, parts):
    """Runs a cell that awaits in the session's event loop, which goes on where the last such cell left it."""
    asyncio = standard("asyncio")
    if session.loop is None or session.loop.is_closed():
        session.loop = asyncio.new_event_loop()
    loop = session.loop
    asyncio.set_event_loop(loop)

    async def cell():
        value = None
        for part in parts:
            value = _eval(part, session.namespace)
            if part.co_flags & CO_COROUTINE:
                value = await value
        return value

    task = loop.create_task(cell())
    try:
        return loop.run_until_complete(task)
    except (KeyboardInterrupt, SystemExit) as error:
        # It may have hit the loop itself: then the cell has not ended yet, and a later cell would go on with it.
        if not task.done():
            task.cancel()
            try:
                loop.run_until_complete(task)
            except asyncio.CancelledError as place:
                # Shows where the cell was waiting instead of where the loop was.
                raise error.with_traceback(place.__traceback__) from None
        raise
