/**
 * Sends a provider that rejects most calls no more than it may accept, so that it can recover and nobody waits for a rejection.
 *
 * Adaptive throttling as in the chapter "Handling Overload" of Google's SRE book: of `n` recent calls the provider accepted `a`; a new call is
 * refused here with the probability `(n - k * a) / (n + 1)`. With `k` = 2 nothing is refused while the provider accepts half of the calls.
 * Refused calls count as calls, so the load follows what is accepted, and a little more, which finds out when the provider is well again.
 *
 * Rejections are rate limits and overload (`RateLimited`, `APIError` `Overloaded`): a provider that fails in any other way did take the call,
 * and the circuit breaker is there for it. Critical requests are never refused.
 *
 * **Neighbours**
 *
 * Inside retries, so that each attempt is throttled, and outside the breaker.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { fade } from "./internal/decay.ts"
import * as LlmUnavailable from "./LlmUnavailable.ts"
import * as Policy from "./Policy.ts"
import * as ProviderError from "./ProviderError.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * The counts at the monotonic millisecond `at`: all `calls`, and the `accepted` ones of them.
 *
 * @category models
 * @since 0.1.0
 */
export interface State {
  readonly at: number
  readonly calls: number
  readonly accepted: number
}

/**
 * The rules; see {@link Options}. `halfLife` is in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Settings {
  readonly k: number
  readonly minimumCalls: number
  readonly maxRate: number
  readonly halfLife: number
}

/**
 * The counts before the first call.
 *
 * @category constructors
 * @since 0.1.0
 */
export const initial: State = { at: -Infinity, calls: 0, accepted: 0 }

/**
 * Counts a call that was `accepted` or not.
 *
 * @category combinators
 * @since 0.1.0
 */
export const counted = (settings: Settings, state: State, accepted: boolean, now: number): State => {
  const kept = fade(now - state.at, settings.halfLife)
  return {
    at: Math.max(now, state.at),
    calls: state.calls * kept + 1,
    accepted: state.accepted * kept + (accepted ? 1 : 0)
  }
}

/**
 * Returns the share of calls to refuse.
 *
 * @category accessors
 * @since 0.1.0
 */
export const rate = (settings: Settings, state: State, now: number): number => {
  // Time makes both less by the same share, so as long as enough are accepted it need not be known how much.
  if (state.calls <= settings.k * state.accepted) return 0
  const kept = fade(now - state.at, settings.halfLife)
  const calls = state.calls * kept
  if (calls < settings.minimumCalls) return 0
  const excess = calls - settings.k * state.accepted * kept
  return Math.min(settings.maxRate, Math.max(0, excess / (calls + 1)))
}

/**
 * Options of throttling.
 *
 * **Details**
 *
 * - `k`: how many calls are sent for each accepted one, 2 by default; at least 1.
 * - `minimumCalls`: nothing is refused before so many recent calls, 20 by default.
 * - `maxRate`: the most that is refused, 0.9 by default, so that a recovery is always noticed.
 * - `halfLife`: after this time half of all counts is forgotten, 10 s by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly k?: number | undefined
  readonly minimumCalls?: number | undefined
  readonly maxRate?: number | undefined
  readonly halfLife?: Duration.Input | undefined
}

/**
 * Creates the policy. Each provider it is applied to has counts of its own.
 *
 * @category policies
 * @since 0.1.0
 */
export const policy = (options?: Options): Policy.Policy => {
  const settings = settingsOf(options)
  return (self) =>
    Effect.gen(function* () {
      const hub = yield* ResilienceEvent.CurrentHub
      let state = initial

      const refuse = (request: number, now: number) =>
        Effect.suspend(() => {
          state = counted(settings, state, false, now)
          if (hub.active()) hub.publish({ _tag: "Throttled", request, provider: self.id, limit: "rejections" })
          return Effect.fail(
            LlmUnavailable.make([
              { _tag: "Skipped", provider: self.id, model: self.model, reason: { _tag: "Saturated" } }
            ])
          )
        })

      return {
        ...self,
        ...Policy.observe<void>({
          admit: (request, now) => {
            const share = request.lastResort || request.priority === "critical" ? 0 : rate(settings, state, now)
            return share === 0
              ? Effect.void
              : Effect.flatMap(Random.next, (random) => (random < share ? refuse(request.id, now) : Effect.void))
          },
          settle: (_, outcome, now) => {
            const accepted = acceptedBy(outcome)
            if (accepted !== undefined) state = counted(settings, state, accepted, now)
            return Effect.void
          }
        })(self)
      }
    })
}

const acceptedBy = (outcome: Policy.Outcome): boolean | undefined => {
  if (outcome._tag === "Succeeded") return true
  if (outcome._tag === "Abandoned" || outcome.error._tag === "LlmUnavailable") return undefined
  const kind = ProviderError.kind(outcome.error)
  return kind !== "RateLimited" && kind !== "Overloaded"
}

const settingsOf = (options: Options | undefined): Settings => {
  const settings = {
    k: options?.k ?? 2,
    minimumCalls: options?.minimumCalls ?? 20,
    maxRate: options?.maxRate ?? 0.9,
    halfLife: Duration.toMillis(options?.halfLife ?? "10 seconds")
  }
  if (!(settings.k >= 1)) throw new RangeError(`Throttle.policy: k must be at least 1, got ${settings.k}`)
  if (!(settings.minimumCalls >= 1)) {
    throw new RangeError(`Throttle.policy: minimumCalls must be at least 1, got ${settings.minimumCalls}`)
  }
  if (!(settings.maxRate >= 0 && settings.maxRate < 1)) {
    throw new RangeError(`Throttle.policy: maxRate must be in [0, 1), got ${settings.maxRate}`)
  }
  if (!(settings.halfLife > 0)) {
    throw new RangeError(`Throttle.policy: halfLife must be longer than zero, got ${settings.halfLife} ms`)
  }
  return settings
}
