/**
 * The honest word to the end user about how an answer came about, or why there is none.
 *
 * Nothing is degraded silently: whenever an answer is slower, from a backup, from the cache, shorter, queued or missing, a
 * notice says so. It is data first; `message` is a default English sentence that {@link Translate} replaces.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

const message = Schema.String

/**
 * Schema of a {@link Notice}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Notice = Schema.Union([
  Schema.TaggedStruct("Slower", { message }),
  Schema.TaggedStruct("BackupService", { provider: Schema.String, message }),
  Schema.TaggedStruct("Cached", {
    age: Schema.Duration,
    because: Schema.optional(Schema.Literals(["unavailable", "slow", "fresh"])),
    message
  }),
  Schema.TaggedStruct("Shortened", { message }),
  Schema.TaggedStruct("Queued", { ticket: Schema.String, expiresAfter: Schema.Duration, message }),
  Schema.TaggedStruct("Unavailable", { retryAfter: Schema.optional(Schema.Duration), message }),
  Schema.TaggedStruct("Rejected", { reason: Schema.String, message })
])

/**
 * What the end user should know.
 *
 * **Details**
 *
 * - `Slower`: the usual service answered, but only after it was asked again, a second or more later (see `Retry`).
 * - `BackupService`: another provider than the first answered.
 * - `Cached`: an earlier answer was served, because nobody could answer (`unavailable`, also when it is not said), because nobody answered
 *   in time (`slow`), or because it is still fresh (`fresh`).
 * - `Shortened`: a smaller model or a shorter answer.
 * - `Queued`: the answer will come later; `ticket` fetches it, and `expiresAfter` is how long it is tried.
 * - `Unavailable`: there is no answer; `retryAfter` says when to try again, if known.
 * - `Rejected`: this request gets no answer, now or later; `reason` is the kind of the error.
 *
 * @category models
 * @since 0.1.0
 */
export type Notice = typeof Notice.Type

/**
 * A notice before its sentence was chosen.
 *
 * @category models
 * @since 0.1.0
 */
export type Facts = Notice extends infer N ? (N extends Notice ? Omit<N, "message"> : never) : never

/**
 * Returns the default English sentence for a notice.
 *
 * **Example** (Telling when to come back)
 *
 * ```ts import.meta.vitest
 * import { Duration } from "effect"
 * import { Notice } from "@llm-resilience/core"
 *
 * const sentence = Notice.english({ _tag: "Unavailable", retryAfter: Duration.minutes(4) })
 *
 * sentence // => "The service is temporarily unavailable. Please try again in 4 minutes."
 * ```
 *
 * @category formatting
 * @since 0.1.0
 */
export const english = (facts: Facts): string => {
  switch (facts._tag) {
    case "Slower":
      return "This answer took longer than usual."
    case "BackupService":
      return "This answer comes from a backup service and may differ from the usual quality."
    case "Cached":
      return `${cachedBecause[facts.because ?? "unavailable"]}This is an earlier answer, from ${spoken(facts.age)} ago.`
    case "Shortened":
      return "This answer is shorter or simpler than usual."
    case "Queued":
      return "Your request has been queued and will be processed shortly."
    case "Unavailable":
      return facts.retryAfter === undefined
        ? "The service is temporarily unavailable. Please try again later."
        : `The service is temporarily unavailable. Please try again in ${spoken(facts.retryAfter)}.`
    case "Rejected":
      switch (facts.reason) {
        case "ContentPolicy":
        case "Refusal":
          return "Your request was declined. Please ask in other words."
        case "ContextLengthExceeded":
          return "Your request is too long. Please ask for less."
        default:
          return "Your request could not be answered as it is."
      }
  }
}

const cachedBecause = {
  unavailable: "The service is unavailable. ",
  slow: "The service is slower than usual. ",
  fresh: ""
}

/**
 * Says a duration as a person would: in its largest unit, rounded up, so that nobody comes back too early.
 *
 * @category formatting
 * @since 0.1.0
 */
export const spoken = (duration: Duration.Duration): string => {
  const seconds = Math.max(1, Math.ceil(Duration.toSeconds(duration)))
  const [count, unit] =
    seconds < 60
      ? [seconds, "second"]
      : seconds < 3600
        ? [Math.ceil(seconds / 60), "minute"]
        : seconds < 86_400
          ? [Math.ceil(seconds / 3600), "hour"]
          : [Math.ceil(seconds / 86_400), "day"]
  return `${count} ${unit}${count === 1 ? "" : "s"}`
}

/**
 * The sentence chosen for a notice; {@link english} unless you provide another function.
 *
 * **Gotchas**
 *
 * The function runs while a request is being answered: keep it pure and fast. When it throws, the English sentence takes its place.
 *
 * @category references
 * @since 0.1.0
 */
export const Translate = Context.Reference<(facts: Facts) => string>("@llm-resilience/core/Notice/Translate", {
  defaultValue: () => english
})

/**
 * Returns the function in force at {@link Translate}, and {@link english} wherever it throws: a sentence must never cost the answer that it is
 * about.
 *
 * @category accessors
 * @since 0.1.0
 */
export const translator: Effect.Effect<(facts: Facts) => string> = Effect.map(Translate, (translate) => (facts) => {
  try {
    return translate(facts)
  } catch {
    return english(facts)
  }
})
