/**
 * How things stand, in one sentence for people: "anthropic has been out for 4 minutes; answers come from openai, about 0.3 s slower."
 *
 * A snapshot of the steps ({@link LlmResilience} `status`) says how each is doing now, but not since when, nor who answers instead and what that
 * costs the user. This module remembers just enough of the events to say it: a few numbers for each provider.
 *
 * {@link observe} and {@link describe} are pure. {@link layer} applies them and provides the {@link Situation} as a service.
 *
 * **Example** (A word for a status page)
 *
 * ```ts import.meta.vitest
 * import { Duration } from "effect"
 * import { Situation } from "@llm-resilience/core"
 *
 * const step = (provider: string, retryAfter?: Duration.Duration) => ({
 *   provider,
 *   model: "m",
 *   ...(retryAfter === undefined ? undefined : { unavailable: { _tag: "CircuitOpen" as const, retryAfter } })
 * })
 * const seconds = (count: number) => Duration.seconds(count)
 * const before = [
 *   { _tag: "AttemptSucceeded", request: 1, provider: "primary", duration: seconds(0.4) },
 *   { _tag: "CircuitChanged", provider: "primary", from: "Closed", to: "Open" },
 *   { _tag: "AttemptSucceeded", request: 2, provider: "backup", duration: seconds(0.7) }
 * ] as const
 *
 * const memory = before.reduce((memory, event) => Situation.observe(memory, event, 0), Situation.nothing)
 * const report = Situation.describe(memory, [step("primary", seconds(20)), step("backup")], 240_000)
 *
 * report.text // => "primary has been out for 4 minutes; answers come from backup, about 0.3 s slower."
 * report.level // => "degraded"
 * ```
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { skipRetryAfter } from "./Attempt.ts"
import { millisOf, monotonic } from "./internal/monotonic.ts"
import { LlmResilience } from "./LlmResilience.ts"
import * as Notice from "./Notice.ts"
import type { Status } from "./Provider.ts"
import type { ResilienceEvent } from "./ResilienceEvent.ts"

/**
 * What is remembered of the events.
 *
 * **Details**
 *
 * Moments are monotonic milliseconds. `troubledSince` is when a provider failed or was left alone and has not answered since; `typical` how long
 * its answers usually take in milliseconds, the latest counting a fifth; for a stream that is the time to its first content.
 *
 * @category models
 * @since 0.1.0
 */
export interface Memory {
  readonly providers: ReadonlyMap<
    string,
    { readonly troubledSince: number | undefined; readonly typical: number | undefined }
  >
  readonly cachedAt: number | undefined
  readonly unansweredAt: number | undefined
}

/**
 * The memory of somebody who has seen nothing yet.
 *
 * @category constants
 * @since 0.1.0
 */
export const nothing: Memory = {
  providers: new Map(),
  cachedAt: undefined,
  unansweredAt: undefined
}

/**
 * Takes an event into the memory. `now` is in monotonic milliseconds.
 *
 * @category combinators
 * @since 0.1.0
 */
export const observe = (self: Memory, event: ResilienceEvent, now: number): Memory => {
  switch (event._tag) {
    case "AttemptSucceeded":
      return answered(self, event.provider, millisOf(event.duration))
    case "AttemptFailed":
      return event.decision.fallOver === "no" ? self : troubled(self, event.provider, now)
    case "CircuitChanged":
      if (event.to === "Closed") return answered(self, event.provider, undefined)
      return event.to === "HalfOpen" ? self : troubled(self, event.provider, now)
    case "HealthChanged":
      return event.to === "unhealthy" ? troubled(self, event.provider, now) : self
    case "CooledDown":
    case "Isolated":
      return troubled(self, event.provider, now)
    case "CacheHit":
      return { ...self, cachedAt: now }
    case "RequestFailed":
      return event.error._tag === "LlmUnavailable" ? { ...self, unansweredAt: now } : self
    default:
      return self
  }
}

// What is remembered of. To ask for the time at every event would cost more than all the rest.
const remembered: ReadonlyArray<ResilienceEvent["_tag"]> = [
  "AttemptSucceeded",
  "AttemptFailed",
  "CircuitChanged",
  "HealthChanged",
  "CooledDown",
  "Isolated",
  "CacheHit",
  "RequestFailed"
]

const unknown = { troubledSince: undefined, typical: undefined }

const answered = (self: Memory, provider: string, millis: number | undefined): Memory => {
  const { typical } = self.providers.get(provider) ?? unknown
  return known(self, provider, {
    troubledSince: undefined,
    typical: millis === undefined || typical === undefined ? (millis ?? typical) : typical + (millis - typical) / 5
  })
}

const troubled = (self: Memory, provider: string, now: number): Memory => {
  const before = self.providers.get(provider) ?? unknown
  return before.troubledSince === undefined ? known(self, provider, { ...before, troubledSince: now }) : self
}

const known = (
  self: Memory,
  provider: string,
  entry: { readonly troubledSince: number | undefined; readonly typical: number | undefined }
): Memory => ({ ...self, providers: new Map(self.providers).set(provider, entry) })

/**
 * How things stand.
 *
 * **Details**
 *
 * - `level`: `well` when the first step answers, `degraded` when somebody else does, or it fails at times, `down` when nobody can.
 * - `text`: the sentence. `answering` is who would be asked first now, `slower` by how much its answers take longer than those of the first step, where
 *   both are known and it is a tenth of a second or more. `out` are the steps that are left alone, with the time since when, and when to expect
 *   them, as far as these are known.
 *
 * @category models
 * @since 0.1.0
 */
export interface Report {
  readonly level: "well" | "degraded" | "down"
  readonly text: string
  readonly answering: string | undefined
  readonly slower: Duration.Duration | undefined
  readonly out: ReadonlyArray<{
    readonly provider: string
    readonly for: Duration.Duration | undefined
    readonly retryAfter: Duration.Duration | undefined
  }>
}

/**
 * Says how things stand. `statuses` are those of the steps in their order, `now` is in monotonic milliseconds.
 *
 * @category formatting
 * @since 0.1.0
 */
export const describe = (self: Memory, statuses: ReadonlyArray<Status>, now: number): Report => {
  const since = (provider: string) => {
    const at = self.providers.get(provider)?.troubledSince
    return at === undefined ? undefined : Duration.millis(now - at)
  }
  const out = statuses
    .filter(({ unavailable }) => unavailable !== undefined)
    .map(({ provider, unavailable }) => ({
      provider,
      for: since(provider),
      retryAfter: unavailable === undefined ? undefined : skipRetryAfter(unavailable)
    }))
  const first = statuses[0]?.provider
  const answering = statuses.find(({ unavailable }) => unavailable === undefined)?.provider
  const gone = out.map((step) => `${step.provider} ${isOut(step.for)}`).join(", ")

  if (answering === undefined) {
    const waits = out.flatMap(({ provider, retryAfter }) =>
      retryAfter === undefined || !Duration.isFinite(retryAfter) ? [] : [{ provider, retryAfter }]
    )
    const [soonest] = waits.toSorted(
      (left, right) => Duration.toMillis(left.retryAfter) - Duration.toMillis(right.retryAfter)
    )
    const back = soonest && `; ${soonest.provider} is expected back in ${Notice.spoken(soonest.retryAfter)}`
    // An answer from the cache long ago says nothing about now.
    const cached = self.cachedAt !== undefined && self.cachedAt > (self.unansweredAt ?? -Infinity)
    const text = `${gone}; ${cached ? "answers come from the cache" : "nobody can answer"}${back ?? ""}.`
    return { level: "down", text, answering: undefined, slower: undefined, out }
  }

  const slower = difference(self, first, answering)
  const by = slower === undefined ? "" : `, about ${(Duration.toMillis(slower) / 1000).toFixed(1)} s slower`
  if (answering !== first) {
    return { level: "degraded", text: `${gone}; answers come from ${answering}${by}.`, answering, slower, out }
  }
  const failing = since(answering)
  if (failing !== undefined) {
    const text = `${answering} has failed at times for ${Notice.spoken(failing)}.`
    return { level: "degraded", text, answering, slower: undefined, out }
  }
  const rest = gone === "" ? "" : ` ${gone}.`
  return { level: "well", text: `Answers come from ${answering}.${rest}`, answering, slower: undefined, out }
}

const isOut = (time: Duration.Duration | undefined): string =>
  time === undefined ? "is out" : `has been out for ${Notice.spoken(time)}`

const difference = (self: Memory, first: string | undefined, answering: string): Duration.Duration | undefined => {
  const usual = first === undefined ? undefined : self.providers.get(first)?.typical
  const now = self.providers.get(answering)?.typical
  return usual === undefined || now === undefined || now - usual < 100 ? undefined : Duration.millis(now - usual)
}

/**
 * How things stand, as a service.
 *
 * @category services
 * @since 0.1.0
 */
export class Situation extends Context.Service<
  Situation,
  {
    readonly report: Effect.Effect<Report>
  }
>()("@llm-resilience/core/Situation") {}

/**
 * Says how things stand.
 *
 * @category accessors
 * @since 0.1.0
 */
export const report: Effect.Effect<Report, never, Situation> = Effect.flatMap(Situation, ({ report }) => report)

/**
 * Layer that watches {@link LlmResilience} and provides the {@link Situation}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<Situation, never, LlmResilience> = Layer.fresh(
  // Layers are shared by identity: without `fresh` a second chain would get the situation of the first.
  Layer.effect(
    Situation,
    Effect.gen(function* () {
      const service = yield* LlmResilience
      const clock = yield* Clock.Clock
      let memory = nothing
      yield* service.listen((event) => {
        memory = observe(memory, event, monotonic(clock))
      }, remembered)
      return Situation.of({
        report: Effect.map(service.status, (statuses) => describe(memory, statuses, monotonic(clock)))
      })
    })
  )
)
