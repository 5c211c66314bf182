"""A part of the Python kernel: signals. It decides when handlers run and knows nothing of what they do."""


class Interrupts:
    """SIGINT stops user code and nothing else, and no handler of the user's runs inside the kernel.

    A handler may raise anything, and would from the middle of a message. So every one is wrapped, and what arrives
    while the kernel works or no cell runs waits for user code, each signal once.
    """

    def __init__(self):
        # Armed while a cell runs; held while the main thread does what must not stop half-way.
        self.armed = self.fired = False
        self.held, self.late = True, {}
        self.ours = self.guarded(self.interrupt)
        _signal.signal, _signal.getsignal = self.set_handler, self.get_handler

    def interrupt(self, number, frame):
        """What SIGINT does when user code has not decided otherwise."""
        raise KeyboardInterrupt

    def guarded(self, handler):
        """The handler, put off while it must not run."""

        def guard(number, frame):
            if number == _signal.SIGINT:
                if not self.armed:
                    return
                self.fired = True
            if self.held:
                self.late[number] = handler
            else:
                handler(number, frame)

        guard.handler = handler
        return guard

    def set_handler(self, number, handler):
        """Stands in for _signal.signal, which signal.signal calls."""
        previous = self.get_handler(number)
        _set_handler(number, self.guarded(handler) if callable(handler) else handler)
        return previous

    def get_handler(self, number):
        """Stands in for _signal.getsignal."""
        handler = _get_handler(number)
        return getattr(handler, "handler", handler)

    def start(self):
        """Puts our handler back before a cell: the last one may have put its own."""
        self.fired = False
        if _get_handler(_signal.SIGINT) is not self.ours:
            _set_handler(_signal.SIGINT, self.ours)

    def hold(self):
        """Puts signals off; false when they are already."""
        if self.held:
            return False
        self.held = True
        return True

    def release(self):
        """Lets signals through again, those put off first."""
        self.held = False
        while self.late:
            number, handler = self.late.popitem()
            if number != _signal.SIGINT or self.armed:
                handler(number, sys._getframe(1))
