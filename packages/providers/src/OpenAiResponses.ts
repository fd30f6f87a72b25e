/**
 * Providers that speak OpenAI's Responses API: OpenAI itself, Azure, xAI and whoever else offers `/responses`.
 *
 * The adapter translates, and does nothing else. It sends one request per call, never a second one: retries, timeouts and fallbacks
 * are policies around it. It translates every failure into a `ProviderError` exactly once (see {@link Classification}), aborts the
 * request when the caller leaves, and bounds what it reads.
 *
 * **Details**
 *
 * - Nothing is kept at the provider unless `store` says so: the conversation is in the prompt, where the next step of a chain finds it.
 * - Reasoning goes back when the API gave it in encrypted form (`include: ["reasoning.encrypted_content"]` among the
 *   `providerOptions`); it is in `metadata["openai-responses"]`.
 * - `response.created` and what else comes before the first content is preamble: an error after it is one before any content.
 * - A stream is complete with `response.completed` or `response.incomplete`; one that ends without is an `APIError` `StreamCut`.
 * - Items of tools that the API runs itself are left out, but for the images that they make and the pages that they cite.
 * - The API has no `stop` and no `seed`.
 *
 * **Example** (Building a step of a chain)
 *
 * ```ts import.meta.vitest
 * import { Effect, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { OpenAiResponses } from "@llm-resilience/providers"
 *
 * const program = OpenAiResponses.make({ model: "gpt-5", apiKey: Redacted.make("secret") })
 *
 * const provider = await Effect.runPromise(Effect.provide(program, FetchHttpClient.layer))
 *
 * provider.id // => "openai-responses"
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
import * as Answer from "./internal/responsesAnswer.ts"
import * as Request from "./internal/responsesRequest.ts"
import * as Streamed from "./internal/responsesStream.ts"

/**
 * How to reach a server and its model.
 *
 * **Details**
 *
 * What all adapters share is in {@link Connection.Options}. Here:
 *
 * - `id` is `openai-responses` by default, `baseUrl`, which comes before `/responses`, `https://api.openai.com/v1`.
 * - `apiKey` is sent as `Authorization: Bearer …`, or as the header `api-key` with `authentication: "api-key"` (Azure).
 * - `store` keeps answers at the provider. Default: false.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Connection.Options {
  readonly authentication?: "bearer" | "api-key" | undefined
  readonly store?: boolean | undefined
}

/**
 * Creates a provider. An address that is none, an empty model or a bound below one throws a `RangeError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<Provider.Provider, never, HttpClient.HttpClient> =>
  Adapter.make(
    {
      module: "OpenAiResponses",
      id: "openai-responses",
      baseUrl: "https://api.openai.com/v1",
      paths: { whole: "/responses", streamed: "/responses" },
      headers: Adapter.credentials(options.apiKey, options.authentication ?? "bearer"),
      body: (request, writing) => Request.body(request, { ...writing, store: options.store ?? false }),
      reading: () => ({ read: Answer.read, decoder: Streamed.decoder })
    },
    options
  )

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
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Configured<Options>
): Layer.Layer<Provider.Provider, Config.ConfigError, HttpClient.HttpClient> =>
  Layer.effect(Provider.Provider, Effect.flatMap(configured(options), make))
