
// ---- process: what user code finds as `process`, `console`, timers and descriptors ----
//
// Output of this process goes to the ring. Once a cell starts children or writes to a descriptor by itself, the rest
// of its output goes through the pipes too, which keep the order. Between cells there is nobody to send to: what is
// printed then is kept, up to a bound, for the next cell.

const KEEP = 65536;
const kept = { parts: [], size: 0, dropped: 0 };
// Children whose end has not been seen.
const children = new Set();
const STANDARD = /^\/(?:dev\/(?:fd\/[12]|stdout|stderr)|proc\/self\/fd\/[12])$/;
const writeDescriptor = fs.writeSync;

// What is on the wing in the ring reaches the supervisor before what comes through the pipes.
function settlePipes() {
  settle();
  channel.lock();
  channel.unlock();
}

function say(kind, bytes) {
  if (current === null) keep(kind, bytes);
  else if (current.foreign) for (let at = 0; at < bytes.length;) at += writeDescriptor(kind, bytes, at);
  else produce(kind, bytes);
}

function keep(kind, bytes) {
  const size = Math.min(bytes.length, KEEP - kept.size);
  if (size > 0) kept.parts.push([kind, bufferFrom(bytes.subarray(0, size))]);
  kept.size += size;
  kept.dropped += bytes.length - size;
}

function sayKept() {
  if (kept.size === 0) return;
  for (const [kind, bytes] of kept.parts) produce(kind, bytes);
  if (kept.dropped > 0) produce(2, bytesOf(`... [${kept.dropped} bytes printed between cells dropped] ...\n`));
  Object.assign(kept, { parts: [], size: 0, dropped: 0 });
}

function complain(text) {
  say(2, bytesOf(`${text}\n`));
}

// Whether the FIFOs may hold something: from the first time on that user code starts a child or a thread, loads native
// code or a part of Node that it had not loaded before (WASI writes to descriptors), or names descriptor 1 or 2.
// (`new net.Socket({fd: 1})` escapes this: what it writes is found by the worker, or at the end of a later cell.)
let strangers = false;
let modulesLoaded = 0;

function mayHavePiped() {
  if (process.moduleLoadList.length !== modulesLoaded) {
    modulesLoaded = process.moduleLoadList.length;
    strangers ||= process.moduleLoadList.some((name) => /\bwasi$/.test(name));
    return true;
  }
  return strangers;
}

// Somebody else is about to write to the pipes.
function foreign() {
  strangers = true;
  if (current === null || current.foreign) return;
  settle();
  current.foreign = true;
}

function hasLiveChildren() {
  for (const child of children) if (child.exitCode !== null || child.signalCode !== null) children.delete(child);
  return children.size > 0;
}

// Replaces `holder[name]` by what `make` makes of it, with its own properties (`util.promisify.custom`).
function wrap(holder, name, make) {
  const original = holder[name];
  const wrapped = make(original);
  for (const [key, value] of Object.entries(Object.getOwnPropertyDescriptors(original))) {
    if (key !== 'prototype') defineProperty(wrapped, key, value);
  }
  for (const key of Object.getOwnPropertySymbols(original)) {
    defineProperty(wrapped, key, getOwnPropertyDescriptor(original, key));
  }
  holder[name] = wrapped;
}

function watchDescriptors() {
  const isStandard = (target) => target === 1 || target === 2 || (typeof target === 'string' && STANDARD.test(target));
  const names = ['write', 'writeSync', 'writev', 'writevSync', 'writeFile', 'writeFileSync', 'appendFile'];
  for (const name of [...names, 'appendFileSync', 'createWriteStream', 'open', 'openSync']) {
    wrap(fs, name, (original) => function (target, ...rest) {
      if (isStandard(target)) {
        // A full pipe would hold this thread for ever.
        if (current === null && name === 'writeSync') {
          const bytes = typeof rest[0] === 'string' ? bytesOf(rest[0]) : rest[0];
          keep(target, bytes);
          return bytes.length;
        }
        foreign();
      }
      return apply(original, this, [target, ...rest]);
    });
  }
  for (const [holder, name] of [[process, 'dlopen'], [process, 'binding']]) {
    wrap(holder, name, (original) => function (...rest) {
      strangers = true;
      return apply(original, this, rest);
    });
  }
  threads.Worker = new Proxy(threads.Worker, {
    construct(target, parts, self) {
      strangers = true;
      return Reflect.construct(target, parts, self);
    },
  });
  for (const name of ['spawnSync', 'execSync', 'execFileSync']) {
    wrap(childProcess, name, (original) => function (...rest) {
      foreign();
      Atomics.store(state, BLOCKED, 1);
      Atomics.add(state, PARK, 1);
      Atomics.notify(state, PARK);
      try {
        return apply(original, this, rest);
      } finally {
        Atomics.store(state, BLOCKED, 0);
      }
    });
  }
  wrap(childProcess.ChildProcess.prototype, 'spawn', (original) => function (...rest) {
    foreign();
    const result = apply(original, this, rest);
    if (this.pid !== undefined) children.add(this);
    return result;
  });
}

// Callbacks of timers run where SIGINT ends them, with the promise jobs that they cause. Those of a cell that was
// interrupted or exited run no more: its loops over `await` end there.
function watchTimers() {
  for (const name of ['setTimeout', 'setInterval', 'setImmediate']) {
    wrap(timers, name, (original) => function (callback, ...rest) {
      if (typeof callback !== 'function') return apply(original, this, [callback, ...rest]);
      const owner = current;
      const guarded = function (...parts) {
        if (owner !== null && owner.over && (owner.interrupted || owner.exit !== null)) {
          if (name === 'setInterval') timers.clearInterval(this);
          return;
        }
        interruptible(() => {
          apply(callback, this, parts);
          apply(runTicks, process, []);
        });
      };
      return apply(original, this, [guarded, ...rest]);
    });
    world[name] = timers[name];
  }
}

// A stream that user code cannot close, whose writes are done when `write` returns.
function outputStream(fd) {
  const stream = new Writable({
    // Node would make bytes of text with whatever `Buffer.from` is by then.
    decodeStrings: false,
    write(chunk, encoding, callback) {
      say(fd, typeof chunk === 'string' ? bufferFrom(chunk, encoding) : chunk);
      callback();
    },
  });
  stream.fd = fd;
  stream._type = 'pipe';
  stream.destroySoon = stream.destroy;
  stream._destroy = (error, callback) => callback(error);
  return stream;
}

function inputStream(text) {
  const stream = new Readable({
    read() {
      if (text.length > 0) this.push(bytesOf(text));
      this.push(null);
    },
  });
  stream.fd = 0;
  return stream;
}

const input = { text: '', stream: null, changed: false };

// Descriptor 0 becomes the text, then end of input. Opening takes the lowest free number.
function setInput(text) {
  input.text = text;
  input.stream = null;
  if (text === '' && !input.changed) return;
  input.changed = text !== '';
  try {
    fs.closeSync(0);
  } catch {
    // User code has closed it.
  }
  let file = '/dev/null';
  if (text !== '') {
    file = '/tmp/.cellblock-0';
    fs.rmSync(file, { force: true });
    fs.writeFileSync(file, text, { mode: 0o600 });
  }
  fs.openSync(file, 'r');
}

// The end of the program that the kernel survives; no `catch` or `finally` of user code sees it where that can be.
function exit(code) {
  const cell = current;
  const number = Number(code ?? process.exitCode ?? 0) & 0xff;
  process.exitCode = undefined;
  const request = new ExitRequest(`process.exit(${number})`);
  if (cell !== null && cell.exit === null) {
    cell.exit = number;
    if (inScope) {
      raise();
      for (;;);
    }
    later(() => finish(cell));
  }
  throw request;
}

const owned = { process, console, Buffer };
const outputs = new Map();

function prepareWorld() {
  watchDescriptors();
  watchTimers();
  process.exit = exit;
  // Signals need a handler in libuv, but SIGINT stays with the watchdog's.
  for (const event of ['newListener', 'removeListener']) {
    for (const listener of process.listeners(event)) {
      if (!/Signal/.test(listener.name)) continue;
      process.removeListener(event, listener);
      process.on(event, (name, ...rest) => name !== 'SIGINT' && apply(listener, process, [name, ...rest]));
    }
  }
  process.setUncaughtExceptionCaptureCallback(onUncaught);
  defineProperty(process, 'stdin', {
    get: () => (input.stream ??= inputStream(input.text)),
    configurable: true,
    enumerable: true,
  });
  const require = nodeModule.createRequire(`${HOME}/cell.js`);
  const main = new nodeModule.Module(`${HOME}/cell.js`);
  main.filename = `${HOME}/cell.js`;
  main.paths = require.resolve.paths('x') ?? [];
  require.main = main;
  const names = { require, module: main, exports: main.exports, __filename: main.filename, __dirname: HOME, display };
  Object.assign(owned, { require });
  for (const name of Object.keys(names)) {
    defineProperty(world, name, { value: names[name], writable: true, configurable: true, enumerable: false });
  }
  nodeModule.syncBuiltinESMExports();
}

// After an interrupt, which may have cut a `write` in two.
function dropStreams() {
  outputs.clear();
}

// Whatever earlier cells did to them, a cell starts with working streams, `console`, `process` and `require`.
function mendWorld() {
  for (const [name, fd] of [['stdout', 1], ['stderr', 2]]) {
    const stream = outputs.get(fd);
    const works = stream && !stream.destroyed && !stream.writableEnded && !stream.writableLength;
    if (works && process[name] === stream) continue;
    const fresh = works ? stream : outputStream(fd);
    outputs.set(fd, fresh);
    defineProperty(process, name, { value: fresh, configurable: true, enumerable: true, writable: true });
    owned.console[`_${name}`] = fresh;
  }
  if (typeof world.console?.log !== 'function') restore('console');
  if (typeof world.process?.on !== 'function') restore('process');
  if (typeof world.Buffer?.from !== 'function') restore('Buffer');
  if (typeof world.require !== 'function') restore('require');
}

function restore(name) {
  defineProperty(world, name, { value: owned[name], writable: true, configurable: true, enumerable: false });
}
