import type { LlmRequest } from "@llm-resilience/core/LlmRequest"
import type { LlmResponse } from "@llm-resilience/core/LlmResponse"
import type { Failure } from "@llm-resilience/core/Provider"
import * as Duration from "effect/Duration"
import type { VirtualTime } from "../../VirtualTime.ts"
import { identityOf } from "./knowledge.ts"
import type { Asked, Plan } from "./plan.ts"
import * as Trace from "./trace.ts"
import type { Call } from "./world.ts"

/** What must hold, and did not. */
export interface Violation {
  readonly invariant: string
  readonly detail: string
  readonly at: number
}

/** A request under way, with all that is known about it. */
export interface Live {
  readonly asked: Asked
  readonly request: LlmRequest
  /** What it is about, for whom. */
  readonly identity: string
  readonly startedAt: number
  id: number
  endedAt: number | undefined
  left: boolean
  /** When its reader was last back to read on. */
  readAt: number
  text: string
  words: number
  /** What it was told bit by bit of the parameters of a tool. */
  params: string
  /** Whom the tools that it was told to call were called for. */
  readonly toolCalls: Array<string>
  /** Its reader has seen content. */
  committed: boolean
  finished: number
  served: LlmResponse["served"] | undefined
  readonly calls: Array<Call>
  readonly asks: Array<number>
  readonly attempts: Array<Attempt | undefined>
  /** A step said that the request would fail everywhere. */
  final: boolean
  /** How many calls it may cause. */
  readonly budgeted: number
}

/** What went from the inner half of a step to the outer one, as one try of it. */
export interface Attempt {
  readonly ask: number
  retries: number
  endedAt: number
  error: Failure | undefined
  committed: boolean
}

/** What all checks of a run share. */
export interface Run {
  readonly plan: Plan
  readonly time: VirtualTime
  /** With preemption another fiber may act between a decision and what follows from it: then only what holds at any moment is checked. */
  readonly strict: boolean
  readonly trace: Trace.Trace
  readonly violate: (invariant: string, detail: string) => void
  readonly violation: () => Violation | undefined
  readonly live: Map<number, Live>
  readonly byId: Map<number, Live>
  readonly counts: Counts
}

export interface Counts {
  answered: number
  failed: number
  left: number
  cached: number
  similar: number
  calls: number
  opened: number
  deferred: number
  json: number
  toolCalls: number
  requeued: number
  limited: number
  killed: number
  shutDown: number
}

export const make = (plan: Plan, time: VirtualTime, kept: number, onViolation: () => void): Run => {
  let violation: Violation | undefined
  return {
    plan,
    time,
    strict: plan.preemption === 0,
    trace: Trace.make(kept),
    violate: (invariant, detail) => {
      if (violation !== undefined) return
      violation = { invariant, detail, at: time.now() }
      onViolation()
    },
    violation: () => violation,
    live: new Map(),
    byId: new Map(),
    counts: {
      answered: 0,
      failed: 0,
      left: 0,
      cached: 0,
      similar: 0,
      calls: 0,
      opened: 0,
      deferred: 0,
      json: 0,
      toolCalls: 0,
      requeued: 0,
      limited: 0,
      killed: 0,
      shutDown: 0
    }
  }
}

/** Begins to watch a request. */
export const begin = ({ live, plan, time }: Run, asked: Asked, request: LlmRequest): Live => {
  const now = time.now()
  const of: Live = {
    asked,
    request,
    identity: identityOf(request),
    startedAt: now,
    id: 0,
    endedAt: undefined,
    left: false,
    readAt: now,
    text: "",
    words: 0,
    params: "",
    toolCalls: [],
    committed: false,
    finished: 0,
    served: undefined,
    calls: [],
    asks: [],
    attempts: [],
    final: false,
    budgeted: plan.chain.attempts
  }
  live.set(asked.index, of)
  return of
}

/** When the time of a request is over, if it ever is. */
export const deadlineOf = ({ plan }: Run, { request, startedAt }: Live): number | undefined => {
  const millis = request.deadline === undefined ? plan.chain.deadline : Duration.toMillis(request.deadline)
  return millis === undefined ? undefined : startedAt + millis
}

/** Times are compared to the microsecond: the clock counts nanoseconds, and sums of doubles are off by less. */
export const epsilon = 0.001
