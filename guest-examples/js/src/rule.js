// The rule. This is the file to edit.
//
// Whatever goes wrong in here denies the request: an error of the configuration because it says so below, an exception
// because Gavel takes it so.

import { get as configuration } from 'gavel:policy/config@0.1.0';
import { write as log } from 'gavel:policy/log@0.1.0';

const INJECTED = 'ignore all previous instructions';
const APPROVAL = 'approved-by:';

const texts = (description) => ({ description, type: 'array', items: { type: 'string' } });

/** The JSON Schema of the configuration. */
const SCHEMA = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: 'object',
  properties: {
    guarded: texts('Patterns of the names of tools that need an approval; * stands for any text.'),
    approvers: texts('Who may approve, as evidence names them: approved-by:human:alice.'),
  },
  required: ['guarded', 'approvers'],
  additionalProperties: false,
};

export function describe() {
  return {
    name: 'guarded-tools',
    version: '0.1.0',
    description: 'Lets guarded tools run only with the approval of a human.',
    configSchema: JSON.stringify(SCHEMA),
  };
}

export function evaluate(request) {
  // Not toLowerCase(): only ASCII letters are alike, as in the other languages.
  const intent = request.intent.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
  if (intent.includes(INJECTED)) {
    return { tag: 'deny', val: 'the intent reads like an injected instruction' };
  }
  let config;
  try {
    config = readConfig(configuration());
  } catch (error) {
    return { tag: 'deny', val: `the configuration cannot be read: ${error.message}` };
  }
  const call = request.toolCall;
  if (!call) {
    return { tag: 'abstain' };
  }
  if (!config.guarded.some((pattern) => fits(pattern, call.name))) {
    return { tag: 'allow' };
  }
  const approvals = request.evidence
    .filter((entry) => entry.startsWith(APPROVAL))
    .map((entry) => entry.slice(APPROVAL.length));
  const approver = approvals.find((name) => config.approvers.includes(name));
  if (approver !== undefined) {
    log('info', `tool '${call.name}' passes: ${approver} approved`);
    return { tag: 'allow' };
  }
  return {
    tag: 'escalate',
    val: `tool '${call.name}' is guarded: evidence '${APPROVAL}...' of one of ${config.approvers.join(', ')} is needed`,
  };
}

function readConfig(json) {
  const config = JSON.parse(json);
  if (config === null || typeof config !== 'object' || Array.isArray(config)) {
    throw new Error('it is no object');
  }
  for (const key of Object.keys(config)) {
    if (!(key in SCHEMA.properties)) throw new Error(`unknown key ${key}`);
  }
  for (const key of SCHEMA.required) {
    if (!Array.isArray(config[key])) throw new Error(`${key} is no list`);
    config[key].forEach((text, index) => {
      if (typeof text !== 'string') throw new Error(`${key}[${index}] is no text`);
      if (text === '') throw new Error(`${key}[${index}] is empty`);
    });
  }
  return config;
}

/** Whether `name` fits `pattern`, where `*` stands for any text. */
function fits(pattern, name) {
  const [first, ...middle] = pattern.split('*');
  if (middle.length === 0) {
    return name === pattern;
  }
  const last = middle.pop();
  if (!name.startsWith(first)) {
    return false;
  }
  let at = first.length;
  for (const part of middle) {
    at = name.indexOf(part, at);
    if (at < 0) return false;
    at += part.length;
  }
  return name.length - at >= last.length && name.endsWith(last);
}
