// What every Node.js attack starts from; the answers are the words of prelude.py.
const fs = require('fs'), os = require('os'), net = require('net'), dgram = require('dgram'), dns = require('dns');
const child_process = require('child_process'), worker_threads = require('worker_threads');
const attempt = (action) => {
  try { action(); } catch (error) { return error.code || error.name; }
  return 'allowed';
};
const found = (things) => [...new Set(things)].sort().join(', ').slice(0, 200) || 'nothing';
const content = (path) => { try { return fs.readFileSync(path, 'utf8'); } catch { return ''; } };
const reach = (options, milliseconds = 1500) => new Promise((resolve) => {
  const one = net.connect({ ...options, timeout: milliseconds });
  one.on('connect', () => { one.destroy(); resolve('allowed'); });
  one.on('timeout', () => { one.destroy(); resolve('timeout'); });
  one.on('error', (error) => resolve(error.code || (error.errors && error.errors[0].code) || error.name));
});
