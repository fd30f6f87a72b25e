import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Result from "effect/Result"
import { Blocks } from "./blocks.ts"
import { type Decoder, ofObjects } from "./events.ts"
import * as Json from "./json.ts"
import * as Answer from "./responsesAnswer.ts"
import type { Reply } from "./transport.ts"

type Parts = Array<LlmResponse.LlmStreamPart>

/** Decodes the events of a streamed response. What `response.created` and its like tell is preamble: an error may still follow. */
export const decoder = (reply: Reply): Decoder => {
  const blocks = new Blocks()
  // The keys of the blocks of each item, because only the end of the item closes reasoning.
  const reasoning = new Map<number, Set<string>>()
  const withParams = new Set<number>()
  let refusal = ""
  let sources = 0

  const thought = (index: number, key: string, delta: string, parts: Parts): void => {
    const keys = reasoning.get(index) ?? new Set()
    reasoning.set(index, keys.add(key))
    blocks.reasoning(key, delta, parts)
  }

  const added = (index: number, item: Json.JsonObject, parts: Parts): void => {
    if (item["type"] !== "function_call") return
    blocks.tool(String(index), { id: Answer.callId(item, index), name: Json.string(item["name"]) ?? "" }, parts)
  }

  const finished = (index: number, item: Json.JsonObject, parts: Parts): void => {
    switch (item["type"]) {
      case "function_call":
        // Servers that do not stream arguments give them at the end.
        if (!withParams.has(index)) blocks.params(String(index), Json.string(item["arguments"]) ?? "", parts)
        return blocks.close(String(index), parts)
      case "reasoning": {
        const { metadata } = Answer.reasoningMetadata(item)
        const keys = [...(reasoning.get(index) ?? [])]
        const last = keys.at(-1) ?? `${index}.0`
        if (metadata !== undefined) {
          blocks.startReasoning(last, parts)
          blocks.tag(last, metadata)
        }
        for (const key of new Set([...keys, last])) blocks.close(key, parts)
        return
      }
      case "image_generation_call": {
        const made = Answer.image(item)
        blocks.emitted ||= made.length > 0
        parts.push(...made)
        return
      }
    }
  }

  const end = (response: Json.JsonObject, parts: Parts): ProviderError.ProviderError | undefined => {
    if (Json.isObject(response["error"])) return reply.classify(Json.textOf({ error: response["error"] }))
    blocks.closeAll(parts)
    const finish = Answer.endOf(response, { empty: !blocks.emitted, calls: blocks.called, refusal }, reply)
    if (Result.isFailure(finish)) return finish.failure
    return blocks.finish(finish.success, reply, parts)
  }

  return {
    isDone: () => blocks.isDone(),
    // Only the last event says that the answer is complete.
    end: () => reply.cut(undefined),
    event: ofObjects(reply, (json, parts) => {
      const index = Json.count(json["output_index"]) ?? 0
      const delta = Json.string(json["delta"]) ?? ""
      const text = `${index}.${Json.count(json["content_index"]) ?? 0}`
      const thoughts = `${index}.${Json.count(json["summary_index"] ?? json["content_index"]) ?? 0}`
      switch (json["type"]) {
        case "response.created":
          parts.push(Answer.metadata(Json.object(json["response"]), reply))
          return undefined
        case "response.output_item.added":
          added(index, Json.object(json["item"]), parts)
          return undefined
        case "response.output_text.delta":
          blocks.text(text, delta, parts)
          return undefined
        case "response.output_text.annotation.added":
          parts.push(...Answer.source(json["annotation"], String(sources++)))
          return undefined
        case "response.content_part.done":
          blocks.close(text, parts)
          return undefined
        case "response.refusal.delta":
          refusal += delta
          return undefined
        case "response.reasoning_summary_text.delta":
        case "response.reasoning_text.delta":
          thought(index, thoughts, delta, parts)
          return undefined
        case "response.function_call_arguments.delta":
          withParams.add(index)
          blocks.params(String(index), delta, parts)
          return undefined
        case "response.output_item.done":
          finished(index, Json.object(json["item"]), parts)
          return undefined
        case "response.completed":
        case "response.incomplete":
        case "response.failed":
        case "response.cancelled":
          return end(Json.object(json["response"]), parts)
        default:
          return undefined
      }
    })
  }
}
