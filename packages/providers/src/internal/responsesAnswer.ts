import type * as ProviderError from "@llm-resilience/core/ProviderError"
import type * as Response from "effect/ai/Response"
import * as DateTime from "effect/DateTime"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Json from "./json.ts"
import { parametersOf, responsesUsage, usageOf } from "./openAiAnswer.ts"
import * as Sources from "./sources.ts"
import type { Reply } from "./transport.ts"

/** Reads a whole response. */
export const read = (
  json: unknown,
  reply: Reply
): Result.Result<ReadonlyArray<Response.PartEncoded>, ProviderError.ProviderError> => {
  if (!Json.isObject(json) || !Array.isArray(json["output"])) {
    return Result.fail(reply.fail("InvalidResponse", "The answer is not a response"))
  }
  const items: ReadonlyArray<unknown> = json["output"]
  const content = items.flatMap((item, index) => itemParts(Json.object(item), index))
  const calls = content.filter((part) => part.type === "tool-call")
  const called = items.filter((item) => Json.object(item)["type"] === "function_call").length
  const refusal = items.map((item) => refusalOf(Json.object(item))).join("")
  const end = endOf(json, { empty: content.length === 0, calls: calls.length > 0, refusal }, reply)
  if (Result.isFailure(end)) return Result.fail(end.failure)
  // The end of the budget cuts arguments in the middle; half a call is of no use to anybody.
  if (calls.length < called && end.success.reason !== "length") {
    return Result.fail(reply.fail("InvalidResponse", "The arguments of a tool call are not JSON"))
  }
  return Result.succeed([metadata(json, reply), ...content, end.success])
}

const itemParts = (item: Json.JsonObject, index: number): ReadonlyArray<Response.PartEncoded> => {
  switch (item["type"]) {
    case "message":
      return Json.array(item["content"]).flatMap((part, at): ReadonlyArray<Response.PartEncoded> => {
        const { annotations, text, type } = Json.object(part)
        if (type !== "output_text" || typeof text !== "string") return []
        return [
          ...(text === "" ? [] : [{ type: "text", text } as const]),
          ...Json.array(annotations).flatMap((annotation, each) => source(annotation, `${index}_${at}_${each}`))
        ]
      })
    case "reasoning": {
      const text = reasoningText(item)
      const metadata = reasoningMetadata(item)
      // Most models think without saying what.
      return text === "" && metadata.metadata === undefined ? [] : [{ type: "reasoning", text, ...metadata }]
    }
    case "function_call": {
      const params = parametersOf(item["arguments"])
      return Option.isNone(params)
        ? []
        : [{ type: "tool-call", id: callId(item, index), name: Json.string(item["name"]) ?? "", params: params.value }]
    }
    case "image_generation_call":
      return image(item)
    default:
      return []
  }
}

export const callId = (item: Json.JsonObject, index: number): string =>
  Json.string(item["call_id"]) || Json.string(item["id"]) || `call_${index}`

/** The metadata with which reasoning is accepted back. */
export const reasoningMetadata = (item: Json.JsonObject): { readonly metadata?: Response.ProviderMetadata } => {
  const { encrypted_content: encryptedContent, id: itemId } = item
  return typeof encryptedContent === "string"
    ? {
        metadata: { "openai-responses": { encryptedContent, ...(typeof itemId === "string" ? { itemId } : undefined) } }
      }
    : {}
}

const reasoningText = (item: Json.JsonObject): string =>
  [...Json.array(item["summary"]), ...Json.array(item["content"])]
    .map((part) => Json.string(Json.object(part)["text"]) ?? "")
    .filter((text) => text !== "")
    .join("\n\n")

/** An image that the API's own tool made. */
export const image = (item: Json.JsonObject): ReadonlyArray<Response.FilePartEncoded> =>
  typeof item["result"] === "string" && item["result"] !== ""
    ? [{ type: "file", mediaType: `image/${Json.string(item["output_format"]) ?? "png"}`, data: item["result"] }]
    : []

/** What a text cites from the web. */
export const source = (annotation: unknown, id: string): ReadonlyArray<Response.UrlSourcePartEncoded> => {
  const { title, url } = Json.object(annotation)
  return Sources.page(`source_${id}`, url, title)
}

const refusalOf = (item: Json.JsonObject): string =>
  Json.array(item["content"])
    .map((part) => Json.string(Json.object(part)["refusal"]) ?? "")
    .join("")

export const metadata = (response: Json.JsonObject, reply: Reply): Response.ResponseMetadataPartEncoded => {
  const created = Json.count(response["created_at"])
  return {
    type: "response-metadata",
    ...(typeof response["id"] === "string" && response["id"] !== "" ? { id: response["id"] } : undefined),
    modelId: Json.string(response["model"]) || reply.model,
    timestamp: DateTime.formatIso(
      DateTime.makeUnsafe(created !== undefined && created > 0 && created < 4e9 ? created * 1000 : reply.now)
    )
  }
}

/** The end of a response, or why it is not one. */
export const endOf = (
  response: Json.JsonObject,
  answer: { readonly empty: boolean; readonly calls: boolean; readonly refusal: string },
  reply: Reply
): Result.Result<Response.FinishPartEncoded, ProviderError.ProviderError> => {
  if (answer.refusal !== "") return Result.fail(reply.fail("Refusal", answer.refusal))
  const finish = (reason: Response.FinishReason) =>
    Result.succeed({ type: "finish" as const, reason, usage: usageOf(response["usage"], responsesUsage) })
  const status = response["status"]
  switch (status) {
    case "completed":
      return finish(answer.calls ? "tool-calls" : "stop")
    case "incomplete": {
      const { reason } = Json.object(response["incomplete_details"])
      if (reason !== "content_filter") return finish(reason === "max_output_tokens" ? "length" : "other")
      return answer.empty
        ? Result.fail(reply.fail("ContentPolicy", "The content filter withheld the answer"))
        : finish("content-filter")
    }
    case "failed":
      return Result.fail(reply.fail("ServerError", "The response failed"))
    case "cancelled":
      return Result.fail(reply.fail("ServerError", "The response was cancelled"))
    default:
      return Result.fail(reply.fail("StreamCut", "The response is not complete"))
  }
}
