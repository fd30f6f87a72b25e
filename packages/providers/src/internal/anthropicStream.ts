import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Option from "effect/Option"
import * as Record from "effect/Record"
import * as Answer from "./anthropicAnswer.ts"
import { Blocks } from "./blocks.ts"
import type { Decoder } from "./events.ts"
import * as Json from "./json.ts"
import { isError, type Reply } from "./transport.ts"

type Parts = Array<LlmResponse.LlmStreamPart>

/** Decodes the events of a streamed message. `answerTool` is the tool through which the model was asked for JSON. */
export const decoder = (reply: Reply, answerTool: string | undefined): Decoder => {
  const blocks = new Blocks()
  const answers = new Set<string>()
  const signatures = new Map<string, string>()
  let usage: Json.JsonObject = {}
  let stop: unknown = undefined
  let stopDetails: unknown = undefined
  let sources = 0
  let done = false

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
        if (name === answerTool) {
          answers.add(key)
          return blocks.startText(key, parts)
        }
        return blocks.tool(key, { id: Json.string(start["id"]) || `call_${key}`, name, params: start["input"] }, parts)
      }
    }
  }

  const sign = (key: string, value: unknown): void => {
    if (typeof value !== "string" || value === "") return
    const signature = (signatures.get(key) ?? "") + value
    signatures.set(key, signature)
    blocks.tag(key, { anthropic: { signature } })
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
      case "input_json_delta": {
        const json = Json.string(delta["partial_json"]) ?? ""
        return answers.has(key) ? blocks.text(key, json, parts) : blocks.params(key, json, parts)
      }
    }
  }

  const complete = (parts: Parts): ProviderError.ProviderError | undefined => {
    blocks.closeAll(parts)
    if (stop === "refusal" && !blocks.emitted) return Answer.refusal(stopDetails, reply)
    const reason = Answer.reasonOf(stop, answerTool !== undefined && !blocks.called)
    if (blocks.unreadable && reason !== "length") {
      return reply.fail("InvalidResponse", "The arguments of a tool call are not JSON")
    }
    done = true
    parts.push({ type: "finish", reason, usage: Answer.usageOf(usage) })
    return undefined
  }

  const finish = (parts: Parts): ProviderError.ProviderError | undefined =>
    stop === undefined || stop === null ? reply.cut(undefined) : complete(parts)

  return {
    isDone: () => done,
    end: finish,
    event: (name, data, parts) => {
      const json = Option.getOrUndefined(Json.parse(data))
      if (name === "error" || isError(json)) return reply.classify(data)
      if (!Json.isObject(json)) {
        return data.startsWith("[DONE]")
          ? undefined
          : reply.fail("InvalidResponse", `An event is not JSON: ${data.slice(0, 4000)}`)
      }
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
    }
  }
}
