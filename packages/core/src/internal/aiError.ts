import * as AiError from "effect/ai/AiError"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Attempt from "../Attempt.ts"
import { LlmUnavailable } from "../LlmUnavailable.ts"
import type { Failure } from "../Provider.ts"
import * as ProviderError from "../ProviderError.ts"
import { stackless } from "./stackless.ts"

/** The key under which everything of ours is found in the metadata of parts and of reasons. */
export const metadataKey = "llm-resilience"

/** Where and when an error is translated; `now` is in milliseconds since the epoch. */
interface At {
  readonly now: number
}

/**
 * Says a failure in the words of `effect/ai`.
 *
 * `AiError` has no place for a cause but its reason, so the failure becomes the cause of the reason, as any JavaScript error may have
 * one. The metadata says in short and as plain data what is lost when the error is sent elsewhere.
 */
export const toAiError = (failure: Failure, at: At & { readonly method: string }): AiError.AiError =>
  stackless(() => {
    const reason = reasonOf(failure, at.now)
    if (reason.cause === undefined) Object.defineProperty(reason, "cause", { value: failure, configurable: true })
    return AiError.make({ module: "LlmResilience", method: at.method, reason })
  })

/** Finds the failure that became an `AiError` of ours. */
export const causeOf = (error: AiError.AiError): Failure | undefined => {
  const cause: unknown = error.reason.cause
  return ProviderError.isProviderError(cause) || cause instanceof LlmUnavailable ? cause : undefined
}

type Tag = AiError.AiErrorReason["_tag"]

const tags = {
  Timeout: "InternalProviderError",
  RateLimited: "RateLimitError",
  Overloaded: "InternalProviderError",
  ServerError: "InternalProviderError",
  Network: "NetworkError",
  InvalidResponse: "InvalidResponseError",
  StreamCut: "InternalProviderError",
  Authentication: "AuthenticationError",
  PermissionDenied: "AuthenticationError",
  QuotaExhausted: "QuotaExhaustedError",
  ModelNotFound: "InvalidRequestError",
  ContextLengthExceeded: "InvalidRequestError",
  ContentPolicy: "ContentPolicyError",
  InvalidRequest: "InvalidRequestError",
  Refusal: "ContentPolicyError",
  Loop: "InvalidOutputError",
  EmptyOutput: "InvalidOutputError",
  TruncatedOutput: "InvalidOutputError",
  SchemaMismatch: "StructuredOutputError"
} as const satisfies { readonly [K in ProviderError.Kind]: Tag }

const isKind = (kind: unknown): kind is ProviderError.Kind => typeof kind === "string" && Object.hasOwn(tags, kind)

const reasonOf = (failure: Failure, now: number): AiError.AiErrorReason => {
  if (failure._tag === "LlmUnavailable") {
    const { attempts, message, notice, retryAfter, suggestion } = failure
    return build(unanimous(attempts), {
      failure,
      now,
      provider: "any",
      description: `${message}. ${suggestion}`,
      retryAfter,
      status: undefined,
      metadata: {
        kind: "Unavailable",
        suggestion,
        notice: notice.message,
        attempts: attempts.map(Attempt.format),
        ...(retryAfter === undefined ? undefined : { retryAfterMillis: Duration.toMillis(retryAfter) })
      }
    })
  }
  const kind = ProviderError.kind(failure)
  const status = failure._tag === "APIError" ? failure.status : undefined
  const requestId = failure._tag === "Timeout" ? undefined : failure.requestId
  return build(kind, {
    failure,
    now,
    provider: failure.provider,
    description: describe(failure),
    retryAfter: ProviderError.retryAfter(failure),
    status,
    metadata: {
      kind,
      provider: failure.provider,
      ...(status === undefined ? undefined : { status }),
      ...(requestId === undefined ? undefined : { requestId })
    }
  })
}

const describe = (error: ProviderError.ProviderError): string => {
  const detail =
    error._tag === "Timeout"
      ? `${error.kind}, after ${Duration.format(Duration.millis(Math.round(Duration.toMillis(error.after))))}`
      : error.description
  return `${error.provider}: ${error.message}${detail === undefined ? "" : ` (${detail})`}`
}

/**
 * What is true of all steps that could have served the request. Steps that lack a capability count only when there is no other: when the
 * only one with a large window is limited, the truth is the limit.
 */
const unanimous = (attempts: ReadonlyArray<Attempt.Attempt>): ProviderError.Kind => {
  const capable = attempts.filter((attempt) => !(attempt._tag === "Skipped" && attempt.reason._tag === "NotCapable"))
  const kinds = (capable.length === 0 ? attempts : capable).map(kindOfAttempt)
  const last = kinds.at(-1)
  return last !== undefined && kinds.every((kind) => tags[kind] === tags[last]) ? last : "Overloaded"
}

const kindOfAttempt = (attempt: Attempt.Attempt): ProviderError.Kind => {
  if (attempt._tag === "Failed") return ProviderError.kind(attempt.error)
  if (attempt._tag === "Superseded") return "Overloaded"
  switch (attempt.reason._tag) {
    case "CoolingDown":
    case "Saturated":
      return "RateLimited"
    case "NotCapable":
      return "InvalidRequest"
    case "Isolated":
      // A cooldown isolates because of an error, and says which.
      return isKind(attempt.reason.because) ? attempt.reason.because : "Overloaded"
    default:
      return "Overloaded"
  }
}

interface Facts extends At {
  readonly failure: Failure
  readonly provider: string
  readonly description: string
  readonly retryAfter: Duration.Duration | undefined
  readonly status: number | undefined
  readonly metadata: AiError.ProviderMetadata[string]
}

const build = (kind: ProviderError.Kind, facts: Facts): AiError.AiErrorReason => {
  const { description, retryAfter } = facts
  const metadata: AiError.ProviderMetadata = { [metadataKey]: facts.metadata }
  const common = { description, metadata }
  const tag = tags[kind]
  switch (tag) {
    case "RateLimitError":
      return new AiError.RateLimitError({ metadata, ...(retryAfter === undefined ? undefined : { retryAfter }) })
    case "QuotaExhaustedError": {
      const resetAt =
        retryAfter === undefined ? Option.none() : DateTime.make(facts.now + Math.ceil(Duration.toMillis(retryAfter)))
      return new AiError.QuotaExhaustedError({
        metadata,
        ...(Option.isSome(resetAt) ? { resetAt: resetAt.value } : undefined)
      })
    }
    case "AuthenticationError":
      return new AiError.AuthenticationError({
        ...common,
        kind: kind === "PermissionDenied" ? "InsufficientPermissions" : facts.status === 401 ? "InvalidKey" : "Unknown"
      })
    case "ContentPolicyError":
      return new AiError.ContentPolicyError(common)
    case "InvalidRequestError":
      return new AiError.InvalidRequestError({
        ...common,
        ...(kind === "ModelNotFound"
          ? { parameter: "model", constraint: "must be one that the provider has" }
          : undefined),
        ...(kind === "ContextLengthExceeded"
          ? { parameter: "prompt", constraint: "must fit the context window of the model" }
          : undefined)
      })
    case "InvalidResponseError":
      return new AiError.InvalidResponseError(common)
    case "InvalidOutputError":
      return new AiError.InvalidOutputError(common)
    case "StructuredOutputError":
      return new AiError.StructuredOutputError({ ...common, responseText: "" })
    case "NetworkError":
      // The only reason without metadata, and with fields that a provider of ours does not tell.
      return new AiError.NetworkError({
        reason: "TransportError",
        method: "POST",
        url: facts.provider,
        description,
        cause: facts.failure
      })
    case "InternalProviderError":
      return new AiError.InternalProviderError(common)
  }
}

/**
 * Says an `AiError` as an error of a provider. What a chain of ours inside failed with stays what it was.
 */
export const fromAiError = (error: AiError.AiError, at: At & { readonly provider: string }): Failure => {
  const known = causeOf(error)
  if (known !== undefined) return known
  const { reason } = error
  const metadata: AiError.ProviderMetadata = "metadata" in reason ? reason.metadata : {}
  const response = "http" in reason ? reason.http?.response : undefined
  const body = "http" in reason ? reason.http?.body : undefined
  const text = ("description" in reason ? reason.description : undefined) ?? reason.message
  const told = field(metadata[metadataKey], "kind")
  const kind = isKind(told) ? told : kindOf(reason, response?.status, `${text} ${body ?? ""}`)
  const retryAfter = retryAfterOf(reason, response?.headers["retry-after"], at.now)
  const requestId = Object.values(metadata)
    .map((value) => field(value, "requestId"))
    .find((id) => id !== undefined)
  const common = {
    provider: at.provider,
    description: brief(text),
    ...(requestId === undefined ? undefined : { requestId: brief(requestId) }),
    ...(isHopeless(reason) ? { shouldRetry: false } : undefined)
  }
  switch (kind) {
    case "Timeout":
      return new ProviderError.Timeout({ provider: at.provider, kind: "attempt", after: Duration.zero })
    case "RateLimited":
      return new ProviderError.RateLimited({ ...common, retryAfter: Option.fromUndefinedOr(retryAfter) })
    default:
      return new ProviderError.APIError({
        ...common,
        reason: kind,
        ...(response === undefined ? undefined : { status: response.status }),
        ...(retryAfter === undefined ? undefined : { retryAfter })
      })
  }
}

const field = (value: unknown, name: string): string | undefined => {
  const found: unknown = typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined
  return typeof found === "string" ? found : undefined
}

// What the model wrote may be wrong although the provider is healthy, so `isRetryable` is not asked: it says yes to both.
const kindOf = (reason: AiError.AiErrorReason, status: number | undefined, text: string): ProviderError.Kind => {
  switch (reason._tag) {
    case "RateLimitError":
      return "RateLimited"
    case "QuotaExhaustedError":
      return "QuotaExhausted"
    case "AuthenticationError":
      return reason.kind === "InsufficientPermissions" ? "PermissionDenied" : "Authentication"
    case "ContentPolicyError":
      return "ContentPolicy"
    case "InvalidRequestError":
      if (isTooLong(text)) return "ContextLengthExceeded"
      return reason.parameter === "model" || status === 404 ? "ModelNotFound" : "InvalidRequest"
    case "InvalidResponseError":
      return "InvalidResponse"
    case "InternalProviderError":
      if (isTooLong(text)) return "ContextLengthExceeded"
      return /\boverloaded\b/i.test(text.slice(0, maxSearched)) ? "Overloaded" : kindOfStatus(status)
    case "NetworkError":
      return reason.reason === "EncodeError" ? "InvalidRequest" : "Network"
    case "InvalidOutputError":
    case "StructuredOutputError":
    case "UnsupportedSchemaError":
    case "ToolNotFoundError":
    case "ToolParameterValidationError":
      return "SchemaMismatch"
    case "InvalidToolResultError":
    case "ToolResultEncodingError":
    case "ToolConfigurationError":
    case "ToolkitRequiredError":
    case "InvalidUserInputError":
      return "InvalidRequest"
    case "UnknownError":
      return isTooLong(text) ? "ContextLengthExceeded" : kindOfStatus(status)
  }
}

const maxSearched = 2000

// A prompt that is too long may fit the next model, an invalid one does not; the reasons of `effect/ai` do not tell them apart.
const isTooLong = (text: string): boolean =>
  /context[-_ ](?:length|window|size|limit)|(?:prompt|input|request) (?:is |was )?too long|too many (?:input |prompt )?tokens/i.test(
    text.slice(0, maxSearched)
  )

const kindOfStatus = (status: number | undefined): ProviderError.Kind => {
  switch (status) {
    case 401:
    case 407:
      return "Authentication"
    case 402:
      return "QuotaExhausted"
    case 403:
    case 451:
      return "PermissionDenied"
    case 404:
    case 405:
    case 410:
      return "ModelNotFound"
    case 408:
    case 504:
    case 522:
    case 524:
      return "Timeout"
    case 413:
      return "ContextLengthExceeded"
    case 429:
      return "RateLimited"
    case 498:
    case 503:
    case 529:
      return "Overloaded"
    default:
      return status !== undefined && status >= 400 && status < 500 ? "InvalidRequest" : "ServerError"
  }
}

/** Whether the same provider would say the same again, although another one may not. */
const isHopeless = (reason: AiError.AiErrorReason): boolean =>
  reason._tag === "UnsupportedSchemaError" || (reason._tag === "NetworkError" && reason.reason === "InvalidUrlError")

const retryAfterOf = (reason: AiError.AiErrorReason, header: unknown, now: number): Duration.Duration | undefined => {
  if (reason._tag === "RateLimitError" && reason.retryAfter !== undefined) return reason.retryAfter
  if (reason._tag === "QuotaExhaustedError" && reason.resetAt !== undefined) {
    return Duration.millis(Math.max(0, DateTime.toEpochMillis(reason.resetAt) - now))
  }
  return typeof header === "string" && /^\d{1,6}$/.test(header) ? Duration.seconds(Number(header)) : undefined
}

/** Makes a text from elsewhere fit for an error: on one line, of bounded length, without what looks like a key. */
export const brief = (text: string): string => {
  const line = text.slice(0, maxSearched).replace(/\s+/g, " ").trim().replace(keyLike, "<redacted>")
  return line.length <= maxDescription ? line : `${line.slice(0, maxDescription - 1)}…`
}

const maxDescription = 300
const keyLike =
  /\b(?:sk|pk|rk|gsk|xai|nvapi|hf|AIza)[-_]?[A-Za-z0-9][A-Za-z0-9_-]{15,}|\b[Bb]earer [A-Za-z0-9._~+/-]{8,}=*/g
