// What every component in JavaScript needs: an exception's message and stack reach the log before it ends the call.

import { write } from 'gavel:policy/log@0.1.0';

export function reported(call) {
  return (...args) => {
    try {
      return call(...args);
    } catch (error) {
      write('error', error instanceof Error ? `${error}\n${error.stack}` : `thrown: ${String(error)}`);
      throw error;
    }
  };
}
