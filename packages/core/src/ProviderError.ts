/**
 * What can go wrong at a provider: `Timeout`, `RateLimited` and `APIError`, and nothing else.
 *
 * An adapter translates wire answers, transport failures and `AiError` into one of these exactly once. Everything above
 * it (retry, breaker, fallback) decides by looking the error up in the {@link Decision} table, never by reading messages.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

/**
 * Error raised when a provider did not answer in time.
 *
 * **Details**
 *
 * `kind` says which clock ran out: `connect` (no sign of life at all), `attempt` (one whole call), `firstToken` (no
 * content, counted from the moment the request was sent), `idle` (silence between two parts of a stream) or `deadline`
 * (the time the caller gave to the whole request). `after` is how long was waited.
 *
 * @category errors
 * @since 0.1.0
 */
export class Timeout extends Schema.TaggedError<Timeout>("@llm-resilience/core/ProviderError/Timeout")("Timeout", {
  provider: Schema.String,
  kind: Schema.Literals(["connect", "attempt", "firstToken", "idle", "deadline"]),
  after: Schema.Duration
}) {
  override get message(): string {
    return "The provider did not answer in time"
  }
}

/**
 * Error raised when a provider refuses a request because too many were sent.
 *
 * **Details**
 *
 * `retryAfter` is what the provider itself asked for, from whichever header or body field it uses. `limit` says which of
 * its limits was hit, when it tells. An exhausted quota is not a rate limit: it is an {@link APIError} `QuotaExhausted`.
 *
 * @category errors
 * @since 0.1.0
 */
export class RateLimited extends Schema.TaggedError<RateLimited>("@llm-resilience/core/ProviderError/RateLimited")(
  "RateLimited",
  {
    provider: Schema.String,
    retryAfter: Schema.Option(Schema.Duration),
    limit: Schema.optional(Schema.Literals(["requests", "tokens", "concurrency"])),
    description: Schema.optional(Schema.String),
    requestId: Schema.optional(Schema.String),
    shouldRetry: Schema.optional(Schema.Boolean)
  }
) {
  override get message(): string {
    return "The provider limits the rate of requests"
  }
}

/**
 * Why an {@link APIError} happened.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Reason = Schema.Literals([
  "Overloaded",
  "ServerError",
  "Network",
  "InvalidResponse",
  "StreamCut",
  "Authentication",
  "PermissionDenied",
  "QuotaExhausted",
  "ModelNotFound",
  "ContextLengthExceeded",
  "ContentPolicy",
  "InvalidRequest",
  "Refusal",
  "Loop",
  "EmptyOutput",
  "TruncatedOutput",
  "SchemaMismatch"
])

/**
 * Why an {@link APIError} happened.
 *
 * @category models
 * @since 0.1.0
 */
export type Reason = typeof Reason.Type

/**
 * Error raised when a provider answered with a failure, with something unusable, or not at all.
 *
 * **Details**
 *
 * `status`, `requestId` and `description` are what the provider said, kept for its support desk and for the log.
 * `retryAfter` and `shouldRetry` are its own advice (`Retry-After`, `x-should-retry`). `cause` is set when the provider's
 * code died of a defect. None of the fields ever holds a key or a header of the request.
 *
 * @category errors
 * @since 0.1.0
 */
export class APIError extends Schema.TaggedError<APIError>("@llm-resilience/core/ProviderError/APIError")("APIError", {
  provider: Schema.String,
  reason: Reason,
  description: Schema.String,
  status: Schema.optional(Schema.Int),
  requestId: Schema.optional(Schema.String),
  retryAfter: Schema.optional(Schema.Duration),
  shouldRetry: Schema.optional(Schema.Boolean),
  cause: Schema.optional(Schema.Defect())
}) {
  override get message(): string {
    return sentences[this.reason]
  }
}

const sentences: { readonly [R in Reason]: string } = {
  Overloaded: "The provider is overloaded",
  ServerError: "The provider failed internally",
  Network: "The provider could not be reached",
  InvalidResponse: "The provider sent an answer that cannot be read",
  StreamCut: "The provider's answer ended in the middle",
  Authentication: "The provider rejected the credentials",
  PermissionDenied: "The provider does not permit this request",
  QuotaExhausted: "The quota at the provider is used up",
  ModelNotFound: "The provider does not have this model",
  ContextLengthExceeded: "The request is too long for this model",
  ContentPolicy: "The provider's content policy forbids this request",
  InvalidRequest: "The provider considers the request invalid",
  Refusal: "The model refused to answer",
  Loop: "The model repeated itself without end",
  EmptyOutput: "The model answered with nothing",
  TruncatedOutput: "The model stopped before the answer was complete",
  SchemaMismatch: "The model's answer does not have the requested structure"
}

/**
 * Schema of every error that a provider can raise.
 *
 * @category schemas
 * @since 0.1.0
 */
export const ProviderError = Schema.Union([Timeout, RateLimited, APIError])

/**
 * Every error that a provider can raise.
 *
 * @category models
 * @since 0.1.0
 */
export type ProviderError = Timeout | RateLimited | APIError

/**
 * Checks whether a value is a {@link ProviderError}.
 *
 * @category guards
 * @since 0.1.0
 */
export const isProviderError: (u: unknown) => u is ProviderError = Schema.is(ProviderError)

/**
 * Creates the error for a provider whose own code died or interrupted itself. `cause` carries what happened.
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromDefect = (provider: string, cause: Cause.Cause<unknown>): APIError =>
  new APIError({
    provider,
    reason: "ServerError",
    description: "The provider's own code died",
    cause: cause.reasons.find(Cause.isDieReason)?.defect ?? Cause.squash(cause)
  })

/**
 * Returns how long the provider asked to be left alone, or `undefined` when it did not say.
 *
 * @category accessors
 * @since 0.1.0
 */
export const retryAfter = (error: ProviderError): Duration.Duration | undefined => {
  switch (error._tag) {
    case "RateLimited":
      return Option.getOrUndefined(error.retryAfter)
    case "APIError":
      return error.retryAfter
    case "Timeout":
      return undefined
  }
}

/**
 * Returns the shortest name that tells an error's kind: `Timeout`, `RateLimited`, or the reason of an `APIError`.
 *
 * **When to use**
 *
 * Use as the key of the {@link Decision} table and as a label with few values in logs and metrics.
 *
 * @category accessors
 * @since 0.1.0
 */
export const kind = (error: ProviderError): Kind => (error._tag === "APIError" ? error.reason : error._tag)

/**
 * The kinds of {@link ProviderError}, one for each row of the {@link Decision} table.
 *
 * @category models
 * @since 0.1.0
 */
export type Kind = "Timeout" | "RateLimited" | Reason
