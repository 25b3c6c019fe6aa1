// The rule. This is the file to edit.
//
// An exception in here leaves the seed's alpha as it is; its message is in the log.

import { get as configuration } from 'gavel:policy/config@0.1.0';

const DEFAULTS = { drift_max: 0.1, gradient_min: 0.05, gradient_max: 1, pause_epochs: 5 };

const above0 = (description) => ({ description, type: 'number', exclusiveMinimum: 0 });

/** The JSON Schema of the configuration; Gavel has checked it before a step is asked for. */
const SCHEMA = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: ['object', 'null'],
  properties: {
    drift_max: above0('Mean drift at which a seed no longer goes on but pauses. Default 0.1.'),
    gradient_min: {
      description: 'Below this gradient norm a seed learns nothing, and waits. Default 0.05.',
      type: 'number',
      minimum: 0,
    },
    gradient_max: above0('Above this gradient norm a seed is too wild, and waits. Default 1.'),
    pause_epochs: {
      description: 'How long a seed pauses that drifts too much. Default 5.',
      type: 'integer',
      minimum: 1,
      maximum: 1000,
    },
  },
  additionalProperties: false,
};

const HOLD = { add: 0, pause: 0 };

export function describe() {
  return {
    name: 'patient-ramp',
    version: '0.1.0',
    description: 'Blends a seed in the faster the less it drifts, while its gradients are neither dead nor wild.',
    configSchema: JSON.stringify(SCHEMA),
  };
}

export function step(input) {
  const config = { ...DEFAULTS, ...JSON.parse(configuration()) };
  const { alpha, drifts, gradientNorm, pauseLeft, steps } = input;
  // At alpha 0 no gradient reaches the seed yet: the first step is taken without.
  const calm = alpha === 0 || (gradientNorm >= config.gradient_min && gradientNorm <= config.gradient_max);
  // Where no drift was measured it holds: what is unknown is not small.
  if (pauseLeft > 0 || drifts.length === 0 || !calm) {
    return HOLD;
  }
  const drift = mean(drifts);
  if (Number.isNaN(drift) || drift >= config.drift_max) {
    return { add: 0, pause: config.pause_epochs };
  }
  const share = 1 - Math.max(drift, 0) / config.drift_max;
  return { add: Math.min((2 * share) / steps, 1), pause: 0 };
}

function mean(drifts) {
  let sum = 0;
  for (const drift of drifts) sum += drift;
  return sum / drifts.length;
}
