/**
 * What real calls show about one provider: how many there are, how many succeed, how long they take, how many are under way.
 *
 * Nothing decides here. Routing, hedging and health checks read the same figures, so that they agree about a provider. What counts as a
 * failure is a column of the {@link Decision} table. Figures fade with time, whether or not calls come: half of what was seen is forgotten
 * every `halfLife`. Latency is that of successes, of a stream up to its first content, because the rest is as slow as its reader. A provider
 * that fails fast is not a fast provider.
 *
 * **Neighbours**
 *
 * Outside `Timeouts`, so that a timeout is a failure, and inside retries and breakers, so that every figure is one of the provider and none
 * of our own waiting. `LlmResilience.standard` puts it there. A provider carries its figures as `vitals`.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Decision from "./Decision.ts"
import { fade } from "./internal/decay.ts"
import { monotonic } from "./internal/monotonic.ts"
import * as Line from "./internal/line.ts"
import { newest } from "./internal/newest.ts"
import * as Policy from "./Policy.ts"
import type { Provider } from "./Provider.ts"
import type * as ProviderError from "./ProviderError.ts"

/**
 * How a model was asked. Whole answers and first contents of streams are measured apart, because one is many times the other.
 *
 * @category models
 * @since 0.1.0
 */
export type Method = "generate" | "stream"

/**
 * The figures of one moment.
 *
 * **Details**
 *
 * - `calls`: how many calls the ratio rests on; it fades, so it is no whole number. `successRatio` is 1 when there was none.
 * - `inFlight`: calls under way; a stream until its end. `hanging`: five of them have waited for an answer, or a first content, twice as
 *   long as 95 of 100 usually do (and 3 s at least), and nothing that was sent after them was answered.
 * - `latency`: the mean of the last minute or so, in milliseconds; `usual`: that of the last ten or twenty minutes. Absent when unknown. `measuredAt`
 *   is the monotonic millisecond of the last one.
 * - `succeededAt`, `failedAt`: monotonic milliseconds of the last one, `-Infinity` when there was none. `lastError` is that of the last failure.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reading {
  readonly calls: number
  readonly successRatio: number
  readonly inFlight: number
  readonly hanging: boolean
  readonly latency: { readonly [M in Method]: number | undefined }
  readonly usual: { readonly [M in Method]: number | undefined }
  readonly measuredAt: { readonly [M in Method]: number }
  readonly succeededAt: number
  readonly failedAt: number
  readonly lastError: ProviderError.ProviderError | undefined
}

/**
 * The figures of one provider.
 *
 * **Details**
 *
 * - `reading`: the figures now. `at` is the same for policies that have read the monotonic clock already.
 * - `quantile`: the latency in milliseconds that this share of the newest calls did not exceed, or `undefined` before `warmUp` of them. A
 *   call that was given up after it had lasted longer counts as well: it is known to take at least that long.
 * - `mayHang`: whether so many wait that it is worth looking whether they hang, for those who ask before every call.
 * - `listen`: calls a function after each end of a call, until the returned function is called. It must not throw.
 *
 * @category models
 * @since 0.1.0
 */
export interface Vitals {
  readonly reading: Effect.Effect<Reading>
  readonly at: (now: number) => Reading
  readonly quantile: (method: Method, share: number) => number | undefined
  readonly mayHang: () => boolean
  readonly listen: (listener: (now: number) => void) => () => void
  readonly guard: (self: Provider) => Provider
}

/**
 * Options of measuring.
 *
 * **Details**
 *
 * `halfLife`: after this time half of what was seen is forgotten, 30 s by default. `warmUp`: how many latencies there must be before a
 * quantile is given, 20 by default, of at most 128 that are kept.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly halfLife?: Duration.Input | undefined
  readonly warmUp?: number | undefined
}

const window = 128
const enough = 5
const patience = 3000

interface Waiting {
  readonly method: Method
  readonly since: number
}

interface Mean {
  readonly weight: number
  readonly sum: number
}

interface Pace {
  readonly at: number
  readonly recent: Mean
  readonly usual: Mean
}

const none: Mean = { weight: 0, sum: 0 }
const unknown: Pace = { at: -Infinity, recent: none, usual: none }

const meanOf = ({ sum, weight }: Mean): number | undefined => (weight > 0 ? sum / weight : undefined)

const add = (mean: Mean, duration: number, kept: number): Mean => ({
  weight: mean.weight * kept + 1,
  sum: mean.sum * kept + duration
})

const paced = (pace: Pace, duration: number, now: number, halfLife: number): Pace => ({
  at: now,
  recent: add(pace.recent, duration, fade(now - pace.at, halfLife)),
  usual: add(pace.usual, duration, fade(now - pace.at, 20 * halfLife))
})

/**
 * Creates the figures of one provider.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<Vitals> =>
  Effect.gen(function* () {
    const halfLife = Duration.toMillis(options?.halfLife ?? "30 seconds")
    const warmUp = options?.warmUp ?? 20
    if (!(halfLife > 0)) throw new RangeError(`Vitals.make: halfLife must be longer than zero, got ${halfLife} ms`)
    if (!Number.isInteger(warmUp) || warmUp < 1 || warmUp > window) {
      throw new RangeError(`Vitals.make: warmUp must be an integer in [1, ${window}], got ${warmUp}`)
    }
    const table = yield* Decision.CurrentTable
    const listeners = new Set<(now: number) => void>()
    let inFlight = 0
    let counted = { at: -Infinity, calls: 0, failures: 0 }
    let succeededAt = -Infinity
    // When the last sent of the calls was sent that were answered.
    let answered = -Infinity
    let failedAt = -Infinity
    let lastError: ProviderError.ProviderError | undefined
    const paces: { [M in Method]: Pace } = { generate: unknown, stream: unknown }
    const latencies = { generate: newest(window), stream: newest(window) }

    // In the order in which they were sent, so that those who have waited longest come first.
    const waiting = Line.make<Waiting>()

    const start = (method: Method, now: number): Line.Place<Waiting> => {
      inFlight++
      return waiting.add({ method, since: now })
    }
    // A slow call says nothing while others that were sent after it are answered. Late answers from before an outage say nothing either.
    const hanging = (now: number): boolean => {
      if (waiting.size() < enough) return false
      let seen = 0
      let looked = 0
      for (const { value } of waiting.places()) {
        const { method, since } = value
        const usual = quantile(method, 0.95)
        if (usual === undefined || ++looked > 64) return false
        if (since <= answered || now - since < Math.max(patience, 2 * usual)) continue
        if (++seen === enough) return true
      }
      return false
    }
    const settle = (call: Line.Place<Waiting>, outcome: Policy.Outcome, now: number): void => {
      const { method, since } = call.value
      inFlight--
      waiting.remove(call)
      const verdict = verdictOf(table, outcome)
      if (verdict !== "ignored") {
        const kept = fade(now - counted.at, halfLife)
        const failures = counted.failures * kept + (verdict === "failure" ? 1 : 0)
        counted = { at: now, calls: counted.calls * kept + 1, failures }
        if (verdict === "success") succeededAt = now
        if (verdict === "success") answered = Math.max(answered, since)
        else failedAt = now
      }
      if (verdict === "failure" && outcome._tag === "Failed" && outcome.error._tag !== "LlmUnavailable") {
        lastError = outcome.error
      }
      const measured =
        outcome._tag === "Succeeded" ||
        (outcome._tag === "Abandoned" && outcome.duration > (quantile(method, 0.95) ?? Infinity))
      if (measured) {
        paces[method] = paced(paces[method], outcome.duration, now, halfLife)
        latencies[method].add(outcome.duration)
      }
      for (const listener of listeners) listener(now)
    }

    const quantile = (method: Method, share: number): number | undefined =>
      latencies[method].count() < warmUp ? undefined : latencies[method].quantile(share)

    const at = (now: number): Reading => ({
      calls: counted.calls * fade(now - counted.at, halfLife),
      successRatio: counted.calls === 0 ? 1 : 1 - counted.failures / counted.calls,
      inFlight,
      hanging: hanging(now),
      latency: { generate: meanOf(paces.generate.recent), stream: meanOf(paces.stream.recent) },
      usual: { generate: meanOf(paces.generate.usual), stream: meanOf(paces.stream.usual) },
      measuredAt: { generate: paces.generate.at, stream: paces.stream.at },
      succeededAt,
      failedAt,
      lastError
    })

    const observe = (method: Method) =>
      Policy.observe<Line.Place<Waiting>>({
        admit: (_, now) => Effect.succeed(start(method, now)),
        commit: (call) => {
          waiting.remove(call)
          answered = Math.max(answered, call.value.since)
          return call
        },
        settle: (call, outcome, now) => {
          settle(call, outcome, now)
          return Effect.void
        }
      })
    const vitals: Vitals = {
      reading: Clock.clockWith((clock) => Effect.sync(() => at(monotonic(clock)))),
      at,
      quantile,
      mayHang: () => waiting.size() >= enough,
      listen: (listener) => {
        listeners.add(listener)
        return () => listeners.delete(listener)
      },
      guard: (self) => ({
        ...self,
        vitals,
        generate: observe("generate")(self).generate,
        stream: observe("stream")(self).stream
      })
    }
    return vitals
  })

const verdictOf = (table: Decision.Table, outcome: Policy.Outcome): Decision.Decision["breaker"] => {
  if (outcome._tag === "Succeeded") return "success"
  return outcome._tag === "Abandoned" || outcome.error._tag === "LlmUnavailable"
    ? "ignored"
    : Decision.of(table, outcome.error).breaker
}

/**
 * Creates the policy that measures each provider it is applied to.
 *
 * **Example** (Reading the success ratio)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LlmRequest, Provider, ProviderError, Vitals } from "@llm-resilience/core"
 *
 * const broken = Provider.make({
 *   id: "broken",
 *   model: "m",
 *   generate: () =>
 *     Effect.fail(new ProviderError.APIError({ provider: "broken", reason: "ServerError", description: "500" }))
 * })
 *
 * const program = Effect.scoped(
 *   Effect.gen(function*() {
 *     const measured = yield* Vitals.policy()(broken)
 *     yield* Effect.ignore(measured.generate(LlmRequest.make({ prompt: "Hi" })))
 *     return (yield* measured.vitals!.reading).successRatio
 *   })
 * )
 *
 * await Effect.runPromise(program) // => 0
 * ```
 *
 * @category policies
 * @since 0.1.0
 */
export const policy =
  (options?: Options): Policy.Policy =>
  (self) =>
    Effect.map(make(options), (vitals) => vitals.guard(self))
