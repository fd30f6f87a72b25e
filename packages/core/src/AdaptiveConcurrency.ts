/**
 * A {@link Bulkhead} whose limit nobody has to know: it follows what the provider can take.
 *
 * Providers do not tell how many calls they take at a time, and it changes with the hour. The limit grows by one while answers come as quickly
 * as usual, and is cut when they become slow or calls are refused. The rules are a pure machine, {@link Congestion}; those of the line in front
 * of it are the same as a bulkhead's ({@link Gate}).
 *
 * **What counts as slow**
 *
 * A long answer takes long on the best of days, so the time of a whole answer says nothing about load. What is compared is the time to the
 * first content of a stream, and for a whole answer the time for each token that its usage names. An answer without usage counts as an
 * answer, but not for its time.
 *
 * **What counts as a refusal**
 *
 * Overloaded, a rate limit (unless the provider says that it was for requests or tokens: those are for `RateLimit`), and a timeout (unless it
 * was the deadline of the request). Other errors say nothing about load, nor does a caller who leaves.
 *
 * **Neighbours**
 *
 * Inside `Retry`, so that it sees every attempt and its latency, and outside `Timeouts`, so that a timeout counts as a refusal.
 *
 * **Defaults**
 *
 * Starts at 10, between 1 and 200.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Congestion from "./Congestion.ts"
import * as Gatekeeper from "./internal/gatekeeper.ts"
import type { Usage } from "./LlmResponse.ts"
import type * as Policy from "./Policy.ts"
import type { Failure, Load, Provider } from "./Provider.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * One adaptive limit. Several providers may share one when the same machines serve them.
 *
 * **Details**
 *
 * `guard` puts it around a provider. `state` is a snapshot with the limit of the moment.
 *
 * @category models
 * @since 0.1.0
 */
export interface AdaptiveConcurrency {
  readonly guard: (self: Provider) => Provider
  readonly state: Effect.Effect<Load>
}

/**
 * Service tag of {@link AdaptiveConcurrency}, for one that several providers share through {@link shared}.
 *
 * @category services
 * @since 0.1.0
 */
export const AdaptiveConcurrency: Context.Service<AdaptiveConcurrency, AdaptiveConcurrency> = Context.Service(
  "@llm-resilience/core/AdaptiveConcurrency"
)

/**
 * Options of an adaptive limit.
 *
 * **Details**
 *
 * - `min`, `max`, `initial`: bounds and start of the limit, 1, 200 and 10 by default (or the bound that is nearest to 10).
 * - `tolerance`: how many times the usual latency is still accepted, 1.5 by default. With `Infinity` only refusals count.
 * - `backoff`: what a refusal multiplies the limit by, 0.7 by default.
 * - `window`: the fewest answers that are judged together, 20 by default.
 * - `queue`: how many may wait, 20 by default. `maxWait`, `reserved`: as in `Bulkhead.Options`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly min?: number | undefined
  readonly max?: number | undefined
  readonly initial?: number | undefined
  readonly tolerance?: number | undefined
  readonly backoff?: number | undefined
  readonly window?: number | undefined
  readonly queue?: number | undefined
  readonly maxWait?: Duration.Input | undefined
  readonly reserved?: number | undefined
}

/**
 * Creates an adaptive limit.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<AdaptiveConcurrency> => {
  const settings = settingsOf(options)
  const rules = Gatekeeper.rulesOf("AdaptiveConcurrency.make", options ?? {}, 20)
  return Effect.map(ResilienceEvent.CurrentHub, (hub) => {
    let state = Congestion.initial(settings)
    const apply = (event: Congestion.Event): void => {
      state = Congestion.step(settings, state, event)
      keeper.resize(Congestion.limitOf(state))
    }
    const keeper: Gatekeeper.Gatekeeper = Gatekeeper.make({
      ...rules,
      hub,
      limit: Congestion.limitOf(state),
      // The time in our own line says nothing about the provider.
      onContent: ({ inFlight, sentAt }, now) =>
        apply({ _tag: "Answered", inFlight, latency: { kind: "firstContent", millis: now - sentAt } }),
      onEnd: ({ committed, inFlight, sentAt }, outcome, now) => {
        if (outcome._tag === "Failed") {
          if (isRefusal(outcome.error)) apply({ _tag: "Rejected", sentAt, now })
        } else if (outcome._tag === "Succeeded" && !committed) {
          apply({ _tag: "Answered", inFlight, latency: perToken(now - sentAt, outcome.usage) })
        }
      }
    })
    return { guard: keeper.guard, state: Effect.sync(keeper.load) }
  })
}

const settingsOf = (options: Options | undefined): Congestion.Settings => {
  const { backoff = 0.7, max = 200, min = 1, tolerance = 1.5, window = 20 } = options ?? {}
  const initial = options?.initial ?? Math.max(min, Math.min(max, 10))
  const wrong = (rule: string, got: number) => new RangeError(`AdaptiveConcurrency.make: ${rule}, got ${got}`)
  if (!Number.isInteger(min) || min < 1) throw wrong("min must be an integer >= 1", min)
  if (!Number.isInteger(max) || max < min) throw wrong("max must be an integer >= min", max)
  if (!(initial >= min && initial <= max)) throw wrong("initial must be between min and max", initial)
  if (!(tolerance > 1)) throw wrong("tolerance must be greater than 1", tolerance)
  if (!(backoff > 0 && backoff < 1)) throw wrong("backoff must be in (0, 1)", backoff)
  if (!Number.isInteger(window) || window < 1 || window > 100)
    throw wrong("window must be an integer in [1, 100]", window)
  return { backoff, initial, max, min, tolerance, window }
}

const isRefusal = (error: Failure): boolean => {
  switch (error._tag) {
    case "RateLimited":
      return error.limit === undefined || error.limit === "concurrency"
    case "Timeout":
      return error.kind !== "deadline"
    case "APIError":
      return error.reason === "Overloaded"
    case "LlmUnavailable":
      return false
  }
}

// Reading the prompt takes about as long as writing this many tokens, which matters for short answers only.
const tokensToStart = 40

const perToken = (
  millis: number,
  usage: Usage | undefined
): Extract<Congestion.Event, { _tag: "Answered" }>["latency"] => {
  const tokens = usage?.outputTokens.total
  return tokens === undefined ? undefined : { kind: "perToken", millis: millis / (tokens + tokensToStart) }
}

/**
 * Creates the policy that puts an adaptive limit of its own around each provider it is applied to.
 *
 * **Example** (Seeing the limit)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { AdaptiveConcurrency, LlmRequest, Provider, ProviderError } from "@llm-resilience/core"
 *
 * const full = Provider.make({
 *   id: "full",
 *   model: "m",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "full", reason: "Overloaded", description: "529" }))
 * })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const guarded = yield* AdaptiveConcurrency.policy({ initial: 100 })(full)
 *     yield* Effect.ignore(guarded.generate(LlmRequest.make({ prompt: "Hi" })))
 *     return (yield* guarded.status).map((status) => status.load?.limit)
 *   })
 * )
 *
 * await Effect.runPromise(program) // => [70]
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy = (options?: Options): Policy.Policy => {
  const built = make(options)
  return (self) => Effect.map(built, (limit) => limit.guard(self))
}

/**
 * The policy that puts the adaptive limit from the context around every provider it is applied to.
 *
 * @category policies
 * @since 0.1.0
 */
export const shared: Policy.Policy<AdaptiveConcurrency> = (self) =>
  Effect.map(AdaptiveConcurrency, (limit) => limit.guard(self))

/**
 * Layer that provides one adaptive limit, to be used with {@link shared}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<AdaptiveConcurrency> =>
  Layer.effect(AdaptiveConcurrency, make(options))
