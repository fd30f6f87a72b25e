import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"

/** The plain error of a kind. */
export const errorOf = (
  provider: string,
  kind: ProviderError.Kind,
  retryAfter?: Duration.Duration,
  more?: {
    readonly description?: string | undefined
    readonly shouldRetry?: boolean | undefined
    readonly status?: number | undefined
  }
): ProviderError.ProviderError => {
  const description = more?.description ?? "Injected"
  switch (kind) {
    case "Timeout":
      return new ProviderError.Timeout({ provider, kind: "attempt", after: Duration.zero })
    case "RateLimited":
      return new ProviderError.RateLimited({
        provider,
        retryAfter: Option.fromUndefinedOr(retryAfter),
        description,
        shouldRetry: more?.shouldRetry
      })
    default:
      return new ProviderError.APIError({
        provider,
        reason: kind,
        description,
        retryAfter,
        shouldRetry: more?.shouldRetry,
        status: more?.status
      })
  }
}
