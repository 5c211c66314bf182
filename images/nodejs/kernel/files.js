
// ---- files: the supervisor's view of /workspace, between cells ----

const FILE_LIMIT = 1 << 20;
const CODES = {
  ENOENT: 'not_found', EISDIR: 'is_directory', ENOTDIR: 'not_found', ENOSPC: 'no_space', EDQUOT: 'no_space',
  EFBIG: 'too_large', ENOTEMPTY: 'not_empty', EACCES: 'denied', EPERM: 'denied', EROFS: 'denied', ELOOP: 'outside',
};
const {
  closeSync, fstatSync, ftruncateSync, lstatSync, mkdirSync, openSync, opendirSync, readSync, realpathSync, rmSync,
  rmdirSync, unlinkSync,
} = fs;
const { O_RDONLY, O_WRONLY, O_CREAT, O_NONBLOCK, O_NOFOLLOW } = fs.constants;

class FileError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

function answerFile(command) {
  const answer = { type: 'file', id: command.id };
  try {
    Object.assign(answer, operations[command.type](command));
  } catch (error) {
    const code = error instanceof FileError ? error.code : CODES[error?.code] ?? 'io';
    answer.error = { code, message: wellFormed(String(error?.message)) };
  }
  channel.send(answer);
}

const operations = {
  'file.read'({ path: name, offset, length }) {
    return opened(resolve(name), O_RDONLY, (fd, { size }) => {
      const bytes = Buffer.allocUnsafe(Math.max(0, Math.min(length, FILE_LIMIT, size - offset)));
      let at = 0;
      for (let count = 1; at < bytes.length && count > 0; at += count) {
        count = readSync(fd, bytes, at, bytes.length - at, offset + at);
      }
      return { data: bytes.base64Slice(0, at), size };
    });
  },
  'file.write'({ path: name, offset, truncate, data }) {
    const bytes = bufferFrom(data, 'base64');
    if (bytes.length > FILE_LIMIT) throw new FileError('too_large', `${bytes.length} bytes; at most ${FILE_LIMIT}`);
    return opened(resolve(name, true), O_WRONLY | O_CREAT, (fd) => {
      if (truncate) ftruncateSync(fd, offset);
      for (let at = 0; at < bytes.length;) at += writeDescriptor(fd, bytes, at, bytes.length - at, offset + at);
      return { size: fstatSync(fd).size };
    });
  },
  'file.list'({ path: name, recursive, max }) {
    const top = resolve(name);
    const start = relative(top);
    const entries = [];
    if (!lstatSync(top).isDirectory()) return { entries: [entry(top, start)], truncated: false };
    const truncated = walk(top, start, recursive, max, entries);
    return { entries, truncated };
  },
  'file.delete'({ path: name, recursive }) {
    const target = resolve(name, false, true);
    if (target === realpathSync(HOME)) throw new FileError('denied', `${HOME} itself cannot be deleted`);
    if (!lstatSync(target).isDirectory()) unlinkSync(target);
    else if (recursive) rmSync(target, { recursive: true });
    else rmdirSync(target);
    return {};
  },
};

// The real path of `name`; with `create` its parents come into being, with `link` a last symlink is not followed.
function resolve(name, create = false, link = false) {
  const home = realpathSync(HOME);
  const parts = name.replace(/^\/workspace(?=\/|$)/, '').split('/');
  const outside = () => new FileError('outside', `\`${name}\` is not below ${HOME}`);
  const elsewhere = name.startsWith('/') && !/^\/workspace(\/|$)/.test(name);
  if (elsewhere || parts.includes('..') || name.includes('\0')) throw outside();
  let at = home;
  const rest = parts.filter((part) => part !== '' && part !== '.');
  rest.forEach((part, i) => {
    const last = i === rest.length - 1;
    const next = path.join(at, part);
    let stat = lstatSync(next, { throwIfNoEntry: false });
    if (!stat && create && !last) {
      mkdirSync(next);
      stat = lstatSync(next);
    }
    at = next;
    if (stat?.isSymbolicLink() && !(last && link)) {
      at = realpathSync(next);
      if (at !== home && !at.startsWith(`${home}/`)) throw outside();
    }
  });
  return at;
}

const relative = (target) => path.relative(realpathSync(HOME), target);

function opened(target, flags, use) {
  if (lstatSync(target, { throwIfNoEntry: false })?.isDirectory()) {
    throw new FileError('is_directory', `\`${relative(target)}\` is a directory`);
  }
  const irregular = () => new FileError('not_a_file', `\`${relative(target)}\` is no regular file`);
  let fd;
  try {
    fd = openSync(target, flags | O_NONBLOCK | O_NOFOLLOW, 0o644);
  } catch (error) {
    // A FIFO without a reader, a socket.
    throw error.code === 'ENXIO' ? irregular() : error;
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw irregular();
    return use(fd, stat);
  } finally {
    closeSync(fd);
  }
}

function entry(target, shown) {
  const stat = lstatSync(target, { bigint: true });
  const type = stat.isFile() ? 'file' : stat.isDirectory() ? 'directory' : stat.isSymbolicLink() ? 'symlink' : 'other';
  return { path: wellFormed(shown), type, size: Number(stat.size), modified_ns: Number(stat.mtimeNs) };
}

// Lists in the order of paths; returns whether there is more. Of one directory it holds the names only.
function walk(folder, shown, recursive, max, entries) {
  const names = [];
  const handle = opendirSync(folder);
  try {
    for (let item; (item = handle.readSync()) !== null;) names.push(item.name);
  } finally {
    handle.closeSync();
  }
  for (const name of names.sort()) {
    if (entries.length >= max) return true;
    const target = path.join(folder, name);
    const label = shown === '' ? name : `${shown}/${name}`;
    let found;
    try {
      found = entry(target, label);
    } catch (error) {
      if (error.code !== 'ENOENT') throw error;
      // A name that is not UTF-8, which cannot be asked for by text, or a file that is gone.
      found = { path: wellFormed(label), type: 'other', size: 0, modified_ns: 0 };
    }
    entries.push(found);
    if (recursive && found.type === 'directory' && walk(target, label, true, max, entries)) return true;
  }
  return false;
}
