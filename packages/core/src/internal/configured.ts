import type * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as CircuitBreaker from "../CircuitBreaker.ts"
import type { Factory, StandardOptions } from "../LlmResilience.ts"
import type { Provider } from "../Provider.ts"
import * as ResilienceConfig from "../ResilienceConfig.ts"
import * as Retry from "../Retry.ts"

/** Makes the provider of a step, or says what is wrong with the configuration. */
export const providerOf = <R>(
  providers: { readonly [name: string]: Factory<R> },
  step: ResilienceConfig.Step & { readonly id: string },
  index: number
): Effect.Effect<Provider, ResilienceConfig.Issue, R> => {
  const at = `fallback_chain[${index}]`
  const factory = Object.hasOwn(providers, step.provider) ? providers[step.provider] : undefined
  if (factory === undefined) {
    const names = Object.keys(providers)
    return Effect.fail({
      path: `${at}.provider`,
      got: ResilienceConfig.shown(step.provider),
      expected: `one of ${names.join(", ")}`,
      suggestion: ResilienceConfig.closest(step.provider, names)
    })
  }
  return Effect.suspend(() => factory(step)).pipe(
    Effect.map((provider) =>
      step.contextWindow === undefined
        ? provider
        : { ...provider, capabilities: { ...provider.capabilities, contextWindow: step.contextWindow } }
    ),
    Effect.catchDefect((defect) =>
      Effect.fail({
        path: at,
        got: defect instanceof Error ? defect.message : "a provider that cannot be made",
        expected: `settings that ${step.provider} can use`
      })
    ),
    Effect.mapError((error) => ("_tag" in error ? missing(at, step.provider, error) : error))
  )
}

// `Config` names the variable at the end of its message; what it could not read is never repeated.
const missing = (at: string, provider: string, error: Config.ConfigError): ResilienceConfig.Issue => {
  const variable = /at \["([A-Z][A-Z0-9_]*)"\]/.exec(error.message)?.[1]
  return variable === undefined
    ? { path: at, got: "no usable setting", expected: `what ${provider} needs, from the configuration provider` }
    : {
        path: variable.endsWith("_KEY") ? `${at}.api_key_env` : at,
        got: `nothing usable in ${variable}`,
        expected: `a value for ${provider} in that variable${variable.endsWith("_KEY") ? ", or api_key_env to name another" : ""}`
      }
}

/** Part by part, so that what stands beside the file adds to what stands in it. */
export const joined = <R>(file: StandardOptions, beside: StandardOptions<R> | undefined): StandardOptions<R> => ({
  retry: part(file.retry, beside?.retry),
  cooldown: part(file.cooldown, beside?.cooldown),
  circuitBreaker: part(file.circuitBreaker, beside?.circuitBreaker),
  timeouts: part(file.timeouts, beside?.timeouts),
  throttle: beside?.throttle,
  budget: part(file.budget, beside?.budget),
  vitals: beside?.vitals,
  hedge: beside?.hedge,
  bulkhead: part(file.bulkhead, beside?.bulkhead),
  rateLimit: part(file.rateLimit, beside?.rateLimit),
  adaptiveConcurrency: beside?.adaptiveConcurrency,
  outputGuard: beside?.outputGuard
})

const part = <O extends object>(file: O | "off" | undefined, beside: O | "off" | undefined): O | "off" | undefined =>
  typeof file === "object" && typeof beside === "object" ? { ...file, ...beside } : (beside ?? file)

/** What a configuration says about the policies around a step. */
export const configured = (
  config: ResilienceConfig.ResilienceConfig,
  step: ResilienceConfig.Step
): StandardOptions => ({
  ...(step.maxConcurrent === undefined
    ? {}
    : { bulkhead: { permits: step.maxConcurrent, queue: step.maxQueued, maxWait: step.maxWait } }),
  ...(step.requestsPerMinute === undefined && step.tokensPerMinute === undefined
    ? {}
    : { rateLimit: { requestsPerMinute: step.requestsPerMinute, tokensPerMinute: step.tokensPerMinute } }),
  timeouts: { attempt: step.timeout, idle: step.idleTimeout },
  retry: { schedule: Retry.exponential(config.retry), maxRetryAfter: config.retry?.maxRetryAfter },
  circuitBreaker: {
    trip:
      config.circuitBreaker?.failures === undefined
        ? undefined
        : CircuitBreaker.consecutive(config.circuitBreaker.failures),
    openFor: config.circuitBreaker?.openFor,
    probes: config.circuitBreaker?.probes,
    ...(config.circuitBreaker?.slowStart === undefined ? {} : { slowStart: config.circuitBreaker.slowStart })
  },
  budget: config.budget,
  cooldown: config.cooldown
})
