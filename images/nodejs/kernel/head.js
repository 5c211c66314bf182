// The Node.js kernel of cellblock: keeps one session's globals and runs its cells.
//
// It speaks the kernel protocol (second half of protocol.md) on descriptors 3 and 4, where the bootstrap put them;
// descriptors 1 and 2 of user code are the write ends of two FIFOs. It knows nothing of clients, limits or containers.
// The files of this folder are one program: src/runtime.rs joins them in the order head, channel, source, values,
// process, files, cells, and the bootstrap runs them as the body of one function.
//
// Three ways to give cells what scripts lack (top-level await, `const x` twice) were tried:
// - `repl`: no static imports, and `const x` twice is an error;
// - the inspector's REPL mode: right for `let` and `const`, but `function f` and then `const f` is an error for ever,
//   file names cannot be `<cell N>`, and every value takes a way through the inspector's JSON;
// - rewriting the source with the parser that Node carries for its own REPL (acorn, `--expose-internals`).
// The last is what this does (source.js). Every top-level name becomes a property of the global object, as `var` does,
// so that any declaration may follow any other. The price: assignment to a `const` is not refused.
//
// Interrupts: `vm` can end a script on SIGINT (`breakOnSigint`), which costs a thread each time unless Node's helper
// thread for it runs already; `startSigintWatchdog` (internal, the REPL's) starts it once and for all. User code is
// called inside such a scope wherever the kernel calls it: cells, timers, inspection. A thread of its own (`listen`,
// channel.js) takes the SIGINTs that reach no scope; another (`watch`) then tells the main thread until it listens, and
// has the inspector cut user code that runs outside of any scope. A cut unwinds without `finally`, so nothing that must
// stay whole happens inside a scope: there the main thread only fills a ring, and the worker sends.
'use strict';

const childProcess = require('child_process');
const fs = require('fs');
const nodeModule = require('module');
const net = require('net');
const path = require('path');
const timers = require('timers');
const util = require('util');
const vm = require('vm');
const { Readable, Writable } = require('stream');
const threads = require('worker_threads');
const { Worker } = threads;

const PROTOCOL = 1;
const COMMANDS = 3;
const MESSAGES = 4;
const CHUNK = 65536;
const HOME = '/workspace';
const PROBE = ['/proc/version', '/proc/self/status', '/proc/self/mounts', '/proc/net/dev'];

const quietly = (call) => {
  const { emitWarning } = process;
  process.emitWarning = () => {};
  try {
    return call();
  } finally {
    process.emitWarning = emitWarning;
  }
};
const acorn = require('internal/deps/acorn/acorn/dist/acorn');
const watchdog = quietly(() => require('internal/test/binding')).internalBinding('contextify');
watchdog.startSigintWatchdog();
// Children that user code forks need none of our flags.
process.execArgv.length = 0;

const pipes = ['/tmp/.cellblock-1', '/tmp/.cellblock-2'].map((name) => {
  const fd = fs.openSync(name, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  fs.unlinkSync(name);
  return fd;
});
// The bootstrap's read-write ends: with them open the FIFOs would never report anything but "empty".
fs.closeSync(5);
fs.closeSync(6);

// User code may replace what it can reach; the kernel keeps what it needs.
const { parse, stringify } = JSON;
const { apply } = Reflect;
const { defineProperty, getOwnPropertyDescriptor } = Object;
const { inspect } = util;
const { isPromise, isNativeError, isUint8Array } = util.types;
const { isUtf8 } = require('buffer');
const { setImmediate: later } = timers;
const { from: bufferFrom, concat, byteLength } = Buffer;
const bytesOf = (text) => bufferFrom(text);
const sliceText = Function.prototype.call.bind(Buffer.prototype.utf8Slice);
const then = Function.prototype.call.bind(Promise.prototype.then);
const reallyExit = process.reallyExit.bind(process);
const resourceUsage = process.resourceUsage.bind(process);
const { performance } = require('perf_hooks');
const raise = process.kill.bind(process, process.pid, 'SIGINT');
const runTicks = process._tickCallback;
const wellFormed = Function.prototype.call.bind(
  String.prototype.toWellFormed ||
    function viaBytes() {
      const bytes = bytesOf(String(this));
      return sliceText(bytes, 0, bytes.length);
    },
);
const world = globalThis;

// What ends a cell from outside its own code.
class ExitRequest extends Error {}
const INTERRUPTED = new (class Interrupted extends Error {})('the cell was interrupted');

// The running cell, or null.
let current = null;
