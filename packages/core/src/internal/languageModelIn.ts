import * as AiError from "effect/ai/AiError"
import type * as LanguageModel from "effect/ai/LanguageModel"
import * as Prompt from "effect/ai/Prompt"
import * as Response from "effect/ai/Response"
import { ResponseIdTracker } from "effect/ai/ResponseIdTracker"
import type * as Tool from "effect/ai/Tool"
import type * as Toolkit from "effect/ai/Toolkit"
import * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import * as Inspectable from "effect/Inspectable"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { LlmRequest } from "../LlmRequest.ts"
import * as LlmResponse from "../LlmResponse.ts"
import type { Answer, Failure } from "../Provider.ts"
import * as ProviderError from "../ProviderError.ts"
import { brief, fromAiError } from "./aiError.ts"

/** What a provider needs to know about a model of `effect/ai`. */
export interface Options {
  readonly id: string
  readonly settings?: ((request: LlmRequest) => Context.Context<never>) | undefined
}

/** Asks a model of `effect/ai` as a provider asks. */
export const asking = (
  model: LanguageModel.LanguageModel,
  options: Options
): {
  readonly generate: (request: LlmRequest) => Effect.Effect<Answer, Failure>
  readonly stream: (request: LlmRequest) => Stream.Stream<LlmResponse.LlmStreamPart, Failure>
} => {
  const failed = (error: AiError.AiError): Effect.Effect<never, Failure> =>
    Clock.clockWith((clock) =>
      Effect.fail(fromAiError(error, { provider: options.id, now: clock.currentTimeMillisUnsafe() }))
    )
  const services = (request: LlmRequest) => (context: Context.Context<never>) =>
    // Ids of answers belong to one provider. A tracker that saw another one's would send them to the wrong door.
    Context.merge(Context.omit(ResponseIdTracker)(context), options.settings?.(request) ?? Context.empty())

  const text = (request: LlmRequest): Effect.Effect<ReadonlyArray<Whole>, AiError.AiError> =>
    Effect.map(
      // The tools are declared, not run, and what the model gives them is not decoded: nothing of their services is needed.
      model.generateText({ prompt: request.prompt, ...declared(request) }) as Effect.Effect<
        LanguageModel.GenerateTextResponse<Tools, "deferred">,
        AiError.AiError
      >,
      ({ content }) => content
    )

  const json = (request: LlmRequest, format: JsonFormat): Effect.Effect<ReadonlyArray<Whole>, AiError.AiError> => {
    // A request does not carry the services of its schema in its type; they are in the context of whoever asks.
    const schema = format.schema as Schema.Codec<unknown, { readonly [key: string]: unknown }>
    return Effect.flatMap(
      model.generateObject({
        prompt: request.prompt,
        schema,
        objectName: format.objectName,
        ...declared(request)
      }) as Effect.Effect<LanguageModel.GenerateObjectResponse<Tools, unknown, "deferred">, AiError.AiError>,
      ({ content, value }) =>
        Effect.matchEffect(Schema.encodeEffect(Schema.fromJsonString(schema))(value), {
          onFailure: (error) => Effect.fail(mismatch(AiError.StructuredOutputError.fromSchemaError(error, ""))),
          onSuccess: (text) => Effect.succeed(withText(content, text))
        })
    )
  }

  return {
    generate: (request) => {
      const { responseFormat } = request
      const content = responseFormat.type === "json" ? json(request, responseFormat) : text(request)
      const answer: Effect.Effect<Answer, Failure> = Effect.matchEffect(content, {
        onFailure: failed,
        onSuccess: (parts) => Effect.succeed({ content: finished(parts) })
      })
      return Effect.updateContext(answer, services(request))
    },
    stream: (request) =>
      Stream.updateContext(
        Stream.mapArrayEffect(
          Stream.catch(
            // See above: nothing of the services of the tools is needed.
            model.streamText({ prompt: request.prompt, ...declared(request) }) as Stream.Stream<
              Streamed,
              AiError.AiError
            >,
            (error) => Stream.fromEffect(failed(error))
          ),
          (parts) => {
            if (isSound(parts)) return Effect.succeed(Arr.map(parts, streamed))
            const error = parts.find((part) => part.type === "error")?.error
            return AiError.isAiError(error) ? failed(error) : Effect.fail(unknown(options.id, error))
          }
        ),
        services(request)
      )
  }
}

type Tools = Record<string, Tool.Any>
type Whole = Response.Part<Tools, "deferred">
type Streamed = Response.StreamPart<Tools, "deferred">
type JsonFormat = Extract<LlmRequest["responseFormat"], { readonly type: "json" }>

const declared = (
  request: LlmRequest
): {
  readonly toolkit: Toolkit.WithHandler<Tools>
  readonly toolChoice: LlmRequest["toolChoice"]
  readonly disableToolCallResolution: true
  readonly toolCallValidation: "deferred"
} => ({
  toolkit: { tools: Object.fromEntries(request.tools.map((tool) => [tool.name, tool])), handle: notHere },
  toolChoice: request.toolChoice,
  disableToolCallResolution: true,
  toolCallValidation: "deferred"
})

// Only a tool that was approved before and has no result yet would be run in spite of all.
const notHere = (name: string) =>
  Effect.fail(
    mismatch(
      new AiError.ToolConfigurationError({
        toolName: name,
        description: "Approved tools are run by the application, not by a provider"
      })
    )
  )

const mismatch = (reason: AiError.AiErrorReason): AiError.AiError =>
  AiError.make({ module: "Provider", method: "fromLanguageModel", reason })

const unknown = (provider: string, error: unknown): ProviderError.APIError =>
  new ProviderError.APIError({
    provider,
    reason: "ServerError",
    description: brief(
      error instanceof Error ? error.message : `The stream sent an error: ${Inspectable.toStringUnknown(error)}`
    )
  })

/**
 * The object as its own schema writes it, in place of what the model wrote: a model package may have asked for another shape (no tuples,
 * no optional fields) that only this package reads.
 */
const withText = (content: ReadonlyArray<Whole>, text: string): ReadonlyArray<Whole> => {
  const first = content.findIndex((part) => part.type === "text")
  return content.flatMap((part, index): ReadonlyArray<Whole> => {
    if (part.type !== "text") return [part]
    return index === first ? [Response.makePart("text", { text, metadata: part.metadata })] : []
  })
}

/** Encodes a whole answer. In `effect/ai` it may lack `finish`; with us it ends with it. */
const finished = (parts: ReadonlyArray<Whole>): ReadonlyArray<Response.PartEncoded> => {
  const finish = parts.findLast((part) => part.type === "finish")
  return [
    ...parts.flatMap((part) => (part.type === "finish" ? [] : [whole(part)])),
    finish === undefined ? { type: "finish", reason: "unknown", usage: LlmResponse.unknownUsage } : common(finish)
  ]
}

const whole = (part: Whole): Response.PartEncoded => {
  switch (part.type) {
    case "text":
    case "reasoning":
      return { type: part.type, text: part.text, ...metadata(part) }
    default:
      return common(part)
  }
}

type Sound = Exclude<Streamed, Response.ErrorPart>

const isSound = (parts: Arr.NonEmptyReadonlyArray<Streamed>): parts is Arr.NonEmptyReadonlyArray<Sound> =>
  parts.every((part) => part.type !== "error")

const streamed = (part: Sound): LlmResponse.LlmStreamPart => {
  switch (part.type) {
    case "text-delta":
    case "reasoning-delta":
    case "tool-params-delta":
      return { type: part.type, id: part.id, delta: part.delta, ...metadata(part) }
    case "text-start":
    case "text-end":
    case "reasoning-start":
    case "reasoning-end":
    case "tool-params-end":
      return { type: part.type, id: part.id, ...metadata(part) }
    case "tool-params-start":
      return {
        type: part.type,
        id: part.id,
        name: part.name,
        ...(part.providerExecuted ? { providerExecuted: true } : undefined),
        ...metadata(part)
      }
    default:
      return common(part)
  }
}

type Common = Exclude<Whole, Response.TextPart | Response.ReasoningPart>
type CommonEncoded = Extract<Response.PartEncoded, Exclude<Response.StreamPartEncoded, Response.ErrorPartEncoded>>

/** Encodes what is the same in whole and in streamed answers. */
const common = (part: Common): CommonEncoded => {
  switch (part.type) {
    case "tool-call":
      return {
        type: part.type,
        id: part.id,
        name: part.name,
        params: part.params,
        ...(part.providerExecuted ? { providerExecuted: true } : undefined),
        ...metadata(part)
      }
    case "tool-result": {
      const modelOutput = part.modelOutput === undefined ? undefined : encodeModelOutput(part.modelOutput)
      return {
        type: part.type,
        id: part.id,
        name: part.name,
        result: part.encodedResult,
        isFailure: part.isFailure,
        ...(modelOutput === undefined || Option.isNone(modelOutput) ? undefined : { modelOutput: modelOutput.value }),
        ...(part.providerExecuted ? { providerExecuted: true } : undefined),
        ...(part.preliminary ? { preliminary: true } : undefined),
        ...metadata(part)
      }
    }
    case "tool-approval-request":
      return { type: part.type, approvalId: part.approvalId, toolCallId: part.toolCallId, ...metadata(part) }
    case "file":
      return { type: part.type, mediaType: part.mediaType, data: Base64.encode(part.data), ...metadata(part) }
    case "source":
      return part.sourceType === "url"
        ? {
            type: part.type,
            sourceType: "url",
            id: part.id,
            url: String(part.url),
            title: part.title,
            ...metadata(part)
          }
        : {
            type: part.type,
            sourceType: "document",
            id: part.id,
            mediaType: part.mediaType,
            title: part.title,
            ...(part.fileName === undefined ? undefined : { fileName: part.fileName }),
            ...metadata(part)
          }
    case "response-metadata":
      return {
        type: part.type,
        ...(part.id === undefined ? undefined : { id: part.id }),
        ...(part.modelId === undefined ? undefined : { modelId: part.modelId }),
        ...(part.timestamp === undefined ? undefined : { timestamp: DateTime.formatIso(part.timestamp) }),
        ...metadata(part)
      }
    case "finish":
      return {
        type: part.type,
        reason: part.reason,
        usage: { inputTokens: { ...part.usage.inputTokens }, outputTokens: { ...part.usage.outputTokens } },
        ...(part.response === undefined ? undefined : { response: withoutSecrets(part.response) }),
        ...metadata(part)
      }
  }
}

const encodeModelOutput = Schema.encodeOption(Schema.Array(Prompt.ToolModelOutputPart))

// Answers are kept in caches and queues, redacted headers are not.
const withoutSecrets = (
  response: typeof Response.HttpResponseDetails.Type
): typeof Response.HttpResponseDetails.Encoded => ({
  status: response.status,
  headers: Object.fromEntries(
    Object.entries(response.headers).flatMap(([name, value]) => (typeof value === "string" ? [[name, value]] : []))
  )
})

const metadata = <M extends object>(part: { readonly metadata: M }): { readonly metadata?: M } =>
  Object.keys(part.metadata).length === 0 ? {} : { metadata: part.metadata }
