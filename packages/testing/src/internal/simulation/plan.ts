import type { Replicas } from "./replicas.ts"

/**
 * Everything that one simulated run does, as plain data: drawn from a seed, printed when the run fails, made smaller when it is shrunk.
 * Times are milliseconds of the run, rates are probabilities.
 */
export interface Plan {
  readonly seed: number
  readonly order: "fifo" | "random"
  readonly preemption: number
  /** Latencies are multiples of this, so that many things happen at the same moment. */
  readonly grid: number
  readonly millis: number
  /** Which of the requests of the seed are made; each is drawn by its number. */
  readonly requests: ReadonlyArray<number>
  readonly traffic: Traffic
  readonly steps: readonly [Step, ...Array<Step>]
  readonly chain: {
    readonly deadline: number | undefined
    readonly share: number
    readonly lastResortEvery: number
    readonly recovery: "continue" | "restart" | "fail"
    /** The most calls that one request may cause. */
    readonly attempts: number
    /** Milliseconds after which the next step is asked as well. */
    readonly hedge: number | undefined
    readonly routing: "ordered" | "weighted" | "least-latency" | "least-busy"
  }
  readonly health: { readonly interval: number; readonly timeout: number } | undefined
  readonly cache:
    | {
        readonly mode: "if-unavailable" | "read-through" | "stale-if-slow"
        readonly fresh: number
        readonly stale: number
        readonly slowAfter: number
        /** How close the question of a stored answer must be; the embedder takes all questions for the same. */
        readonly match: "exact" | "canonical" | "similar"
        /** How long the embedder takes. */
        readonly embedding: number
      }
    | undefined
  readonly deferred: Deferred | undefined
  /** When an operator gives what died in the queue a new life. */
  readonly requeues: ReadonlyArray<number>
  readonly replicas: Replicas | undefined
  /** Whether all models know the same answers, word for word. */
  readonly sameAnswers: boolean
  readonly operator: ReadonlyArray<{
    readonly at: number
    readonly step: number
    readonly action: "isolate" | "reset" | "halfOpen"
    readonly duration: number
  }>
  readonly wallSteps: ReadonlyArray<{ readonly at: number; readonly by: number }>
}

export interface Traffic {
  readonly every: number
  readonly bursts: number
  readonly streams: number
  readonly deadlines: number
  readonly leaves: number
  readonly slowReaders: number
  readonly stopsEarly: number
  readonly questions: number
  readonly scopes: number
  readonly toolsets: number
  readonly invalid: number
  readonly tooLong: number
  readonly refused: number
  readonly neverCached: number
  readonly json: number
  readonly toolCalls: number
  /** Who may wait, who says with a key that it is the same request again, and who cancels a ticket. */
  readonly waits: number
  readonly keyed: number
  readonly cancels: number
}

export const faults = [
  "Overloaded",
  "ServerError",
  "Network",
  "InvalidResponse",
  "RateLimited",
  "RateLimitedFor",
  "Authentication",
  "EmptyOutput",
  "Unavailable",
  "Defect",
  "Hang",
  "Cut",
  "Stall",
  "NoFinish"
] as const

export type FaultKind = (typeof faults)[number]

export interface Step {
  readonly priority: number
  readonly weight: number
  readonly latency: number
  readonly spread: number
  /** Between two words of a stream. */
  readonly tokenEvery: number
  readonly faults: { readonly [K in FaultKind]?: number }
  readonly outages: ReadonlyArray<{ readonly from: number; readonly to: number; readonly as: FaultKind }>
  /** How long the model takes to stop when its caller leaves. */
  readonly cleanup: number
  readonly prefill: "no" | "yes" | "ignored"
  /** How often an answer in JSON is none, or not of the shape that was asked for. */
  readonly badJson: number
  readonly contextWindow: number | undefined
  readonly retry:
    | { readonly retries: number; readonly base: number; readonly cap: number; readonly maxRetryAfter: number }
    | undefined
  readonly cooldown: { readonly rest: number; readonly maxRest: number; readonly isolation: number } | undefined
  readonly bulkhead: Gate | undefined
  readonly throttle: { readonly minimumCalls: number } | undefined
  readonly rateLimit: { readonly requestsPerMinute: number; readonly maxWait: number } | undefined
  readonly adaptive: Gate | undefined
  readonly breaker: Breaker | undefined
  readonly budget: { readonly ratio: number; readonly floor: number; readonly halfLife: number } | undefined
  /** Milliseconds after which the same model is asked again. */
  readonly hedge: number | undefined
  readonly timeouts: {
    readonly attempt: number
    readonly firstToken: number
    readonly idle: number
    readonly ending: "cooperative" | "hard"
  }
}

/** How many calls pass at a time, how many wait, and for how long. */
export interface Gate {
  readonly permits: number
  readonly queue: number
  readonly maxWait: number
}

export interface Breaker {
  readonly trip:
    | { readonly _tag: "Consecutive"; readonly failures: number }
    | {
        readonly _tag: "Count"
        readonly size: number
        readonly minimumCalls: number
        readonly failureRate: number
        readonly slowAfter: number | undefined
        readonly slowRate: number
      }
    | {
        readonly _tag: "Time"
        readonly millis: number
        readonly minimumCalls: number
        readonly failureRate: number
        readonly slowAfter: number | undefined
        readonly slowRate: number
      }
  readonly openFor: number
  readonly maxOpenFor: number
  readonly probes: number
  readonly probeLease: number
  readonly probeFailureRate: number
  readonly slowStart: number
}

/** What waits when nobody answers, and how it is worked off. */
export interface Deferred {
  readonly capacity: number
  readonly expiresAfter: number
  readonly maxAttempts: number
  readonly backoff: number
  readonly maxBackoff: number
  readonly concurrency: number
  readonly every: number
  readonly deadline: number
  readonly lease: number
  readonly pollInterval: number
  /** How often the handler of results fails. */
  readonly handlerFails: number
  /** How many processes work it off. */
  readonly workers: number
  /** How often the store does not prolong a lease, so that a request may be taken up by another one while it is asked. */
  readonly renewalFails: number
}

/** One request, as its caller means it. */
export interface Asked {
  readonly index: number
  readonly at: number
  readonly stream: boolean
  readonly deadline: number | undefined
  readonly leavesAfter: number | undefined
  readonly readerPause: number
  readonly stopsAfter: number | undefined
  readonly question: number
  readonly scope: number
  readonly toolset: number
  readonly kind: "ordinary" | "invalid" | "tooLong" | "refused"
  readonly mayCache: boolean
  readonly priority: "critical" | "normal" | "batch"
  readonly wanted: "text" | "json" | "tool"
  readonly phrasing: "plain" | "spelled" | "turned"
  readonly mayWait: boolean
  /** Whether it brings an idempotency key, which is its question. */
  readonly keyed: boolean
  readonly cancelsAfter: number | undefined
}

/** A request that has nothing special. */
export const ordinary: Asked = {
  index: 0,
  at: 0,
  stream: false,
  deadline: undefined,
  leavesAfter: undefined,
  readerPause: 0,
  stopsAfter: undefined,
  question: 0,
  scope: 0,
  toolset: 0,
  kind: "ordinary",
  mayCache: false,
  priority: "normal",
  wanted: "text",
  phrasing: "plain",
  mayWait: false,
  keyed: false,
  cancelsAfter: undefined
}

/** The name of a step, "a" for the first. */
export const nameOf = (step: number): string => String.fromCharCode(97 + step)

/** Rounds a time up to the grid of a plan. */
export const onGrid = (plan: Plan, millis: number): number => Math.ceil(millis / plan.grid) * plan.grid
