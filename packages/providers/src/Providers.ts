/**
 * The providers that a configuration can name, and where each of them is found unless the configuration says otherwise.
 *
 * | name | address | key |
 * |---|---|---|
 * | `openai` | `https://api.openai.com/v1` | `OPENAI_API_KEY` |
 * | `azure` | `baseUrl`, or `AZURE_OPENAI_ENDPOINT` | `AZURE_OPENAI_API_KEY` |
 * | `openrouter` | `https://openrouter.ai/api/v1` | `OPENROUTER_API_KEY` |
 * | `groq` | `https://api.groq.com/openai/v1` | `GROQ_API_KEY` |
 * | `ollama` | `http://localhost:11434/v1` | none |
 * | `vllm` | `http://localhost:8000/v1` | none |
 * | `anthropic` | `https://api.anthropic.com/v1` | `ANTHROPIC_API_KEY` |
 * | `openai-compatible` | `baseUrl`, or `OPENAI_BASE_URL` | none |
 *
 * `baseUrl` and `apiKeyEnv` of a step replace the address and the name of the variable; a provider without a key gets one through
 * `apiKeyEnv`. Everything is read through `Config`, so that it may come from anywhere, and only when the chain is built.
 *
 * @since 0.1.0
 */
import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import type * as LlmResilience from "@llm-resilience/core/LlmResilience"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type * as HttpClient from "effect/http/HttpClient"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Anthropic from "./Anthropic.ts"
import * as OpenAiCompatible from "./OpenAiCompatible.ts"

/**
 * Builds the provider of a step. A key or an address that is missing fails with the error of `Config`, which names the variable.
 *
 * @category models
 * @since 0.1.0
 */
export type Factory = LlmResilience.Factory<HttpClient.HttpClient | Scope.Scope>

type Step = Parameters<Factory>[0]

/**
 * Creates a factory for a server with chat completions, for a name of your own in the registry.
 *
 * **Details**
 *
 * `apiKeyEnv` is the variable with the key. `baseUrl` may be read from the configuration. The step's own `apiKeyEnv` and `baseUrl`
 * win.
 *
 * @category constructors
 * @since 0.1.0
 */
export const openAiCompatible =
  (
    defaults: Omit<OpenAiCompatible.Options, "id" | "model" | "apiKey" | "baseUrl" | "settings"> & {
      readonly apiKeyEnv?: string | undefined
      readonly baseUrl: string | Config.Config<string>
    }
  ): Factory =>
  (step) =>
    Effect.gen(function* () {
      const { apiKeyEnv, ...options } = defaults
      const apiKey = yield* keyOf(step.apiKeyEnv ?? apiKeyEnv)
      const address = step.baseUrl ?? options.baseUrl
      const baseUrl = typeof address === "string" ? address : yield* address
      return yield* OpenAiCompatible.make({
        ...options,
        id: step.id,
        model: step.model,
        apiKey,
        baseUrl,
        settings: settingsOf(step)
      })
    })

/**
 * Creates a factory for a server with the Messages API, for a name of your own in the registry.
 *
 * @category constructors
 * @since 0.1.0
 */
export const anthropic =
  (
    defaults: Omit<Anthropic.Options, "id" | "model" | "apiKey" | "settings"> & {
      readonly apiKeyEnv?: string | undefined
    }
  ): Factory =>
  (step) =>
    Effect.gen(function* () {
      const { apiKeyEnv, ...options } = defaults
      const apiKey = yield* keyOf(step.apiKeyEnv ?? apiKeyEnv)
      return yield* Anthropic.make({
        ...options,
        id: step.id,
        model: step.model,
        apiKey,
        baseUrl: step.baseUrl ?? options.baseUrl,
        settings: settingsOf(step)
      })
    })

const keyOf = (name: string | undefined): Effect.Effect<Redacted.Redacted<string> | undefined, Config.ConfigError> =>
  // A variable that is set to nothing is as good as missing: say so now, not with a 401 at the first call.
  name === undefined ? Effect.undefined : Config.schema(Schema.Redacted(Schema.NonEmptyString), name)

const settingsOf = (step: Step): LlmRequest.Settings => ({
  ...(step.maxOutputTokens === undefined ? undefined : { maxOutputTokens: step.maxOutputTokens }),
  ...(step.temperature === undefined ? undefined : { temperature: step.temperature })
})

const addressIn = (name: string): Config.Config<string> =>
  Config.schema(Schema.String.check(Schema.isPattern(/^https?:\/\/\S+$/)), name)

const azureEndpoint = addressIn("AZURE_OPENAI_ENDPOINT")

const azureOpenAi = openAiCompatible({
  apiKeyEnv: "AZURE_OPENAI_API_KEY",
  baseUrl: azureEndpoint,
  authentication: "api-key",
  maxTokensField: "max_completion_tokens"
})

// Azure's own name for an address is that of the resource. Below it, the v1 API takes the deployment as the model and needs no version.
const azure: Factory = (step) =>
  Effect.flatMap(step.baseUrl === undefined ? azureEndpoint : Effect.succeed(step.baseUrl), (address) =>
    azureOpenAi({
      ...step,
      baseUrl: /\/openai(?:\/|$)/.test(address) ? address : `${address.replace(/\/+$/, "")}/openai/v1`
    })
  )

/**
 * The providers that a configuration can name. Spread it to add your own.
 *
 * @category constants
 * @since 0.1.0
 */
export const registry: { readonly [name: string]: Factory } = {
  openai: openAiCompatible({
    apiKeyEnv: "OPENAI_API_KEY",
    baseUrl: "https://api.openai.com/v1",
    maxTokensField: "max_completion_tokens"
  }),
  azure,
  openrouter: openAiCompatible({ apiKeyEnv: "OPENROUTER_API_KEY", baseUrl: "https://openrouter.ai/api/v1" }),
  groq: openAiCompatible({
    apiKeyEnv: "GROQ_API_KEY",
    baseUrl: "https://api.groq.com/openai/v1",
    maxTokensField: "max_completion_tokens"
  }),
  ollama: openAiCompatible({ baseUrl: "http://localhost:11434/v1" }),
  vllm: openAiCompatible({ baseUrl: "http://localhost:8000/v1" }),
  anthropic: anthropic({ apiKeyEnv: "ANTHROPIC_API_KEY" }),
  "openai-compatible": openAiCompatible({ baseUrl: addressIn("OPENAI_BASE_URL") })
}
