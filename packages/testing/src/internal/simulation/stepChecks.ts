import * as Decision from "@llm-resilience/core/Decision"
import type { LlmRequest } from "@llm-resilience/core/LlmRequest"
import type * as Policy from "@llm-resilience/core/Policy"
import type { Provider, Status } from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import type { ResilienceEvent } from "@llm-resilience/core/ResilienceEvent"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { type Attempt, epsilon, type Live, type Run } from "./live.ts"
import { nameOf } from "./plan.ts"
import {
  breakerReference,
  type BreakerReference,
  budgetReference,
  type BudgetReference,
  type Kept,
  restReference,
  type RestReference,
  type Ticket
} from "./references.ts"
import { type Outcome, tap } from "./tap.ts"
import type { Call, Marked } from "./world.ts"

/** What a step may do: when its model is called, called again, passed over. */
export interface StepChecks {
  readonly references: ReadonlyArray<References>
  /** The outermost policy of a step's inner half: between cooldown and breaker. */
  readonly resting: (step: number) => Policy.Policy
  /** Between breaker and timeouts. */
  readonly calling: (step: number) => Policy.Policy
  /** A step as it is built: what it holds has to be given back in the end. */
  readonly built: (provider: Provider) => void
  readonly atRest: Effect.Effect<void>
  readonly called: (call: Call) => void
  readonly ended: (call: Call) => void
  readonly onEvent: (event: ResilienceEvent, of: Live | undefined) => void
  /** Why a step would not take an ordinary request now. */
  readonly refusal: (step: number) => string | undefined
}

export interface References {
  readonly breaker: BreakerReference | undefined
  readonly rest: RestReference | undefined
  readonly budget: BudgetReference | undefined
}

/** With what the breakers of an earlier process knew, if this one goes on from there. */
export const make = (
  { counts, live, plan, strict, time, violate }: Run,
  kept?: ReadonlyArray<Kept | undefined>
): StepChecks => {
  const references = plan.steps.map((step, index) => ({
    breaker: step.breaker === undefined ? undefined : breakerReference(step.breaker, kept?.[index], time.now()),
    rest: step.cooldown === undefined ? undefined : restReference(),
    budget: step.budget === undefined ? undefined : budgetReference(step.budget)
  }))
  const built: Array<Provider> = []
  const checked: Array<Call["fault"]> = []
  const underway: Array<Set<Call>> = []
  const hedged = new Map<number, ReadonlyArray<number>>()
  const granted = new WeakSet<object>()

  const resting = (step: number): Policy.Policy => {
    const { cooldown, hedge, retry } = plan.steps[step] ?? {}
    const reference = references[step]?.rest
    return tap<{ readonly request: Marked; readonly of: Live | undefined; readonly attempt: Attempt }>({
      started: (request: Marked) => {
        const of = request.simulated === undefined ? undefined : live.get(request.simulated)
        const now = time.now()
        const name = nameOf(step)
        if (strict && reference?.rests(now) === true && !request.lastResort) {
          violate("no call while it rests", `${name} was called`)
        }
        if (now > request.expiresAt + epsilon) violate("no attempt after the deadline", `${name} at ${now}`)
        const attempt: Attempt = {
          ask: of?.asks[step] ?? 0,
          retries: 0,
          endedAt: 0,
          error: undefined,
          committed: false
        }
        const before = of?.attempts[step]
        if (before !== undefined && before.ask === attempt.ask) {
          attempt.retries = before.retries + 1
          // Two calls at once are no retry of each other.
          if (hedge === undefined) checkRetry(name, request, before, attempt, now)
        }
        if (of !== undefined) of.attempts[step] = attempt
        return { request, of, attempt }
      },
      committed: ({ attempt }) => {
        attempt.committed = true
      },
      ended: ({ attempt, request }, outcome) => {
        const now = time.now()
        attempt.endedAt = now
        attempt.error = outcome._tag === "Failed" ? outcome.error : undefined
        if (reference === undefined || cooldown === undefined) return
        if (outcome._tag === "Answered" && request.lastResort) reference.wake(now)
        if (outcome._tag !== "Failed" || outcome.error._tag === "LlmUnavailable") return
        const after = ProviderError.retryAfter(outcome.error)
        const asked = after === undefined ? undefined : Duration.toMillis(after)
        const { rest } = Decision.of(Decision.defaults, outcome.error)
        if (rest === "coolDown") reference.asked(now, Math.min(cooldown.maxRest, asked ?? cooldown.rest))
        if (rest === "isolate") reference.asked(now, Math.min(86_400_000, asked ?? cooldown.isolation))
      }
    })

    function checkRetry(name: string, request: LlmRequest, before: Attempt, attempt: Attempt, now: number): void {
      const { error } = before
      if (before.committed) return violate("nothing after the first content is repeated", `${name} was asked again`)
      if (retry === undefined || attempt.retries > retry.retries) {
        return violate("attempts within the limit", `${name} was retried ${attempt.retries} times`)
      }
      if (error === undefined) return violate("only a failure is retried", `${name} was asked again without one`)
      if (error._tag === "LlmUnavailable" || request.lastResort) {
        return violate("a refusal is not retried", `${name} after ${error._tag}`)
      }
      const after = ProviderError.retryAfter(error)
      const asked = after === undefined ? undefined : Duration.toMillis(after)
      const waited = now - before.endedAt
      if (asked !== undefined && waited < asked - epsilon) {
        violate("Retry-After is waited out", `${name} asked for ${asked} ms and was called after ${waited} ms`)
      }
      if (asked !== undefined && asked > retry.maxRetryAfter) {
        violate("a long Retry-After is not waited for", `${name} asked for ${asked} ms`)
      }
      if (waited > Math.max(retry.cap, asked ?? 0) + epsilon) {
        violate("a retry waits no longer than its cap", `${name} was called after ${waited} ms`)
      }
      const rule = Decision.of(Decision.defaults, error).retry
      const may =
        rule === "yes" || (rule === "ifShort" && asked !== undefined) || (rule === "ifLast" && request.stepsLeft === 0)
      if (!may) violate("only what may be retried is", `${name} after ${ProviderError.kind(error)}`)
    }
  }

  // What reaches a provider is a call, or it carries a grant, once: for a retry or hedge of its own, or for a hedge along the chain, which the
  // step pays that was slow.
  const checkBudget = (step: number, { grant, id }: Marked, now: number): void => {
    const isExtra = grant !== undefined && !granted.has(grant)
    if (isExtra) granted.add(grant)
    const [slow = step, ...others] = isExtra ? (hedged.get(id) ?? []) : []
    if (slow !== step) hedged.set(id, others)
    if (!isExtra || slow !== step) references[step]?.budget?.call(now)
    if (isExtra && references[slow]?.budget?.extra(now) === false) {
      violate("retries and hedges within the budget", `${nameOf(slow)} at ${now}`)
    }
  }

  const calling = (step: number): Policy.Policy => {
    const reference = references[step]?.breaker
    return tap<{ ticket: Ticket | undefined; readonly startedAt: number; committedAt: number | undefined }>({
      started: (request) => {
        const now = time.now()
        checkBudget(step, request, now)
        if (reference === undefined || !strict) return { ticket: undefined, startedAt: now, committedAt: undefined }
        const refusal = reference.refusal(now, request)
        if (refusal !== undefined) {
          violate(
            refusal === "ProbeRunning" ? "probes within their limit" : "no call while open or isolated",
            `${nameOf(step)} was called although: ${refusal}`
          )
        }
        return { ticket: reference.admitted(now), startedAt: now, committedAt: undefined }
      },
      committed: (call) => {
        const now = time.now()
        call.committedAt = now
        if (call.ticket !== undefined) call.ticket = reference?.committed(call.ticket, now)
      },
      ended: (call, outcome) => {
        if (call.ticket === undefined || reference === undefined) return
        const now = time.now()
        const after =
          outcome._tag === "Failed" && outcome.error._tag !== "LlmUnavailable"
            ? ProviderError.retryAfter(outcome.error)
            : undefined
        const retryAfter = after === undefined ? 0 : Duration.toMillis(after)
        reference.ended(call.ticket, verdictOf(outcome), retryAfter, now, (call.committedAt ?? now) - call.startedAt)
      }
    })
  }

  const checkChange = (event: Extract<ResilienceEvent, { readonly _tag: "CircuitChanged" }>): void => {
    if (event.to === "Open") counts.opened++
    const reference = references[stepOf(event.provider)]?.breaker
    if (!strict || reference === undefined) return
    const now = time.now()
    const expected = reference.state(now)
    // An admission is seen by the reference when it has passed, just after the breaker took it.
    const before = event.to === "HalfOpen" && expected === "Open" && reference.refusal(now, urgent) === undefined
    if (expected !== event.to && !before && reference.changedAt() !== now) {
      violate("the breaker does what its rules say", `${event.provider} is ${event.to}, the reference ${expected}`)
    }
  }

  const checkSkip = (event: Extract<ResilienceEvent, { readonly _tag: "StepSkipped" }>): void => {
    const { provider, reason } = event
    const state = references[stepOf(provider)]
    if (!strict || state === undefined) return
    const now = time.now()
    const refusal = state.breaker?.refusal(now, plain)
    const rests = state.rest?.rests(now) === true
    if (state.breaker?.changedAt() === now || state.rest?.changedAt() === now) return
    const byCircuit = ["CircuitOpen", "ProbeRunning", "Recovering"].includes(reason._tag)
    if (byCircuit && refusal !== reason._tag) {
      violate("nobody is skipped without reason", `${provider} was skipped (${reason._tag}), the reference: ${refusal}`)
    }
    if (reason._tag === "CoolingDown" && !rests) {
      violate("nobody is skipped without reason", `${provider} was skipped although it does not rest`)
    }
    if (reason._tag === "Isolated" && !rests && refusal !== "Isolated") {
      violate("nobody is skipped without reason", `${provider} was skipped although it is not isolated`)
    }
  }

  // After a good check the next caller may try; after a bad one nobody needs to until the check after that.
  const checkHealth = (event: Extract<ResilienceEvent, { readonly _tag: "HealthChecked" }>): void => {
    const reference = references[stepOf(event.provider)]?.breaker
    const { health } = plan
    if (reference === undefined || health === undefined) return
    // A check that an inner chain refused says nothing.
    if (event.error === undefined && checked[stepOf(event.provider)] === "Unavailable") return
    const now = time.now()
    if (event.verdict === "bad") reference.hold(now, 1.2 * Math.min(health.interval, 10_000) + health.timeout)
    if (event.verdict === "good") reference.halfOpen(now)
  }

  // Who waits at a gate, and for how many there is room.
  const checkGate = (step: number, status: Status | undefined, atRest: boolean): void => {
    const { adaptive, bulkhead } = plan.steps[step] ?? {}
    if (adaptive === undefined && bulkhead === undefined) return
    const load = status?.load
    if (load === undefined) return violate("a gate says how full it is", nameOf(step))
    const queue = Math.max(adaptive?.queue ?? 0, bulkhead?.queue ?? 0)
    if (load.waiting > queue) violate("queues within their bounds", `${load.waiting} wait for ${nameOf(step)}`)
    if (atRest && (load.inFlight > 0 || load.waiting > 0)) {
      violate("everything is given back", `${nameOf(step)} has ${load.inFlight} calls and ${load.waiting} waiting`)
    }
  }
  const lookAtGate = (step: number, atRest: boolean): Effect.Effect<void> =>
    Effect.map(built.find(({ id }) => id === nameOf(step))?.status ?? Effect.succeed([]), ([status]) =>
      checkGate(step, status, atRest)
    )

  // A request has one permit of the bulkhead, however many calls it makes; each call has one of the adaptive limit.
  const called = (call: Call): void => {
    const { adaptive, bulkhead } = plan.steps[call.step] ?? {}
    // With preemption a call that was told to stop at this moment may not have heard of it yet.
    if (!strict || (adaptive === undefined && bulkhead === undefined)) return
    const running = underway[call.step] ?? (underway[call.step] = new Set())
    running.add(call)
    const now = [...running].filter(({ leaving }) => !leaving)
    if (bulkhead !== undefined && new Set(now.map(({ request }) => request)).size > bulkhead.permits) {
      violate("no more calls than permits", `${nameOf(call.step)} has ${now.length}`)
    }
    if (adaptive !== undefined && now.length > 2 * adaptive.permits) {
      violate("no more calls than permits", `${nameOf(call.step)} has ${now.length}`)
    }
  }

  const onEvent = (event: ResilienceEvent, of: Live | undefined): void => {
    switch (event._tag) {
      case "AttemptStarted":
        if (of !== undefined) {
          const step = stepOf(event.provider)
          of.asks[step] = (of.asks[step] ?? 0) + 1
          if (of.final) violate("an error that is the same everywhere ends the walk", `${event.provider} was asked`)
        }
        return
      case "AttemptFailed":
        if (of !== undefined && event.decision.fallOver === "no") of.final = true
        return
      case "StepSkipped":
        return checkSkip(event)
      case "CircuitChanged":
        return checkChange(event)
      case "HealthChecked":
        return checkHealth(event)
      case "Hedged": {
        const { request } = event
        if (event.to !== event.provider) hedged.set(request, [...(hedged.get(request) ?? []), stepOf(event.provider)])
        return
      }
      case "Throttled":
        if (event.limit === "rejections" && of?.request.priority === "critical") {
          violate("critical requests are not throttled", event.provider)
        }
        time.fork(lookAtGate(stepOf(event.provider), false))
        return
      default:
    }
  }

  return {
    references,
    resting,
    calling,
    built: (provider) => void built.push(provider),
    called,
    ended: (call) => {
      underway[call.step]?.delete(call)
      if (call.request === undefined) checked[call.step] = call.fault
    },
    onEvent,
    refusal: (step) => {
      const { breaker, rest } = references[step] ?? {}
      const now = time.now()
      return rest?.rests(now) === true ? "CoolingDown" : breaker?.refusal(now, plain)
    },
    atRest: Effect.suspend(() =>
      Effect.forEach(
        built,
        (provider) => {
          const busy = provider.vitals?.at(time.now()).inFlight ?? 0
          if (busy !== 0) violate("everything is given back", `${provider.id} has ${busy} calls in flight`)
          return lookAtGate(stepOf(provider.id), true)
        },
        { discard: true }
      )
    )
  }
}

const plain = { lastResort: false, insists: false }
const urgent = { lastResort: true, insists: false }

const stepOf = (provider: string): number => provider.charCodeAt(0) - 97

const verdictOf = (outcome: Outcome): "success" | "failure" | "ignored" => {
  switch (outcome._tag) {
    case "Answered":
      return "success"
    case "Died":
      return "failure"
    case "Left":
      return "ignored"
    case "Failed":
      return outcome.error._tag === "LlmUnavailable" ? "ignored" : Decision.of(Decision.defaults, outcome.error).breaker
  }
}
