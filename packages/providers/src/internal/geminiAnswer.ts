import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Response from "effect/ai/Response"
import * as DateTime from "effect/DateTime"
import * as Json from "./json.ts"
import * as Sources from "./sources.ts"
import type { Reply } from "./transport.ts"
import * as Usage from "./usage.ts"

export const metadata = (chunk: Json.JsonObject, reply: Reply): Response.ResponseMetadataPartEncoded => ({
  type: "response-metadata",
  ...(typeof chunk["responseId"] === "string" && chunk["responseId"] !== "" ? { id: chunk["responseId"] } : undefined),
  modelId: Json.string(chunk["modelVersion"]) || reply.model,
  timestamp: DateTime.formatIso(DateTime.makeUnsafe(reply.now))
})

/** The error for a prompt that was not answered at all. */
export const blocked = (feedback: unknown, reply: Reply): ProviderError.APIError | undefined => {
  const { blockReason, blockReasonMessage } = Json.object(feedback)
  return typeof blockReason === "string" && blockReason !== "BLOCK_REASON_UNSPECIFIED"
    ? reply.fail("ContentPolicy", Json.string(blockReasonMessage) || `The prompt was blocked (${blockReason})`)
    : undefined
}

/** The error that a finish reason can be. */
export const failureOf = (finish: string, candidate: Json.JsonObject, empty: boolean, reply: Reply) => {
  const told = Json.string(candidate["finishMessage"])
  if (unusable.test(finish)) return reply.fail("InvalidResponse", told || `The model's answer is unusable (${finish})`)
  return empty && reasonOf(finish, false) === "content-filter"
    ? reply.fail("ContentPolicy", told || `The answer was withheld (${finish})`)
    : undefined
}

// The model wrote a call that is none, or called what it was not given.
const unusable = /^(?:MALFORMED_|UNEXPECTED_TOOL_CALL|TOO_MANY_TOOL_CALLS|MISSING_THOUGHT_SIGNATURE|NO_IMAGE)/

export const reasonOf = (finish: string, calls: boolean): Response.FinishReason => {
  switch (finish) {
    case "STOP":
      return calls ? "tool-calls" : "stop"
    case "MAX_TOKENS":
      return "length"
    case "SAFETY":
    case "RECITATION":
    case "BLOCKLIST":
    case "PROHIBITED_CONTENT":
    case "SPII":
    case "LANGUAGE":
    case "MODEL_ARMOR":
    case "IMAGE_SAFETY":
    case "IMAGE_PROHIBITED_CONTENT":
    case "IMAGE_RECITATION":
      return "content-filter"
    // A name of its own for calls is not Google's, but is that of servers which speak its protocol.
    default:
      return calls ? "tool-calls" : "other"
  }
}

/** The pages that an answer is grounded in. */
export const sources = (candidate: Json.JsonObject): ReadonlyArray<Response.UrlSourcePartEncoded> =>
  Json.array(Json.object(candidate["groundingMetadata"])["groundingChunks"]).flatMap((chunk, index) => {
    const { web } = Json.object(chunk)
    return Sources.page(`source_${index}`, Json.object(web)["uri"], Json.object(web)["title"])
  })

// Thoughts are counted apart from the answer, but are output like it.
export const usageOf = (value: unknown): LlmResponse.Usage => {
  if (!Json.isObject(value)) return LlmResponse.unknownUsage
  const input = Json.count(value["promptTokenCount"])
  const cached = Json.count(value["cachedContentTokenCount"])
  const text = Json.count(value["candidatesTokenCount"])
  const reasoning = Json.count(value["thoughtsTokenCount"])
  const output = text === undefined && reasoning === undefined ? undefined : (text ?? 0) + (reasoning ?? 0)
  return {
    inputTokens: Usage.withCache(input, cached),
    outputTokens: {
      ...(output === undefined ? undefined : { total: output }),
      ...(text === undefined ? undefined : { text }),
      ...(reasoning === undefined ? undefined : { reasoning })
    }
  }
}
