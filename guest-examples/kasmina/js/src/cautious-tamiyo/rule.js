// The rule. This is the file to edit.
//
// An exception in here means that nothing is ordered; its message is in the log.

import { get as configuration } from 'gavel:policy/config@0.1.0';

const DEFAULTS = { every: 10, growing_max: 4, patience: 200 };

const count = (description) => ({ description, type: 'integer', minimum: 1 });

/** The JSON Schema of the configuration; Gavel has checked it before a decision is asked for. */
const SCHEMA = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: 'object',
  properties: {
    blueprints: {
      description: 'Names of the blueprints that seeds grow, in turns.',
      type: 'array',
      items: { type: 'string', minLength: 1 },
      minItems: 1,
    },
    every: count('One seed germinates in every so many epochs, at most. Default 10.'),
    growing_max: count('None germinates while so many are growing. Default 4.'),
    patience: count('Epochs after which training is given up. Default 200.'),
    strategy: {
      description: "The grafting strategy of every seed; the layer's own by default.",
      type: 'string',
      minLength: 1,
    },
  },
  required: ['blueprints'],
  additionalProperties: false,
};

/** The order that leads to a stage. */
const ORDER_TO = {
  dormant: 'release',
  germinated: 'germinate',
  training: 'train',
  grafting: 'graft',
  stabilization: 'stabilize',
  evaluating: 'evaluate',
  'fine-tuning': 'fine-tune',
  fossilized: 'fossilize',
  culled: 'cull',
  cancelled: 'cancel',
  'rolled-back': 'rollback',
};

export function describe() {
  return {
    name: 'cautious-tamiyo',
    version: '0.1.0',
    description: 'Germinates one seed every so many epochs, and gives up early on those that do not learn.',
    configSchema: JSON.stringify(SCHEMA),
  };
}

export function decide(observation) {
  const config = { ...DEFAULTS, ...JSON.parse(configuration()) };
  let slots = observation.trainingSlotsFree;
  const commands = [];
  for (const seed of observation.seeds) {
    const [order, reason] = next(seed, config);
    if (!order || (order === 'train' && slots === 0)) continue;
    if (order === 'train') slots -= 1;
    commands.push(command(seed.seed, order, reason));
  }
  return [...commands, ...germination(observation, config)];
}

/** What one seed should do next, and why; nothing if it must wait. */
function next(seed, config) {
  const { tag, val } = seed.gate;
  if (tag === 'unstable') return ['rollback', `unstable: ${val}`];
  if (tag === 'failed') return ['cull', `failed: ${val}`];
  if (tag === 'open') return [ORDER_TO[val], 'its gate is open'];
  if (seed.stage === 'training' && seed.epochsInState >= config.patience) {
    return ['cancel', `it has not learned its chunk in ${seed.epochsInState} epochs`];
  }
  return [];
}

/** One germination in every so many epochs, of the chunk that varies most, blueprints in turns. */
function germination(observation, config) {
  const { candidates, seeds } = observation;
  const { blueprints, every, growing_max, strategy } = config;
  const epoch = Number(observation.epoch); // exact up to 2^53
  if (candidates.length === 0 || epoch % every !== 0 || seeds.length >= growing_max) return [];
  const blueprint = blueprints[(epoch / every) % blueprints.length];
  return [{ ...command(candidates[0], 'germinate', 'its chunk varies most'), blueprint, strategy }];
}

/** A command whose id the host makes. */
function command(seed, order, reason) {
  return { id: '', seed, order, blueprint: undefined, blueprintIr: undefined, strategy: undefined, reason };
}
