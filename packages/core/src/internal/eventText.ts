import type * as Duration from "effect/Duration"
import * as Attempt from "../Attempt.ts"
import * as ProviderError from "../ProviderError.ts"
import { millisOf } from "./monotonic.ts"
import type { Facts, Of, ResilienceEvent } from "../ResilienceEvent.ts"

type Tag = ResilienceEvent["_tag"]

/** What is said of each event. An event that is added without a word about it does not compile. */
type Words<A> = { readonly [T in Tag]: (event: Of<T>) => A }

// Each function of the table takes the event of its own key, which the compiler cannot follow through a lookup.
const say = <A>(words: Words<A>, event: ResilienceEvent): A =>
  (words[event._tag] as (event: ResilienceEvent) => A)(event)

export const format = (event: ResilienceEvent): string => say(lines, event)

export const facts = (event: ResilienceEvent): Facts => {
  const all = say(fields, event)
  const known: Record<string, string | number | boolean> = { "llm_resilience.event": event._tag }
  for (const key of Object.keys(all)) {
    const value = all[key]
    if (value !== undefined) known[`llm_resilience.${key}`] = value
  }
  return known
}

const { brief } = Attempt

// The kind and the facts that lead to the provider's support, but not the words, which may quote the prompt.
const described = (error: ProviderError.ProviderError): string => {
  const kind = ProviderError.kind(error)
  if (error._tag === "Timeout") return `${kind} (${error.kind})`
  if (error._tag === "RateLimited") return error.limit === undefined ? kind : `${kind} (${error.limit})`
  return error.status !== undefined ? `${kind} (${error.status})` : kind
}

const attempted = (attempts: ReadonlyArray<Attempt.Attempt>): string => attempts.map(Attempt.format).join("; ")

const failure = (error: Of<"RequestFailed">["error"]): string =>
  error._tag === "LlmUnavailable" ? `nobody could answer: ${attempted(error.attempts)}` : described(error)

// A cause is anything: of it only the names that code gives to errors are repeated.
const nameOf = (cause: unknown): string => {
  if (typeof cause !== "object" || cause === null) return typeof cause
  const { _tag, code, name } = cause as { readonly [key: string]: unknown }
  return [_tag ?? name, code].filter((word) => typeof word === "string" && /^[\w./@-]{1,60}$/.test(word)).join(" ")
}

const lines: Words<string> = {
  RequestStarted: ({ method, request }) => `request ${request}: ${method}`,
  RequestAnswered: ({ duration, request, served }) =>
    `request ${request}: ${served.from === "cache" ? "the cache" : served.provider} answered after ${brief(duration)}`,
  RequestFailed: ({ duration, error, request }) =>
    `request ${request}: failed after ${brief(duration)}, ${failure(error)}`,
  RequestAbandoned: ({ duration, request }) => `request ${request}: the caller left after ${brief(duration)}`,
  AttemptStarted: ({ provider, request }) => `request ${request}: asking ${provider}`,
  AttemptSucceeded: ({ duration, provider, request }) =>
    `request ${request}: asking ${provider} succeeded after ${brief(duration)}`,
  AttemptFailed: ({ attempt, request }) => `request ${request}: ${Attempt.format(attempt)}`,
  StepSkipped: ({ provider, reason, request }) =>
    `request ${request}: ${Attempt.format({ _tag: "Skipped", provider, model: "", reason })}`,
  FellBack: ({ because, request, to }) => `request ${request}: asking ${to} instead, ${Attempt.format(because)}`,
  Called: ({ duration, error, outcome, provider, request }) =>
    `request ${request}: a call to ${provider} ${outcome} after ${brief(duration)}${error === undefined ? "" : `, ${described(error)}`}`,
  Retried: ({ attempt, delay, error, provider, request }) =>
    `request ${request}: retry ${attempt} of ${provider} in ${brief(delay)}, ${described(error)}`,
  AttemptSuperseded: ({ duration, provider, request }) =>
    `request ${request}: gave ${provider} up after ${brief(duration)}, another one was faster`,
  Throttled: ({ limit, provider, request, wait }) =>
    `request ${request}: held back from ${provider} by our limit of ${limit}${wait === undefined ? "" : `, for ${brief(wait)}`}`,
  LimitStoreFailed: ({ cause, operation, provider }) =>
    `${provider}: the store of the limits failed (${operation}), ${nameOf(cause)}`,
  Shed: ({ priority, provider, request }) => `request ${request}: gave way at ${provider}, its priority is ${priority}`,
  Hedged: ({ after, provider, request, to }) =>
    `request ${request}: asking ${to} as well, ${provider} has been silent for ${brief(after)}`,
  BudgetExhausted: ({ extra, provider }) =>
    `${provider}: the budget for ${extra === "retry" ? "retries" : "hedges"} is used up`,
  ChaosInjected: ({ fault, provider, request }) =>
    `request ${request}: made a fault at ${provider} on purpose, ${fault}`,
  Committed: ({ after, provider, request }) =>
    `request ${request}: the first content of ${provider} after ${brief(after)}`,
  Recovered: ({ by, error, from, request, to }) =>
    `request ${request}: ${to} goes on with the answer of ${from} (${by}), ${described(error)}`,
  RecoveryFailed: ({ attempts, error, from, request }) =>
    `request ${request}: nobody could go on with the answer of ${from}, ${described(error)}: ${attempted(attempts)}`,
  CacheHit: ({ age, match, request, stale }) =>
    `request ${request}: an earlier answer, ${match}, ${brief(age)} old${stale ? ", stale" : ""}`,
  CacheMissed: ({ because, request }) => `request ${request}: no earlier answer, ${because}`,
  CacheStored: ({ request }) => `request ${request}: the answer is stored`,
  CacheRejected: ({ because, request }) => `request ${request}: the answer is not stored, ${because}`,
  CacheFailed: ({ cause, operation, request }) =>
    `request ${request}: the cache failed (${operation}), ${nameOf(cause)}`,
  SimilarRefused: ({ reason, request }) => `request ${request}: no near question has the same meaning, ${reason}`,
  EmbedderFailed: ({ because, embedder, request }) =>
    `request ${request}: embedder ${embedder} ${because === "failed" ? "failed" : `was ${because}`}`,
  CacheShadowed: ({ match, request, verdict }) => `request ${request}: a ${match} answer would have been ${verdict}`,
  Deferred: ({ request, ticket }) => `request ${request}: waits in the queue with ticket ${ticket}`,
  DeferralRefused: ({ reason, request }) => `request ${request}: cannot wait in the queue, ${reason}`,
  DeferredEnded: ({ outcome, ticket }) => `ticket ${ticket}: ${outcome}`,
  DeferredStoreFailed: ({ cause, operation }) => `the store of the queue failed (${operation}), ${nameOf(cause)}`,
  NoticeGiven: ({ notice, request }) => `request ${request}: the user is told, ${notice._tag}`,
  DefectCaught: ({ cause, provider }) => `${provider}: code around the provider died, ${nameOf(cause)}`,
  CircuitChanged: ({ from, provider, retryAfter, to }) =>
    `${provider}: its circuit goes from ${from} to ${to}${retryAfter === undefined ? "" : ` for ${brief(retryAfter)}`}`,
  CooledDown: ({ duration, provider }) => `${provider} asked for rest: ${brief(duration)}`,
  Isolated: ({ because, duration, provider }) =>
    `${provider} is isolated${duration === undefined ? "" : ` for ${brief(duration)}`}, ${because}`,
  HealthChanged: ({ because, from, provider, to }) => `${provider} was ${from} and is ${to}, ${because}`,
  HealthChecked: ({ duration, error, provider, verdict }) =>
    `${provider}: a check ended after ${brief(duration)}, ${verdict}${error === undefined ? "" : `, ${described(error)}`}`
}

type Fields = { readonly [name: string]: string | number | boolean | undefined }

const seconds = (duration: Duration.Duration | undefined): number | undefined =>
  // Whole microseconds: a log is for reading.
  duration === undefined ? undefined : Math.round(millisOf(duration) * 1000) / 1_000_000

const errorFields = (error: ProviderError.ProviderError): Fields => ({
  error: ProviderError.kind(error),
  timeout: error._tag === "Timeout" ? error.kind : undefined,
  limit: error._tag === "RateLimited" ? error.limit : undefined,
  status: error._tag === "APIError" ? error.status : undefined,
  provider_request_id: error._tag === "Timeout" ? undefined : error.requestId,
  retry_after: seconds(ProviderError.retryAfter(error)),
  cause: error._tag === "APIError" && error.cause !== undefined ? nameOf(error.cause) : undefined
})

const becauseFields = (because: Attempt.Attempt): Fields => ({
  reason: Attempt.kind(because),
  ...(because._tag === "Failed"
    ? { ...errorFields(because.error), duration: seconds(because.duration) }
    : because._tag === "Skipped"
      ? { retry_after: seconds(Attempt.skipRetryAfter(because.reason)) }
      : { duration: seconds(because.duration) })
})

const fields: Words<Fields> = {
  RequestStarted: ({ method, request }) => ({ request, method }),
  RequestAnswered: ({ duration, request, served }) => ({
    request,
    provider: served.provider,
    model: served.model,
    from: served.from,
    attempts: served.attempts.length + 1,
    degraded: served.degraded,
    notice: served.notice?._tag,
    duration: seconds(duration)
  }),
  RequestFailed: ({ duration, error, request }) => ({
    request,
    duration: seconds(duration),
    ...(error._tag === "LlmUnavailable"
      ? {
          error: error._tag,
          attempts: attempted(error.attempts),
          retry_after: seconds(error.retryAfter),
          notice: error.notice._tag
        }
      : { provider: error.provider, ...errorFields(error) })
  }),
  RequestAbandoned: ({ duration, request }) => ({ request, duration: seconds(duration) }),
  AttemptStarted: ({ model, provider, request }) => ({ request, provider, model }),
  AttemptSucceeded: ({ duration, provider, request }) => ({ request, provider, duration: seconds(duration) }),
  AttemptFailed: ({ attempt, decision, provider, request }) => ({
    request,
    provider,
    model: attempt.model,
    ...becauseFields(attempt),
    fall_over: decision.fallOver,
    breaker: decision.breaker,
    rest: decision.rest
  }),
  StepSkipped: ({ provider, reason, request }) => ({
    request,
    provider,
    reason: reason._tag,
    retry_after: seconds(Attempt.skipRetryAfter(reason))
  }),
  FellBack: ({ because, from, request, to }) => ({ request, from, to, ...becauseFields(because) }),
  Called: (event) => ({
    request: event.request,
    provider: event.provider,
    model: event.model,
    method: event.method,
    outcome: event.outcome,
    duration: seconds(event.duration),
    first_content_after: seconds(event.firstContentAfter),
    ...(event.error === undefined ? undefined : errorFields(event.error)),
    input_tokens: event.usage?.inputTokens.total,
    output_tokens: event.usage?.outputTokens.total,
    cost_usd: event.costUsd
  }),
  Retried: ({ attempt, delay, error, provider, request }) => ({
    request,
    provider,
    attempt,
    delay: seconds(delay),
    ...errorFields(error)
  }),
  Throttled: ({ limit, provider, request, wait }) => ({ request, provider, limit, wait: seconds(wait) }),
  LimitStoreFailed: ({ cause, operation, provider }) => ({ provider, operation, cause: nameOf(cause) }),
  Shed: ({ priority, provider, request }) => ({ request, provider, priority }),
  AttemptSuperseded: ({ duration, provider, request }) => ({ request, provider, duration: seconds(duration) }),
  Hedged: ({ after, provider, request, to }) => ({ request, provider, to, after: seconds(after) }),
  BudgetExhausted: ({ extra, provider }) => ({ provider, extra }),
  ChaosInjected: ({ fault, provider, request }) => ({ request, provider, fault }),
  Committed: ({ after, provider, request }) => ({ request, provider, after: seconds(after) }),
  Recovered: ({ by, error, from, request, to }) => ({ request, from, to, by, ...errorFields(error) }),
  RecoveryFailed: ({ attempts, error, from, request }) => ({
    request,
    from,
    attempts: attempted(attempts),
    ...errorFields(error)
  }),
  CacheHit: ({ age, match, request, similarity, stale }) => ({ request, match, similarity, age: seconds(age), stale }),
  CacheMissed: ({ because, request }) => ({ request, because }),
  CacheStored: ({ request }) => ({ request }),
  CacheRejected: ({ because, request }) => ({ request, because }),
  CacheFailed: ({ cause, operation, request }) => ({ request, operation, cause: nameOf(cause) }),
  SimilarRefused: ({ reason, request, similarity }) => ({ request, reason, similarity }),
  EmbedderFailed: ({ because, cause, embedder, request }) => ({ request, embedder, because, cause: nameOf(cause) }),
  CacheShadowed: ({ match, request, similarity, verdict }) => ({ request, match, similarity, verdict }),
  Deferred: ({ request, ticket }) => ({ request, ticket }),
  DeferralRefused: ({ reason, request }) => ({ request, reason }),
  DeferredEnded: ({ outcome, ticket }) => ({ ticket, outcome }),
  DeferredStoreFailed: ({ cause, operation }) => ({ operation, cause: nameOf(cause) }),
  NoticeGiven: ({ notice, request }) => ({ request, notice: notice._tag }),
  DefectCaught: ({ cause, provider }) => ({ provider, cause: nameOf(cause) }),
  CircuitChanged: ({ from, provider, retryAfter, to }) => ({ provider, from, to, retry_after: seconds(retryAfter) }),
  CooledDown: ({ duration, provider }) => ({ provider, duration: seconds(duration) }),
  Isolated: ({ because, duration, provider }) => ({ provider, because, duration: seconds(duration) }),
  HealthChanged: ({ because, from, provider, to }) => ({ provider, from, to, because }),
  HealthChecked: ({ duration, error, provider, verdict }) => ({
    provider,
    verdict,
    duration: seconds(duration),
    ...(error === undefined ? undefined : errorFields(error))
  })
}
