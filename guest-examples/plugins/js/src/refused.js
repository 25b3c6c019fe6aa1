// A refusal: an answer that says why there is none, with a word for programs.

export class Refusal {
  constructor(code, message) {
    this.code = code;
    this.message = message;
  }
}

export function refuse(code, message) {
  throw new Refusal(code, message);
}
