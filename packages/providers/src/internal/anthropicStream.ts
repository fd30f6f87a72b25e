import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Option from "effect/Option"
import * as Record from "effect/Record"
import * as Answer from "./anthropicAnswer.ts"
import type { Decoder } from "./events.ts"
import * as Json from "./json.ts"
import { isError, type Reply } from "./transport.ts"

type Parts = Array<LlmResponse.LlmStreamPart>

type Block =
  | { readonly type: "text" | "answer" }
  | { readonly type: "reasoning"; signature: string; readonly redacted: string | undefined }
  | { readonly type: "tool"; readonly id: string; readonly name: string; readonly input: unknown; text: string }

/** Decodes the events of a streamed message. `answerTool` is the tool through which the model was asked for JSON. */
export const decoder = (reply: Reply, answerTool: string | undefined): Decoder => {
  const blocks = new Map<number, Block>()
  let usage: Json.JsonObject = {}
  let stop: unknown = undefined
  let stopDetails: unknown = undefined
  let emitted = false
  let called = false
  let unreadable = false
  let done = false

  // Each event counts from the beginning, and leaves out (or sets to null) what has not changed.
  const count = (value: unknown): void => {
    usage = { ...usage, ...Record.filter(Json.object(value), (total) => total !== null) }
  }

  const open = (index: number, start: Json.JsonObject, parts: Parts): void => {
    const id = String(index)
    switch (start["type"]) {
      case "text":
        blocks.set(index, { type: "text" })
        parts.push({ type: "text-start", id })
        if (typeof start["text"] === "string" && start["text"] !== "") text(index, start["text"], parts)
        break
      case "thinking":
        blocks.set(index, {
          type: "reasoning",
          signature: Json.string(start["signature"]) ?? "",
          redacted: undefined
        })
        parts.push({ type: "reasoning-start", id })
        if (typeof start["thinking"] === "string" && start["thinking"] !== "") {
          parts.push({ type: "reasoning-delta", id, delta: start["thinking"] })
        }
        emitted = true
        break
      case "redacted_thinking":
        blocks.set(index, { type: "reasoning", signature: "", redacted: Json.string(start["data"]) ?? "" })
        parts.push({ type: "reasoning-start", id })
        emitted = true
        break
      case "tool_use": {
        emitted = true
        const name = Json.string(start["name"]) ?? ""
        if (name === answerTool) {
          blocks.set(index, { type: "answer" })
          parts.push({ type: "text-start", id })
          break
        }
        called = true
        const call = Json.string(start["id"]) || `call_${index}`
        blocks.set(index, { type: "tool", id: call, name, input: start["input"], text: "" })
        parts.push({ type: "tool-params-start", id: call, name })
        break
      }
    }
  }

  const text = (index: number, delta: string, parts: Parts): void => {
    emitted = true
    parts.push({ type: "text-delta", id: String(index), delta })
  }

  const append = (index: number, delta: Json.JsonObject, parts: Parts): void => {
    const block = blocks.get(index)
    switch (delta["type"]) {
      case "text_delta":
        if (typeof delta["text"] !== "string") return
        // A block without its start is still something that the model said.
        if (block === undefined) open(index, { type: "text" }, parts)
        return text(index, delta["text"], parts)
      case "thinking_delta":
        if (typeof delta["thinking"] !== "string") return
        if (block === undefined) open(index, { type: "thinking" }, parts)
        parts.push({ type: "reasoning-delta", id: String(index), delta: delta["thinking"] })
        return
      case "signature_delta":
        if (block?.type === "reasoning" && typeof delta["signature"] === "string") block.signature += delta["signature"]
        return
      case "input_json_delta": {
        const json = delta["partial_json"]
        if (typeof json !== "string" || json === "") return
        if (block?.type === "answer") return text(index, json, parts)
        if (block?.type !== "tool") return
        block.text += json
        parts.push({ type: "tool-params-delta", id: block.id, delta: json })
        return
      }
    }
  }

  const close = (index: number, parts: Parts): ProviderError.ProviderError | undefined => {
    const block = blocks.get(index)
    if (block === undefined) return
    blocks.delete(index)
    const id = String(index)
    switch (block.type) {
      case "text":
      case "answer":
        parts.push({ type: "text-end", id })
        return
      case "reasoning":
        parts.push({
          type: "reasoning-end",
          id,
          ...(block.redacted === undefined ? Answer.signed(block.signature) : Answer.redacted(block.redacted))
        })
        return
      case "tool": {
        parts.push({ type: "tool-params-end", id: block.id })
        const params = block.text === "" ? Option.some(block.input ?? {}) : Json.parse(block.text)
        if (Option.isSome(params)) {
          parts.push({ type: "tool-call", id: block.id, name: block.name, params: params.value })
          return
        }
        // The end of the budget cuts arguments in the middle, and its name comes only after this block.
        unreadable = true
        return
      }
    }
  }
  const complete = (parts: Parts): ProviderError.ProviderError | undefined => {
    for (const index of blocks.keys()) close(index, parts)
    if (stop === "refusal" && !emitted) return Answer.refusal(stopDetails, reply)
    const reason = Answer.reasonOf(stop, answerTool !== undefined && !called)
    if (unreadable && reason !== "length") {
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
      switch (json["type"]) {
        case "content_block_delta":
          append(Json.count(json["index"]) ?? 0, Json.object(json["delta"]), parts)
          return undefined
        case "content_block_start":
          open(Json.count(json["index"]) ?? 0, Json.object(json["content_block"]), parts)
          return undefined
        case "content_block_stop":
          close(Json.count(json["index"]) ?? 0, parts)
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
