import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Response from "effect/ai/Response"
import * as DateTime from "effect/DateTime"
import * as Result from "effect/Result"
import * as Json from "./json.ts"
import * as Sources from "./sources.ts"
import type { Reply } from "./transport.ts"
import * as Usage from "./usage.ts"

/** Reads the body of a message. `answerTool` is the tool through which the model was asked for JSON. */
export const read = (
  json: unknown,
  reply: Reply,
  answerTool?: string
): Result.Result<ReadonlyArray<Response.PartEncoded>, ProviderError.ProviderError> => {
  const message = Json.object(json)
  const { content, stop_reason: stop } = message
  // Only what an answer cannot do without is required: blocks of a kind that we do not know must not break a call.
  if (!Array.isArray(content) || !content.every(Json.isObject)) {
    return Result.fail(reply.fail("InvalidResponse", "The answer is not a message"))
  }
  if (stop === undefined || stop === null) return Result.fail(reply.fail("StreamCut", "The answer has no stop reason"))
  const parts = content.flatMap((block, index) => blockParts(block, index, answerTool))
  if (stop === "refusal" && parts.length === 0) return Result.fail(refusal(message["stop_details"], reply))
  const answered = answerTool !== undefined && !parts.some((part) => part.type === "tool-call")
  return Result.succeed([
    metadata(message, reply),
    ...parts,
    { type: "finish", reason: reasonOf(stop, answered), usage: usageOf(message["usage"]) }
  ])
}

const blockParts = (
  block: Json.JsonObject,
  index: number,
  answerTool: string | undefined
): ReadonlyArray<Response.PartEncoded> => {
  switch (block["type"]) {
    case "text": {
      const text = Json.string(block["text"]) ?? ""
      const said: ReadonlyArray<Response.PartEncoded> = text === "" ? [] : [{ type: "text", text }]
      return [...said, ...sources(Json.array(block["citations"]), `${index}_`)]
    }
    case "thinking":
      return [
        {
          type: "reasoning",
          text: Json.string(block["thinking"]) ?? "",
          ...signed(Json.string(block["signature"]) ?? "")
        }
      ]
    case "redacted_thinking":
      return [{ type: "reasoning", text: "", ...redacted(Json.string(block["data"]) ?? "") }]
    case "tool_use": {
      const name = Json.string(block["name"]) ?? ""
      if (name === answerTool) return [{ type: "text", text: Json.textOf(block["input"]) }]
      return [
        { type: "tool-call", id: Json.string(block["id"]) || `call_${index}`, name, params: block["input"] ?? {} }
      ]
    }
    default:
      return []
  }
}

/** What a text cites from the web. Citations of documents in the prompt have no place among the parts. */
export const sources = (
  citations: ReadonlyArray<unknown>,
  prefix: string
): ReadonlyArray<Response.UrlSourcePartEncoded> =>
  citations.flatMap((citation, index) => {
    const { title, url } = Json.object(citation)
    return Sources.page(`source_${prefix}${index}`, url, title)
  })

/** The metadata with which thinking is accepted back. */
export const signed = (signature: string): { readonly metadata?: Response.ProviderMetadata } =>
  signature === "" ? {} : { metadata: { anthropic: { signature } } }

export const redacted = (
  data: string
): { readonly metadata: { readonly anthropic: { readonly redactedData: string } } } => ({
  metadata: { anthropic: { redactedData: data } }
})

export const metadata = (
  message: { readonly id?: unknown; readonly model?: unknown },
  reply: Reply
): Response.ResponseMetadataPartEncoded => ({
  type: "response-metadata",
  ...(typeof message.id === "string" && message.id !== "" ? { id: message.id } : undefined),
  modelId: Json.string(message.model) || reply.model,
  timestamp: DateTime.formatIso(DateTime.makeUnsafe(reply.now))
})

export const refusal = (details: unknown, reply: Reply): ProviderError.APIError =>
  reply.fail(
    "ContentPolicy",
    Json.string(Json.object(details)["explanation"]) || "The model's safety system refused to answer"
  )

/** `answered` says that the tool through which the model was asked for JSON was all that it used. */
export const reasonOf = (stop: unknown, answered: boolean): Response.FinishReason => {
  switch (stop) {
    case "end_turn":
    case "stop_sequence":
      return "stop"
    case "tool_use":
      return answered ? "stop" : "tool-calls"
    case "max_tokens":
    case "model_context_window_exceeded":
      return "length"
    case "pause_turn":
      return "pause"
    case "refusal":
      return "content-filter"
    default:
      return "other"
  }
}

export const usageOf = (value: unknown): LlmResponse.Usage => {
  const usage = Json.object(value)
  const uncached = Json.count(usage["input_tokens"])
  const cacheRead = Json.count(usage["cache_read_input_tokens"])
  const cacheWrite = Json.count(usage["cache_creation_input_tokens"])
  const output = Json.count(usage["output_tokens"])
  const reasoning = Json.count(Json.object(usage["output_tokens_details"])["thinking_tokens"])
  return {
    inputTokens: Usage.besideCache(uncached, cacheRead, cacheWrite),
    outputTokens: {
      ...(output === undefined ? undefined : { total: output }),
      ...(reasoning === undefined ? undefined : { reasoning })
    }
  }
}
