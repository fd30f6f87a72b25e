import type {
  LlmResilience,
  LlmUnavailable,
  Policy,
  Provider,
  ProviderError,
  ResilienceConfig
} from "@llm-resilience/core"
import { LlmResilience as Service } from "@llm-resilience/core"
import type { Config, Effect, Layer, Scope, Stream } from "effect"
import type { HttpClient } from "effect/http"

// These declarations compile or the check fails; nothing of them runs.

type Equals<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const holds = <T extends true>(_proof?: T): void => {}

declare const plain: Layer.Layer<Provider.Provider>
declare const keyed: Layer.Layer<Provider.Provider, Config.ConfigError, HttpClient.HttpClient>

// A layer fails as its providers' layers fail and needs what they need, however unlike they are.
const one = Service.layer({ steps: [{ provider: plain }] })
holds<Equals<typeof one, Layer.Layer<LlmResilience.LlmResilience>>>()

const mixed = Service.layer({ steps: [{ provider: plain }, { provider: keyed, priority: 0 }] })
holds<Equals<typeof mixed, Layer.Layer<LlmResilience.LlmResilience, Config.ConfigError, HttpClient.HttpClient>>>()

// @ts-expect-error a chain has at least one step
Service.layer({ steps: [] })

// @ts-expect-error a misspelt option of a step would be ignored
Service.layer({ steps: [{ provider: plain, priorty: 1 }] })

declare const steps: readonly [Service.Step, ...ReadonlyArray<Service.Step>]
holds<Equals<ReturnType<typeof fromSteps>, Layer.Layer<LlmResilience.LlmResilience>>>()
const fromSteps = () => Service.layer({ steps })

// The error channel is closed: an application can name all of it.
type Failure =
  | ProviderError.Timeout
  | ProviderError.RateLimited
  | ProviderError.APIError
  | LlmUnavailable.LlmUnavailable
holds<Equals<Effect.Error<ReturnType<typeof Service.generate>>, Failure>>()
holds<Equals<Stream.Error<ReturnType<typeof Service.stream>>, Failure>>()

// What a policy needs is what its set-up needs; a provider needs nothing any more.
declare const metered: Policy.Policy<HttpClient.HttpClient>
holds<
  Equals<ReturnType<typeof metered>, Effect.Effect<Provider.Provider, never, Scope.Scope | HttpClient.HttpClient>>
>()

// A configuration is its decoded value, with at least one step.
declare const config: ResilienceConfig.ResilienceConfig
holds<Equals<(typeof config.fallbackChain)[0]["provider"], string>>()
