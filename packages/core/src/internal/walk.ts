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

/**
 * Creates the walk along the steps of a chain, for whole and streamed answers alike: `ask` calls a step, `answer` tags what it gave, `discard`
 * gives back what came too late.
 */
export const walking = (chain: Chain) => {
  const { hedge, hub, lastResortEvery, minimumTime, ordered, share, steps } = chain
  const lastResort = { busy: false, nextAt: -Infinity }

  return <A, B>(
    clock: Clock.Clock,
    request: LlmRequest.LlmRequest,
    method: Method,
    ask: Ask<A>,
    answer: (result: A, step: Provider, attempts: ReadonlyArray<Attempt.Attempt>, startedAt: number) => B,
    discard: (result: A) => Effect.Effect<void>
  ): Effect.Effect<B, Failure> => {
    const attempts: Array<Attempt.Attempt> = []
    const underway = new Map<Provider, number>()
    let tooLongFor: number | undefined
    // The first call of a walk is paid for by whoever asked the chain, that of a hedge when the hedge is sent.
    let paid = 1
    let front = -1
    let hedges = 0
    let insisted = false
    let answered = false

    const from = (list: Steps, index: number, request: LlmRequest.LlmRequest): Effect.Effect<B, Failure> => {
      const step = list[index]
      if (step === undefined) return exhausted(list, request)
      const skip = (reason: Attempt.SkipReason): Effect.Effect<B, Failure> => {
        recordSkip(chain, attempts, request, step, reason)
        return from(list, index + 1, request)
      }
      const incapable = lacks(step, request, tooLongFor)
      const now = monotonic(clock)
      const remaining = request.expiresAt - now
      if (incapable !== undefined) return skip({ _tag: "NotCapable", requires: incapable })
      if (remaining <= 0 || (remaining < minimumTime && attempts.length > 0)) {
        return skip({ _tag: "NoTimeLeft", remaining: Duration.millis(Math.max(0, remaining)) })
      }
      if (paid === 0 && request.allowance.left <= 0) return skip({ _tag: "NoAttemptsLeft" })
      const reason = step.availability(request, now)
      return reason === undefined
        ? call(list, index, step, request, takers(list, index + 1, request, tooLongFor, now), now)
        : skip(reason)
    }

    const call = (
      list: Steps,
      index: number,
      step: Provider,
      request: LlmRequest.LlmRequest,
      stepsLeft: number,
      startedAt: number
    ): Effect.Effect<B, Failure> => {
      const remaining = Math.min(request.expiresAt, request.commitBy) - startedAt
      if (hub.active()) {
        const before = attempts.at(-1)
        if (before !== undefined) {
          hub.publish({ _tag: "FellBack", request: request.id, from: before.provider, to: step.id, because: before })
        }
        hub.publish({ _tag: "AttemptStarted", request: request.id, provider: step.id, model: step.model })
      }
      if (paid > 0) paid--
      else request.allowance.left--
      front = Math.max(front, index)
      underway.set(step, startedAt)
      const until = startedAt + (stepsLeft === 0 ? remaining : remaining * share)
      const { grant } = request
      const wasSent = grant?.sent === true
      // Nobody says when a step without a budget has been asked.
      if (grant !== undefined && step.budget === undefined) grant.sent = true
      const sent = { ...request, stepsLeft: request.stepsLeft + stepsLeft }
      const matched = Effect.matchCauseEffect(
        // What it throws is its failure, too.
        Effect.suspend(() => ask(step, sent, until)),
        {
          onSuccess: (result) => {
            // Two answers at the same moment: the first is with the caller already.
            if (answered) return Effect.andThen(discard(result), Effect.never)
            answered = true
            underway.delete(step)
            const now = monotonic(clock)
            if (hub.active()) {
              const duration = Duration.millis(now - startedAt)
              hub.publish({ _tag: "AttemptSucceeded", request: request.id, provider: step.id, duration })
            }
            supersede(now)
            giveBack(0)
            return Effect.succeed(answer(result, step, attempts, startedAt))
          },
          onFailure: (cause) => {
            underway.delete(step)
            const error = failureOf(step, cause)
            if (grant !== undefined && LlmUnavailable.wasRefused(error)) {
              grant.sent = wasSent
            }
            return failed(list, index, step, request, error, monotonic(clock) - startedAt)
          }
        }
      )
      const asked =
        grant === undefined || grant.sent
          ? matched
          : Effect.onInterrupt(matched, () =>
              Effect.sync(() => {
                if (!grant.sent) request.allowance.left++
              })
            )
      const delay =
        hedge === undefined || stepsLeft === 0 || request.lastResort ? undefined : Hedge.delayOf(hedge, step, method)
      return delay === undefined || until - startedAt <= delay
        ? asked
        : Effect.mapError(racing(asked, delay, alongside(list, index, step, request, delay), isFinal), told)
    }

    // Of two that fail at the same moment the one that ends last may have known the shorter story.
    const told = (error: Failure): Failure =>
      error._tag === "LlmUnavailable" && error.attempts.length < attempts.length ? chain.unavailable(attempts) : error

    // Who waits for a slow step asks the next one that would take the request, if there is one and if it can be afforded.
    const alongside =
      (list: Steps, index: number, step: Provider, request: LlmRequest.LlmRequest, delay: number) =>
      (now: number): Effect.Effect<B, Failure> | undefined => {
        if (!underway.has(step) || answered || hedges >= (hedge?.hedges ?? 0)) return undefined
        const next = nextTaker(list, index + 1, request, tooLongFor, now)
        const sent = next === undefined ? undefined : Hedge.afford(step, request, 0, now)
        if (sent === undefined || next === undefined) return undefined
        hedges++
        paid++
        if (hub.active()) {
          const after = Duration.millis(delay)
          hub.publish({ _tag: "Hedged", request: request.id, provider: step.id, to: next.id, after })
        }
        const leg = from(list, index + 1, sent)
        const { grant } = sent
        if (grant === undefined) return leg
        // A hedge that everybody refused, or that waited in a line until it was over, was none.
        return Effect.onExit(leg, (exit) => {
          if (!grant.sent) step.budget?.restore(grant)
          if (Exit.hasInterrupts(exit)) giveBack(0)
          return Effect.void
        })
      }

    // What was taken for calls that nobody was asked for. Whoever asked a chain in which nobody was called takes back what that cost by itself.
    const giveBack = (kept: number): void => {
      request.allowance.left += paid - kept
      paid = kept
    }

    const supersede = (now: number): void => {
      for (const [step, startedAt] of underway) {
        const duration = Duration.millis(now - startedAt)
        attempts.push({ _tag: "Superseded", provider: step.id, model: step.model, duration })
        if (hub.active()) {
          hub.publish({ _tag: "AttemptSuperseded", request: request.id, provider: step.id, duration })
        }
      }
      underway.clear()
    }

    const failed = (
      list: Steps,
      index: number,
      step: Provider,
      request: LlmRequest.LlmRequest,
      error: Failure,
      millis: number
    ): Effect.Effect<B, Failure> => {
      if (error._tag === "LlmUnavailable") {
        recordRefusal(chain, attempts, request, step, error)
        // Nobody was called, so the next call is not one more.
        if (LlmUnavailable.wasRefused(error)) paid++
      } else {
        const decision = recordFailure(chain, attempts, request, step, error, millis)
        if (decision.fallOver === "no") {
          supersede(monotonic(clock))
          giveBack(0)
          return Effect.fail(error)
        }
        if (decision.fallOver === "largerWindow")
          tooLongFor = Math.max(tooLongFor ?? 0, step.capabilities.contextWindow ?? 0)
      }
      // Whoever was asked beside this step is further down the chain already.
      return index < front ? exhausted(list, request) : from(list, index + 1, request)
    }

    const exhausted = (list: Steps, request: LlmRequest.LlmRequest): Effect.Effect<B, Failure> =>
      Effect.suspend(() => {
        if (underway.size > 0) return unavailable
        const spared = insisted ? [] : list.filter((step) => attempts.some((attempt) => wasSpared(attempt, step)))
        if (spared.length > 0) {
          insisted = true
          front = -1
          return from(spared, 0, { ...request, insists: true })
        }
        const now = monotonic(clock)
        const everyoneRests = attempts.every((attempt) => attempt._tag === "Skipped")
        // In a chain within a chain, somebody outside may still be well.
        if (request.stepsLeft > 0 || !everyoneRests || lastResort.busy || now < lastResort.nextAt) return unavailable
        if (paid === 0 && request.allowance.left <= 0) return unavailable
        const urgent = { ...request, lastResort: true }
        const step = soonestFirst(steps, attempts).find((step) => step.availability(urgent, now) === undefined)
        if (step === undefined) return unavailable
        front = -1
        // From the flag on, whatever ends this call takes it back.
        return Effect.uninterruptibleMask((restore) => {
          if (lastResort.busy) return unavailable
          lastResort.busy = true
          lastResort.nextAt = now + lastResortEvery
          return Effect.onExit(restore(call([step], 0, step, urgent, 0, now)), () => {
            lastResort.busy = false
            return Effect.void
          })
        })
      })

    const unavailable: Effect.Effect<never, Failure> = Effect.suspend(() => {
      const error = chain.unavailable(attempts)
      if (underway.size === 0) giveBack(LlmUnavailable.wasRefused(error) ? 1 : 0)
      return Effect.fail(error)
    })

    // The last resort of a chain around this one: here, too, only the step that is back soonest is asked.
    const calm = request.lastResort ? { ...request, lastResort: false } : request
    return from(ordered(request, method, monotonic(clock)), 0, calm)
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
