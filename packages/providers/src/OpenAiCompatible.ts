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
import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as Provider from "@llm-resilience/core/Provider"
import type * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { configured, type Configured } from "./internal/configured.ts"
import * as Events from "./internal/events.ts"
import * as Answer from "./internal/openAiAnswer.ts"
import * as Request from "./internal/openAiRequest.ts"
import * as Streamed from "./internal/openAiStream.ts"
import * as Transport from "./internal/transport.ts"

/**
 * How to reach a server and its model.
 *
 * **Details**
 *
 * - `id` names the step in errors, events and configuration. Default: `openai`.
 * - `apiKey` is sent as `Authorization: Bearer …`, or as the header `api-key` with `authentication: "api-key"` (Azure). Without a key
 *   none is sent.
 * - `baseUrl` is what comes before `/chat/completions`. Default: `https://api.openai.com/v1`.
 * - `headers` are sent with every request; give secrets as `Redacted`, so that they are kept out of errors and spans. `query` is
 *   added to the address (Azure's `api-version`).
 * - `settings` hold where a request says nothing. `maxTokensField` is how the server calls the bound of the answer; OpenAI's newer
 *   models only know `max_completion_tokens`, many other servers only `max_tokens`. Default: the former for OpenAI's own address,
 *   the latter for every other.
 * - An answer longer than `maxResponseBytes` (default 16 MiB), a stream longer than `maxStreamBytes` (256 MiB) or an event longer than
 *   `maxEventBytes` (4 MiB) is an `APIError` `InvalidResponse`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly id?: string | undefined
  readonly model: string
  readonly apiKey?: Redacted.Redacted<string> | undefined
  readonly authentication?: "bearer" | "api-key" | undefined
  readonly baseUrl?: string | undefined
  readonly headers?: { readonly [name: string]: string | Redacted.Redacted<string> } | undefined
  readonly query?: { readonly [name: string]: string } | undefined
  readonly capabilities?: Provider.Capabilities | undefined
  readonly settings?: LlmRequest.Settings | undefined
  readonly maxTokensField?: "max_tokens" | "max_completion_tokens" | undefined
  readonly maxResponseBytes?: number | undefined
  readonly maxStreamBytes?: number | undefined
  readonly maxEventBytes?: number | undefined
}

/**
 * Creates a provider. An address that is none, an empty model or a bound below one throws a `RangeError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<Provider.Provider, never, HttpClient.HttpClient> =>
  Effect.map(HttpClient.HttpClient, (client) => {
    const id = options.id ?? "openai"
    const endpoint = Transport.endpoint({
      module: "OpenAiCompatible",
      provider: id,
      model: options.model,
      client,
      baseUrl: options.baseUrl ?? "https://api.openai.com/v1",
      path: "/chat/completions",
      query: options.query,
      headers: { ...credentials(options), ...options.headers },
      bounds: options
    })
    const maxTokensField =
      options.maxTokensField ?? (isOpenAi(options.baseUrl) ? "max_completion_tokens" : "max_tokens")
    const body = (request: LlmRequest.LlmRequest, stream: boolean) => () =>
      Request.body(request, {
        provider: id,
        model: options.model,
        settings: options.settings,
        maxTokensField,
        stream
      })
    return Provider.make({
      id,
      model: options.model,
      capabilities: options.capabilities,
      generate: (request) => Transport.ask(endpoint, body(request, false), Answer.read),
      stream: (request) =>
        Events.listen(endpoint, body(request, true), { decoder: Streamed.decoder, read: Answer.read })
    })
  })

const isOpenAi = (baseUrl: string | undefined): boolean =>
  baseUrl === undefined || /^https:\/\/api\.openai\.com(?:[/:?]|$)/.test(baseUrl)

const credentials = (options: Options): { readonly [name: string]: Redacted.Redacted<string> } => {
  if (options.apiKey === undefined) return {}
  return options.authentication === "api-key"
    ? { "api-key": options.apiKey }
    : { authorization: Redacted.make(`Bearer ${Redacted.value(options.apiKey)}`) }
}

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
