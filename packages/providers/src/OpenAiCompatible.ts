/**
 * Providers that speak OpenAI's chat completions: OpenAI itself, Azure, vLLM, Ollama, OpenRouter, Groq, DeepSeek, xAI and whoever
 * else offers `/chat/completions`.
 *
 * The adapter translates, and does nothing else. It sends one request per call, never a second one: retries, timeouts and fallbacks
 * are policies around it. It translates every failure into a `ProviderError` exactly once (see {@link Classification}), aborts the
 * request when the caller leaves, and bounds what it reads.
 *
 * **Details**
 *
 * - Reasoning is read from `reasoning_content` and `reasoning`; it is never sent back.
 * - Ids of tool calls that another provider made are rewritten to what OpenAI accepts; tools that a provider runs itself are left out.
 * - A JSON schema is sent with `strict` when it is within OpenAI's strict subset, and as guidance otherwise.
 * - A stream is complete with its finish reason, `[DONE]` or not; one that ends without is an `APIError` `StreamCut`.
 * - A refusal of the model is an `APIError` `Refusal`, an answer that the filter withheld an `APIError` `ContentPolicy`. An empty
 *   answer is an answer: an output guard may think otherwise.
 *
 * **Example** (Choosing a server by its address)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { OpenAiCompatible } from "@llm-resilience/providers"
 *
 * const program = OpenAiCompatible.make({ id: "local", model: "qwen3", baseUrl: "http://127.0.0.1:11434/v1" })
 *
 * const provider = await Effect.runPromise(Effect.provide(program, FetchHttpClient.layer))
 *
 * provider.id // => "local"
 * ```
 *
 * @since 0.1.0
 */
import * as Provider from "@llm-resilience/core/Provider"
import type * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import type * as Connection from "./Connection.ts"
import * as Adapter from "./internal/adapter.ts"
import { configured, type Configured } from "./internal/configured.ts"
import * as Answer from "./internal/openAiAnswer.ts"
import * as Request from "./internal/openAiRequest.ts"
import * as Streamed from "./internal/openAiStream.ts"

/**
 * How to reach a server and its model.
 *
 * **Details**
 *
 * What all adapters share is in {@link Connection.Options}. Here:
 *
 * - `id` is `openai` by default, `baseUrl`, which comes before `/chat/completions`, `https://api.openai.com/v1`.
 * - `apiKey` is sent as `Authorization: Bearer …`, or as the header `api-key` with `authentication: "api-key"` (Azure).
 * - `maxTokensField` is how the server calls the bound of the answer; OpenAI's newer models only know `max_completion_tokens`, many other
 *   servers only `max_tokens`. Default: the former for OpenAI's own address, the latter for every other.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Connection.Options {
  readonly authentication?: "bearer" | "api-key" | undefined
  readonly maxTokensField?: "max_tokens" | "max_completion_tokens" | undefined
}

/**
 * Creates a provider. An address that is none, an empty model or a bound below one throws a `RangeError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<Provider.Provider, never, HttpClient.HttpClient> => {
  const maxTokensField = options.maxTokensField ?? (isOpenAi(options.baseUrl) ? "max_completion_tokens" : "max_tokens")
  return Adapter.make(
    {
      module: "OpenAiCompatible",
      id: "openai",
      baseUrl: "https://api.openai.com/v1",
      paths: { whole: "/chat/completions", streamed: "/chat/completions" },
      headers: Adapter.credentials(options.apiKey, options.authentication ?? "bearer"),
      body: (request, writing) => Request.body(request, { ...writing, maxTokensField }),
      reading: () => ({ read: Answer.read, decoder: Streamed.decoder })
    },
    options
  )
}

const isOpenAi = (baseUrl: string | undefined): boolean =>
  baseUrl === undefined || /^https:\/\/api\.openai\.com(?:[/:?]|$)/.test(baseUrl)

/**
 * Layer that provides a `Provider`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<Provider.Provider, never, HttpClient.HttpClient> =>
  Layer.effect(Provider.Provider, make(options))

/**
 * Layer that provides a `Provider`, with any of its options read from the configuration.
 *
 * **Example** (Reading the key from the environment)
 *
 * ```ts import.meta.vitest
 * import { Config, ConfigProvider, Effect, Layer } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { Provider } from "@llm-resilience/core"
 * import { OpenAiCompatible } from "@llm-resilience/providers"
 *
 * const OpenAi = OpenAiCompatible.layerConfig({ model: "gpt-5", apiKey: Config.Redacted("OPENAI_API_KEY") })
 *
 * const environment = ConfigProvider.layer(ConfigProvider.fromEnv({ env: { OPENAI_API_KEY: "secret" } }))
 *
 * const provider = await Effect.runPromise(
 *   Effect.provide(Provider.Provider, OpenAi.pipe(Layer.provide([FetchHttpClient.layer, environment])))
 * )
 *
 * provider.model // => "gpt-5"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Configured<Options>
): Layer.Layer<Provider.Provider, Config.ConfigError, HttpClient.HttpClient> =>
  Layer.effect(Provider.Provider, Effect.flatMap(configured(options), make))
