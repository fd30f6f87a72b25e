/**
 * Providers that speak Anthropic's Messages API.
 *
 * The adapter translates, and does nothing else. It sends one request per call, never a second one: retries, timeouts and fallbacks
 * are policies around it. It translates every failure into a `ProviderError` exactly once (see {@link Classification}), aborts the
 * request when the caller leaves, and bounds what it reads.
 *
 * **Details**
 *
 * - System messages move to the front, messages of one side in a row become one turn, and a conversation that does not begin with
 *   the user gets a first turn: the API insists on all three.
 * - Thinking becomes reasoning with its signature in `metadata.anthropic`, and goes back to Anthropic with it. Reasoning of another
 *   model is left out, and when a turn of another model is continued, thinking is switched off for that call.
 * - Ids of tool calls that another provider made are rewritten to what Anthropic accepts. Blocks of tools that Anthropic runs itself
 *   (web search) are left out in both directions.
 * - A temperature above 1 becomes 1; `topP` is left out beside a temperature; `seed` does not exist here.
 * - A stream is complete with its stop reason, `message_stop` or not; one that ends without is an `APIError` `StreamCut`.
 * - A refusal before any content is an `APIError` `ContentPolicy`. An empty answer is an answer: an output guard may think otherwise.
 *
 * **Example** (Building a step of a chain)
 *
 * ```ts import.meta.vitest
 * import { Effect, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { Anthropic } from "@llm-resilience/providers"
 *
 * const program = Anthropic.make({ model: "claude-sonnet-4-5", apiKey: Redacted.make("secret") })
 *
 * const provider = await Effect.runPromise(Effect.provide(program, FetchHttpClient.layer))
 *
 * provider.id // => "anthropic"
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
import * as Answer from "./internal/anthropicAnswer.ts"
import * as Request from "./internal/anthropicRequest.ts"
import * as Streamed from "./internal/anthropicStream.ts"
import { configured, type Configured } from "./internal/configured.ts"

/**
 * How to reach the API and its model.
 *
 * **Details**
 *
 * What all adapters share is in {@link Connection.Options}. Here:
 *
 * - `id` is `anthropic` by default, `baseUrl`, which comes before `/messages`, `https://api.anthropic.com/v1`.
 * - `apiKey` is sent as `x-api-key`, or as `Authorization: Bearer …` with `authentication: "bearer"` (gateways). `version` is the
 *   `anthropic-version`. Default: `2023-06-01`.
 * - `maxTokens` bounds an answer whose request does not; the API insists on a number. Default: the `maxOutputTokens` of
 *   `capabilities`, else 4096, which every model accepts.
 * - `structuredOutput` says how a model is asked for JSON: `native` (`output_config.format`), or `tool`, a tool that it has to call,
 *   for models that do not know the former. Default: `tool` for Claude 3 and the first Claude 4, `native` for every other. A schema
 *   that the native way cannot express goes through a tool as well.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Connection.Options {
  readonly authentication?: "x-api-key" | "bearer" | undefined
  readonly version?: string | undefined
  readonly maxTokens?: number | undefined
  readonly structuredOutput?: "native" | "tool" | undefined
}

/**
 * Creates a provider. An address that is none, an empty model or a bound below one throws a `RangeError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<Provider.Provider, never, HttpClient.HttpClient> => {
  const maxTokens = options.maxTokens ?? options.capabilities?.maxOutputTokens ?? 4096
  if (!Number.isInteger(maxTokens) || maxTokens < 1) {
    throw new RangeError(`Anthropic.make: maxTokens must be an integer >= 1, got ${maxTokens}`)
  }
  const structuredOutput = options.structuredOutput ?? (beforeStructuredOutput.test(options.model) ? "tool" : "native")
  return Adapter.make(
    {
      module: "Anthropic",
      id: "anthropic",
      baseUrl: "https://api.anthropic.com/v1",
      paths: { whole: "/messages", streamed: "/messages" },
      headers: {
        "anthropic-version": options.version ?? "2023-06-01",
        ...Adapter.credentials(options.apiKey, options.authentication ?? "x-api-key")
      },
      // A model that no longer accepts a prefill refuses it, and the chain then restarts; nothing is lost by asking.
      capabilities: { prefill: true },
      body: (request, writing) => Request.body(request, { ...writing, maxTokens, structuredOutput }),
      reading: (request) => {
        const answerTool = Request.answerTool(request, structuredOutput)
        return {
          read: (json, reply) => Answer.read(json, reply, answerTool),
          decoder: (reply) => Streamed.decoder(reply, answerTool)
        }
      }
    },
    options
  )
}

const beforeStructuredOutput = /claude-(?:instant|2|3)|claude-(?:opus|sonnet)-4(?:$|-0|-2025)/

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
