// The glue between Gavel and a plugin: what every plugin in JavaScript needs. There is nothing to edit in here.
//
// A plugin is a module with `describe` and any of `startup`, `before`, `handle`, `hear`, `after`, `shutdown`. Each is given
// the host first. Data and answers are values there and JSON texts outside. What a plugin throws as a Refusal (refused.js)
// is an answer; any other exception ends the instance: its message and stack reach the log, the host answers for it and
// makes another.

import * as bus from 'gavel:plugin/bus@0.1.0';
import * as config from 'gavel:plugin/config@0.1.0';
import * as log from 'gavel:plugin/log@0.1.0';
import * as state from 'gavel:plugin/state@0.1.0';
import * as tools from 'gavel:plugin/tools@0.1.0';
import { Refusal } from './refused.js';

/** What a plugin may ask of the host. What the host refuses is thrown as a Refusal. */
function hostOf(name) {
  return {
    config: () => JSON.parse(config.get()),
    emit: (event, data) => asked(() => bus.emit(event, JSON.stringify(data))),
    call: (event, data) => read(asked(() => bus.call(event, JSON.stringify(data)))),
    tool: (tool, params, intent) => read(asked(() => tools.call(tool, JSON.stringify(params), intent))),
    log: (level, line) => log.write(level, line),
    /** The plugin's own namespace of the durable state. */
    state: {
      get: (key) => {
        const value = asked(() => state.get(name, key));
        return value === null || value === undefined ? undefined : read(value);
      },
      set: (key, value) => asked(() => state.set(name, key, JSON.stringify(value))),
      delete: (key) => asked(() => state.delete(name, key)),
      keys: (pattern) => asked(() => state.keys(name, pattern)),
    },
  };
}

export function exported(plugin) {
  const [metadata, capabilities] = plugin.describe();
  const host = hostOf(metadata.name);
  const run = (name, call, otherwise) => (plugin[name] ? ended(() => call(plugin[name])) : otherwise);
  return {
    describe: () => [
      { author: '', dependencies: [], priority: 0, configSchema: null, ...metadata },
      { ...NOTHING, ...capabilities },
    ],
    startup: () => told(() => run('startup', (startup) => void startup(host))),
    shutdown: () => told(() => run('shutdown', (shutdown) => void shutdown(host))),
    preEvent: (event) => {
      const before = run('before', (see) => see(host, event, read(event.data)));
      if (!before) return { tag: 'pass' };
      if (before.cancel !== undefined) return { tag: 'cancel', val: String(before.cancel) };
      return { tag: 'replace', val: JSON.stringify(before.replace) };
    },
    handleEvent: (event) => {
      const answer = run('handle', (handle) => handle(host, event, read(event.data)));
      return answer === undefined || answer === null ? null : JSON.stringify(answer);
    },
    hearEvent: (event) => void run('hear', (hear) => hear(host, event, read(event.data))),
    postEvent: (event, answer) => void run('after', (after) => after(host, event, read(event.data), read(answer))),
  };
}

/** Nothing answered, heard or asked for. */
const NOTHING = {
  eventNamespaces: [],
  commands: [],
  providesServices: [],
  subscribes: [],
  before: [],
  after: [],
  emits: [],
  state: [],
  tools: [],
  memoryBytes: 0,
  deadlineMs: 0,
};

/** JSON of the host's; null where it is none. */
function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** What the host refuses arrives as a bare record; here it gets its class back. */
function asked(call) {
  try {
    return call();
  } catch (why) {
    const refusal = why?.payload ?? why;
    if (refusal instanceof Error || typeof refusal?.message !== 'string') throw why;
    throw new Refusal(refusal.code ?? null, refusal.message);
  }
}

/** A Refusal is an answer. What else is thrown is no record of the contract, so the call traps. */
function ended(call) {
  try {
    return call();
  } catch (error) {
    if (error instanceof Refusal) throw { message: error.message, code: error.code };
    const words = error instanceof Error ? `${error}\n${error.stack}` : `thrown: ${String(error)}`;
    log.write('error', words);
    throw Symbol('broken');
  }
}

/** Beginning and end are refused with a text alone. */
function told(call) {
  try {
    call();
  } catch (why) {
    throw why?.message ?? why;
  }
}
