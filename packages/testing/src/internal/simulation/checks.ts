import * as Decision from "@llm-resilience/core/Decision"
import type { LlmRequest } from "@llm-resilience/core/LlmRequest"
import type { LlmStreamPart, LlmResponse } from "@llm-resilience/core/LlmResponse"
import type * as Policy from "@llm-resilience/core/Policy"
import type { Failure, Provider, Status } from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import type { ResilienceEvent } from "@llm-resilience/core/ResilienceEvent"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type { VirtualTime } from "../../VirtualTime.ts"
import type { Asked, Plan } from "./plan.ts"
import {
  breakerReference,
  type BreakerReference,
  budgetReference,
  type BudgetReference,
  restReference,
  type RestReference,
  type Ticket
} from "./references.ts"
import { type Outcome, tap } from "./tap.ts"
import * as Trace from "./trace.ts"
import { type Call, identityOf, lengthOf, type Marked, nameOf } from "./world.ts"

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
  readonly startedAt: number
  id: number
  endedAt: number | undefined
  left: boolean
  /** When its reader was last back to read on. */
  readAt: number
  text: string
  words: number
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

interface Attempt {
  readonly ask: number
  retries: number
  endedAt: number
  error: Failure | undefined
  committed: boolean
}

interface StepState {
  readonly breaker: BreakerReference | undefined
  readonly rest: RestReference | undefined
  readonly budget: BudgetReference | undefined
}

export interface Checks {
  readonly violate: (invariant: string, detail: string) => void
  readonly violation: () => Violation | undefined
  readonly trace: Trace.Trace
  readonly steps: ReadonlyArray<StepState>
  readonly live: Map<number, Live>
  readonly onEvent: (event: ResilienceEvent) => void
  readonly callStarted: (call: Call) => void
  readonly callEnded: (call: Call) => void
  /** The outermost policy of a step's inner half: between cooldown and breaker. */
  readonly resting: (step: number) => Policy.Policy
  /** Between breaker and timeouts. */
  readonly calling: (step: number) => Policy.Policy
  readonly accepted: (request: Marked) => void
  /** A step as it is built: what it holds has to be given back in the end. */
  readonly built: (provider: Provider) => void
  readonly atRest: Effect.Effect<void>
  readonly part: (live: Live, part: LlmStreamPart) => void
  readonly ended: (live: Live, exit: Exit.Exit<LlmResponse | void, Failure>) => void
  readonly counts: { answered: number; failed: number; left: number; cached: number; calls: number; opened: number }
}

/** Times are compared to the microsecond: the clock counts nanoseconds, and sums of doubles are off by less. */
const epsilon = 0.001

export const make = (plan: Plan, time: VirtualTime, kept: number, onViolation: () => void): Checks => {
  const trace = Trace.make(kept)
  const live = new Map<number, Live>()
  const byId: Array<Live | undefined> = []
  let violation: Violation | undefined
  const counts = { answered: 0, failed: 0, left: 0, cached: 0, calls: 0, opened: 0 }
  // With preemption another fiber may act between a decision and what follows from it: then only what holds at any moment is checked.
  const strict = plan.preemption === 0
  const given = new Set<string>()

  const violate = (invariant: string, detail: string): void => {
    if (violation !== undefined) return
    violation = { invariant, detail, at: time.now() }
    onViolation()
  }

  const steps = plan.steps.map((step) => ({
    breaker: step.breaker === undefined ? undefined : breakerReference(step.breaker),
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
    const reference = steps[step]?.rest
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
    if (!isExtra || slow !== step) steps[step]?.budget?.call(now)
    if (isExtra && steps[slow]?.budget?.extra(now) === false) {
      violate("retries and hedges within the budget", `${nameOf(slow)} at ${now}`)
    }
  }

  const calling = (step: number): Policy.Policy => {
    const reference = steps[step]?.breaker
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
    const reference = steps[stepOf(event.provider)]?.breaker
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
    const state = steps[stepOf(provider)]
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
    const reference = steps[stepOf(event.provider)]?.breaker
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
  const checkPermits = (call: Call): void => {
    const { adaptive, bulkhead } = plan.steps[call.step] ?? {}
    // With preemption a call that was told to stop at this moment may not have heard of it yet.
    if (!strict) return
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

  const onEvent = (event: ResilienceEvent): void => {
    const id = "request" in event ? event.request : 0
    trace.add(time.now(), event._tag, id, event)
    const of = byId[id]
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
        if (event.to !== event.provider) hedged.set(id, [...(hedged.get(id) ?? []), stepOf(event.provider)])
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

  const callStarted = (call: Call): void => {
    counts.calls++
    trace.add(time.now(), "call", live.get(call.request ?? -1)?.id ?? 0, nameOf(call.step))
    if (call.request === undefined) return
    const of = live.get(call.request)
    if (of === undefined) return
    of.calls.push(call)
    checkPermits(call)
    if (of.calls.length > of.budgeted) violate("calls within the attempts of the request", `${of.calls.length} calls`)
    const { deadline } = of.request
    const most = deadline === undefined ? plan.chain.deadline : Duration.toMillis(deadline)
    if (most !== undefined && call.expiresAt > of.startedAt + most + epsilon) {
      violate("every call knows the deadline", `${nameOf(call.step)} may take until ${call.expiresAt}`)
    }
    if (of.endedAt !== undefined) violate("nothing is called after the end", `${nameOf(call.step)} was called`)
  }

  const callEnded = (call: Call): void => {
    trace.add(time.now(), "call ended", live.get(call.request ?? -1)?.id ?? 0, nameOf(call.step))
    if (plan.cache !== undefined) given.add(call.said)
    underway[call.step]?.delete(call)
    if (call.request === undefined) checked[call.step] = call.fault
  }

  const accepted = (request: Marked): void => {
    const of = request.simulated === undefined ? undefined : live.get(request.simulated)
    if (of === undefined) return
    of.id = request.id
    byId[request.id] = of
  }

  const checkText = (of: Live, text: string): void => {
    const [identity = "", ...words] = text.split(" ")
    const expected = identityOf(of.request)
    if (identity !== expected) {
      violate("an answer is the answer to its question", `"${expected}" was answered with "${identity}"`)
    }
    const wrong = words.findIndex((word, index) => Number.parseInt(word, 10) !== index + 1)
    if (wrong !== -1) violate("nothing is repeated and nothing missing", `"${text}"`)
    if (words.length !== lengthOf(expected) - 1) {
      violate("a cut answer is never a shorter success", `"${text}" of ${lengthOf(expected)} words`)
    }
  }

  // The words of a stream come one by one, in parts that are one or more of them.
  const checkWord = (of: Live, delta: string): void => {
    if (of.words === 0) return checkFirst(of, delta)
    for (const word of delta.trimStart().split(" ")) {
      if (Number.parseInt(word, 10) !== of.words++) violate("nothing is repeated and nothing missing", `"${of.text}"`)
    }
  }
  const checkFirst = (of: Live, delta: string): void => {
    const [identity = "", ...rest] = delta.split(" ")
    of.words = 1
    if (identity !== identityOf(of.request)) violate("an answer is the answer to its question", delta)
    if (rest.length > 0) checkWord(of, rest.join(" "))
  }

  const part = (of: Live, part: LlmStreamPart): void => {
    const now = time.now()
    if (of.finished > 0) violate("a stream ends once", `${part.type} came after the end`)
    const until = deadlineOf(of)
    if (until !== undefined && now > until + epsilon && now > of.readAt + epsilon) {
      violate("a deadline is kept", `${part.type} came ${now - until} ms late`)
    }
    if (part.type === "served") of.served = part.served
    else if (part.type === "finish") {
      of.finished++
      checkText(of, of.text)
    } else if (part.type === "text-delta") {
      if (of.served === undefined) violate("who serves is said before the first content", part.delta)
      of.text += part.delta
      checkWord(of, part.delta)
    }
  }

  const deadlineOf = (of: Live): number | undefined => {
    const own = of.request.deadline
    const millis = own === undefined ? plan.chain.deadline : Duration.toMillis(own)
    return millis === undefined ? undefined : of.startedAt + millis
  }

  const checkServed = (of: Live, served: LlmResponse["served"], text: string): void => {
    const identity = identityOf(of.request)
    if (served.from === "cache") {
      counts.cached++
      if (plan.cache === undefined || !of.request.mayCache) return violate("no cache unless asked for", identity)
      // Of an answer that several wrote no model knows the whole.
      if (!given.has(text) && served.contributors === undefined) violate("the cache serves what was answered", text)
      if (served.notice?._tag !== "Cached") violate("a cached answer says so", identity)
      if (served.age !== undefined && Duration.toMillis(served.age) >= plan.cache.stale) {
        violate("what expired is not served", `${identity} after ${Duration.toMillis(served.age)} ms`)
      }
      return
    }
    const by = of.calls.filter((call) => nameOf(call.step) === served.provider)
    // Who finished a broken answer may have had nothing left to say.
    const said = by.length > 0 && (served.contributors !== undefined || by.some((call) => call.said !== ""))
    if (!said) violate("who is named as the author wrote it", `${served.provider} said nothing`)
    const failed = served.attempts.filter((attempt) => attempt._tag === "Failed").length
    const fell = of.asks.reduce((sum, asks) => sum + asks, 0)
    if (failed >= fell + 1) violate("attempts are on the record once", `${failed} failed, ${fell} were made`)
  }

  const checkFailure = (of: Live, error: Failure): void => {
    if (error._tag === "LlmUnavailable") {
      const missing = plan.steps.findIndex((_, step) =>
        error.attempts.every(({ provider }) => provider !== nameOf(step))
      )
      const nested = plan.steps.some(
        ({ faults, outages }) => "Unavailable" in faults || outages.some((o) => o.as === "Unavailable")
      )
      if (missing !== -1 && !nested) violate("every step is on the record", `${nameOf(missing)} is missing`)
      return
    }
    const committed = of.text !== ""
    const late = error._tag === "Timeout" && error.kind === "deadline"
    if (!committed && !late && Decision.of(Decision.defaults, error).fallOver !== "no") {
      violate("who may fall over does", `${error.provider} failed with ${ProviderError.kind(error)}`)
    }
  }

  const ended = (of: Live, exit: Exit.Exit<LlmResponse | void, Failure>): void => {
    const now = time.now()
    trace.add(now, exit._tag === "Success" ? "answered" : "ended", of.id)
    if (of.endedAt !== undefined) return violate("one answer or one error", "it ended twice")
    of.endedAt = now
    const until = deadlineOf(of)
    // A reader who has enough waits for the cleanup, as everybody who leaves.
    const stopped = exit._tag === "Success" && exit.value === undefined && of.finished === 0
    if (!of.left && !stopped && until !== undefined && now > Math.max(until, of.readAt) + epsilon) {
      violate("a deadline is kept", `it ended ${now - until} ms late`)
    }
    // What is told to stop may need the rest of this moment to hear it.
    time.at(now + epsilon, () => {
      const running = of.calls.find((call) => !call.leaving)
      if (running !== undefined) violate("nothing goes on after the end", `${nameOf(running.step)} is still asked`)
    })
    if (exit._tag === "Success") {
      if (exit.value === undefined) {
        if (of.finished !== 1 && of.asked.stopsAfter === undefined) {
          violate("a stream ends with its end", `${of.finished} finish parts after "${of.text}"`)
        }
        if (of.served !== undefined && of.finished === 1) checkServed(of, of.served, of.text)
      } else {
        of.served = exit.value.served
        checkText(of, exit.value.text)
        checkServed(of, exit.value.served, exit.value.text)
      }
      counts.answered++
      return
    }
    const error = exit.cause.reasons.find(Cause.isFailReason)?.error
    if (error !== undefined) {
      counts.failed++
      checkFailure(of, error)
    } else if (Cause.hasDies(exit.cause)) violate("no defect leaves the chain", Cause.pretty(exit.cause))
    else if (of.left) counts.left++
    else violate("one answer or one error", "it was interrupted by nobody")
  }

  return {
    violate,
    violation: () => violation,
    trace,
    steps,
    live,
    onEvent,
    callStarted,
    callEnded,
    resting,
    calling,
    accepted,
    part,
    ended,
    built: (provider) => void built.push(provider),
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
    ),
    counts
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
