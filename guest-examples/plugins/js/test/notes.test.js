// The plugin's logic, with a host that is a few maps. `npm test` runs it; nothing of WebAssembly is needed.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import * as notes from '../src/notes.js';
import { Refusal } from '../src/refused.js';

const glob = (pattern) => new RegExp(`^${pattern.replace(/[.+^${}()|[\]\\]/g, '\\$&').replace(/\*/g, '.*')}$`);

function fakeHost(config = null) {
  const kept = new Map();
  const asked = [];
  return {
    asked,
    config: () => config,
    emit: (event, data) => asked.push(['emit', event, data]),
    call: (event, data) => {
      asked.push(['call', event, data]);
      return { response: 'short', model: 'stub' };
    },
    tool: (name, params, intent) => {
      asked.push(['tool', name, params, intent]);
      return { written: params.content.length };
    },
    log: (level, line) => asked.push(['log', level, line]),
    state: {
      get: (key) => (kept.has(key) ? JSON.parse(kept.get(key)) : undefined),
      set: (key, value) => kept.set(key, JSON.stringify(value)),
      delete: (key) => kept.delete(key),
      keys: (pattern) => [...kept.keys()].filter((key) => glob(pattern).test(key)).sort(),
    },
  };
}

let host;
let now = 1;

beforeEach(() => {
  host = fakeHost();
  notes.startup(host);
});

function ask(name, data) {
  now += 1;
  return notes.handle(host, { id: `E-${now}`, name, sender: 'client:1', timestampMs: now }, data);
}

function refused(code, name, data) {
  assert.throws(() => ask(name, data), (why) => why instanceof Refusal && why.code === code, `${name} ${JSON.stringify(data)}`);
}

test('a note is kept, told of, found and removed', () => {
  const note = ask('notes:add', { id: 'a', text: 'Buy blue paint', tags: ['shop', 'home', 'shop'] });
  assert.deepEqual(note.tags, ['home', 'shop']);
  assert.equal(note.by, 'client:1');
  assert.deepEqual(host.asked, [['emit', 'notes:changed', { id: 'a', change: 'added' }]]);
  assert.deepEqual(ask('notes:get', { id: 'a' }), note);
  assert.deepEqual(ask('notes:search', { query: 'PAINT shop' }).notes, [note]);
  assert.equal(ask('notes:search', { query: 'paint red' }).total, 0);
  assert.deepEqual(ask('notes:remove', { id: 'a' }), { id: 'a', status: 'removed' });
  refused('NOT_FOUND', 'notes:get', { id: 'a' });
});

test('a note without an id gets one of the event, which can be asked for', () => {
  const { id } = ask('notes:add', { text: 'x' });
  assert.match(id, /^e-\d+$/);
  assert.equal(ask('notes:get', { id }).text, 'x');
});

test('a note is not overwritten unless that is said', () => {
  ask('notes:add', { id: 'a', text: 'one' });
  refused('EXISTS', 'notes:add', { id: 'a', text: 'two' });
  assert.equal(ask('notes:get', { id: 'a' }).text, 'one');
  assert.equal(ask('notes:add', { id: 'a', text: 'two', replace: true }).text, 'two');
});

test('lists are in order of time, by tag, and limited', () => {
  for (const id of ['c', 'a', 'b']) ask('notes:add', { id, text: id, tags: id === 'a' ? [] : ['t'] });
  assert.deepEqual(ask('notes:list', null).notes.map((note) => note.id), ['c', 'a', 'b']);
  assert.deepEqual(ask('notes:list', { tag: 't', limit: 1 }).notes.map((note) => note.id), ['c']);
  assert.deepEqual([ask('notes:list', { tag: 't', limit: 1 }).count, ask('notes:list', { tag: 't', limit: 1 }).total], [1, 2]);
});

test('a summary is asked of a model and kept', () => {
  ask('notes:add', { id: 'a', text: 'one', tags: ['t'] });
  assert.deepEqual(ask('notes:summarise', { tag: 't' }), { tag: 't', summary: 'short', notes: 1, model: 'stub' });
  const [kind, event, data] = host.asked.at(-1);
  assert.deepEqual([kind, event], ['call', 'completion:request']);
  assert.ok(data.prompt.endsWith('- one'));
  assert.equal(host.state.get('summary.t').summary, 'short');
  refused('NOT_FOUND', 'notes:summarise', { tag: 'other' });
});

test('an export asks for the tool and says what for', () => {
  ask('notes:add', { id: 'a', text: 'one' });
  assert.equal(ask('notes:export', { path: 'notes.jsonl' }).exported, 1);
  const [kind, tool, params, intent] = host.asked.at(-1);
  assert.deepEqual([kind, tool, params.path, intent], ['tool', 'write_file', 'notes.jsonl', 'export 1 notes to notes.jsonl']);
  assert.equal(JSON.parse(params.content).text, 'one');
});

test('bad data are refused with a code and change nothing', () => {
  for (const data of [null, {}, { text: ' ' }, { text: 5 }, { text: 'x', tags: 'a' }, { text: 'x', tags: ['A b'] },
    { text: 'x', id: '../x' }, { text: 'x', id: '' }, { text: 'x'.repeat(20_001) }, 'text', [1]]) {
    refused('INVALID_PARAMETERS', 'notes:add', data);
  }
  for (const limit of [0, -1, 1.5, '5', 1e9]) refused('INVALID_PARAMETERS', 'notes:list', { limit });
  assert.equal(ask('notes:list', {}).total, 0);
  assert.deepEqual(host.asked, []);
});

test('no more is kept than allowed', () => {
  host = fakeHost({ notes_max: 1 });
  notes.startup(host);
  ask('notes:add', { id: 'a', text: 'x' });
  refused('FULL', 'notes:add', { id: 'b', text: 'x' });
  assert.equal(ask('notes:add', { id: 'a', text: 'y', replace: true }).text, 'y');
});

test('a change counts even if nobody can be told', () => {
  host.emit = () => {
    throw new Refusal('RATE_LIMITED', 'too often');
  };
  assert.equal(ask('notes:add', { id: 'a', text: 'x' }).id, 'a');
  assert.deepEqual(host.asked, [['log', 'warn', 'a change was not told: too often']]);
});

test('its own news and unknown events are not answered', () => {
  for (const name of ['notes:changed', 'notes:', 'toString', '__proto__']) assert.equal(ask(name, {}), undefined);
});
