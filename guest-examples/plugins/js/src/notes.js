// notes: short texts with tags, kept in the durable state. This is the file to edit.
//
// It asks the host for everything by the first argument, so the tests give it another.

import { refuse } from './refused.js';

const DEFAULTS = { notes_max: 10_000, text_chars_max: 20_000, export_tool: 'write_file', summary_notes_max: 50 };

const count = (description, most) => ({ description, type: 'integer', minimum: 1, maximum: most });

/** The JSON Schema of the configuration; the host has checked it before `startup`. */
const SCHEMA = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: ['object', 'null'],
  properties: {
    notes_max: count('So many notes are kept at most. Default 10000.', 1_000_000),
    text_chars_max: count('So long a note is at most. Default 20000.', 200_000),
    summary_notes_max: count('So many notes go into one summary at most. Default 50.', 1_000),
    export_tool: { description: 'The governed tool that notes:export asks for. Default write_file.', type: 'string' },
  },
  additionalProperties: false,
};

const TAG = /^[a-z0-9][a-z0-9_-]{0,63}$/;
const ID = /^[a-z0-9][a-z0-9_.-]{0,127}$/;
/** Notes lie under `note.ID`, summaries under `summary.TAG`. */
const NOTE = 'note.';
const SUMMARY = 'summary.';
const LISTED_MAX = 1_000;

let config = DEFAULTS;

export function describe() {
  return [
    {
      name: 'notes',
      version: '0.1.0',
      description: 'Keeps notes by id, finds and summarises them.',
      author: 'gavel',
      configSchema: JSON.stringify(SCHEMA),
    },
    {
      eventNamespaces: ['notes'],
      providesServices: ['notes'],
      emits: ['notes:changed', 'completion:request'],
      tools: ['write_file'],
      memoryBytes: 33_554_432,
      deadlineMs: 1_000,
    },
  ];
}

export function startup(host) {
  config = { ...DEFAULTS, ...host.config() };
}

/** `notes:changed` is news of its own, and no request. */
const ANSWERS = {
  'notes:add': add,
  'notes:get': get,
  'notes:list': list,
  'notes:search': search,
  'notes:remove': remove,
  'notes:summarise': summarise,
  'notes:export': exportAll,
};

export function handle(host, event, data) {
  const answer = Object.hasOwn(ANSWERS, event.name) ? ANSWERS[event.name] : undefined;
  if (!answer) return undefined;
  if (data !== null && (typeof data !== 'object' || Array.isArray(data))) invalid(`${event.name}: the data are no object`);
  return answer(host, data ?? {}, event);
}

function add(host, data, event) {
  const text = textOf(data, 'text');
  if ([...text].length > config.text_chars_max) {
    invalid(`\`text\` has ${[...text].length} characters, at most ${config.text_chars_max} are kept (text_chars_max)`);
  }
  const tags = tagsOf(data);
  // The event's id is unique on this bus; it is a fit id once what does not fit is taken out.
  const id = data.id === undefined ? event.id.toLowerCase().replace(/[^a-z0-9_.-]/g, '-') : idOf(data);
  const old = host.state.get(NOTE + id);
  if (old !== undefined && data.replace !== true) {
    refuse('EXISTS', `there is a note '${id}': say "replace": true to put this one in its place`);
  }
  if (old === undefined && host.state.keys(`${NOTE}*`).length >= config.notes_max) {
    refuse('FULL', `${config.notes_max} notes are kept at most (notes_max): remove one first`);
  }
  const note = { id, text, tags, by: event.sender, at_ms: Number(event.timestampMs) };
  host.state.set(NOTE + id, note);
  tell(host, { id, change: old === undefined ? 'added' : 'replaced' });
  return note;
}

function get(host, data) {
  const id = idOf(data);
  return host.state.get(NOTE + id) ?? refuse('NOT_FOUND', `there is no note '${id}'`);
}

function list(host, data) {
  const tag = data.tag === undefined ? undefined : tagOf(data.tag);
  return listed(all(host).filter((note) => tag === undefined || note.tags.includes(tag)), data);
}

function search(host, data) {
  const words = textOf(data, 'query').toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (note) => {
    const text = `${note.text} ${note.tags.join(' ')}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };
  return listed(all(host).filter(fits), data);
}

function remove(host, data) {
  const id = idOf(data);
  if (!host.state.delete(NOTE + id)) refuse('NOT_FOUND', `there is no note '${id}'`);
  tell(host, { id, change: 'removed' });
  return { id, status: 'removed' };
}

/** What a model makes of the notes with a tag; kept until it is asked for anew. */
function summarise(host, data) {
  const tag = tagOf(data.tag);
  const notes = all(host).filter((note) => note.tags.includes(tag)).slice(-config.summary_notes_max);
  if (notes.length === 0) refuse('NOT_FOUND', `no note has the tag '${tag}'`);
  const prompt = `Summarise these notes in three sentences.\n\n${notes.map((note) => `- ${note.text}`).join('\n')}`;
  const completion = host.call('completion:request', { prompt });
  const summary = { tag, summary: completion.response, notes: notes.length, model: completion.model ?? null };
  host.state.set(SUMMARY + tag, summary);
  return summary;
}

/** All notes into a file, by a tool that a kernel must allow. */
function exportAll(host, data) {
  const path = textOf(data, 'path');
  const notes = all(host);
  const content = notes.map((note) => `${JSON.stringify(note)}\n`).join('');
  const result = host.tool(config.export_tool, { path, content }, `export ${notes.length} notes to ${path}`);
  return { exported: notes.length, result };
}

/** Oldest first. */
function all(host) {
  const notes = host.state.keys(`${NOTE}*`).map((key) => host.state.get(key)).filter((note) => note !== undefined);
  return notes.sort((a, b) => a.at_ms - b.at_ms || (a.id < b.id ? -1 : 1));
}

function listed(notes, data) {
  const limit = data.limit ?? 100;
  if (!Number.isInteger(limit) || limit < 1 || limit > LISTED_MAX) invalid(`\`limit\` must be from 1 to ${LISTED_MAX}`);
  return { notes: notes.slice(0, limit), count: Math.min(notes.length, limit), total: notes.length };
}

/** That nobody could be told does not undo the change. */
function tell(host, news) {
  try {
    host.emit('notes:changed', news);
  } catch (why) {
    host.log('warn', `a change was not told: ${why.message}`);
  }
}

function textOf(data, field) {
  const text = data[field];
  if (typeof text !== 'string' || text.trim() === '') invalid(`\`${field}\` is missing or no text`);
  return text;
}

function idOf(data) {
  if (typeof data.id !== 'string' || !ID.test(data.id)) {
    invalid('`id` must have 1 to 128 of a-z 0-9 _ . - and begin with a letter or digit');
  }
  return data.id;
}

function tagOf(tag) {
  if (typeof tag !== 'string' || !TAG.test(tag)) {
    invalid('a tag must have 1 to 64 of a-z 0-9 _ - and begin with a letter or digit');
  }
  return tag;
}

function tagsOf(data) {
  const tags = data.tags ?? [];
  if (!Array.isArray(tags) || tags.length > 32) invalid('`tags` must be a list of 32 at most');
  return [...new Set(tags.map(tagOf))].sort();
}

function invalid(message) {
  refuse('INVALID_PARAMETERS', message);
}
