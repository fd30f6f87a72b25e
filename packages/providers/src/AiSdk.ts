/**
 * Any language model of Vercel's AI SDK as a provider, so that its many official and community packages can be steps of a chain.
 *
 * The bridge calls the model itself (`doGenerate`, `doStream`), below `generateText` and `streamText`: what those retry is not retried here,
 * and nothing runs tools. Models of specification version 4 are taken, and those of version 3.
 *
 * **Details**
 *
 * - An `APICallError` is classified like any answer: by status, headers and body (see {@link Classification}). An error inside of a stream is
 *   one as well, whatever the package makes of it.
 * - Text, reasoning, tool calls, files and sources become the parts of `effect/ai`, with what the provider says about them as `metadata`, and
 *   go back with it as provider options. Reasoning goes back only to the provider that it came from.
 * - `settings.providerOptions` reach the model as its `providerOptions`.
 * - Tools that a provider runs itself are left out, and so are files that are only an address.
 * - Files by address are passed on as they are: the bridge downloads nothing.
 *
 * **Example** (Taking a model of the AI SDK as the backup)
 *
 * ```ts import.meta.vitest
 * import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
 * import { AiSdk } from "@llm-resilience/providers"
 *
 * const acme = createOpenAICompatible({ name: "acme", baseURL: "https://api.acme.example/v1", apiKey: "secret" })
 *
 * const provider = AiSdk.make(acme("acme-large"), { id: "acme" })
 *
 * provider.id // => "acme"
 * provider.model // => "acme-large"
 * ```
 *
 * @since 0.1.0
 */
import type {
  LanguageModelV3,
  LanguageModelV3GenerateResult,
  LanguageModelV3StreamResult,
  LanguageModelV4,
  LanguageModelV4GenerateResult,
  LanguageModelV4StreamResult
} from "@ai-sdk/provider"
import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import * as Provider from "@llm-resilience/core/Provider"
import * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Catalogue from "./Catalogue.ts"
import * as Answer from "./internal/aiSdkAnswer.ts"
import { classify } from "./internal/aiSdkError.ts"
import * as Request from "./internal/aiSdkRequest.ts"
import { settingsOf } from "./internal/prompt.ts"

/**
 * A language model of the AI SDK: a `LanguageModelV4`, or a `LanguageModelV3`.
 *
 * **Details**
 *
 * Only its outline is declared here, so that this package compiles where the AI SDK is not installed.
 *
 * @category models
 * @since 0.1.0
 */
export interface Model {
  readonly specificationVersion: "v3" | "v4"
  readonly provider: string
  readonly modelId: string
  readonly doGenerate: (options: never) => PromiseLike<object>
  readonly doStream: (options: never) => PromiseLike<object>
}

/**
 * How a model becomes a step.
 *
 * **Details**
 *
 * - `id` names the step in errors, events and configuration. Default: the model's own name for its provider, such as `acme.chat`.
 * - `capabilities` say what the model can do. What they leave out comes from the {@link Catalogue}.
 * - `settings` hold where a request says nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly id?: string | undefined
  readonly capabilities?: Provider.Capabilities | undefined
  readonly settings?: LlmRequest.Settings | undefined
}

/**
 * Creates a provider. A model of another specification version throws a `RangeError`.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (given: Model, options?: Options): Provider.Provider => {
  // Its version, which is looked at next, says that it is one.
  const model = given as LanguageModelV4 | LanguageModelV3
  const version: string = model.specificationVersion
  if (version !== "v3" && version !== "v4") {
    throw new RangeError(`AiSdk.make: model must be of specification version v3 or v4, got ${version}`)
  }
  const id = options?.id ?? model.provider
  const maker = model.provider.split(".")[0] ?? model.provider
  const at = Effect.map(Clock.clockWith(Effect.succeed), (clock) => {
    const started = clock.monotonicTimeNanosUnsafe()
    const now = clock.currentTimeMillisUnsafe()
    return {
      answer: { provider: id, model: model.modelId, now },
      failed: (error: unknown) =>
        classify(error, { provider: id, now, elapsed: Duration.nanos(clock.monotonicTimeNanosUnsafe() - started) })
    }
  })
  const written = (request: LlmRequest.LlmRequest) =>
    Effect.try({
      try: () => Request.write(request, settingsOf(options?.settings, request), maker),
      catch: () =>
        new ProviderError.APIError({
          provider: id,
          reason: "InvalidRequest",
          description: "The request cannot be written as JSON"
        })
    })
  return Provider.make({
    id,
    model: model.modelId,
    capabilities: { ...Catalogue.find(model.modelId), ...options?.capabilities },
    generate: (request) =>
      Effect.gen(function* () {
        const { answer, failed } = yield* at
        const call = yield* written(request)
        const result = yield* Effect.tryPromise({
          try: (abortSignal): PromiseLike<LanguageModelV4GenerateResult | LanguageModelV3GenerateResult> =>
            model.specificationVersion === "v4"
              ? model.doGenerate({ ...call, abortSignal })
              : model.doGenerate({ ...Request.before(call), abortSignal }),
          catch: failed
        })
        const content = yield* Effect.fromResult(
          Answer.read(result, { ...answer, json: request.responseFormat.type === "json" })
        )
        return { content }
      }),
    stream: (request) =>
      Stream.unwrap(
        Effect.gen(function* () {
          const { answer, failed } = yield* at
          const call = yield* written(request)
          const { stream } = yield* Effect.tryPromise({
            try: (abortSignal): PromiseLike<LanguageModelV4StreamResult | LanguageModelV3StreamResult> =>
              model.specificationVersion === "v4"
                ? model.doStream({ ...call, abortSignal })
                : model.doStream({ ...Request.before(call), abortSignal }),
            catch: failed
          })
          const read = Answer.reader(answer)
          return Stream.fromReadableStream<Parameters<typeof read>[0], ProviderError.ProviderError>({
            evaluate: () => stream,
            onError: failed
          }).pipe(
            Stream.mapEffect((part) =>
              Effect.mapError(Effect.fromResult(read(part)), (error) =>
                "error" in error ? failed(error.error) : error
              )
            ),
            Stream.flattenIterable
          )
        })
      )
  })
}

/**
 * Layer that provides a model of the AI SDK as a `Provider`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (model: Model, options?: Options): Layer.Layer<Provider.Provider> =>
  Layer.sync(Provider.Provider, () => make(model, options))
