/**
 * Providers that speak Google's Gemini API (`generateContent` and `streamGenerateContent`), at Google AI or at Vertex AI.
 *
 * The adapter translates, and does nothing else. It sends one request per call, never a second one: retries, timeouts and fallbacks
 * are policies around it. It translates every failure into a `ProviderError` exactly once (see {@link Classification}), aborts the
 * request when the caller leaves, and bounds what it reads.
 *
 * **Details**
 *
 * - Thoughts become reasoning. Their signatures (`metadata.gemini`) go back on the text or the call that they led to. Calls that another
 *   model made get the word by which Google lets them pass.
 * - Calls without an id get one: the API matches calls and results by name and order.
 * - A wait that is only in the body (`RetryInfo`) is the `retryAfter` of the error.
 * - A prompt that was blocked, or an answer that was withheld before any content, is an `APIError` `ContentPolicy`.
 * - A stream is complete when it ends with a finish reason; one may also stand in its middle.
 *
 * **Example** (Reaching Vertex AI with a token)
 *
 * ```ts import.meta.vitest
 * import { Effect, Redacted } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { Gemini } from "@llm-resilience/providers"
 *
 * const program = Gemini.make({
 *   model: "gemini-2.5-flash",
 *   baseUrl: "https://us-central1-aiplatform.googleapis.com/v1/projects/mine/locations/us-central1/publishers/google",
 *   token: Effect.succeed(Redacted.make("from your authentication library"))
 * })
 *
 * const provider = await Effect.runPromise(Effect.provide(program, FetchHttpClient.layer))
 *
 * provider.id // => "gemini"
 * ```
 *
 * @since 0.1.0
 */
import * as Provider from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import type * as HttpClient from "effect/http/HttpClient"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type * as Connection from "./Connection.ts"
import * as Adapter from "./internal/adapter.ts"
import { configured, type Configured } from "./internal/configured.ts"
import * as Request from "./internal/geminiRequest.ts"
import * as Streamed from "./internal/geminiStream.ts"
import { type Authorize, spellings } from "./internal/transport.ts"

/**
 * How to reach the API and its model.
 *
 * **Details**
 *
 * What all adapters share is in {@link Connection.Options}. Here:
 *
 * - `id` is `gemini` by default, `baseUrl`, which comes before `/models/…`, `https://generativelanguage.googleapis.com/v1beta`.
 * - `apiKey` is sent as `x-goog-api-key`. `token` is asked for each request and sent as `Authorization: Bearer …` (Vertex AI): keeping
 *   it until it expires is up to the effect. One that fails is an `APIError` `Authentication`.
 * - `structuredOutput` says how a model is asked for JSON when it has tools as well: `native` (a response schema), or `tool`, a function
 *   that it has to call. Default: `tool` for the first two generations, which refuse both at once, `native` for every other. Without
 *   tools it is always native.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Connection.Options {
  readonly token?: Effect.Effect<Redacted.Redacted<string>, unknown> | undefined
  readonly structuredOutput?: "native" | "tool" | undefined
}

/**
 * Creates a provider. An address that is none, an empty model or a bound below one throws a `RangeError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options): Effect.Effect<Provider.Provider, never, HttpClient.HttpClient> => {
  const isOld = /gemini-[12]\b/.test(options.model)
  const structuredOutput = options.structuredOutput ?? (isOld ? "tool" : "native")
  // Names without a generation (`gemini-flash-latest`) mean the youngest.
  const wantsSignatures = /gemini/.test(options.model) && !isOld
  const name = options.model.replace(/^models\//, "")
  const path = `/models/${encodeURIComponent(name)}`
  return Adapter.make(
    {
      module: "Gemini",
      id: "gemini",
      baseUrl: "https://generativelanguage.googleapis.com/v1beta",
      paths: { whole: `${path}:generateContent`, streamed: `${path}:streamGenerateContent?alt=sse` },
      headers: Adapter.credentials(options.apiKey, "x-goog-api-key"),
      authorize: options.token === undefined ? undefined : bearer(options.token, options.id ?? "gemini"),
      body: (request, writing) => Request.body(request, { ...writing, structuredOutput, wantsSignatures }),
      reading: (request) => {
        const answerTool = Request.answerTool(request, structuredOutput)
        return {
          read: (json, reply) => Streamed.read(json, reply, answerTool),
          decoder: (reply) => Streamed.decoder(reply, answerTool)
        }
      }
    },
    options
  )
}

const bearer =
  (token: Effect.Effect<Redacted.Redacted<string>, unknown>, provider: string): Authorize =>
  (request) =>
    Effect.matchEffect(token, {
      onSuccess: (redacted) => {
        const authorization = `Bearer ${Redacted.value(redacted)}`
        return Effect.succeed({
          request: HttpClientRequest.setHeader(request, "authorization", authorization),
          secrets: spellings(authorization),
          secretHeaders: ["authorization"]
        })
      },
      // What a library of somebody else says about its failure may quote the token.
      onFailure: () =>
        Effect.fail(
          new ProviderError.APIError({ provider, reason: "Authentication", description: "There is no token" })
        )
    })

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
