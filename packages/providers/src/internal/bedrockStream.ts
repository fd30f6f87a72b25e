import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import * as Option from "effect/Option"
import { Blocks } from "./blocks.ts"
import * as Answer from "./bedrockAnswer.ts"
import type { Decoder } from "./events.ts"
import * as Json from "./json.ts"
import { isError, type Reply } from "./transport.ts"

type Parts = Array<LlmResponse.LlmStreamPart>

/** Decodes the events of ConverseStream. `answerTool` is the tool through which the model was asked for JSON. */
export const decoder = (reply: Reply, answerTool: string | undefined): Decoder => {
  const blocks = new Blocks()
  const answers = new Set<string>()
  const signatures = new Map<string, string>()
  let usage: unknown = undefined
  let stop: string | undefined
  let sources = 0
  let done = false

  const open = (key: string, start: Json.JsonObject, parts: Parts): void => {
    if (!Json.isObject(start["toolUse"])) return
    const name = Json.string(start["toolUse"]["name"]) ?? ""
    if (name === answerTool) {
      answers.add(key)
      return blocks.startText(key, parts)
    }
    blocks.tool(key, { id: Json.string(start["toolUse"]["toolUseId"]) || `call_${key}`, name }, parts)
  }

  const append = (key: string, delta: Json.JsonObject, parts: Parts): void => {
    if (typeof delta["text"] === "string") return blocks.text(key, delta["text"], parts)
    if (Json.isObject(delta["toolUse"])) {
      const json = Json.string(delta["toolUse"]["input"]) ?? ""
      return answers.has(key) ? blocks.text(key, json, parts) : blocks.params(key, json, parts)
    }
    if (Json.isObject(delta["reasoningContent"])) return reason(key, delta["reasoningContent"], parts)
    if (delta["citation"] !== undefined) parts.push(...Answer.source(delta["citation"], String(sources++)))
  }

  const reason = (key: string, delta: Json.JsonObject, parts: Parts): void => {
    blocks.reasoning(key, Json.string(delta["text"]) ?? "", parts)
    if (typeof delta["redactedContent"] === "string") blocks.tag(key, Answer.redacted(delta["redactedContent"]))
    if (typeof delta["signature"] === "string") {
      const signature = (signatures.get(key) ?? "") + delta["signature"]
      signatures.set(key, signature)
      blocks.tag(key, Answer.signed(signature))
    }
  }

  const complete = (parts: Parts): ProviderError.ProviderError | undefined => {
    if (stop === undefined) return reply.cut(undefined)
    const failure = Answer.failureOf(stop, !blocks.emitted, reply)
    if (failure !== undefined) return failure
    blocks.closeAll(parts)
    const reason = Answer.reasonOf(stop, answerTool !== undefined && !blocks.called)
    if (blocks.unreadable && reason !== "length") {
      return reply.fail("InvalidResponse", "The arguments of a tool call are not JSON")
    }
    done = true
    parts.push({ type: "finish", reason, usage: Answer.usageOf(usage) })
    return undefined
  }

  return {
    isDone: () => done,
    end: complete,
    event: (name, data, parts) => {
      const json = Option.getOrUndefined(Json.parse(data))
      if (name === "error" || isError(json)) return reply.classify(data)
      if (!Json.isObject(json)) return reply.fail("InvalidResponse", `An event is not JSON: ${data.slice(0, 4000)}`)
      const key = String(Json.count(json["contentBlockIndex"]) ?? 0)
      switch (name) {
        case "messageStart":
          parts.push(Answer.metadata(reply))
          return undefined
        case "contentBlockStart":
          open(key, Json.object(json["start"]), parts)
          return undefined
        case "contentBlockDelta":
          append(key, Json.object(json["delta"]), parts)
          return undefined
        case "contentBlockStop":
          blocks.close(key, parts)
          return undefined
        case "messageStop":
          stop = Json.string(json["stopReason"]) ?? stop
          return undefined
        // The usage is the last thing that is sent.
        case "metadata":
          usage = json["usage"]
          return complete(parts)
        default:
          return undefined
      }
    }
  }
}
