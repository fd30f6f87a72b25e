import { LlmResponse, LlmUnavailable, ProviderError, type ResilienceEvent } from "@llm-resilience/core"
import { Duration, Option } from "effect"

/** What no log, span or metric may show: it stands wherever somebody's own words could be. */
export const secret = "sk-SECRET and the words of a prompt"

const duration = Duration.millis(1500)
const of = { request: 7, provider: "a" } as const
const error = new ProviderError.APIError({
  provider: "a",
  reason: "ServerError",
  description: secret,
  status: 503,
  requestId: "req_1",
  cause: new Error(secret)
})
const limited = new ProviderError.RateLimited({
  provider: "a",
  retryAfter: Option.some(Duration.seconds(7)),
  description: secret
})
const failed = { _tag: "Failed", provider: "a", model: "m", error, duration } as const
const skipped = {
  _tag: "Skipped",
  provider: "b",
  model: "m",
  reason: { _tag: "CircuitOpen", retryAfter: Duration.seconds(20) }
} as const
const cause = Object.assign(new Error(secret), { code: "ECONNREFUSED", stack: secret })

/** One event of each tag. */
export const everyEvent: { readonly [T in ResilienceEvent.ResilienceEvent["_tag"]]: ResilienceEvent.Of<T> } = {
  RequestStarted: { _tag: "RequestStarted", request: 17, method: "generate" },
  RequestAnswered: {
    _tag: "RequestAnswered",
    request: 17,
    method: "generate",
    duration,
    served: {
      ...LlmResponse.servedBy({ id: "a", model: "m" }),
      attempts: [failed],
      degraded: "smaller",
      notice: { _tag: "Shortened", message: secret }
    }
  },
  RequestFailed: {
    _tag: "RequestFailed",
    request: 7,
    method: "generate",
    duration,
    error: LlmUnavailable.make([failed, skipped])
  },
  RequestAbandoned: { _tag: "RequestAbandoned", request: 7, method: "generate", duration },
  AttemptStarted: { _tag: "AttemptStarted", ...of, model: "m" },
  AttemptSucceeded: { _tag: "AttemptSucceeded", ...of, duration },
  AttemptFailed: {
    _tag: "AttemptFailed",
    ...of,
    attempt: failed,
    decision: { retry: "yes", fallOver: "yes", breaker: "failure", rest: "none" }
  },
  StepSkipped: { _tag: "StepSkipped", ...of, reason: skipped.reason },
  FellBack: { _tag: "FellBack", request: 7, from: "a", to: "b", because: failed },
  Called: {
    _tag: "Called",
    ...of,
    model: "m",
    method: "stream",
    outcome: "failed",
    duration,
    firstContentAfter: Duration.millis(200),
    error,
    usage: { inputTokens: { total: 10 }, outputTokens: { total: 20 } },
    costUsd: 0.25
  },
  Retried: { _tag: "Retried", ...of, attempt: 1, delay: duration, error: limited },
  Throttled: { _tag: "Throttled", ...of, limit: "tokens", wait: duration },
  LimitStoreFailed: { _tag: "LimitStoreFailed", provider: "a", operation: "take", cause },
  Shed: { _tag: "Shed", ...of, priority: "batch" },
  AttemptSuperseded: { _tag: "AttemptSuperseded", ...of, duration },
  Hedged: { _tag: "Hedged", ...of, to: "b", after: duration },
  BudgetExhausted: { _tag: "BudgetExhausted", provider: "a", extra: "retry" },
  HealthChecked: { _tag: "HealthChecked", provider: "a", verdict: "bad", duration, error },
  ChaosInjected: { _tag: "ChaosInjected", ...of, fault: "latency" },
  Committed: { _tag: "Committed", ...of, after: duration },
  Recovered: { _tag: "Recovered", request: 7, from: "a", to: "b", by: "continue", error },
  RecoveryFailed: { _tag: "RecoveryFailed", request: 7, from: "a", error, attempts: [failed, skipped] },
  CacheHit: {
    _tag: "CacheHit",
    request: 7,
    key: secret,
    match: "similar",
    similarity: 0.95,
    age: duration,
    stale: false
  },
  CacheMissed: { _tag: "CacheMissed", request: 7, because: "absent" },
  CacheStored: { _tag: "CacheStored", request: 7, key: secret },
  CacheRejected: { _tag: "CacheRejected", request: 7, because: "too busy" },
  SimilarRefused: { _tag: "SimilarRefused", request: 7, similarity: 0.95, reason: "Number" },
  EmbedderFailed: { _tag: "EmbedderFailed", request: 7, embedder: "minilm", because: "failed", cause },
  CacheShadowed: {
    _tag: "CacheShadowed",
    request: 7,
    key: secret,
    match: "similar",
    similarity: 0.95,
    verdict: "right"
  },
  CacheFailed: { _tag: "CacheFailed", request: 7, operation: "read", key: secret, cause },
  Deferred: { _tag: "Deferred", request: 7, ticket: "t-1" },
  DeferralRefused: { _tag: "DeferralRefused", request: 7, reason: "QueueFull" },
  DeferredEnded: { _tag: "DeferredEnded", ticket: "t-1", outcome: "Expired" },
  DeferredStoreFailed: { _tag: "DeferredStoreFailed", operation: "insert", cause },
  NoticeGiven: { _tag: "NoticeGiven", request: 7, notice: { _tag: "BackupService", provider: "b", message: secret } },
  DefectCaught: { _tag: "DefectCaught", provider: "a", cause },
  CircuitChanged: { _tag: "CircuitChanged", provider: "a", from: "Closed", to: "Open", retryAfter: duration },
  CooledDown: { _tag: "CooledDown", provider: "a", duration },
  Isolated: { _tag: "Isolated", provider: "a", because: "QuotaExhausted", duration },
  HealthChanged: { _tag: "HealthChanged", provider: "a", from: "healthy", to: "unhealthy", because: "three failures" }
}
