
// ---- channel: how output reaches the supervisor ----
//
// What user code prints in this process goes to a ring in shared memory, without a system call. What children or
// plain descriptors write goes to the FIFOs. While cells come the worker looks at both every few milliseconds and
// sends; at the end of a cell the main thread does the same, so a short cell needs no other thread. The ring has one
// producer; whoever consumes holds the lock. When no cell has run for a second the worker sleeps until one does.

const [LOCK, CELL, ASLEEP, WAKE, HEAD, TAIL, HEARD, BLOCKED] = [0, 1, 2, 3, 4, 5, 6, 7];
const [STOPPING, SCOPE, PARK] = [8, 9, 10];
const RING = 1 << 18;
const PIECE = 1 << 15;
// Kinds of records: 1 and 2 are the descriptors, 3 begins a whole message and 4 goes on with it up to its newline.
const [MESSAGE, MORE] = [3, 4];

const state = new Int32Array(new SharedArrayBuffer(64));
const ring = new Uint8Array(new SharedArrayBuffer(RING));
// The running cell's id, where the worker can read it.
const cellName = new Uint8Array(new SharedArrayBuffer(64));

// The consumer's side, for the main thread and (as source text) for the worker.
function consumer(state, ring, pipes, messages) {
  const { readSync, writeSync } = require('fs');
  const { isUtf8 } = require('buffer');
  const { concat, from } = Buffer;
  const { stringify } = JSON;
  const [LOCK, HEAD, TAIL] = [0, 4, 5];
  const RING = ring.length;
  const buffer = Buffer.alloc(65536);
  let parts = [];
  const write = (line) => {
    for (let at = 0; at < line.length;) at += writeSync(messages, line, at);
  };
  const self = {
    lock() {
      while (Atomics.compareExchange(state, LOCK, 0, 1) !== 0) Atomics.wait(state, LOCK, 1, 10);
    },
    unlock() {
      Atomics.store(state, LOCK, 0);
      Atomics.notify(state, LOCK, 1);
    },
    send(message) {
      write(from(stringify(message) + '\n'));
    },
    chunk(cell, kind, bytes) {
      const message = { type: 'stream', cell, name: kind === 1 ? 'stdout' : 'stderr' };
      if (isUtf8(bytes)) message.text = bytes.utf8Slice(0, bytes.length);
      else message.data = bytes.base64Slice(0, bytes.length);
      self.send(message);
    },
    // Sends what the ring holds; returns whether there was anything.
    flush(cell) {
      let tail = Atomics.load(state, TAIL);
      const head = Atomics.load(state, HEAD);
      if (head === tail) return false;
      const copy = (from, size) => {
        const at = from & (RING - 1);
        const bytes = Buffer.allocUnsafe(size);
        bytes.set(ring.subarray(at, Math.min(at + size, RING)));
        if (at + size > RING) bytes.set(ring.subarray(0, at + size - RING), RING - at);
        return bytes;
      };
      let run = [];
      let [kind, size] = [0, 0];
      const flushRun = () => {
        if (size > 0) self.chunk(cell, kind, run.length === 1 ? run[0] : concat(run));
        [run, size] = [[], 0];
      };
      while (tail !== head) {
        const header = copy(tail, 4).readUInt32LE(0);
        const bytes = copy(tail + 4, header >>> 3);
        tail = (tail + 4 + bytes.length) | 0;
        const next = header & 7;
        if (next !== kind || size + bytes.length > 65536) flushRun();
        kind = next;
        if (kind < 3) {
          run.push(bytes);
          size += bytes.length;
        } else {
          // A message that an interrupt cut short is forgotten.
          if (kind === 3) parts = [];
          parts.push(bytes);
          if (bytes[bytes.length - 1] === 10) {
            write(concat(parts));
            parts = [];
          }
        }
      }
      flushRun();
      Atomics.store(state, TAIL, tail);
      Atomics.notify(state, TAIL);
      return true;
    },
    // Forwards one read of a FIFO; returns its size, 0 when it is empty.
    forward(index, cell, size) {
      let count;
      try {
        count = readSync(pipes[index], buffer, 0, size);
      } catch (error) {
        if (error.code === 'EAGAIN') return 0;
        throw error;
      }
      if (count > 0) self.chunk(cell, index + 1, buffer.subarray(0, count));
      return count;
    },
  };
  return self;
}

function watch(workerData, parentPort, consumer) {
  const [CELL, ASLEEP, WAKE, HEARD, BLOCKED, STOPPING, SCOPE] = [1, 2, 3, 6, 7, 8, 9];
  const fs = require('fs');
  const { state, ring, cellName, pipes, messages } = workerData;
  Error.stackTraceLimit = 0;
  process.emitWarning = () => {};
  const watchdog = require('internal/test/binding').internalBinding('contextify');
  const channel = consumer(state, ring, pipes, messages);
  const name = () => Buffer.from(cellName).latin1Slice(0, 64).replace(/\0+$/, '');
  let [idle, tries] = [0, 0];

  // Until the main thread has heard of it: tells it, cuts the scope it is in, or has the inspector call `cut` there,
  // which runs at once, on top of whatever runs outside of any scope.
  const interrupt = () => {
    parentPort.postMessage(Atomics.load(state, STOPPING));
    if (Atomics.load(state, SCOPE) === 1) process.kill(process.pid, 'SIGINT');
    else if (++tries % 20 === 10) {
      const session = new (require('inspector').Session)();
      session.connectToMainThread();
      session.post('Runtime.evaluate', { expression: '$cellblock.cut()' });
      session.disconnect();
    }
  };

  // While the main thread waits for a child by `execSync` and its like, it can only be helped by ending the child:
  // the newest one and all below it, as a terminal would, and less gently if that does not do.
  const stopChild = (signal) => {
    const parents = new Map();
    for (const name of fs.readdirSync('/proc')) {
      try {
        const stat = fs.readFileSync(`/proc/${+name}/stat`, 'latin1');
        parents.set(+name, +stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
      } catch {
        // No process, or one that has just ended.
      }
    }
    const newest = Math.max(0, ...[...parents].filter(([, parent]) => parent === process.pid).map(([pid]) => pid));
    const below = (pid) => pid === newest || (parents.has(pid) && below(parents.get(pid)));
    for (const pid of newest === 0 ? [] : parents.keys()) {
      try {
        if (below(pid)) process.kill(pid, signal);
      } catch {
        // It has ended.
      }
    }
  };
  for (let patience = 0; ;) {
    const seen = Atomics.load(state, WAKE);
    const cell = Atomics.load(state, CELL);
    if (cell === 0) {
      if (++idle > 100) {
        Atomics.store(state, ASLEEP, 1);
        Atomics.wait(state, CELL, 0);
        Atomics.store(state, ASLEEP, 0);
        idle = 0;
      } else Atomics.wait(state, WAKE, seen, 10);
      continue;
    }
    idle = 0;
    channel.lock();
    let moved = false;
    if (Atomics.load(state, CELL) === cell) {
      moved = channel.flush(name());
      for (const index of [0, 1]) moved = channel.forward(index, name(), 65536) > 0 || moved;
    }
    channel.unlock();
    if (watchdog.watchdogHasPendingSigint()) {
      // Nothing but a stop takes the mark away.
      watchdog.startSigintWatchdog();
      watchdog.stopSigintWatchdog();
      Atomics.store(state, STOPPING, cell);
    }
    if (Atomics.load(state, STOPPING) === cell && Atomics.load(state, HEARD) !== cell) {
      interrupt();
      if (Atomics.load(state, BLOCKED) === 1 && patience++ % 100 === 0) stopChild(patience > 1 ? 'SIGKILL' : 'SIGINT');
    } else [tries, patience] = [0, 0];
    Atomics.wait(state, WAKE, seen, moved ? 1 : 10);
  }
}

// A SIGINT goes to the scope that was opened last, or to none, and then the end of any scope makes Node forget it.
// With this one always open none is lost between two scopes of the main thread. Once cut it stays away for a moment:
// what the worker raises then is meant for the main thread's scope. A change of PARK makes it open its scope anew, as
// the last one: a main thread that waits for a child cannot be cut before the child has ended.
function listen(state) {
  const [CELL, WAKE, STOPPING, PARK] = [1, 3, 8, 10];
  const vm = require('vm');
  const parked = new vm.Script('park()');
  globalThis.park = () => Atomics.wait(state, PARK, Atomics.load(state, PARK));
  for (;;) {
    try {
      parked.runInThisContext({ breakOnSigint: true, displayErrors: false });
    } catch {
      Atomics.store(state, STOPPING, Atomics.load(state, CELL));
      Atomics.add(state, WAKE, 1);
      Atomics.notify(state, WAKE);
      Atomics.wait(state, PARK, Atomics.load(state, PARK), 50);
    }
  }
}

const channel = consumer(state, ring, pipes, MESSAGES);

function startWorkers() {
  const resourceLimits = { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 32 };
  const start = (source, workerData) => {
    const text = `const { parentPort, workerData } = require('worker_threads');\n${source}`;
    const worker = new Worker(text, { eval: true, workerData, resourceLimits });
    worker.on('message', onInterrupt);
    // It ends only when nobody reads the messages any more.
    worker.on('error', () => reallyExit(1));
    worker.unref();
  };
  start(`(${watch})(workerData, parentPort, ${consumer})`, { state, ring, cellName, pipes, messages: MESSAGES });
  start(`(${listen})(workerData)`, state);
}

function wakeWorker() {
  Atomics.add(state, WAKE, 1);
  Atomics.notify(state, WAKE);
}

// Puts bytes into the ring. An interrupt may end this anywhere: a record counts from the store of HEAD on.
function produce(kind, bytes) {
  for (let at = 0; at < bytes.length;) {
    const size = Math.min(bytes.length - at, PIECE);
    const head = Atomics.load(state, HEAD);
    let tail;
    while (RING - ((head - (tail = Atomics.load(state, TAIL))) | 0) < size + 4) {
      wakeWorker();
      Atomics.wait(state, TAIL, tail, 20);
    }
    const header = size * 8 + (kind === MESSAGE && at > 0 ? MORE : kind);
    for (let i = 0; i < 4; i++) ring[(head + i) & (RING - 1)] = header >>> (8 * i);
    const start = (head + 4) & (RING - 1);
    const first = Math.min(size, RING - start);
    ring.set(bytes.subarray(at, at + first), start);
    if (first < size) ring.set(bytes.subarray(at + first, at + size), 0);
    Atomics.store(state, HEAD, (head + 4 + size) | 0);
    at += size;
    if (((head - tail) | 0) < RING >> 1 && ((head + 4 + size - tail) | 0) >= RING >> 1) wakeWorker();
  }
}

// Waits until the worker has sent what is in the ring.
function settle() {
  const head = Atomics.load(state, HEAD);
  let tail;
  while ((tail = Atomics.load(state, TAIL)) !== head) {
    wakeWorker();
    Atomics.wait(state, TAIL, tail, 20);
  }
}

function openChannel(cell, serial) {
  cellName.fill(0);
  for (let i = 0; i < cell.length && i < 64; i++) cellName[i] = cell.charCodeAt(i);
  Atomics.store(state, CELL, serial);
  if (Atomics.load(state, ASLEEP) === 1) Atomics.notify(state, CELL);
}

// Sends what was written up to this moment, of each FIFO at most its capacity, and leaves them alone from then on.
// `piped` says whether anybody can have written to the FIFOs: to find them empty is most of what a small cell costs.
function closeChannel(cell, displayed, piped) {
  // Parts of messages are put together in one place only.
  if (displayed) settle();
  channel.lock();
  // An empty FIFO is an exception, whose stack is most of its price.
  const limit = Error.stackTraceLimit;
  Reflect.set(Error, 'stackTraceLimit', 0);
  channel.flush(cell);
  for (const index of piped ? [0, 1] : []) {
    for (let left = CHUNK; left > 0;) {
      const moved = channel.forward(index, cell, left);
      if (moved === 0) break;
      left -= moved;
    }
  }
  Reflect.set(Error, 'stackTraceLimit', limit);
  Atomics.store(state, CELL, 0);
  channel.unlock();
}
