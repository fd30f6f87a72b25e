import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Attempt from "../Attempt.ts"
import * as Hedge from "../Hedge.ts"
import type * as LlmRequest from "../LlmRequest.ts"
import * as LlmUnavailable from "../LlmUnavailable.ts"
import type { Failure, Provider } from "../Provider.ts"
import type { Method } from "../Vitals.ts"
import { type Ask, type Chain, failureOf, recordFailure, recordRefusal, recordSkip } from "./chain.ts"
import { monotonic } from "./monotonic.ts"
import { racing } from "./racing.ts"
import { lacks, nextTaker, takers } from "./takers.ts"

type Steps = ReadonlyArray<Provider>

/** How the steps of a walk are asked: `ask` calls one, `answer` tags what it gave, `discard` gives back what came too late. */
export interface Manner<A, B> {
  readonly method: Method
  readonly ask: Ask<A>
  readonly answer: (result: A, step: Provider, attempts: ReadonlyArray<Attempt.Attempt>, startedAt: number) => B
  readonly discard: (result: A) => Effect.Effect<void>
}

/** Creates the walk along the steps of a chain, for whole and streamed answers alike. It begins `now`. */
export const walking = (chain: Chain) => {
  const lastResort: LastResort = { busy: false, nextAt: -Infinity }

  return <A, B>(
    clock: Clock.Clock,
    request: LlmRequest.LlmRequest,
    manner: Manner<A, B>,
    now: number
  ): Effect.Effect<B, Failure> => {
    const walk = new Walk(chain, lastResort, clock, request, manner)
    // The last resort of a chain around this one: here, too, only the step that is back soonest is asked.
    const calm = request.lastResort ? { ...request, lastResort: false } : request
    return walk.from(chain.ordered(request, manner.method, now), 0, calm, now)
  }
}

/** One for all walks along a chain. */
interface LastResort {
  busy: boolean
  nextAt: number
}

/** A call that is under way. */
interface Leg {
  readonly step: Provider
  readonly startedAt: number
}

const without = (legs: ReadonlyArray<Leg>, leg: Leg): ReadonlyArray<Leg> =>
  legs.length === 1 && legs[0] === leg ? none : legs.filter((other) => other !== leg)

const none: ReadonlyArray<Leg> = []

/** One walk, and what is known of it. It is a class because every call has one, and on a good day hardly a part of it is used. */
class Walk<A, B> {
  readonly chain: Chain
  readonly lastResort: LastResort
  readonly clock: Clock.Clock
  readonly request: LlmRequest.LlmRequest
  readonly manner: Manner<A, B>
  readonly attempts: Array<Attempt.Attempt> = []
  underway = none
  tooLongFor: number | undefined = undefined
  // The first call of a walk is paid for by whoever asked the chain, that of a hedge when the hedge is sent.
  paid = 1
  front = -1
  hedges = 0
  insisted = false
  answered = false

  constructor(
    chain: Chain,
    lastResort: LastResort,
    clock: Clock.Clock,
    request: LlmRequest.LlmRequest,
    manner: Manner<A, B>
  ) {
    this.chain = chain
    this.lastResort = lastResort
    this.clock = clock
    this.request = request
    this.manner = manner
  }

  from(
    list: Steps,
    index: number,
    request: LlmRequest.LlmRequest,
    now = monotonic(this.clock)
  ): Effect.Effect<B, Failure> {
    const step = list[index]
    if (step === undefined) return this.exhausted(list, request)
    const reason = this.refusal(step, request, now)
    if (reason === undefined)
      return this.call(list, index, step, request, takers(list, index + 1, request, this.tooLongFor, now), now)
    recordSkip(this.chain, this.attempts, request, step, reason)
    return this.from(list, index + 1, request)
  }

  refusal(step: Provider, request: LlmRequest.LlmRequest, now: number): Attempt.SkipReason | undefined {
    const incapable = lacks(step, request, this.tooLongFor)
    if (incapable !== undefined) return { _tag: "NotCapable", requires: incapable }
    const remaining = request.expiresAt - now
    if (remaining <= 0 || (remaining < this.chain.minimumTime && this.attempts.length > 0)) {
      return { _tag: "NoTimeLeft", remaining: Duration.millis(Math.max(0, remaining)) }
    }
    if (this.paid === 0 && request.allowance.left <= 0) return { _tag: "NoAttemptsLeft" }
    return step.availability(request, now)
  }

  call(
    list: Steps,
    index: number,
    step: Provider,
    request: LlmRequest.LlmRequest,
    stepsLeft: number,
    startedAt: number
  ): Effect.Effect<B, Failure> {
    const { hedge, hub, share } = this.chain
    const remaining = Math.min(request.expiresAt, request.commitBy) - startedAt
    if (hub.active()) {
      const before = this.attempts.at(-1)
      if (before !== undefined) {
        hub.publish({ _tag: "FellBack", request: request.id, from: before.provider, to: step.id, because: before })
      }
      hub.publish({ _tag: "AttemptStarted", request: request.id, provider: step.id, model: step.model })
    }
    if (this.paid > 0) this.paid--
    else request.allowance.left--
    this.front = Math.max(this.front, index)
    const leg: Leg = { step, startedAt }
    this.underway = [...this.underway, leg]
    const until = startedAt + (stepsLeft === 0 ? remaining : remaining * share)
    const { grant } = request
    const wasSent = grant?.sent === true
    // Nobody says when a step without a budget has been asked.
    if (grant !== undefined && step.budget === undefined) grant.sent = true
    const matched = Effect.matchCauseEffect(this.asking(step, request, request.stepsLeft + stepsLeft, until), {
      onSuccess: (result) => {
        // Two answers at the same moment: the first is with the caller already.
        if (this.answered) return Effect.andThen(this.manner.discard(result), Effect.never)
        this.answered = true
        this.underway = without(this.underway, leg)
        if (hub.active()) {
          const duration = Duration.millis(monotonic(this.clock) - startedAt)
          hub.publish({ _tag: "AttemptSucceeded", request: request.id, provider: step.id, duration })
        }
        this.supersede()
        this.giveBack(0)
        return Effect.succeed(this.manner.answer(result, step, this.attempts, startedAt))
      },
      onFailure: (cause) => {
        this.underway = without(this.underway, leg)
        const error = failureOf(step, cause)
        if (grant !== undefined && LlmUnavailable.wasRefused(error)) {
          grant.sent = wasSent
        }
        return this.failed(list, index, step, request, error, monotonic(this.clock) - startedAt)
      }
    })
    const asked =
      grant === undefined || grant.sent
        ? matched
        : Effect.onInterrupt(matched, () =>
            Effect.sync(() => {
              if (!grant.sent) request.allowance.left++
            })
          )
    const delay =
      hedge === undefined || stepsLeft === 0 || request.lastResort
        ? undefined
        : Hedge.delayOf(hedge, step, this.manner.method)
    return delay === undefined || until - startedAt <= delay
      ? asked
      : Effect.mapError(
          racing(asked, delay, (now) => this.alongside(list, index, leg, request, delay, now), isFinal),
          (error) => this.told(error)
        )
  }

  // What it throws is its failure, too.
  asking(step: Provider, request: LlmRequest.LlmRequest, stepsLeft: number, until: number): Effect.Effect<A, Failure> {
    try {
      return this.manner.ask(step, request, stepsLeft, until)
    } catch (defect) {
      return Effect.die(defect)
    }
  }

  // Of two that fail at the same moment the one that ends last may have known the shorter story.
  told(error: Failure): Failure {
    return error._tag === "LlmUnavailable" && error.attempts.length < this.attempts.length
      ? this.chain.unavailable(this.attempts)
      : error
  }

  // Who waits for a slow step asks the next one that would take the request, if there is one and if it can be afforded.
  alongside(
    list: Steps,
    index: number,
    slow: Leg,
    request: LlmRequest.LlmRequest,
    delay: number,
    now: number
  ): Effect.Effect<B, Failure> | undefined {
    const { hedge, hub } = this.chain
    const { step } = slow
    if (!this.underway.includes(slow) || this.answered || this.hedges >= (hedge?.hedges ?? 0)) return undefined
    const next = nextTaker(list, index + 1, request, this.tooLongFor, now)
    const sent = next === undefined ? undefined : Hedge.afford(step, request, 0, now)
    if (sent === undefined || next === undefined) return undefined
    this.hedges++
    this.paid++
    if (hub.active()) {
      const after = Duration.millis(delay)
      hub.publish({ _tag: "Hedged", request: request.id, provider: step.id, to: next.id, after })
    }
    const leg = this.from(list, index + 1, sent)
    const { grant } = sent
    if (grant === undefined) return leg
    // A hedge that everybody refused, or that waited in a line until it was over, was none.
    return Effect.onExit(leg, (exit) => {
      if (!grant.sent) step.budget?.restore(grant)
      if (Exit.hasInterrupts(exit)) this.giveBack(0)
      return Effect.void
    })
  }

  // What was taken for calls that nobody was asked for. Whoever asked a chain in which nobody was called takes back what that cost by itself.
  giveBack(kept: number): void {
    this.request.allowance.left += this.paid - kept
    this.paid = kept
  }

  supersede(): void {
    if (this.underway.length === 0) return
    const { hub } = this.chain
    const now = monotonic(this.clock)
    for (const { startedAt, step } of this.underway) {
      const duration = Duration.millis(now - startedAt)
      this.attempts.push({ _tag: "Superseded", provider: step.id, model: step.model, duration })
      if (hub.active()) {
        hub.publish({ _tag: "AttemptSuperseded", request: this.request.id, provider: step.id, duration })
      }
    }
    this.underway = none
  }

  failed(
    list: Steps,
    index: number,
    step: Provider,
    request: LlmRequest.LlmRequest,
    error: Failure,
    millis: number
  ): Effect.Effect<B, Failure> {
    if (error._tag === "LlmUnavailable") {
      recordRefusal(this.chain, this.attempts, request, step, error)
      // Nobody was called, so the next call is not one more.
      if (LlmUnavailable.wasRefused(error)) this.paid++
    } else {
      const decision = recordFailure(this.chain, this.attempts, request, step, error, millis)
      if (decision.fallOver === "no") {
        this.supersede()
        this.giveBack(0)
        return Effect.fail(error)
      }
      if (decision.fallOver === "largerWindow")
        this.tooLongFor = Math.max(this.tooLongFor ?? 0, step.capabilities.contextWindow ?? 0)
    }
    // Whoever was asked beside this step is further down the chain already.
    return index < this.front ? this.exhausted(list, request) : this.from(list, index + 1, request)
  }

  exhausted(list: Steps, request: LlmRequest.LlmRequest): Effect.Effect<B, Failure> {
    const { lastResort } = this
    const { lastResortEvery, steps } = this.chain
    return Effect.suspend(() => {
      if (this.underway.length > 0) return this.unavailable()
      const spared = this.insisted
        ? []
        : list.filter((step) => this.attempts.some((attempt) => wasSpared(attempt, step)))
      if (spared.length > 0) {
        this.insisted = true
        this.front = -1
        return this.from(spared, 0, { ...request, insists: true })
      }
      const now = monotonic(this.clock)
      const everyoneRests = this.attempts.every((attempt) => attempt._tag === "Skipped")
      // In a chain within a chain, somebody outside may still be well.
      if (request.stepsLeft > 0 || !everyoneRests || lastResort.busy || now < lastResort.nextAt)
        return this.unavailable()
      if (this.paid === 0 && request.allowance.left <= 0) return this.unavailable()
      const urgent = { ...request, lastResort: true }
      const step = soonestFirst(steps, this.attempts).find((step) => step.availability(urgent, now) === undefined)
      if (step === undefined) return this.unavailable()
      this.front = -1
      // From the flag on, whatever ends this call takes it back.
      return Effect.uninterruptibleMask((restore) => {
        if (lastResort.busy) return this.unavailable()
        lastResort.busy = true
        lastResort.nextAt = now + lastResortEvery
        return Effect.onExit(restore(this.call([step], 0, step, urgent, 0, now)), () => {
          lastResort.busy = false
          return Effect.void
        })
      })
    })
  }

  unavailable(): Effect.Effect<never, Failure> {
    const error = this.chain.unavailable(this.attempts)
    if (this.underway.length === 0) this.giveBack(LlmUnavailable.wasRefused(error) ? 1 : 0)
    return Effect.fail(error)
  }
}

const isFinal = (cause: Cause.Cause<Failure>): boolean =>
  cause.reasons.some((reason) => Cause.isFailReason(reason) && reason.error._tag !== "LlmUnavailable")

const wasSpared = (attempt: Attempt.Attempt, step: Provider): boolean =>
  attempt._tag === "Skipped" &&
  attempt.provider === step.id &&
  (attempt.reason._tag === "Unhealthy" || attempt.reason._tag === "Recovering")

const soonestFirst = (steps: Steps, attempts: ReadonlyArray<Attempt.Attempt>): ReadonlyArray<Provider> =>
  attempts
    .flatMap((attempt) => {
      const retryAfter = attempt._tag === "Skipped" ? Attempt.skipRetryAfter(attempt.reason) : undefined
      const step = steps.find((step) => step.id === attempt.provider)
      return retryAfter === undefined || step === undefined ? [] : [{ step, wait: Duration.toMillis(retryAfter) }]
    })
    .toSorted((left, right) => left.wait - right.wait)
    .map(({ step }) => step)
