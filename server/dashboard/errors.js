// The deck understood and said no; `answer` has its code and details.
export class Refusal extends Error {
  constructor(answer, status = null) {
    super(answer.error ?? `the server answered ${status}`);
    this.answer = answer;
    this.status = status;
  }
}

// Nothing came back.
export class Unreachable extends Error {}
