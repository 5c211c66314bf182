// The Node.js kernel of cellblock: keeps one session's globals and runs its cells.
//
// It speaks the kernel protocol (second half of protocol.md) on descriptors 3 and 4, where the bootstrap put them;
// descriptors 1 and 2 of user code are the write ends of two FIFOs. It knows nothing of clients, limits or containers.
//
// Cells are scripts of the main context, so `const`, `let`, `class` and `function` live on, and `instanceof` holds.
// Node cannot wait for a descriptor without reading it, and a reader that has read and not yet sent would lose the
// race with the end of the cell. So a worker thread looks at both FIFOs every few milliseconds while a cell runs, reads
// and sends under a lock, and the main thread takes the same lock to drain them at the end.
// A cell whose value is a promise ends when the promise is settled, with its value.
'use strict';

const fs = require('fs');
const net = require('net');
const util = require('util');
const vm = require('vm');
const { Writable } = require('stream');
const { Worker } = require('worker_threads');
const { createRequire } = require('module');

const PROTOCOL = 1;
const COMMANDS = 3;
const MESSAGES = 4;
const CHUNK = 65536;
const PROBE = ['/proc/version', '/proc/self/status', '/proc/self/mounts', '/proc/net/dev'];
// The slot of the shared state that says whether a cell runs; slot 0 is the lock.
const RUNNING = 1;

const shared = new Int32Array(new SharedArrayBuffer(8));
const pipes = ['/tmp/.cellblock-1', '/tmp/.cellblock-2'].map((path) => {
  const fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  fs.unlinkSync(path);
  return fd;
});
// The bootstrap's read-write ends: with them open the FIFOs would never report anything but "empty".
fs.closeSync(5);
fs.closeSync(6);

// User code may replace what it can reach; the kernel keeps what it needs.
const { parse } = JSON;
const { writeSync } = fs;
const { inspect } = util;
const { isPromise } = util.types;
const reallyExit = process.reallyExit.bind(process);
const cpuUsage = process.cpuUsage.bind(process);
const resourceUsage = process.resourceUsage.bind(process);
const wellFormed = Function.prototype.call.bind(String.prototype.toWellFormed || ((text) => text));

// Shared by the main thread and the worker, which gets its source: one chunk from one pipe to one message.
function transport(shared, pipes, messages) {
  const { readSync, writeSync } = require('fs');
  const { isUtf8 } = require('buffer');
  const buffer = Buffer.alloc(65536);
  return {
    lock() {
      while (Atomics.compareExchange(shared, 0, 0, 1) !== 0) Atomics.wait(shared, 0, 1, 10);
    },
    unlock() {
      Atomics.store(shared, 0, 0);
      Atomics.notify(shared, 0, 1);
    },
    send(message) {
      const line = Buffer.from(JSON.stringify(message) + '\n');
      for (let at = 0; at < line.length;) at += writeSync(messages, line, at);
    },
    // Returns how many bytes it forwarded; 0 when the pipe is empty.
    forward(index, cell, size) {
      let count;
      try {
        count = readSync(pipes[index], buffer, 0, size);
      } catch (error) {
        if (error.code === 'EAGAIN') return 0;
        throw error;
      }
      if (count === 0) return 0;
      const chunk = buffer.subarray(0, count);
      const message = { type: 'stream', cell, name: index === 0 ? 'stdout' : 'stderr' };
      if (isUtf8(chunk)) message.text = chunk.toString();
      else message.data = chunk.toString('base64');
      this.send(message);
      return count;
    },
  };
}

const channel = transport(shared, pipes, MESSAGES);

const pump = `
const { parentPort, workerData: { shared, cell, pipes, messages } } = require('worker_threads');
const channel = (${transport})(shared, pipes, messages);
const name = () => Buffer.from(cell).toString('latin1').replace(/\\0+$/, '');
parentPort.postMessage('up');
try {
  for (;;) {
    Atomics.wait(shared, 1, 0);
    channel.lock();
    let moved = 0;
    if (Atomics.load(shared, 1) === 1) for (const index of [0, 1]) moved += channel.forward(index, name(), 65536);
    channel.unlock();
    if (moved === 0) Atomics.wait(shared, 0, 0, 3);
  }
} catch {
  process.reallyExit ? process.reallyExit(1) : process.exit(1);
}
`;

// The running cell's id, where the worker can read it.
const cellName = new Uint8Array(new SharedArrayBuffer(64));

class ExitRequest {
  constructor(code) {
    this.code = code;
  }
}

class Interrupted extends Error {}

let current = null;

// process.stdout on a pipe would make it non-blocking for children too, whose output would then be lost.
function blockingStream(fd) {
  const stream = new Writable({
    write(chunk, encoding, callback) {
      for (let at = 0; at < chunk.length;) at += writeSync(fd, chunk, at);
      callback();
    },
  });
  stream.fd = fd;
  stream.isTTY = false;
  return stream;
}

function prepareGlobals() {
  for (const [name, fd] of [['stdout', 1], ['stderr', 2]]) {
    Object.defineProperty(process, name, { value: blockingStream(fd), configurable: true, enumerable: true });
  }
  process.exit = (code) => {
    throw new ExitRequest(Number(code ?? process.exitCode ?? 0) & 0xff);
  };
  globalThis.require = createRequire('/workspace/cell.js');
  for (const event of ['uncaughtException', 'unhandledRejection']) {
    process.on(event, (error) => {
      if (error instanceof ExitRequest) current?.stop(error);
      else process.stderr.write(`Uncaught ${describe(error, CHUNK).traceback.join('\n')}\n`);
    });
  }
}

function onInterrupt() {
  if (current) {
    current.interrupted = true;
    current.stop(new Interrupted());
  }
}

// User code may have removed our listener or added its own.
function installInterrupt() {
  process.removeAllListeners('SIGINT');
  process.on('SIGINT', onInterrupt);
}

// Calls a function such that SIGINT ends it: V8 offers that only for whole scripts, which see nothing but globals.
const callThunk = new vm.Script('__cellblock_thunk()', { filename: '<kernel>' });
function interruptible(thunk) {
  Object.defineProperty(globalThis, '__cellblock_thunk', { value: thunk, configurable: true });
  try {
    return callThunk.runInThisContext({ breakOnSigint: true, displayErrors: false });
  } finally {
    delete globalThis.__cellblock_thunk;
  }
}

async function execute({ cell, count, code, max_value: limit }) {
  const before = cpuUsage();
  const done = { type: 'done', cell, status: 'ok', interrupted: false, result: null, error: null, exit_code: null };
  const stopped = new Promise((resolve, reject) => {
    current = { interrupted: false, stop: reject };
  });
  stopped.catch(() => {});
  installInterrupt();
  cellName.fill(0);
  cellName.set(Buffer.from(cell, 'latin1').subarray(0, 64));
  Atomics.store(shared, RUNNING, 1);
  Atomics.notify(shared, RUNNING);
  try {
    const importModuleDynamically = vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER;
    const script = new vm.Script(code, { filename: `<cell ${count}>`, importModuleDynamically });
    let value = script.runInThisContext({ breakOnSigint: true, displayErrors: false });
    if (isPromise(value)) value = await Promise.race([value, stopped]);
    if (value !== undefined) {
      globalThis._ = value;
      const [text, dropped] = clip(interruptible(() => inspect(value)), limit);
      done.result = { data: { 'text/plain': text }, dropped };
    }
  } catch (error) {
    fail(done, error, limit);
  }
  done.interrupted ||= current.interrupted;
  current = null;
  finish(cell);
  const used = cpuUsage(before);
  done.cpu_ms = (used.user + used.system) / 1e3;
  done.memory_peak = resourceUsage().maxRSS * 1024;
  channel.send(done);
}

// Sends what the pipes hold at this moment, at most their capacity, and leaves them alone until the next cell.
function finish(cell) {
  channel.lock();
  Atomics.store(shared, RUNNING, 0);
  for (const index of [0, 1]) {
    for (let left = CHUNK; left > 0;) {
      const moved = channel.forward(index, cell, left);
      if (moved === 0) break;
      left -= moved;
    }
  }
  channel.unlock();
}

function fail(done, error, limit) {
  if (error instanceof ExitRequest) {
    done.exit_code = error.code;
    if (error.code === 0) return;
    done.status = 'error';
    done.error = { name: 'ProcessExit', message: String(error.code), traceback: [`process.exit(${error.code})`] };
    return;
  }
  done.status = 'error';
  if (error instanceof Interrupted || error?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED') {
    done.interrupted = true;
    const message = 'the cell was interrupted';
    done.error = { name: 'Interrupted', message, traceback: [`Interrupted: ${message}`] };
    return;
  }
  done.error = describe(error, limit);
}

// Anything can be thrown: null, strings, proxies, errors whose getters throw.
function describe(error, limit) {
  try {
    if (!(error instanceof Error)) {
      const text = interruptible(() => inspect(error));
      return { name: 'Thrown', message: clip(text, limit)[0], traceback: clip(text, limit)[0].split('\n') };
    }
    const lines = String(error.stack ?? error).split('\n');
    // The message may have many lines; after them only the cells' own frames are of interest.
    const own = lines.filter((line) => !/^ {4}at /.test(line) || line.includes('<cell '));
    const [message, traceback] = [clip(String(error.message), limit)[0], clip(own.join('\n'), limit)[0].split('\n')];
    return { name: wellFormed(String(error.name)), message, traceback };
  } catch {
    return { name: 'Thrown', message: 'a value that cannot be shown', traceback: ['a value that cannot be shown'] };
  }
}

// The text in at most `limit` bytes of UTF-8, head and tail, and how many bytes were left out.
function clip(text, limit) {
  text = wellFormed(String(text));
  const size = Buffer.byteLength(text);
  if (size <= limit) return [text, 0];
  const bytes = Buffer.from(text);
  let head = (limit + 1) >> 1;
  let tail = size - (limit >> 1);
  while (head > 0 && (bytes[head] & 0xc0) === 0x80) head--;
  while (tail < size && (bytes[tail] & 0xc0) === 0x80) tail++;
  const dropped = tail - head;
  return [`${bytes.subarray(0, head)}\n... [${dropped} bytes dropped] ...\n${bytes.subarray(tail)}`, dropped];
}

function readText(path) {
  try {
    return fs.readFileSync(path, 'utf8').slice(0, CHUNK);
  } catch {
    return null;
  }
}

function serve() {
  let pending = [];
  const input = new net.Socket({ fd: COMMANDS, readable: true, writable: false });
  input.on('error', () => reallyExit(1));
  input.on('end', () => reallyExit(0));
  input.on('data', (chunk) => {
    let newline;
    while ((newline = chunk.indexOf(10)) >= 0) {
      const line = Buffer.concat([...pending, chunk.subarray(0, newline)]).toString();
      pending = [];
      chunk = chunk.subarray(newline + 1);
      const command = parse(line);
      // A message that cannot be written means that nobody listens any more.
      if (command.type === 'execute') execute(command).catch(() => reallyExit(1));
      else if (command.type === 'ping') channel.send({ type: 'pong', id: command.id });
    }
    if (chunk.length > 0) pending.push(chunk);
  });
}

prepareGlobals();
installInterrupt();
const workerData = { shared, cell: cellName, pipes, messages: MESSAGES };
const worker = new Worker(pump, { eval: true, workerData });
worker.once('message', () => {
  worker.unref();
  const probe = Object.fromEntries(PROBE.map((path) => [path, readText(path)]));
  channel.send({ type: 'ready', protocol: PROTOCOL, kernel: 'nodejs', version: process.versions.node, probe });
  serve();
});
