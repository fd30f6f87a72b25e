/**
 * Each policy alone around the bare provider, on a good day.
 */
import * as AdaptiveConcurrency from "@llm-resilience/core/AdaptiveConcurrency"
import * as Bulkhead from "@llm-resilience/core/Bulkhead"
import * as CircuitBreaker from "@llm-resilience/core/CircuitBreaker"
import * as Budget from "@llm-resilience/core/Budget"
import * as Cooldown from "@llm-resilience/core/Cooldown"
import * as Fallback from "@llm-resilience/core/Fallback"
import * as HealthChecker from "@llm-resilience/core/HealthChecker"
import * as Hedge from "@llm-resilience/core/Hedge"
import * as OutputGuard from "@llm-resilience/core/OutputGuard"
import * as RateLimit from "@llm-resilience/core/RateLimit"
import * as Retry from "@llm-resilience/core/Retry"
import * as Throttle from "@llm-resilience/core/Throttle"
import * as Timeouts from "@llm-resilience/core/Timeouts"
import * as Vitals from "@llm-resilience/core/Vitals"
import * as Effect from "effect/Effect"
import type { Figure } from "./Measure.ts"
import { healthy, request, requestWithDeadline } from "./Upstreams.ts"

export const figures = Effect.gen(function* () {
  const provider = healthy("primary")
  const minus = () => provider.generate(request)

  const retry = yield* Retry.policy()(provider)
  const cooldown = yield* Cooldown.policy()(provider)
  const circuitBreaker = yield* CircuitBreaker.policy()(provider)
  const throttle = yield* Throttle.policy()(provider)
  const budget = yield* Budget.policy()(provider)
  const vitals = yield* Vitals.policy()(provider)
  const hedge = yield* Hedge.policy({ after: "10 seconds" })(provider)
  const checker = yield* HealthChecker.make({ checks: "off" })
  const watched = yield* checker.watch(vitals)
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
    { name: "policy.throttle.cpu", about: "Throttle alone", of: () => throttle.generate(request), minus },
    { name: "policy.budget.cpu", about: "Budget alone", of: () => budget.generate(request), minus },
    { name: "policy.vitals.cpu", about: "Vitals alone", of: () => vitals.generate(request), minus },
    {
      name: "policy.health.cpu",
      about: "what HealthChecker adds to Vitals",
      of: () => watched.generate(request),
      minus: () => vitals.generate(request)
    },
    { name: "policy.hedge.cpu", about: "Hedge alone, none sent", of: () => hedge.generate(request), minus },
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
