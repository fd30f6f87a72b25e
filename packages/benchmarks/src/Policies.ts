/**
 * Each policy alone around the bare provider, on a good day.
 */
import * as AdaptiveConcurrency from "@llm-resilience/core/AdaptiveConcurrency"
import * as Bulkhead from "@llm-resilience/core/Bulkhead"
import * as CircuitBreaker from "@llm-resilience/core/CircuitBreaker"
import * as Cooldown from "@llm-resilience/core/Cooldown"
import * as Fallback from "@llm-resilience/core/Fallback"
import * as OutputGuard from "@llm-resilience/core/OutputGuard"
import * as RateLimit from "@llm-resilience/core/RateLimit"
import * as Retry from "@llm-resilience/core/Retry"
import * as Timeouts from "@llm-resilience/core/Timeouts"
import * as Effect from "effect/Effect"
import type { Figure } from "./Measure.ts"
import { healthy, request, requestWithDeadline } from "./Upstreams.ts"

export const figures = Effect.gen(function* () {
  const provider = healthy("primary")
  const minus = () => provider.generate(request)

  const retry = yield* Retry.policy()(provider)
  const cooldown = yield* Cooldown.policy()(provider)
  const circuitBreaker = yield* CircuitBreaker.policy()(provider)
  const timeouts = yield* Timeouts.policy()(provider)
  const outputGuard = yield* OutputGuard.policy()(provider)
  const bulkhead = yield* Bulkhead.policy({ permits: 100 })(provider)
  const adaptive = yield* AdaptiveConcurrency.policy({ initial: 100 })(provider)
  const rateLimit = yield* RateLimit.policy({ requestsPerMinute: 1e12, tokensPerMinute: 1e15 })(provider)
  const fallback = yield* Fallback.make([provider, healthy("backup")])

  return [
    { name: "policy.retry.cpu", about: "Retry alone", of: () => retry.generate(request), minus },
    { name: "policy.cooldown.cpu", about: "Cooldown alone", of: () => cooldown.generate(request), minus },
    {
      name: "policy.circuitBreaker.cpu",
      about: "CircuitBreaker alone",
      of: () => circuitBreaker.generate(request),
      minus
    },
    { name: "policy.timeouts.cpu", about: "Timeouts alone", of: () => timeouts.generate(request), minus },
    { name: "policy.outputGuard.cpu", about: "OutputGuard alone", of: () => outputGuard.generate(request), minus },
    { name: "policy.bulkhead.cpu", about: "Bulkhead alone", of: () => bulkhead.generate(request), minus },
    {
      name: "policy.adaptiveConcurrency.cpu",
      about: "AdaptiveConcurrency alone",
      of: () => adaptive.generate(request),
      minus
    },
    {
      name: "policy.rateLimit.cpu",
      about: "RateLimit alone, requests and tokens",
      of: () => rateLimit.generate(request),
      minus
    },
    { name: "policy.fallback.cpu", about: "Fallback alone, two steps", of: () => fallback.generate(request), minus },
    {
      name: "policy.fallbackDeadline.cpu",
      about: "Fallback alone, two steps, with a deadline",
      of: () => fallback.generate(requestWithDeadline),
      minus
    }
  ] satisfies ReadonlyArray<Figure>
})
