/**
 * Bounds how many calls a provider has at a time, and who waits for a place.
 *
 * A provider that becomes slow collects calls: without a bound they hold memory and connections, wait for a dead one, and all arrive at once
 * when it is back. With one, a call passes, waits a short time in a bounded line, or is told at once that there is no room, and a chain asks
 * the next step.
 *
 * **Rules**
 *
 * The rules are a pure machine, {@link Gate}. At most `permits` calls are under way; a stream holds its permit until its end. At most `queue`
 * wait, for at most `maxWait` and never beyond the deadline of the request. Within the line `critical` goes before `normal` before
 * `batch`, first come first served within each. A full line makes room for a request that matters more: the youngest of the lowest priority
 * is shed. Once a priority was seen, `reserved` of the permits are kept free of those below it.
 *
 * A call that is turned away fails with an `LlmUnavailable` that holds one `Skipped` attempt, `Saturated`: it says nothing about the provider.
 *
 * **Neighbours**
 *
 * Outside `Retry`, so that one request holds one permit however often it is sent, and outside `Timeouts`, whose clocks run from the moment of
 * sending. When the line is full, the chain skips the step without calling it.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Gatekeeper from "./internal/gatekeeper.ts"
import type * as Policy from "./Policy.ts"
import type { Load, Provider } from "./Provider.ts"
import * as ResilienceEvent from "./ResilienceEvent.ts"

/**
 * One bulkhead. Several providers may share one, for instance the models of one account.
 *
 * **Details**
 *
 * `guard` puts it around a provider. `state` is a snapshot.
 *
 * @category models
 * @since 0.1.0
 */
export interface Bulkhead {
  readonly guard: (self: Provider) => Provider
  readonly state: Effect.Effect<Load>
}

/**
 * Service tag of {@link Bulkhead}, for one that several providers share through {@link shared}.
 *
 * @category services
 * @since 0.1.0
 */
export const Bulkhead: Context.Service<Bulkhead, Bulkhead> = Context.Service("@llm-resilience/core/Bulkhead")

/**
 * Options of a bulkhead.
 *
 * **Details**
 *
 * - `permits`: the calls that may be under way at a time.
 * - `queue`: how many may wait, as many as `permits` by default. Zero: nobody does.
 * - `maxWait`: how long one may wait, 1 s by default.
 * - `reserved`: the share of the permits, rounded down, that a priority which was seen keeps free of those below it; 0.2 by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly permits: number
  readonly queue?: number | undefined
  readonly maxWait?: Duration.Input | undefined
  readonly reserved?: number | undefined
}

/**
 * Creates a bulkhead.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<Bulkhead> => {
  const { permits } = options
  if (!Number.isInteger(permits) || permits < 1) {
    throw new RangeError(`Bulkhead.make: permits must be an integer >= 1, got ${permits}`)
  }
  const rules = Gatekeeper.rulesOf("Bulkhead.make", options, permits)
  return Effect.map(ResilienceEvent.CurrentHub, (hub) => {
    const { guard, load } = Gatekeeper.make({ ...rules, limit: permits, hub })
    return { guard, state: Effect.sync(load) }
  })
}

/**
 * Creates the policy that puts a bulkhead of its own around each provider it is applied to.
 *
 * **Example** (Turning away the third call)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Bulkhead, LlmRequest, LlmResponse, Provider } from "@llm-resilience/core"
 *
 * const slow = Provider.make({
 *   id: "slow",
 *   model: "m",
 *   generate: () => Effect.delay(Effect.succeed({ content: LlmResponse.textContent("Hello!") }), "20 millis")
 * })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const guarded = yield* Bulkhead.policy({ permits: 1, queue: 1 })(slow)
 *     const call = Effect.match(guarded.generate(LlmRequest.make({ prompt: "Hi" })), {
 *       onSuccess: (response) => response.text,
 *       onFailure: (error) => error.message
 *     })
 *     return yield* Effect.all([call, call, call], { concurrency: "unbounded" })
 *   })
 * )
 *
 * await Effect.runPromise(program)
 * // => ["Hello!", "Hello!", "No provider could answer (slow skipped: Saturated)"]
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy = (options: Options): Policy.Policy => {
  const built = make(options)
  return (self) => Effect.map(built, (bulkhead) => bulkhead.guard(self))
}

/**
 * The policy that puts the bulkhead from the context around every provider it is applied to, so that they share its permits.
 *
 * @category policies
 * @since 0.1.0
 */
export const shared: Policy.Policy<Bulkhead> = (self) => Effect.map(Bulkhead, (bulkhead) => bulkhead.guard(self))

/**
 * Layer that provides one bulkhead, to be used with {@link shared}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Bulkhead> => Layer.effect(Bulkhead, make(options))
