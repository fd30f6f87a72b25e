import type * as LlmResponse from "@llm-resilience/core/LlmResponse"
import type * as ProviderError from "@llm-resilience/core/ProviderError"
import { Blocks } from "./blocks.ts"
import * as Answer from "./bedrockAnswer.ts"
import { type Decoder, ofObjects } from "./events.ts"
import * as Json from "./json.ts"
import type { Reply } from "./transport.ts"

type Parts = Array<LlmResponse.LlmStreamPart>

/** Decodes the events of ConverseStream. `answerTool` is the tool through which the model was asked for JSON. */
export const decoder = (reply: Reply, answerTool: string | undefined): Decoder => {
  const blocks = new Blocks(answerTool)
  let usage: unknown = undefined
  let stop: string | undefined
  let sources = 0

  const open = (key: string, start: Json.JsonObject, parts: Parts): void => {
    if (!Json.isObject(start["toolUse"])) return
    const { name, toolUseId } = start["toolUse"]
    blocks.tool(key, { id: Json.string(toolUseId) || `call_${key}`, name: Json.string(name) ?? "" }, parts)
  }

  const append = (key: string, delta: Json.JsonObject, parts: Parts): void => {
    if (typeof delta["text"] === "string") return blocks.text(key, delta["text"], parts)
    if (Json.isObject(delta["toolUse"])) return blocks.params(key, Json.string(delta["toolUse"]["input"]) ?? "", parts)
    if (Json.isObject(delta["reasoningContent"])) return reason(key, delta["reasoningContent"], parts)
    if (delta["citation"] !== undefined) parts.push(...Answer.source(delta["citation"], String(sources++)))
  }

  const reason = (key: string, delta: Json.JsonObject, parts: Parts): void => {
    blocks.reasoning(key, Json.string(delta["text"]) ?? "", parts)
    if (typeof delta["redactedContent"] === "string") blocks.tag(key, Answer.redacted(delta["redactedContent"]))
    if (typeof delta["signature"] === "string") blocks.sign(key, delta["signature"], Answer.signed)
  }

  const complete = (parts: Parts): ProviderError.ProviderError | undefined => {
    if (stop === undefined) return reply.cut(undefined)
    const failure = Answer.failureOf(stop, !blocks.emitted, reply)
    if (failure !== undefined) return failure
    const reason = Answer.reasonOf(stop, blocks.answered)
    return blocks.finish({ type: "finish", reason, usage: Answer.usageOf(usage) }, reply, parts)
  }

  return {
    isDone: () => blocks.isDone(),
    end: complete,
    event: ofObjects(reply, (json, parts, name) => {
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
    })
  }
}
