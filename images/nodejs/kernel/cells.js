
// ---- cells: running them, and ending them ----
//
// A cell ends when its value is there (a promise is awaited) or something else ends it: an exception, an exception or
// rejection that nobody caught while it ran, `process.exit`, an interrupt. An uncaught exception ends the running cell
// as it would end a program, unless all its frames are of earlier cells: then, and between cells, it goes to stderr.

// Called by name from a script of its own, for only whole scripts end on SIGINT.
let task = null;
defineProperty(world, '$cellblock', { value: Object.assign(() => task?.(), { cut }) });
const scope = new vm.Script('$cellblock()', { filename: '<kernel>' });
const CUTTABLE = { breakOnSigint: true, displayErrors: false };
let inScope = false;
let inspector = null;
let serial = 0;

// Calls `job` such that SIGINT ends it, for good: no `catch` or `finally` inside runs. Throws INTERRUPTED then.
function interruptible(job) {
  if (inScope) return job();
  // Between scopes a SIGINT is only marked, and the end of a scope takes the mark away.
  if (forgetInterrupt() && current !== null) {
    Atomics.store(state, STOPPING, current.serial);
    throw INTERRUPTED;
  }
  let [threw, cut, result] = [false, false, undefined];
  task = () => {
    task = null;
    try {
      result = job();
    } catch (error) {
      result = error;
      threw = true;
    }
  };
  inScope = true;
  Atomics.store(state, SCOPE, 1);
  try {
    scope.runInThisContext(CUTTABLE);
  } catch {
    // `task` throws nothing: this is the interrupt, which may also come when the job has just ended.
    cut = true;
    Atomics.store(state, BLOCKED, 0);
    if (current !== null) Atomics.store(state, STOPPING, current.serial);
  }
  inScope = false;
  Atomics.store(state, SCOPE, 0);
  if (cut) {
    dropStreams();
    throw INTERRUPTED;
  }
  if (threw) throw result;
  return result;
}

// Takes the mark of a SIGINT that reached no scope; returns whether there was one.
function forgetInterrupt() {
  if (!watchdog.watchdogHasPendingSigint()) return false;
  watchdog.startSigintWatchdog();
  watchdog.stopSigintWatchdog();
  return true;
}

// Called by the inspector in the middle of anything, when the worker finds that this thread does not listen. Ends what
// runs if that is user code outside of any scope: of streams, of promises that files and sockets settle.
function cut() {
  if (current === null || inScope || current.over) return;
  const { prepareStackTrace: prepare } = Error;
  Reflect.set(Error, 'prepareStackTrace', (error, frames) => frames);
  const frames = new Error('cut').stack;
  Reflect.set(Error, 'prepareStackTrace', prepare);
  if (!Array.isArray(frames) || !frames.some((frame) => !OWN.test(frame.getFileName() ?? '<kernel>'))) return;
  if (inspector === null) {
    inspector = new (require('inspector').Session)();
    inspector.connect();
  }
  dropStreams();
  inspector.post('Runtime.terminateExecution');
}

function execute(command) {
  const { cell, count, code } = command;
  serial = serial >= 0x7ffffffe ? 1 : serial + 1;
  const running = { command, serial, began: performance.now(), exit: null, uncaught: null };
  Object.assign(running, { displayed: false, foreign: false, interrupted: false, over: false });
  forgetInterrupt();
  setInput(command.stdin ?? '');
  mendWorld();
  current = running;
  openChannel(cell, serial);
  sayKept();
  running.foreign = hasLiveChildren();
  let script;
  try {
    remember(count, code, []);
    script = compile(code, count);
    remember(count, code, script.shifts);
    declare(script.names);
  } catch (error) {
    return finish(running, { error });
  }
  let [outcome, ran] = [null, false];
  try {
    interruptible(() => {
      const value = run(script);
      ran = true;
      if (isPromise(value)) {
        const settled = (end) => {
          outcome = end;
          // Whatever else this turn brings comes first.
          later(() => finish(running, end));
        };
        then(value, (result) => settled({ value: result }), (error) => settled({ error }));
      } else outcome = present({ value, hasValue: script.hasValue });
      apply(runTicks, process, []);
    });
  } catch (error) {
    // Ticks that were cut short leave Node's books open; only an uncaught exception closes them.
    if (error === INTERRUPTED || ran) {
      // After what is made of the exception itself: it may concern this cell or not.
      if (error !== INTERRUPTED && outcome !== null) later(() => later(() => finish(running, outcome)));
      throw error;
    }
    outcome = { error };
  }
  if (outcome !== null) finish(running, outcome);
}

function run(script) {
  script.functions?.runInThisContext({ displayErrors: false });
  return script.body.runInThisContext({ displayErrors: false });
}

// Adds the bundle of a value, or the promise of one, in the scope that ran the cell.
function present(outcome) {
  if (outcome.value === undefined || outcome.hasValue === false) return outcome;
  return { ...outcome, bundle: bundleOf(outcome.value) };
}

// What Node last told: CPU time, microseconds, and the highest resident size, KiB. What runs between cells counts for
// the next, as its output does.
const known = { cpu: 0, peak: 0 };

// Asking costs more than a small cell: one of under a millisecond has used about the time that it took.
function usage(cell) {
  const took = performance.now() - cell.began;
  if (took < 1 && known.peak > 0) {
    known.cpu += took * 1e3;
    return { cpu_ms: took, memory_peak: known.peak * 1024 };
  }
  const { userCPUTime, systemCPUTime, maxRSS } = resourceUsage();
  const used = Math.max(0, userCPUTime + systemCPUTime - known.cpu);
  Object.assign(known, { cpu: userCPUTime + systemCPUTime, peak: maxRSS });
  return { cpu_ms: used / 1e3, memory_peak: maxRSS * 1024 };
}

// Ends the cell, once; the last message about it leaves here.
function finish(cell, outcome = {}) {
  if (cell.over) return;
  const { command } = cell;
  if (cell.uncaught !== null && !('error' in outcome)) outcome = cell.uncaught;
  const done = { type: 'done', cell: command.cell, status: 'ok', interrupted: false };
  Object.assign(done, { result: null, error: null, exit_code: null });
  try {
    if (cell.exit === null && !cell.interrupted && !('error' in outcome)) {
      if ('value' in outcome && !('bundle' in outcome)) outcome = interruptible(() => present(outcome));
      if (isPromise(outcome.bundle)) {
        const { value } = outcome;
        const go = (end) => later(() => finish(cell, end));
        then(outcome.bundle, (bundle) => go({ value, bundle }), (error) => go({ error }));
        return;
      }
      if (outcome.bundle) {
        done.result = interruptible(() => encode(outcome.bundle, command));
        remind(outcome.value);
      }
    }
  } catch (error) {
    outcome = { error };
    if (error === INTERRUPTED) cell.interrupted = true;
  }
  if (cell.exit === null && !cell.interrupted && 'error' in outcome) {
    done.error = describe(outcome.error, command.max_value);
  }
  const stopped = cell.interrupted;
  cell.over = true;
  Atomics.store(state, HEARD, cell.serial);
  cell.interrupted ||= cell.exit === null && watchdog.watchdogHasPendingSigint();
  current = null;
  closeChannel(command.cell, cell.displayed, mayHavePiped());
  if (cell.exit !== null) {
    done.exit_code = cell.exit;
    const message = String(cell.exit);
    if (cell.exit !== 0) done.error = { name: 'ProcessExit', message, traceback: [`process.exit(${message})`] };
  } else if (stopped) {
    const message = INTERRUPTED.message;
    done.error = { name: 'Interrupted', message, traceback: [`Interrupted: ${message}`] };
  }
  done.interrupted = cell.interrupted;
  if (done.error !== null) done.status = 'error';
  Object.assign(done, usage(cell));
  channel.send(done);
}

let reminded;

// `_` is the last value, unless user code has taken the name.
function remind(value) {
  if (getOwnPropertyDescriptor(world, '_') !== undefined && world._ !== reminded) return;
  reminded = value;
  defineProperty(world, '_', { value, writable: true, enumerable: false, configurable: true });
}

// The worker saw a SIGINT that reached no scope.
function onInterrupt(number) {
  const cell = current;
  if (cell === null || cell.serial !== number) return;
  cell.interrupted ||= cell.exit === null;
  finish(cell);
}

function onUncaught(error) {
  const cell = current;
  if (error instanceof ExitRequest) return;
  if (error === INTERRUPTED) {
    if (cell === null) return;
    if (cell.exit === null) cell.interrupted = true;
    drain();
    later(() => finish(cell));
    return;
  }
  if (process.listenerCount('uncaughtException') > 0) {
    process.emit('uncaughtException', error, 'uncaughtException');
    return;
  }
  if (cell !== null && cell.uncaught === null && concerns(error, cell)) {
    cell.uncaught = { error };
    later(() => finish(cell));
  } else complain(`Uncaught ${describe(error, CHUNK).traceback.join('\n')}`);
}

// After this Node runs what is left of the ticks, outside of any scope. A storm of them must end before: the worker
// cuts it here until it does.
function drain() {
  for (let cuts = 0; cuts < 100; cuts++) {
    try {
      return interruptible(() => apply(runTicks, process, []));
    } catch (error) {
      if (error !== INTERRUPTED) complain(`Uncaught ${describe(error, CHUNK).traceback.join('\n')}`);
    }
  }
}

function concerns(error, cell) {
  try {
    const stack = String(error?.stack);
    return !stack.includes('<cell ') || stack.includes(`<cell ${cell.command.count}>`);
  } catch {
    return true;
  }
}

function readText(file) {
  try {
    return fs.readFileSync(file, 'utf8').slice(0, CHUNK);
  } catch {
    return null;
  }
}

function dispatch(command) {
  switch (command.type) {
    case 'execute':
      return execute(command);
    case 'configure':
      Object.assign(process.env, command.env);
      return channel.send({ type: 'pong', id: command.id });
    case 'ping':
      return channel.send({ type: 'pong', id: command.id });
    case 'file.read':
    case 'file.write':
    case 'file.list':
    case 'file.delete':
      return answerFile(command);
  }
}

function serve() {
  let pending = [];
  const lines = [];
  const work = () => {
    while (lines.length > 0) {
      const command = parse(lines.shift());
      try {
        dispatch(command);
      } catch (error) {
        // A message that cannot be written means that nobody listens any more.
        if (error?.code === 'EPIPE') reallyExit(1);
        if (lines.length > 0) later(work);
        throw error;
      }
    }
  };
  const commands = new net.Socket({ fd: COMMANDS, readable: true, writable: false });
  commands.on('error', () => reallyExit(1));
  commands.on('end', () => reallyExit(0));
  commands.on('data', (chunk) => {
    let [start, newline] = [0, 0];
    while ((newline = chunk.indexOf(10, start)) >= 0) {
      const rest = chunk.subarray(start, newline);
      const line = pending.length > 0 ? concat([...pending, rest]) : rest;
      lines.push(sliceText(line, 0, line.length));
      pending = [];
      start = newline + 1;
    }
    if (start < chunk.length) pending.push(chunk.subarray(start));
    work();
  });
}

prepareWorld();
mendWorld();
usage({ began: 0 });
const probe = Object.fromEntries(PROBE.map((file) => [file, readText(file)]));
const capabilities = ['display', 'stdin', 'configure', 'files'];
const { node: version } = process.versions;
channel.send({ type: 'ready', protocol: PROTOCOL, kernel: 'nodejs', version, probe, capabilities });
serve();
startWorkers();
