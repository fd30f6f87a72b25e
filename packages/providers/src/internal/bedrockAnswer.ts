import * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Response from "effect/ai/Response"
import * as DateTime from "effect/DateTime"
import * as Result from "effect/Result"
import * as Classification from "../Classification.ts"
import * as Json from "./json.ts"
import * as Sources from "./sources.ts"
import type { Reply } from "./transport.ts"
import * as Usage from "./usage.ts"

/** Reads the answer of Converse. `answerTool` is the tool through which the model was asked for JSON. */
export const read = (
  json: unknown,
  reply: Reply,
  answerTool: string | undefined
): Result.Result<ReadonlyArray<Response.PartEncoded>, ProviderError.ProviderError> => {
  const answer = Json.object(json)
  const message = Json.object(answer["output"])["message"]
  const stop = Json.string(answer["stopReason"])
  if (!Json.isObject(message) || !Array.isArray(message["content"])) {
    return Result.fail(reply.fail("InvalidResponse", "The answer is not one of Converse"))
  }
  if (stop === undefined) return Result.fail(reply.fail("StreamCut", "The answer has no stop reason"))
  const parts = message["content"].flatMap((block, index) => blockParts(Json.object(block), index, answerTool))
  const failure = failureOf(stop, parts.length === 0, reply)
  if (failure !== undefined) return Result.fail(failure)
  const answered = answerTool !== undefined && !parts.some((part) => part.type === "tool-call")
  return Result.succeed([
    metadata(reply),
    ...parts,
    { type: "finish", reason: reasonOf(stop, answered), usage: usageOf(answer["usage"]) }
  ])
}

const blockParts = (
  block: Json.JsonObject,
  index: number,
  answerTool: string | undefined
): ReadonlyArray<Response.PartEncoded> => {
  const text = Json.string(block["text"]) ?? ""
  if (text !== "") return [{ type: "text", text }]
  if (Json.isObject(block["toolUse"])) {
    const { input, name, toolUseId } = block["toolUse"]
    const called = Json.string(name) ?? ""
    if (called === answerTool) return [{ type: "text", text: Json.textOf(input) }]
    return [{ type: "tool-call", id: Json.string(toolUseId) || `call_${index}`, name: called, params: input ?? {} }]
  }
  if (Json.isObject(block["reasoningContent"])) {
    const { reasoningText, redactedContent } = block["reasoningContent"]
    if (typeof redactedContent === "string")
      return [{ type: "reasoning", text: "", metadata: redacted(redactedContent) }]
    const { signature, text } = Json.object(reasoningText)
    return [
      {
        type: "reasoning",
        text: Json.string(text) ?? "",
        ...(typeof signature === "string" ? { metadata: signed(signature) } : undefined)
      }
    ]
  }
  if (Json.isObject(block["citationsContent"])) {
    const { citations, content } = block["citationsContent"]
    const said = Json.array(content).reduce<string>(
      (all, part) => all + (Json.string(Json.object(part)["text"]) ?? ""),
      ""
    )
    return [
      ...(said === "" ? [] : [{ type: "text", text: said } as const]),
      ...Json.array(citations).flatMap((citation, at) => source(citation, `${index}_${at}`))
    ]
  }
  return []
}

/** What a text cites from the web. */
export const source = (citation: unknown, id: string): ReadonlyArray<Response.UrlSourcePartEncoded> => {
  const { location, title } = Json.object(citation)
  return Sources.page(`source_${id}`, Json.object(Json.object(location)["web"])["url"], title)
}

/** The metadata with which reasoning is accepted back. */
export const signed = (signature: string) => ({ bedrock: { signature } })

export const redacted = (redactedContent: string) => ({ bedrock: { redactedContent } })

export const metadata = (reply: Reply): Response.ResponseMetadataPartEncoded => {
  const id = Classification.requestId(reply.response.headers)
  return {
    type: "response-metadata",
    ...(id === undefined ? undefined : { id }),
    modelId: reply.model,
    timestamp: DateTime.formatIso(DateTime.makeUnsafe(reply.now))
  }
}

/** The error that a stop reason can be. */
export const failureOf = (stop: string, empty: boolean, reply: Reply): ProviderError.APIError | undefined => {
  switch (stop) {
    case "malformed_model_output":
    case "malformed_tool_use":
      return reply.fail("InvalidResponse", "The model wrote something that Bedrock cannot read")
    case "content_filtered":
    case "guardrail_intervened":
    case "refusal":
      return empty ? reply.fail("ContentPolicy", `The answer was withheld (${stop})`) : undefined
    default:
      return undefined
  }
}

export const reasonOf = (stop: string, answered: boolean): Response.FinishReason => {
  switch (stop) {
    case "end_turn":
    case "stop_sequence":
      return "stop"
    case "tool_use":
      return answered ? "stop" : "tool-calls"
    case "max_tokens":
    case "model_context_window_exceeded":
      return "length"
    case "content_filtered":
    case "guardrail_intervened":
    case "refusal":
      return "content-filter"
    default:
      return "other"
  }
}

export const usageOf = (value: unknown): LlmResponse.Usage => {
  if (!Json.isObject(value)) return LlmResponse.unknownUsage
  const uncached = Json.count(value["inputTokens"])
  const cacheRead = Json.count(value["cacheReadInputTokens"])
  const cacheWrite = Json.count(value["cacheWriteInputTokens"])
  const output = Json.count(value["outputTokens"])
  return {
    inputTokens: Usage.besideCache(uncached, cacheRead, cacheWrite),
    outputTokens: output === undefined ? {} : { total: output }
  }
}
