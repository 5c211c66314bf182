"""A part of the Python kernel: output. It brings everything that is written during a cell into one order."""


class Capture:
    """Everything that user code and its children write, in order.

    Descriptors 1 and 2 are pipes, which a pump thread reads while a cell runs: children and C libraries write there.
    What Python itself prints does not take that way, which costs three system calls and two thread switches a line, but
    waits in a queue that the printing thread sends, or the pump when printing is dense.
    Whoever puts the first line into an empty queue has sent what the pipes held, so the queue is older than they are.
    """

    def __init__(self, channel, interrupts):
        self.channel, self.interrupts = channel, interrupts
        self.cell = self.owner = None
        self.forked = self.parked = self.ticking = False
        self.lock, self.gate = _thread.allocate_lock(), _thread.allocate_lock()
        self.gate.acquire()
        self.main = _get_ident()
        self.queue, self.credit = _collections.deque(), 0
        self.ends, self.identity, self.kept = {}, {}, []
        self.poller = select.poll()
        for fd, name in ((1, "stdout"), (2, "stderr")):
            reading, writing = os.pipe()
            end = private(reading)
            _dup2(writing, fd)
            # Kept so that the pipe does not hang up when user code closes its end.
            self.kept.append(private(writing))
            os.close(reading)
            os.close(writing)
            self.ends[end] = name
            self.identity[fd] = identity(fd)
            self.poller.register(end, select.POLLIN)
        reading, writing = os.pipe()
        self.woken, self.wake = private(reading), private(writing)
        os.close(reading)
        os.close(writing)

    def fds(self):
        """The descriptors that a child must not keep."""
        return (self.channel.commands, self.channel.messages, self.woken, self.wake, *self.ends, *self.kept)

    def enter(self):
        """Takes the lock; false when this thread has it: a finaliser of the user's prints while we send."""
        me = _get_ident()
        if self.owner == me:
            return False
        self.lock.acquire()
        self.owner = me
        return True

    def leave(self):
        """Gives the lock back."""
        self.owner = None
        self.lock.release()

    def start(self, cell):
        """From here on the pipes are read, on behalf of this cell."""
        self.enter()
        self.cell, self.credit = cell, PROMPT_PRINTS
        if self.parked:
            self.parked = False
            self.gate.release()
        self.leave()

    def finish(self, done):
        """Sends what was printed and what the pipes hold at this moment, then `done`; the pipes rest from then on."""
        self.enter()
        try:
            self.ticking = False
            messages = self.taken() if self.queue else []
            if self.poller.poll(0):
                if messages:
                    self.channel.send(*messages)
                    messages = []
                self.drain()
            self.cell = None
            self.channel.send(*messages, done)
        finally:
            self.leave()

    def show(self, message):
        """Sends a message about the cell after everything that came before it; false when no cell runs."""
        held = _get_ident() == self.main and self.interrupts.hold()
        try:
            if not self.enter():
                return False
            try:
                if self.cell is None:
                    return False
                message["cell"] = self.cell
                self.send_queue()
                self.drain()
                self.channel.send(message)
                return True
            finally:
                self.leave()
        finally:
            if held:
                self.interrupts.release()

    def take(self, fd, name, data):
        """Takes what Python writes to a standard stream; false when it belongs into the descriptor."""
        if self.forked or self.cell is None:
            return False
        if self.owner == _get_ident():
            self.queue.append((name, bytes(data)))
            return True
        held = _get_ident() == self.main and self.interrupts.hold()
        try:
            self.enter()
            try:
                if self.cell is None:
                    return False
                if not self.queue:
                    # Redirections by descriptor are honoured, and what others wrote before comes before.
                    if identity(fd) not in (None, self.identity[fd]):
                        return False
                    self.drain()
                if len(data) >= SMALL_CHUNK:
                    self.send_queue()
                    for message in self.cut(name, data):
                        self.channel.send(message)
                    return True
                self.queue.append((name, bytes(data)))
                if self.credit > 0 or len(self.queue) >= MAX_WAITING:
                    self.credit -= 1
                    self.send_queue()
                elif not self.ticking:
                    self.ticking = True
                    _write(self.wake, b"\0")
                return True
            finally:
                self.leave()
        finally:
            if held:
                self.interrupts.release()

    def flush(self):
        """Sends the queue."""
        if not self.queue or self.forked or self.owner == _get_ident():
            return
        held = _get_ident() == self.main and self.interrupts.hold()
        try:
            self.enter()
            try:
                if self.cell is not None:
                    self.send_queue()
            finally:
                self.leave()
        finally:
            if held:
                self.interrupts.release()

    def taken(self):
        """The queue as messages, and an empty queue; the lock is held."""
        messages, name, parts = [], None, []
        # Others append meanwhile, without the lock.
        for _ in range(len(self.queue)):
            stream, data = self.queue.popleft()
            if stream != name:
                messages += self.cut(name, b"".join(parts))
                name, parts = stream, []
            parts.append(data)
        messages += self.cut(name, b"".join(parts))
        return messages

    def cut(self, name, data):
        """The data as messages of at most a chunk, cut between characters where there are any."""
        start, size = 0, len(data)
        while start < size:
            end = min(start + CHUNK, size)
            while start + CHUNK - 4 < end < size and data[end] & 0xC0 == 0x80:
                end -= 1
            yield self.message(name, data[start:end])
            start = end

    def send_queue(self):
        """Sends the queue; the lock is held."""
        if self.queue:
            self.channel.send(*self.taken())

    def drain(self):
        """Sends what the pipes hold at this moment; the lock is held."""
        for fd, _ in self.poller.poll(0):
            try:
                held = int.from_bytes(_ioctl(fd, FIONREAD, b"\0\0\0\0"), sys.byteorder)
                while held > 0:
                    held -= self.forward(fd, min(held, CHUNK))
            except OSError:
                pass  # User code has closed it; if the channel too, the next message ends the kernel.

    def forward(self, fd, size):
        """Sends one chunk of a pipe; the lock is held."""
        chunk = _read(fd, size)
        self.channel.send(self.message(self.ends[fd], chunk))
        return len(chunk)

    def message(self, name, chunk):
        """A chunk as a message."""
        try:
            return {"type": "stream", "cell": self.cell, "name": name, "text": str(chunk, "utf-8")}
        except UnicodeDecodeError:
            return {"type": "stream", "cell": self.cell, "name": name, "data": base64(chunk)}

    def pump(self):
        """The thread that keeps the pipes from filling while a cell runs, and sends what waits for its interval.

        It sleeps in poll between cells too. Data that comes then parks it until the next cell.
        """
        poll, timeout = select.poll(), None
        for fd in self.ends:
            poll.register(fd, select.POLLIN)
        poll.register(self.woken, select.POLLIN)
        # Asks for nothing: only a hang-up is reported, when the supervisor is gone in the middle of a cell.
        poll.register(self.channel.commands, 0)
        while True:
            try:
                ready = dict(poll.poll(timeout))
                if self.channel.commands in ready:
                    _exit(0)
                if ready.pop(self.woken, 0):
                    _read(self.woken, CHUNK)
                    timeout = INTERVAL * 1000
                    if not ready:
                        continue
                small = self.pass_on()
                if not self.ticking:
                    timeout = None
                if self.parked:
                    self.gate.acquire()
                elif small:
                    # Lets a loop of short writes fill the pipe: a message for each would cost more than the write.
                    _sleep(0.003)
            except MemoryError:
                _sleep(0.05)  # The cell has taken all; it may give some back.
            except BaseException:
                _exit(1)  # Without the pump cells would hang.

    def pass_on(self):
        """Sends what there is, for the pump; whether it came in small pieces."""
        small = False
        self.enter()
        try:
            # Looked at again under the lock: the cell may have ended, or another thread has read the pipe.
            ready = self.poller.poll(0)
            if self.cell is None:
                self.parked = bool(ready)
                return False
            self.ticking = bool(self.queue)
            if self.ticking:
                self.send_queue()
            elif self.credit < 1:
                # Printing is not dense any more.
                self.credit = 1
            for fd, _ in ready:
                small |= self.forward(fd, CHUNK) < SMALL_CHUNK
            return small
        finally:
            self.leave()


class Buffer(io.BufferedIOBase):
    """sys.stdout.buffer or sys.stderr.buffer. It holds nothing and locks nothing: finalisers print at any point."""

    def __init__(self, capture, fd, name):
        self.capture, self.fd, self.stream = capture, fd, name
        self.name, self.mode, self.raw = "<%s>" % name, "wb", self

    def writable(self):
        return True

    def fileno(self):
        return self.fd

    def write(self, data):
        capture, size = self.capture, len(data)
        if capture.ticking and 0 < len(capture.queue) < MAX_WAITING and size < SMALL_CHUNK:
            # The way of dense printing: no lock and no system call, and an interrupt may come at any point.
            capture.queue.append((self.stream, bytes(data)))
        elif size and not capture.take(self.fd, self.stream, data):
            rest = memoryview(data)
            while rest:
                rest = rest[_write(self.fd, rest):]
        return size


class Stream(io.TextIOWrapper):
    """sys.stdout or sys.stderr: lines go into the queue, and flush() sends it."""

    def __init__(self, capture, fd, name, errors):
        super().__init__(Buffer(capture, fd, name), encoding="utf-8", errors=errors, line_buffering=True)
        self.mode = "w"

    def flush(self):
        super().flush()
        self.buffer.capture.flush()


def identity(fd):
    """What a descriptor refers to; None when it is closed."""
    try:
        status = _fstat(fd)
        return status.st_ino, status.st_dev
    except OSError:
        return None
