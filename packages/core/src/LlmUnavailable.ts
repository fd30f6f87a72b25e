/**
 * The graceful end: nobody could answer, and this is the whole story, with a word for the user and a time to come back.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import * as Attempt from "./Attempt.ts"
import { stackless } from "./internal/stackless.ts"
import * as Notice from "./Notice.ts"
import * as ProviderError from "./ProviderError.ts"

/**
 * Error raised when no provider could answer.
 *
 * **Details**
 *
 * `attempts` lists every step in the order in which it was tried or skipped. `retryAfter` is the soonest time at which a
 * step is expected back, when one knows and none may be back long before. `suggestion` is advice for the end user, `notice` the same as data.
 * A `notice` that is `Queued` means that the answer will come later and carries the ticket; `notQueued` says why a request that might have
 * waited does not.
 *
 * A policy that refuses a call before it reaches the provider (an open circuit, say) raises this error too, with the one
 * `Skipped` attempt: a refusal of ours is never mistaken for an error of the provider.
 *
 * @category errors
 * @since 0.1.0
 */
export class LlmUnavailable extends Schema.TaggedError<LlmUnavailable>("@llm-resilience/core/LlmUnavailable")(
  "LlmUnavailable",
  {
    message: Schema.String,
    suggestion: Schema.String,
    retryAfter: Schema.optional(Schema.Duration),
    attempts: Schema.Array(Attempt.Attempt),
    notice: Notice.Notice,
    notQueued: Schema.optional(Schema.Literals(["QueueFull", "NotDeferrable", "StoreError"]))
  }
) {}

/**
 * Creates the error from what was tried.
 *
 * **Details**
 *
 * `retryAfter` is read from the attempts unless given. One that never ends is none.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  attempts: ReadonlyArray<Attempt.Attempt>,
  options?: {
    readonly retryAfter?: Duration.Duration | undefined
    readonly translate?: ((facts: Notice.Facts) => string) | undefined
  }
): LlmUnavailable => {
  const asked = options?.retryAfter ?? soonest(attempts)
  const retryAfter = asked !== undefined && Duration.isFinite(asked) ? Duration.max(asked, Duration.zero) : undefined
  const facts = { _tag: "Unavailable" as const, ...(retryAfter === undefined ? {} : { retryAfter }) }
  const tooLong = attempts.some(
    (attempt) => attempt._tag === "Failed" && ProviderError.kind(attempt.error) === "ContextLengthExceeded"
  )
  return stackless(
    () =>
      new LlmUnavailable({
        message: `No provider could answer (${attempts.map(Attempt.format).join("; ") || "none was asked"})`,
        suggestion: tooLong
          ? "Ask for less: the request is too long for the models that are available."
          : retryAfter === undefined
            ? "Try again later."
            : `Try again in ${Notice.spoken(retryAfter)}.`,
        ...(retryAfter === undefined ? {} : { retryAfter }),
        attempts,
        notice: { ...facts, message: (options?.translate ?? Notice.english)(facts) }
      })
  )
}

/**
 * Checks whether nobody was called at all: every step was passed over. An error of a provider tells of a call.
 *
 * @category guards
 * @since 0.1.0
 */
export const wasRefused = (error: LlmUnavailable | ProviderError.ProviderError): boolean =>
  error._tag === "LlmUnavailable" &&
  error.attempts.length > 0 &&
  error.attempts.every((attempt) => attempt._tag === "Skipped")

const soonest = (attempts: ReadonlyArray<Attempt.Attempt>): Duration.Duration | undefined => {
  let result: Duration.Duration | undefined
  let anyMoment = false
  for (const attempt of attempts) {
    if (attempt._tag === "Superseded") continue
    const wait =
      attempt._tag === "Skipped" ? Attempt.skipRetryAfter(attempt.reason) : ProviderError.retryAfter(attempt.error)
    if (wait === undefined) anyMoment ||= attempt._tag === "Failed" && passes(attempt.error)
    else if (result === undefined || Duration.isLessThan(wait, result)) result = wait
  }
  // One step may be back any moment, so the hours that another one needs would send the user away for too long.
  return anyMoment && result !== undefined && Duration.isGreaterThan(result, Duration.minutes(1)) ? undefined : result
}

const passes = (error: ProviderError.ProviderError): boolean => {
  switch (ProviderError.kind(error)) {
    case "Timeout":
    case "RateLimited":
    case "Overloaded":
    case "ServerError":
    case "Network":
    case "InvalidResponse":
    case "StreamCut":
      return true
    default:
      return false
  }
}
