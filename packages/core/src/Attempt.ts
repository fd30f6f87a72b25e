/**
 * What happened at one step of the fallback chain: it was tried and failed, it was skipped for a typed reason, or somebody else was faster.
 *
 * Attempts are the story of a request. A successful answer carries those that came before it in `served.attempts`; a
 * {@link LlmUnavailable} carries all of them.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import * as ProviderError from "./ProviderError.ts"

/**
 * Why a step was passed over without being called.
 *
 * **Details**
 *
 * - `CircuitOpen`: its breaker is open; `retryAfter` is the time left.
 * - `ProbeRunning`: its breaker is half-open and every probe slot is taken.
 * - `Isolated`: taken out by an operator, or by an error that only a change of configuration or account can cure.
 * - `Recovering`: it has just come back and takes its load gradually. It is asked all the same when nobody else can answer.
 * - `CoolingDown`: the provider asked for rest; `retryAfter` is the time left.
 * - `Unhealthy`: the health check says so. It is asked all the same when nobody else can answer.
 * - `NotCapable`: it cannot serve this request; `requires` names what it lacks.
 * - `NoTimeLeft`: less time was left of the deadline than the step needs at least.
 * - `Exhausted`: it is a chain of its own, and nobody in it could answer. Only events say so; an attempt of it names the step within.
 * - `NoAttemptsLeft`: the request has caused as many calls as it may.
 * - `Saturated`: its bulkhead, rate limit or queue has no room.
 *
 * @category schemas
 * @since 0.1.0
 */
export const SkipReason = Schema.Union([
  Schema.TaggedStruct("CircuitOpen", { retryAfter: Schema.Duration }),
  Schema.TaggedStruct("ProbeRunning", {}),
  Schema.TaggedStruct("Isolated", { because: Schema.String, retryAfter: Schema.optional(Schema.Duration) }),
  Schema.TaggedStruct("Recovering", {}),
  Schema.TaggedStruct("CoolingDown", { retryAfter: Schema.Duration }),
  Schema.TaggedStruct("Unhealthy", {}),
  Schema.TaggedStruct("NotCapable", { requires: Schema.String }),
  Schema.TaggedStruct("NoTimeLeft", { remaining: Schema.Duration }),
  Schema.TaggedStruct("Exhausted", {}),
  Schema.TaggedStruct("NoAttemptsLeft", {}),
  Schema.TaggedStruct("Saturated", { retryAfter: Schema.optional(Schema.Duration) })
])

/**
 * Why a step was passed over without being called.
 *
 * @category models
 * @since 0.1.0
 */
export type SkipReason = typeof SkipReason.Type

/**
 * Returns when a skipped step can be expected to take calls again, or `undefined` when nobody knows.
 *
 * @category accessors
 * @since 0.1.0
 */
export const skipRetryAfter = (reason: SkipReason): Duration.Duration | undefined =>
  "retryAfter" in reason ? reason.retryAfter : undefined

/**
 * A step that was called and failed, with its error and how long it took (retries included).
 *
 * @category schemas
 * @since 0.1.0
 */
export const Failed = Schema.TaggedStruct("Failed", {
  provider: Schema.String,
  model: Schema.String,
  error: ProviderError.ProviderError,
  duration: Schema.Duration
})

/**
 * A step that was passed over without being called.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Skipped = Schema.TaggedStruct("Skipped", {
  provider: Schema.String,
  model: Schema.String,
  reason: SkipReason
})

/**
 * A step that was called and given up, because another one, asked later at the same time, answered first.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Superseded = Schema.TaggedStruct("Superseded", {
  provider: Schema.String,
  model: Schema.String,
  duration: Schema.Duration
})

/**
 * Schema of an {@link Attempt}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Attempt = Schema.Union([Failed, Skipped, Superseded])

/**
 * What happened at one step of the chain.
 *
 * @category models
 * @since 0.1.0
 */
export type Attempt = typeof Attempt.Type

/**
 * Returns why an attempt gave no answer in one word: the kind of its error, or of the reason it was skipped for.
 *
 * **When to use**
 *
 * Use as a label with few values in logs and metrics.
 *
 * @category accessors
 * @since 0.1.0
 */
export const kind = (attempt: Attempt): ProviderError.Kind | SkipReason["_tag"] | "Superseded" => {
  switch (attempt._tag) {
    case "Failed":
      return ProviderError.kind(attempt.error)
    case "Skipped":
      return attempt.reason._tag
    case "Superseded":
      return attempt._tag
  }
}

/**
 * Describes an attempt in one short phrase, for logs and error messages.
 *
 * **Example** (Describing a skipped step)
 *
 * ```ts import.meta.vitest
 * import { Duration } from "effect"
 * import { Attempt } from "@llm-resilience/core"
 *
 * const attempt: Attempt.Attempt = {
 *   _tag: "Skipped",
 *   provider: "anthropic",
 *   model: "claude-3-opus",
 *   reason: { _tag: "CircuitOpen", retryAfter: Duration.seconds(42) }
 * }
 *
 * Attempt.format(attempt) // => "anthropic skipped: CircuitOpen for 42s"
 * ```
 *
 * @category formatting
 * @since 0.1.0
 */
export const format = (attempt: Attempt): string => {
  if (attempt._tag === "Failed") {
    const { error } = attempt
    const detail = error._tag === "Timeout" ? ` (${error.kind})` : error._tag === "APIError" ? ` ${error.reason}` : ""
    return `${attempt.provider} failed: ${error._tag}${detail} after ${brief(attempt.duration)}`
  }
  if (attempt._tag === "Superseded") return `${attempt.provider} superseded after ${brief(attempt.duration)}`
  const wait = skipRetryAfter(attempt.reason)
  const why = attempt.reason._tag === "Isolated" ? ` (${attempt.reason.because})` : ""
  return `${attempt.provider} skipped: ${attempt.reason._tag}${why}${wait === undefined ? "" : ` for ${brief(wait)}`}`
}

/**
 * Says a duration in whole milliseconds, with a unit even when it is none: nobody reads nanoseconds in the middle of the night.
 *
 * @category formatting
 * @since 0.1.0
 */
export const brief = (duration: Duration.Duration): string => {
  const millis = Math.round(Duration.toMillis(duration))
  return millis === 0 ? "0ms" : Duration.format(Duration.millis(millis))
}
