import type { LlmResponse, LlmStreamPart } from "@llm-resilience/core/LlmResponse"
import type { Failure } from "@llm-resilience/core/Provider"
import type { ResilienceEvent } from "@llm-resilience/core/ResilienceEvent"
import * as Duration from "effect/Duration"
import type * as Exit from "effect/Exit"
import * as AnswerChecks from "./answerChecks.ts"
import * as DeferredChecks from "./deferredChecks.ts"
import * as LimitChecks from "./limitChecks.ts"
import { epsilon, type Live, type Run } from "./live.ts"
import { nameOf } from "./plan.ts"
import type { Kept } from "./references.ts"
import * as StepChecks from "./stepChecks.ts"
import type { Call, Marked } from "./world.ts"

/** What is checked in all processes of a run together. */
export interface Shared {
  readonly answers: AnswerChecks.AnswerChecks
  readonly deferred: DeferredChecks.DeferredChecks
  readonly limits: LimitChecks.LimitChecks
}

export const shared = (run: Run): Shared => {
  const answers = AnswerChecks.make(run)
  return { answers, deferred: DeferredChecks.make(run, answers), limits: LimitChecks.make(run) }
}

/** Everything that is checked in one process. */
export interface Checks extends Shared {
  readonly steps: StepChecks.StepChecks
  readonly onEvent: (event: ResilienceEvent) => void
  readonly callStarted: (call: Call) => void
  readonly callEnded: (call: Call) => void
  readonly accepted: (request: Marked) => void
  readonly part: (live: Live, part: LlmStreamPart) => void
  readonly ended: (live: Live, exit: Exit.Exit<LlmResponse | void, Failure>) => void
}

export const make = (run: Run, shared: Shared, kept?: ReadonlyArray<Kept | undefined>): Checks => {
  const { byId, counts, live, plan, time, trace, violate } = run
  const { answers, deferred } = shared
  const steps = StepChecks.make(run, kept)
  // Each process numbers its requests itself.
  const own = new Map<number, Live>()
  const liveOf = (call: Call): Live | undefined => (call.request === undefined ? undefined : live.get(call.request))

  return {
    ...shared,
    steps,
    onEvent: (event) => {
      const id = "request" in event ? event.request : 0
      trace.add(time.now(), event._tag, id, event)
      steps.onEvent(event, own.get(id) ?? byId.get(id))
    },
    callStarted: (call) => {
      counts.calls++
      const of = liveOf(call)
      trace.add(time.now(), "call", of?.id ?? 0, nameOf(call.step))
      if (of === undefined) return
      of.calls.push(call)
      steps.called(call)
      if (of.calls.length > of.budgeted) violate("calls within the attempts of the request", `${of.calls.length} calls`)
      const { deadline } = of.request
      const most = deadline === undefined ? plan.chain.deadline : Duration.toMillis(deadline)
      if (most !== undefined && call.expiresAt > of.startedAt + most + epsilon) {
        violate("every call knows the deadline", `${nameOf(call.step)} may take until ${call.expiresAt}`)
      }
      if (of.endedAt !== undefined) violate("nothing is called after the end", `${nameOf(call.step)} was called`)
    },
    callEnded: (call) => {
      trace.add(time.now(), "call ended", liveOf(call)?.id ?? 0, nameOf(call.step))
      answers.said(call.said)
      steps.ended(call)
    },
    accepted: (request) => {
      const of = request.simulated === undefined ? undefined : live.get(request.simulated)
      if (of === undefined) return
      of.id = request.id
      own.set(request.id, of)
    },
    part: answers.part,
    ended: (of, exit) => {
      answers.ended(of, exit)
      deferred.ended(of, exit)
    }
  }
}
