
// ---- source: from the text of a cell to scripts ----
//
// Text is replaced in place, by the same number of characters where that can be, so that lines and columns stay the
// user's; what had to be inserted is in `shifts`, by which positions are put right again (values.js).
// - `const` and `let` at the top become `var`, a class `var A = class A`; the names may be declared again.
// - `import` (the call, and `import.meta`) becomes `$mport`, which resolves from /workspace and NODE_PATH.
// - A cell with `await` or imports at its top is the body of an async function whose declarations are assignments to
//   globals; its functions run before it as a script of their own, blank everywhere else.
// What acorn cannot read goes to V8 as it is: for V8's own message, or because V8 knows newer syntax.

const PARSER = {
  ecmaVersion: 'latest',
  sourceType: 'script',
  allowAwaitOutsideFunction: true,
  allowImportExportEverywhere: true,
  allowHashBang: true,
};
const PROGRAMS = 'apt|apt-get|cat|cd|cp|curl|echo|git|ls|mkdir|mv|node|npm|npx|pip3?|python3?|pwd|rm|sh|wget|yarn|pnpm';
const SHELL = new RegExp(
  `^(?:%|!\\s*(?:${PROGRAMS})\\b(?!\\s*[(.[=])|(?:npm|npx|yarn|pnpm|pip3?|apt|apt-get)\\s+[\\w-])`,
);
const SIMPLE = /^[\w\s.+*()"',[\]-]*$/;
const WORDS = 'async await class const debugger do enum export for function if import let return switch throw try';
const KEYWORD = new RegExp(`\\b(?:${WORDS.replaceAll(' ', '|')}|using|var|while|with|yield)\\b`);

// The plan of a cell: `functions` (script text or null), `body` (text), `isAsync`, `names` (declared at the top),
// `hasValue` (the last statement is an expression), `shifts`, `firstColumn`.
function plan(code) {
  const line = code.split('\n', 8).find((text) => text.trim() !== '') ?? '';
  if (SHELL.test(line.trim())) throw shellError(line.trim());
  const plain = { functions: null, body: code, isAsync: false, names: [], hasValue: true, shifts: [], firstColumn: 0 };
  // Most of what is typed at a prompt declares nothing.
  if (code.length < 200 && SIMPLE.test(code) && !KEYWORD.test(code)) return plain;
  const object = objectLiteral(code);
  if (object !== null) return { ...plain, body: object, firstColumn: -1 };
  let program;
  try {
    program = acorn.parse(code, PARSER);
  } catch (error) {
    return { ...plain, failure: error };
  }
  const last = program.body.filter((node) => node.type !== 'EmptyStatement').at(-1);
  const hasValue = last?.type === 'ExpressionStatement' || last?.type === 'ExportDefaultDeclaration';
  const found = survey(program);
  const isAsync = found.awaits || program.body.some((node) => node.type === 'ImportDeclaration');
  const edits = found.imports.map((at) => [at, 6, '$mport']);
  const names = new Set();
  const imports = [];
  const functions = [];
  for (const node of program.body) editTop(code, node, isAsync, edits, names, imports, functions);
  for (const { node, inHead } of found.vars) {
    for (const { id } of node.declarations) bound(id, names);
    if (isAsync && !program.body.includes(node)) assign(code, node, inHead, edits);
  }
  if (isAsync && last?.type === 'ExpressionStatement') {
    const end = code[last.end - 1] === ';' ? last.end - 1 : last.end;
    edits.push([last.start, 0, 'return ('], [end, 0, ')']);
  }
  const shared = { isAsync, names: [...names], hasValue };
  if (!isAsync) {
    const { text, shifts } = edited(code, edits);
    return { ...plain, ...shared, body: text, shifts };
  }
  // Two texts of the same shape: the functions alone, and all but them.
  const within = ([at]) => functions.some(({ start, end }) => at >= start && at < end);
  const others = gaps(functions, code.length);
  const hoisted = functions.length > 0 ? edited(blank(code, others), edits.filter(within)).text : null;
  const rest = blank(code, functions.map(({ start, end }) => [start, end]));
  const { text, shifts } = edited(rest, edits.filter((edit) => !within(edit)));
  return { ...plain, ...shared, functions: hoisted, body: `(async () => {${imports.join('')}\n${text}\n})()`, shifts };
}

function shellError(line) {
  const error = new SyntaxError(
    `\`${line.slice(0, 80)}\` is no JavaScript, and cells have no magic commands. Packages come with the image ` +
      "(install them in its Dockerfile); to run a program: require('child_process').execSync('ls', {stdio: 'inherit'})",
  );
  error.stack = `SyntaxError: ${error.message}`;
  return error;
}

// `{a: 1}` at the start is an object, as at every prompt, unless it reads as nothing but a block.
function objectLiteral(code) {
  if (!/^\s*\{/.test(code) || /;\s*$/.test(code)) return null;
  try {
    const text = `(${code}\n)`;
    const { body } = acorn.parse(text, { ...PARSER, allowAwaitOutsideFunction: false });
    if (body.length !== 1 || body[0].expression?.type !== 'ObjectExpression' || text.includes('import')) return null;
    return text;
  } catch {
    return null;
  }
}

// One walk over the whole tree: awaits and `var`s that belong to the top, `import(` and `import.meta` anywhere.
function survey(program) {
  const found = { awaits: false, vars: [], imports: [] };
  const visit = (node, top, inHead) => {
    switch (node.type) {
      case 'AwaitExpression':
        found.awaits ||= top;
        break;
      case 'ForOfStatement':
        found.awaits ||= top && node.await;
        break;
      case 'ImportExpression':
        found.imports.push(node.start);
        break;
      case 'MetaProperty':
        if (node.meta.name === 'import') found.imports.push(node.start);
        break;
      case 'VariableDeclaration':
        if (top && node.kind === 'var') found.vars.push({ node, inHead });
        if (top && node.kind === 'await using') found.awaits = true;
        break;
    }
    const inner = top && !/Function|^StaticBlock$/.test(node.type);
    for (const key in node) {
      const child = node[key];
      if (child === null || typeof child !== 'object') continue;
      const head = /^For/.test(node.type) && (key === 'init' || key === 'left');
      if (Array.isArray(child)) for (const item of child) item?.type && visit(item, inner, false);
      else if (child.type) visit(child, inner, head);
    }
  };
  visit(program, true, false);
  return found;
}

// Adds the names that a pattern binds.
function bound(pattern, names) {
  if (!pattern) return;
  if (pattern.type === 'Identifier') names.add(pattern.name);
  else if (pattern.type === 'ObjectPattern') {
    for (const item of pattern.properties) bound(item.value ?? item.argument, names);
  } else if (pattern.type === 'ArrayPattern') for (const item of pattern.elements) bound(item, names);
  else bound(pattern.left ?? pattern.argument, names);
}

function editTop(code, node, isAsync, edits, names, imports, functions) {
  const wipe = (start, end) => edits.push([start, end - start, spaces(code.slice(start, end))]);
  switch (node.type) {
    case 'ImportDeclaration': {
      const take = node.specifiers.map(({ type, imported, local }) => {
        names.add(local.name);
        if (type === 'ImportDefaultSpecifier') return ['default', local.name];
        return [type === 'ImportNamespaceSpecifier' ? '*' : imported.name ?? imported.value, local.name];
      });
      const attributes = (node.attributes ?? []).map(({ key, value }) => [key.name ?? key.value, value.value]);
      const from = [node.source.value, take, Object.fromEntries(attributes)];
      imports.push(`await $mport.take(${from.map((item) => stringify(item)).join(', ')}); `);
      wipe(node.start, node.end);
      break;
    }
    case 'ExportNamedDeclaration':
      if (!node.declaration) return wipe(node.start, node.end);
      wipe(node.start, node.declaration.start);
      return editTop(code, node.declaration, isAsync, edits, names, imports, functions);
    case 'ExportAllDeclaration':
      return wipe(node.start, node.end);
    case 'ExportDefaultDeclaration': {
      const { declaration } = node;
      wipe(node.start, declaration.start);
      if (declaration.id) return editTop(code, declaration, isAsync, edits, names, imports, functions);
      edits.pop();
      const width = declaration.start - node.start;
      edits.push([node.start, width, `${isAsync ? 'return' : ''} (`.padStart(width)]);
      edits.push([code[node.end - 1] === ';' ? node.end - 1 : node.end, 0, ')']);
      break;
    }
    case 'FunctionDeclaration':
      names.add(node.id.name);
      functions.push(node);
      break;
    case 'ClassDeclaration':
      names.add(node.id.name);
      edits.push([node.start, 0, `${isAsync ? ' !(' : 'var '}${node.id.name} = `], [node.end, 0, isAsync ? ');' : ';']);
      break;
    case 'VariableDeclaration':
      if (!['const', 'let', 'var'].includes(node.kind)) break;
      for (const { id } of node.declarations) bound(id, names);
      if (isAsync) assign(code, node, false, edits);
      else {
        edits.push([node.start, node.kind.length, 'var'.padEnd(node.kind.length)]);
        if (node.kind !== 'var') initialise(node, edits);
      }
      break;
  }
}

// `let x;` in a later cell makes it undefined again.
function initialise(node, edits) {
  for (const { id, init } of node.declarations) if (!init) edits.push([id.end, 0, ' = undefined']);
}

// A declaration as assignments; `!` because no earlier line can go on with it.
function assign(code, node, inHead, edits) {
  if (inHead) {
    edits.push([node.start, node.kind.length, ' '.repeat(node.kind.length)]);
    return;
  }
  edits.push([node.start, node.kind.length, ' !('.padStart(node.kind.length)]);
  if (node.kind !== 'var') initialise(node, edits);
  edits.push([node.declarations.at(-1).end, 0, ')']);
}

function spaces(text) {
  return text.replace(/[^\n\r\u2028\u2029]/g, ' ');
}

// The ranges outside the given nodes.
function gaps(nodes, length) {
  const ends = [0, ...nodes.map((node) => node.end)];
  return ends.map((end, i) => [end, nodes[i]?.start ?? length]);
}

function blank(text, ranges) {
  for (const [start, end] of ranges) text = text.slice(0, start) + spaces(text.slice(start, end)) + text.slice(end);
  return text;
}

// Applies the edits `[at, remove, insert]`; those at one place in the order they were made.
function edited(code, edits) {
  const shifts = [];
  let [text, done] = ['', 0];
  for (const [at, remove, insert] of [...edits].sort((a, b) => a[0] - b[0])) {
    text += code.slice(done, at) + insert;
    done = at + remove;
    if (insert.length !== remove) {
      const before = text.split('\n');
      shifts.push({ line: before.length, column: before.at(-1).length, by: insert.length - remove });
    }
  }
  return { text: text + code.slice(done), shifts };
}

// Where acorn failed: V8's script if V8 can, else acorn's complaint when V8 only objects to `await` and imports.
function syntaxError(code, count, failure, fromV8) {
  if (!/await|import|export/.test(fromV8.message)) return fromV8;
  const { line, column } = failure.loc;
  const error = new SyntaxError(failure.message.replace(/ \(\d+:\d+\)$/, ''));
  const text = code.split('\n')[line - 1] ?? '';
  error.stack = `<cell ${count}>:${line}\n${text}\n${' '.repeat(column)}^\n\nSyntaxError: ${error.message}`;
  return error;
}

function compile(code, count) {
  const filename = `<cell ${count}>`;
  const planned = plan(code);
  const importModuleDynamically = planned.failure ? vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER : undefined;
  try {
    const script = (text, more) => new vm.Script(text, { filename, importModuleDynamically, ...more });
    const functions = planned.functions === null ? null : script(planned.functions);
    const place = planned.isAsync ? { lineOffset: -1 } : { columnOffset: planned.firstColumn };
    return { ...planned, functions, body: script(planned.body, place) };
  } catch (error) {
    throw planned.failure ? syntaxError(code, count, planned.failure, error) : error;
  }
}

// Makes room for the names: `crypto`, `URL` and their like are accessors, which an assignment would not replace.
function declare(names) {
  for (const name of names) {
    const old = getOwnPropertyDescriptor(world, name);
    if (old && (old.writable || !old.configurable)) continue;
    defineProperty(world, name, { value: undefined, writable: true, enumerable: true, configurable: true });
  }
}

// `import()` from /workspace, then from the folders of NODE_PATH, which Node's own ignores.
const bases = [HOME, ...(process.env.NODE_PATH ?? '').split(':').filter(Boolean).map((folder) => path.dirname(folder))];
const importers = bases.map((base) => {
  const file = path.join(base, '.cell.js');
  const module = new nodeModule.Module(file);
  module.filename = file;
  module._compile('module.exports = (name, options) => options ? import(name, options) : import(name)', file);
  return module.exports;
});

async function $mport(name, options) {
  const specifier = String(name);
  let first;
  for (const load of importers) {
    try {
      return await load(specifier, options);
    } catch (error) {
      first ??= error;
      const missing = error?.code === 'ERR_MODULE_NOT_FOUND' && error.message.includes(`'${specifier}'`);
      if (!missing || /^[./]|^\w+:/.test(specifier)) throw first;
    }
  }
  throw first;
}

$mport.take = async (specifier, names, attributes) => {
  const options = Object.keys(attributes).length > 0 ? { with: attributes, assert: attributes } : undefined;
  const namespace = await $mport(specifier, options);
  for (const [name, local] of names) {
    if (name !== '*' && !(name in namespace)) {
      throw new SyntaxError(`the module '${specifier}' does not provide an export named '${name}'`);
    }
    world[local] = name === '*' ? namespace : namespace[name];
  }
};
$mport.meta = {
  url: `file://${HOME}/cell.js`,
  filename: `${HOME}/cell.js`,
  dirname: HOME,
  resolve: (name) => {
    const found = world.require.resolve(name);
    return path.isAbsolute(found) ? require('url').pathToFileURL(found).href : found;
  },
};
defineProperty(world, '$mport', { value: $mport });
