/**
 * The client code that every system of the comparison is given: the same two questions in the same words, each in its own library.
 */

/** Where the two upstreams are; both speak OpenAI's chat completions. `model` is the same for both. */
export interface Upstreams {
  readonly primary: string
  readonly backup: string
}

/**
 * The same for all systems, each as far as it has an option for it. `deadlineMillis` is also in the signal of each call, so that a
 * system without a deadline of its own keeps one.
 */
export interface Limits {
  readonly attemptMillis: number
  readonly idleMillis: number
  readonly deadlineMillis: number
}

/** What a program sees of an answer that its library calls a success. */
export interface Answer {
  readonly text: string
  /** As the library reports it; `undefined` where it reports none. */
  readonly finishReason: string | undefined
}

export interface Client {
  readonly ask: (question: string, signal: AbortSignal) => Promise<Answer>
  readonly stream: (question: string, signal: AbortSignal, onText: (delta: string) => void) => Promise<Answer>
}

/** Each call makes a client without history. */
export type MakeClient = (upstreams: Upstreams, limits: Limits) => Client | Promise<Client>
