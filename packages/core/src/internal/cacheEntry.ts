import * as Response from "effect/ai/Response"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { LlmRequest } from "../LlmRequest.ts"
import type * as LlmResponse from "../LlmResponse.ts"
import * as Loop from "../Loop.ts"
import * as Refusal from "../Refusal.ts"

const ToolCall = Schema.Struct({
  type: Schema.Literal("tool-call"),
  id: Schema.String,
  name: Schema.String,
  params: Schema.Json,
  metadata: Schema.optional(Response.ProviderMetadata)
})

// Tool results, approvals and tools that the provider ran belong to one conversation and are not here.
const Part = Schema.Union([
  Schema.toEncoded(Response.TextPart),
  Schema.toEncoded(Response.ReasoningPart),
  Schema.toEncoded(Response.FilePart),
  Schema.toEncoded(Response.DocumentSourcePart),
  Schema.toEncoded(Response.UrlSourcePart),
  Schema.toEncoded(Response.ResponseMetadataPart),
  Schema.toEncoded(Response.FinishPart),
  ToolCall
])

/** An answer as it is stored. Whatever changes its form changes `v`, and older entries are misses. */
export const Entry = Schema.Struct({
  v: Schema.Literal(1),
  key: Schema.String,
  partition: Schema.String,
  storedAt: Schema.Finite,
  provider: Schema.String,
  model: Schema.String,
  degraded: Schema.optional(Schema.Literals(["smaller", "shorter"])),
  contributors: Schema.optional(Schema.Array(Schema.Struct({ provider: Schema.String, model: Schema.String }))),
  content: Schema.NonEmptyArray(Part)
})

export type Entry = typeof Entry.Type

const codec = Schema.fromJsonString(Entry)
export const decode = Schema.decodeEffect(codec)
export const encode = Schema.encodeUnknownEffect(codec)

/** Why an answer is not one to be served again, or `undefined` when it is. */
export const flaw = (
  request: LlmRequest,
  response: LlmResponse.LlmResponse,
  toolCalls: boolean
): string | undefined => {
  const called = response.content.some((part) => part.type === "tool-call")
  const reason = response.finishReason
  if (called && !toolCalls) return "tool calls"
  if (reason !== "stop" && !(called && reason === "tool-calls")) return `finish reason ${reason}`
  for (const part of response.content) {
    switch (part.type) {
      case "text":
      case "reasoning":
      case "file":
      case "source":
      case "response-metadata":
      case "finish":
        continue
      case "tool-call":
        if (part.providerExecuted === true) return "a tool that the provider ran"
        continue
      default:
        return `a part of type ${part.type}`
    }
  }
  const text = response.text
  if (text.trim() === "" && !called && !response.content.some((part) => part.type === "file")) return "empty"
  if (Refusal.is(text)) return "refused"
  if (Loop.find(text) !== undefined) return "looping"
  if (request.responseFormat.type === "json" && !called && !isJson(text)) return "malformed JSON"
  return undefined
}

const parsed = Schema.decodeOption(Schema.fromJsonString(Schema.Unknown))
const isJson = (text: string): boolean => parsed(text)._tag === "Some"

/** The entry of an answer, as text. */
export const written = (
  { key, partition }: { readonly key: string; readonly partition: string },
  { content, served }: LlmResponse.LlmResponse,
  storedAt: number
): Effect.Effect<string, Schema.SchemaError> =>
  encode({
    v: 1,
    key,
    partition,
    storedAt,
    provider: served.provider,
    model: served.model,
    degraded: served.degraded,
    contributors: served.contributors,
    content
  })
