import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Record from "effect/Record"
import * as Answer from "./anthropicAnswer.ts"
import { Blocks } from "./blocks.ts"
import { type Decoder, ofObjects } from "./events.ts"
import * as Json from "./json.ts"
import type { Reply } from "./transport.ts"

type Parts = Array<LlmResponse.LlmStreamPart>

/** Decodes the events of a streamed message. `answerTool` is the tool through which the model was asked for JSON. */
export const decoder = (reply: Reply, answerTool: string | undefined): Decoder => {
  const blocks = new Blocks(answerTool)
  let usage: Json.JsonObject = {}
  let stop: unknown = undefined
  let stopDetails: unknown = undefined
  let sources = 0

  // Each event counts from the beginning, and leaves out (or sets to null) what has not changed.
  const count = (value: unknown): void => {
    usage = { ...usage, ...Record.filter(Json.object(value), (total) => total !== null) }
  }

  const open = (key: string, start: Json.JsonObject, parts: Parts): void => {
    switch (start["type"]) {
      case "text":
        blocks.startText(key, parts)
        return blocks.text(key, Json.string(start["text"]) ?? "", parts)
      case "thinking":
        blocks.reasoning(key, Json.string(start["thinking"]) ?? "", parts)
        return sign(key, start["signature"])
      case "redacted_thinking":
        blocks.startReasoning(key, parts)
        return blocks.tag(key, Answer.redacted(Json.string(start["data"]) ?? "").metadata)
      case "tool_use": {
        const name = Json.string(start["name"]) ?? ""
        return blocks.tool(key, { id: Json.string(start["id"]) || `call_${key}`, name, params: start["input"] }, parts)
      }
    }
  }

  const sign = (key: string, value: unknown): void => {
    if (typeof value === "string" && value !== "")
      blocks.sign(key, value, (signature) => ({ anthropic: { signature } }))
  }

  const append = (key: string, delta: Json.JsonObject, parts: Parts): void => {
    switch (delta["type"]) {
      // A block without its start is still something that the model said.
      case "text_delta":
        return blocks.text(key, Json.string(delta["text"]) ?? "", parts)
      case "thinking_delta":
        return blocks.reasoning(key, Json.string(delta["thinking"]) ?? "", parts)
      case "signature_delta":
        return sign(key, delta["signature"])
      case "citations_delta":
        parts.push(...Answer.sources([delta["citation"]], `${sources++}_`))
        return
      case "input_json_delta":
        return blocks.params(key, Json.string(delta["partial_json"]) ?? "", parts)
    }
  }

  const finish = (parts: Parts): ProviderError.ProviderError | undefined => {
    if (stop === undefined || stop === null) return reply.cut(undefined)
    if (stop === "refusal" && !blocks.emitted) return Answer.refusal(stopDetails, reply)
    const reason = Answer.reasonOf(stop, blocks.answered)
    return blocks.finish({ type: "finish", reason, usage: Answer.usageOf(usage) }, reply, parts)
  }

  return {
    isDone: () => blocks.isDone(),
    end: finish,
    event: ofObjects(reply, (json, parts) => {
      const key = String(Json.count(json["index"]) ?? 0)
      switch (json["type"]) {
        case "content_block_delta":
          append(key, Json.object(json["delta"]), parts)
          return undefined
        case "content_block_start":
          open(key, Json.object(json["content_block"]), parts)
          return undefined
        case "content_block_stop":
          blocks.close(key, parts)
          return undefined
        case "message_start": {
          const message = Json.object(json["message"])
          count(message["usage"])
          parts.push(Answer.metadata(message, reply))
          return undefined
        }
        case "message_delta": {
          const delta = Json.object(json["delta"])
          stop = delta["stop_reason"] ?? stop
          stopDetails = delta["stop_details"] ?? stopDetails
          count(json["usage"])
          return undefined
        }
        case "message_stop":
          return finish(parts)
        default:
          return undefined
      }
    })
  }
}
