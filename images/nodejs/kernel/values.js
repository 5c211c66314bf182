
// ---- values: results, displays and errors as text ----
//
// A value with a method `[Symbol.for('Jupyter.display')]()` (Deno's convention) is shown as the MIME bundle that the
// method returns, or its promise. `display(value)`, `display(bundle)` and `display(mime, data)` show at once.

const JUPYTER = Symbol.for('Jupyter.display');
const MIME = /^[\w.+-]+\/[\w.+-]+$/;
const isJson = (mime) => /^application\/json$|\+json$/.test(mime);
// How many parts a value may have to be offered as JSON too.
const JSON_PARTS = 20000;

// The sources of cells, newest last, for the lines in tracebacks.
const sources = new Map();
const SOURCES = 4 << 20;
let sourcesSize = 0;

function remember(count, code, shifts) {
  sources.set(count, { code, shifts });
  sourcesSize += code.length;
  for (const [old, { code: text }] of sources) {
    if (sourcesSize <= SOURCES || old === count) break;
    sources.delete(old);
    sourcesSize -= text.length;
  }
}

// The MIME bundle of a value, or a promise of it.
function bundleOf(value) {
  if (value !== null && (typeof value === 'object' || typeof value === 'function')) {
    const show = value[JUPYTER];
    if (typeof show === 'function') {
      const shown = apply(show, value, []);
      const complete = (bundle) => ({ 'text/plain': inspect(value), ...bundle });
      return isPromise(shown) ? then(shown, complete) : complete(shown);
    }
  }
  const plain = typeof value === 'string' ? inspect(value, { maxStringLength: Infinity }) : inspect(value);
  const bundle = { 'text/plain': plain };
  if (isPlain(value)) bundle['application/json'] = stringify(value);
  return bundle;
}

// Whether JSON says all of it: arrays and plain objects of plain things, of bounded size and depth.
function isPlain(value) {
  let left = JSON_PARTS;
  const visit = (item, depth) => {
    if (--left < 0 || depth > 50) return false;
    if (item === null || typeof item === 'boolean') return true;
    if (typeof item === 'string') return (left -= item.length >> 4) >= 0;
    if (typeof item === 'number') return Number.isFinite(item);
    if (typeof item !== 'object' || util.types.isProxy(item)) return false;
    if (Array.isArray(item)) return item.every((part) => visit(part, depth + 1));
    const prototype = Object.getPrototypeOf(item);
    if ((prototype !== Object.prototype && prototype !== null) || typeof item.toJSON === 'function') return false;
    if (Object.getOwnPropertySymbols(item).length > 0) return false;
    return Object.keys(item).every((key) => visit(item[key], depth + 1));
  };
  return typeof value === 'object' && value !== null && visit(value, 0);
}

// The bundle in texts and within the limits, and how many bytes were left out.
function encode(bundle, { max_value: limit, max_media: media = limit }) {
  const data = {};
  let [dropped, left] = [0, media];
  for (const mime of Object.keys(bundle)) {
    const item = bundle[mime];
    if (!MIME.test(mime) || item === undefined || item === null) continue;
    if (mime === 'text/plain') {
      const [text, cut] = clip(item, limit);
      data[mime] = text;
      dropped += cut;
      continue;
    }
    const text = asText(mime, item);
    const size = byteLength(text);
    if (size > left) dropped += size;
    else {
      data[mime] = text;
      left -= size;
    }
  }
  return { data, dropped };
}

function asText(mime, item) {
  if (isUint8Array(item)) {
    const bytes = bufferFrom(item.buffer, item.byteOffset, item.byteLength);
    return /^text\/|json$|xml$/.test(mime) ? sliceText(bytes, 0, bytes.length) : bytes.base64Slice(0, bytes.length);
  }
  if (!isJson(mime)) return wellFormed(String(item));
  if (typeof item === 'string') {
    try {
      parse(item);
      return wellFormed(item);
    } catch {
      // Text that is no JSON is shown as a JSON string.
    }
  }
  return wellFormed(stringify(item) ?? 'null');
}

function display(...parts) {
  const bundle = parts.length > 1 ? { [String(parts[0])]: parts[1] } : parts[0];
  if (parts.length > 1 && !MIME.test(String(parts[0]))) {
    throw new TypeError(`display(mime, data): ${inspect(parts[0])} is no MIME type such as 'text/html'`);
  }
  const keys = bundle !== null && typeof bundle === 'object' ? Object.keys(bundle) : [];
  const isBundle = keys.length > 0 && keys.every((key) => MIME.test(key)) && !isUint8Array(bundle);
  const shown = isBundle ? bundle : bundleOf(bundle);
  return isPromise(shown) ? then(shown, show) : show(shown);
}

function show(bundle) {
  const cell = current;
  if (cell === null) return;
  // A supervisor that sends no `max_media` knows no displays.
  if (cell.command.max_media === undefined) {
    process.stdout.write(`${clip(bundle['text/plain'] ?? Object.values(bundle)[0], cell.command.max_value)[0]}\n`);
    return;
  }
  const message = { type: 'display', cell: cell.command.cell, ...encode(bundle, cell.command) };
  cell.displayed = true;
  if (cell.foreign) settlePipes();
  produce(MESSAGE, bytesOf(`${stringify(message)}\n`));
}

// The text in at most `limit` bytes of UTF-8, head and tail, and how many bytes were left out.
function clip(text, limit) {
  text = wellFormed(String(text));
  const size = byteLength(text);
  if (size <= limit) return [text, 0];
  const bytes = bytesOf(text);
  let head = (limit + 1) >> 1;
  let tail = size - (limit >> 1);
  while (head > 0 && (bytes[head] & 0xc0) === 0x80) head--;
  while (tail < size && (bytes[tail] & 0xc0) === 0x80) tail++;
  const dropped = tail - head;
  return [`${sliceText(bytes, 0, head)}\n... [${dropped} bytes dropped] ...\n${sliceText(bytes, tail, size)}`, dropped];
}

// Files whose frames are no user's.
const OWN = /^node:|^<kernel>|^\[eval\]|\/\.cell\.js$/;

// Frames of the user's own code, at the user's own positions.
function frameLines(frames) {
  const lines = [];
  let seen = false;
  // From the oldest on: native frames count only on top of a frame of the user's.
  for (let i = frames.length - 1; i >= 0; i--) {
    const file = frames[i].getFileName() ?? '';
    if (OWN.test(file)) continue;
    // An asynchronous cell's imports stand above its first line, the call of its body below its last.
    const [, count] = /^<cell (\d+)>$/.exec(file) ?? [];
    const source = sources.get(Number(count));
    const line = frames[i].getLineNumber() ?? 0;
    if (source && (line < 1 || line > source.code.split('\n').length)) continue;
    seen ||= file !== '' || frames[i].isEval();
    if (seen) lines.unshift(`    at ${straight(String(frames[i]))}`);
  }
  return lines;
}

function straight(frame) {
  return frame.replace(/<cell (\d+)>:(\d+):(\d+)/g, (all, count, line, column) => {
    let by = 0;
    for (const shift of sources.get(Number(count))?.shifts ?? []) {
      if (shift.line === Number(line) && shift.column < column) by += shift.by;
    }
    return `<cell ${count}>:${line}:${Math.max(column - by, 1)}`;
  });
}

// Shown by `error.stack` itself, so that what user code prints is as clean as a traceback.
function prepareStackTrace(error, frames) {
  let header;
  try {
    header = Error.prototype.toString.call(error);
    if (typeof error.code === 'string' && /^ERR_/.test(error.code)) {
      header = header.replace(/^\w+(?=:|$)/, (name) => `${name} [${error.code}]`);
    }
  } catch {
    header = 'Error: a message that cannot be shown';
  }
  return [header, ...frameLines(frames).slice(0, FRAMES)].join('\n');
}
Error.prepareStackTrace = prepareStackTrace;
// Node's ten are used up by the kernel's own frames, which nobody sees.
const FRAMES = 20;
Error.stackTraceLimit = FRAMES + 20;

// Anything can be thrown: null, strings, proxies, errors whose getters throw.
function describe(error, limit) {
  try {
    return interruptible(() => {
      if (!isNativeError(error) && !(error instanceof Error)) {
        const text = clip(inspect(error), limit)[0];
        return { name: 'Thrown', message: text, traceback: text.split('\n') };
      }
      const traceback = clip(traced(error, 0).join('\n'), limit)[0].split('\n');
      return { name: wellFormed(String(error.name)), message: clip(String(error.message), limit)[0], traceback };
    });
  } catch (failure) {
    if (failure === INTERRUPTED && current !== null) current.interrupted = true;
    return { name: 'Thrown', message: 'a value that cannot be shown', traceback: ['a value that cannot be shown'] };
  }
}

// The stack with the cells' source lines, the error's own simple properties, and what caused it.
function traced(error, depth) {
  const lines = [];
  const stack = typeof error.stack === 'string' ? error.stack : String(error);
  for (const line of stack.split('\n')) {
    if (/^ {4}at .*(?:node:|<kernel>|\[eval\])/.test(line)) continue;
    lines.push(line);
    const [, count, row] = /^ {4}at .*<cell (\d+)>:(\d+):\d+\)?$/.exec(line) ?? [];
    const text = sources.get(Number(count))?.code.split('\n')[row - 1]?.trim();
    if (text) lines.push(`        ${text.slice(0, 200)}`);
  }
  const extra = {};
  for (const key of Object.keys(error).slice(0, 20)) {
    const value = error[key];
    if (value === null || !['object', 'function'].includes(typeof value)) extra[key] = value;
  }
  if (Object.keys(extra).length > 0) lines.push(...`    ${inspect(extra)}`.split('\n'));
  const inner = [...(error.cause === undefined ? [] : [['cause', error.cause]])];
  if (Array.isArray(error.errors)) inner.push(...error.errors.slice(0, 10).map((item, i) => [`errors[${i}]`, item]));
  for (const [name, item] of depth < 5 ? inner : []) {
    const text = isNativeError(item) ? traced(item, depth + 1) : inspect(item).split('\n');
    lines.push(...`[${name}]: ${text.join('\n')}`.split('\n').map((line) => `  ${line}`));
  }
  return lines;
}
