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
 * | `deepseek` | `https://api.deepseek.com/v1` | `DEEPSEEK_API_KEY` |
 * | `mistral` | `https://api.mistral.ai/v1` | `MISTRAL_API_KEY` |
 * | `xai` | `https://api.x.ai/v1` | `XAI_API_KEY` |
 * | `openai-responses` | `https://api.openai.com/v1` | `OPENAI_API_KEY` |
 * | `anthropic` | `https://api.anthropic.com/v1` | `ANTHROPIC_API_KEY` |
 * | `bedrock` | that of `AWS_REGION` | `AWS_BEARER_TOKEN_BEDROCK`, or AWS credentials |
 * | `gemini` | `https://generativelanguage.googleapis.com/v1beta` | `GEMINI_API_KEY` |
 * | `openai-compatible` | `baseUrl`, or `OPENAI_BASE_URL` | none |
 *
 * `baseUrl` and `apiKeyEnv` of a step replace the address and the name of the variable; a provider without a key gets one through
 * `apiKeyEnv`. Everything is read through `Config`, so that it may come from anywhere, and only when the chain is built.
 *
 * @since 0.1.0
 */
import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import type * as LlmResilience from "@llm-resilience/core/LlmResilience"
import type * as Provider from "@llm-resilience/core/Provider"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type * as HttpClient from "effect/http/HttpClient"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Anthropic from "./Anthropic.ts"
import * as Bedrock from "./Bedrock.ts"
import type * as Connection from "./Connection.ts"
import * as Gemini from "./Gemini.ts"
import * as OpenAiCompatible from "./OpenAiCompatible.ts"
import * as OpenAiResponses from "./OpenAiResponses.ts"

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
export const openAiCompatible = (
  defaults: Defaults<OpenAiCompatible.Options> & { readonly baseUrl: string | Config.Config<string> }
): Factory => factory(OpenAiCompatible.make, defaults)

/**
 * Creates a factory for a server with OpenAI's Responses API, for a name of your own in the registry.
 *
 * @category constructors
 * @since 0.1.0
 */
export const openAiResponses = (defaults: Defaults<OpenAiResponses.Options>): Factory =>
  factory(OpenAiResponses.make, defaults)

/**
 * Creates a factory for a server with the Messages API, for a name of your own in the registry.
 *
 * @category constructors
 * @since 0.1.0
 */
export const anthropic = (defaults: Defaults<Anthropic.Options>): Factory => factory(Anthropic.make, defaults)

/**
 * Creates a factory for Amazon Bedrock, for a name of your own in the registry: one for each region, for example.
 *
 * @category constructors
 * @since 0.1.0
 */
export const bedrock = (defaults: Defaults<Bedrock.Options>): Factory => factory(Bedrock.make, defaults)

/**
 * Creates a factory for a server with the Gemini API, for a name of your own in the registry: Vertex AI, with its address and a token.
 *
 * @category constructors
 * @since 0.1.0
 */
export const gemini = (defaults: Defaults<Gemini.Options>): Factory => factory(Gemini.make, defaults)

/**
 * What a factory gives to its adapter where the step says nothing.
 *
 * @category models
 * @since 0.1.0
 */
export type Defaults<Options extends Connection.Options> = Omit<
  Options,
  "id" | "model" | "apiKey" | "baseUrl" | "settings"
> & {
  readonly apiKeyEnv?: string | undefined
  readonly baseUrl?: string | Config.Config<string> | undefined
}

const factory =
  <Options extends Connection.Options>(
    make: (options: Options) => Effect.Effect<Provider.Provider, never, HttpClient.HttpClient>,
    defaults: Defaults<Options>
  ): Factory =>
  (step) =>
    Effect.gen(function* () {
      const { apiKeyEnv, baseUrl, ...options } = defaults
      const apiKey = yield* keyOf(step.apiKeyEnv ?? apiKeyEnv)
      const address = step.baseUrl ?? baseUrl
      const shared: Connection.Options = {
        id: step.id,
        model: step.model,
        apiKey,
        baseUrl: address === undefined || typeof address === "string" ? address : yield* address,
        settings: settingsOf(step)
      }
      // What was left out of the options above is in `shared`: the two together are the options again.
      return yield* make({ ...options, ...shared } as unknown as Options)
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
export const registry = {
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
  deepseek: openAiCompatible({ apiKeyEnv: "DEEPSEEK_API_KEY", baseUrl: "https://api.deepseek.com/v1" }),
  mistral: openAiCompatible({ apiKeyEnv: "MISTRAL_API_KEY", baseUrl: "https://api.mistral.ai/v1" }),
  xai: openAiCompatible({ apiKeyEnv: "XAI_API_KEY", baseUrl: "https://api.x.ai/v1" }),
  "openai-responses": openAiResponses({ apiKeyEnv: "OPENAI_API_KEY" }),
  bedrock: bedrock({}),
  gemini: gemini({ apiKeyEnv: "GEMINI_API_KEY" }),
  anthropic: anthropic({ apiKeyEnv: "ANTHROPIC_API_KEY" }),
  "openai-compatible": openAiCompatible({ baseUrl: addressIn("OPENAI_BASE_URL") })
} satisfies { readonly [name: string]: Factory }
