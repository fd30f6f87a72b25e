import * as LanguageModel from "effect/ai/LanguageModel"
import type * as Response from "effect/ai/Response"
import * as Telemetry from "effect/ai/Telemetry"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type * as Tracer from "effect/Tracer"
import * as Attempt from "../Attempt.ts"
import * as LlmRequest from "../LlmRequest.ts"
import type * as LlmResponse from "../LlmResponse.ts"
import * as Notice from "../Notice.ts"
import type { Provider } from "../Provider.ts"
import * as ProviderError from "../ProviderError.ts"
import { metadataKey, toAiError } from "./aiError.ts"

/** What a caller of `effect/ai` cannot say with its options. */
export type Asked = Omit<LlmRequest.Input, "prompt" | "tools" | "toolChoice" | "responseFormat">

/** Makes an `effect/ai` model that asks as a provider does. */
export const make = (
  provider: Pick<Provider, "generate" | "stream">,
  asked: Effect.Effect<Asked>
): Effect.Effect<LanguageModel.LanguageModel> =>
  LanguageModel.make({
    generateText: (options) =>
      Effect.flatMap(asked, (asked) => {
        const request = requestOf(options, asked)
        const method = options.responseFormat.type === "json" ? "generateObject" : "generateText"
        return Effect.matchEffect(provider.generate(request), {
          onSuccess: ({ content, served }) => {
            const parts = whole(content, served)
            annotate(options.span, request, served, parts)
            return Effect.succeed(parts)
          },
          onFailure: (failure) =>
            Clock.clockWith((clock) =>
              Effect.fail(toAiError(failure, { method, now: clock.currentTimeMillisUnsafe() }))
            )
        })
      }),
    streamText: (options) =>
      Stream.unwrap(
        Effect.flatMap(asked, (asked) =>
          Clock.clockWith((clock) => {
            const request = requestOf(options, asked)
            return Effect.succeed(
              Stream.mapAccumArray(
                Stream.mapError(provider.stream(request), (failure) =>
                  toAiError(failure, { method: "streamText", now: clock.currentTimeMillisUnsafe() })
                ),
                (): LlmResponse.Served | undefined => undefined,
                (served, parts) =>
                  streamed(parts, served, (served, parts) => annotate(options.span, request, served, parts))
              )
            )
          })
        )
      )
  })

const requestOf = (options: LanguageModel.ProviderOptions, asked: Asked): LlmRequest.LlmRequest =>
  LlmRequest.make({
    ...asked,
    prompt: options.prompt,
    tools: options.tools,
    toolChoice: options.toolChoice,
    responseFormat: options.responseFormat
  })

const whole = (
  content: ReadonlyArray<Response.PartEncoded>,
  served: LlmResponse.Served
): Array<Response.PartEncoded> => {
  const parts = content.map((part) => (part.type === "finish" ? withServed(part, served) : part))
  return parts.some((part) => part.type === "response-metadata")
    ? parts
    : [{ type: "response-metadata", modelId: served.model }, ...parts]
}

/**
 * Puts the record of how a stream is served into parts that `effect/ai` knows: a `response-metadata` part before the content it is about,
 * so that a notice can be shown first, and `finish`.
 */
const streamed = (
  parts: ReadonlyArray<LlmResponse.LlmStreamPart>,
  before: LlmResponse.Served | undefined,
  onServed: (served: LlmResponse.Served, parts: ReadonlyArray<Response.StreamPartEncoded>) => void
): readonly [LlmResponse.Served | undefined, ReadonlyArray<Response.StreamPartEncoded>] => {
  let served = before
  let announced = false
  const result: Array<Response.StreamPartEncoded> = []
  for (const [index, part] of parts.entries()) {
    if (part.type === "served") {
      served = part.served
      announced = true
      if (parts[index + 1]?.type === "response-metadata") continue
      result.push(withServed({ type: "response-metadata", modelId: served.model }, served))
    } else if (part.type === "response-metadata" && served !== undefined && parts[index - 1]?.type === "served") {
      result.push(withServed(part, served))
    } else if (part.type === "finish" && served !== undefined) {
      announced = true
      result.push(withServed(part, served))
    } else result.push(part)
  }
  if (announced && served !== undefined) onServed(served, result)
  return [served, result]
}

const withServed = <P extends Response.FinishPartEncoded | Response.ResponseMetadataPartEncoded>(
  part: P,
  served: LlmResponse.Served
): P => ({ ...part, metadata: { ...part.metadata, [metadataKey]: recordOf(served) } })

// A provider that answers at once shares one record among all its answers.
const recordOf = (served: LlmResponse.Served): Schema.Json => {
  const known = records.get(served)
  if (known !== undefined) return known
  const { contributors, from, model, provider } = served
  const plain = served.attempts.length === 0 ? served : { ...served, attempts: served.attempts.map(withoutCause) }
  const record = Option.getOrElse(encodeServed(plain), () => ({
    provider,
    model,
    from,
    attempts: [],
    ...(contributors === undefined ? undefined : { contributors: [...contributors] })
  }))
  records.set(served, record)
  return record
}

const records = new WeakMap<LlmResponse.Served, Schema.Json>()

// The cause is whatever a provider's code died of: of any size, and with whatever it held. Metadata is logged and stored.
const withoutCause = (attempt: Attempt.Attempt): Attempt.Attempt => {
  if (attempt._tag !== "Failed" || attempt.error._tag !== "APIError" || attempt.error.cause === undefined)
    return attempt
  const { description, provider, reason, requestId, retryAfter, shouldRetry, status } = attempt.error
  return {
    ...attempt,
    error: new ProviderError.APIError({ provider, reason, description, status, requestId, retryAfter, shouldRetry })
  }
}

const Served = Schema.toCodecJson(
  Schema.Struct({
    provider: Schema.String,
    model: Schema.String,
    from: Schema.Literals(["provider", "cache"]),
    attempts: Schema.Array(Attempt.Attempt),
    contributors: Schema.optional(Schema.Array(Schema.Struct({ provider: Schema.String, model: Schema.String }))),
    degraded: Schema.optional(Schema.Literals(["smaller", "shorter"])),
    match: Schema.optional(Schema.Literals(["exact", "canonical", "similar"])),
    similarity: Schema.optional(Schema.Number),
    question: Schema.optional(Schema.String),
    age: Schema.optional(Schema.Duration),
    stale: Schema.optional(Schema.Boolean),
    notice: Schema.optional(Notice.Notice)
  })
)
const encodeServed = Schema.encodeOption(Served)
const decodeServed = Schema.decodeUnknownOption(Served)

/** What is asked for the record: parts, decoded or not, or an answer made of them. */
export interface Part {
  readonly type: string
  readonly metadata?: Response.ProviderMetadata | undefined
}

/** Reads the record from the last part that has one. */
export const servedOf = (
  answer: Iterable<Part> | { readonly content: Iterable<Part> }
): LlmResponse.Served | undefined => {
  let record: unknown
  for (const part of "content" in answer ? answer.content : answer) {
    record = part.metadata?.[metadataKey] ?? record
  }
  return record === undefined ? undefined : Option.getOrUndefined(decodeServed(record))
}

const annotate = (
  span: Tracer.Span,
  request: LlmRequest.LlmRequest,
  served: LlmResponse.Served,
  parts: ReadonlyArray<Response.PartEncoded | Response.StreamPartEncoded>
): void => {
  if (!span.sampled) return
  const answer = parts.find((part) => part.type === "response-metadata")
  const finish = parts.find((part) => part.type === "finish")
  const { maxOutputTokens, seed, stop, temperature, topP } = request.settings
  Telemetry.addGenAIAnnotations(span, {
    operation: { name: "chat" },
    provider: { name: served.provider },
    request: { maxTokens: maxOutputTokens, seed, stopSequences: stop, temperature, topP },
    response: {
      id: answer?.id,
      model: answer === undefined ? undefined : (answer.modelId ?? served.model),
      finishReasons: finish === undefined ? undefined : [finish.reason]
    },
    usage: { inputTokens: finish?.usage.inputTokens.total, outputTokens: finish?.usage.outputTokens.total }
  })
}
